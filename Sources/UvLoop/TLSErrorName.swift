extension TLSError {
    /// In one word that stays the same, for counting.
    public var name: String {
        switch self {
        case .plaintextPeer: "plaintext"
        case .noPeerCertificate: "noCertificate"
        case .wrongAuthority: "wrongAuthority"
        case .expired: "expired"
        case .notYetValid: "notYetValid"
        case .unfitCertificate: "unfitCertificate"
        case .wrongProtocol: "wrongProtocol"
        case .refusedByPeer: "refusedByPeer"
        case .timedOut: "timedOut"
        case .ended: "ended"
        default: "other"
        }
    }
}
