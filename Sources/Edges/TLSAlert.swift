/// What an alert of a TLS peer says about us. The raw value is its name in RFC 8446.
public enum TLSAlert: String, Hashable, Sendable, CaseIterable {
    case badCertificate = "bad_certificate"
    case unsupportedCertificate = "unsupported_certificate"
    case certificateRevoked = "certificate_revoked"
    case certificateExpired = "certificate_expired"
    case certificateUnknown = "certificate_unknown"
    case unknownAuthority = "unknown_ca"
    case accessDenied = "access_denied"
    case decryptError = "decrypt_error"
    case certificateRequired = "certificate_required"
    case handshakeFailure = "handshake_failure"
    case internalError = "internal_error"

    /// - Parameter number: of the alert, as RFC 8446 has it; nil for rare ones.
    public init?(number: Int32) {
        switch number {
        case 40: self = .handshakeFailure
        case 42: self = .badCertificate
        case 43: self = .unsupportedCertificate
        case 44: self = .certificateRevoked
        case 45: self = .certificateExpired
        case 46: self = .certificateUnknown
        case 48: self = .unknownAuthority
        case 49: self = .accessDenied
        case 51: self = .decryptError
        case 80: self = .internalError
        case 116: self = .certificateRequired
        default: return nil
        }
    }

    /// Which alert a ``StreamEnd/refused(reason:)`` has told of; nil for rare ones.
    public init?(ofReason reason: String) {
        guard let found = Self.allCases.first(where: { reason.hasPrefix($0.rawValue + ":") })
        else { return nil }
        self = found
    }

    /// The alert's name and what it means for us.
    public var reason: String { "\(rawValue): \(meaning)" }

    private var meaning: String {
        switch self {
        case .badCertificate:
            "our certificate is not valid yet by its clock, or does not have exactly one URI name"
        case .unsupportedCertificate:
            "our certificate is an authority's, or may not be used for this"
        case .certificateRevoked: "our certificate is on its revocation list"
        case .certificateExpired: "our certificate has expired, by its clock"
        case .certificateUnknown: "it cannot accept our certificate; its log says why"
        case .unknownAuthority: "our certificate was not issued by its authority"
        case .accessDenied: "our certificate gives no access"
        case .decryptError:
            "our certificate's signature is not its authority's, though the names agree"
        case .certificateRequired: "we sent no certificate"
        case .handshakeFailure: "there is no common ground; its log says why"
        case .internalError: "it failed; its log says why"
        }
    }

    /// Whether it is about our certificate, so that trying again with it is in vain.
    public var isAboutCertificate: Bool {
        self != .handshakeFailure && self != .internalError
    }
}
