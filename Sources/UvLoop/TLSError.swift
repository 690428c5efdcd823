/// Why there is no TLS, in words that say what to do.
public enum TLSError: Error, Hashable, Sendable, CustomStringConvertible {
    case fileUnreadable(UvError)
    case fileInvalid(path: String, reason: String)
    /// Permission bits that let others than its owner read a private key.
    case keyReadableByOthers(path: String, mode: UInt32)
    case keyDoesNotMatch(certificatePath: String, keyPath: String)
    /// `of` is a path, or `the peer's certificate`, whose dates are not known.
    case expired(of: String, notAfterUnixSeconds: Int64?)
    case notYetValid(of: String, notBeforeUnixSeconds: Int64?)
    case wrongAuthority(of: String, reason: String)
    /// A leaf must carry exactly one URI name and must not be an authority.
    case unfitCertificate(of: String, reason: String)
    case noPeerCertificate
    case plaintextPeer
    /// The peer speaks TLS, but not Fermata's protocol inside.
    case wrongProtocol
    /// The peer has ended the handshake with an alert.
    case refusedByPeer(reason: String)
    case timedOut
    /// The connection ended during the handshake.
    case ended(StreamEnd)
    /// OpenSSL's own words, for what none of the others say.
    case failed(operation: String, reason: String)
    /// A certificate or key that would have been overwritten.
    case alreadyExists(path: String)
    case invalidName(String, reason: String)
    case wrongCluster(path: String, expected: String, found: String)
    case fileUnwritable(UvError)

    public var description: String {
        switch self {
        case .fileUnreadable(let error):
            "\(error): check the path, or make it with `fermata pki`"
        case .fileInvalid(let path, let reason): "\(path) is not usable: \(reason)"
        case .keyReadableByOthers(let path, let mode):
            "private key \(path) has mode 0\(String(mode, radix: 8)), so others than its owner can "
                + "use it: run chmod 600 on it"
        case .keyDoesNotMatch(let certificatePath, let keyPath):
            "private key \(keyPath) does not belong to certificate \(certificatePath): "
                + "give the pair that was issued together"
        case .expired(let of, let notAfter):
            "\(of) expired\(notAfter.map { " at \(formatUTC($0))" } ?? ""): issue a new one with `fermata pki issue`, or check "
                + "this host's clock"
        case .notYetValid(let of, let notBefore):
            "\(of) is not valid \(notBefore.map { "before \(formatUTC($0))" } ?? "yet"): check the clocks of both hosts"
        case .wrongAuthority(let of, let reason):
            "\(of) was not issued by our authority (\(reason)): both sides need certificates of one "
                + "cluster's ca.pem"
        case .unfitCertificate(let of, let reason):
            "\(of) cannot identify a Fermata process: \(reason)"
        case .noPeerCertificate:
            "the peer sent no certificate: give it one with --credentials"
        case .plaintextPeer:
            "the peer does not speak TLS: check the address and port"
        case .wrongProtocol:
            "the peer does not offer the protocol fermata/1: check the address and port, and the "
                + "versions of both sides"
        case .refusedByPeer(let reason): "the peer refused our certificate or offer: \(reason)"
        case .timedOut: "the TLS handshake took too long"
        case .ended(let end): "the connection ended during the TLS handshake: \(end)"
        case .failed(let operation, let reason): "\(operation): \(reason)"
        case .alreadyExists(let path):
            "\(path) exists already: remove it first, or choose another directory or name"
        case .invalidName(let name, let reason): "\"\(name)\" \(reason)"
        case .wrongCluster(let path, let expected, let found):
            "\(path) is the authority of cluster \(found), not of \(expected)"
        case .fileUnwritable(let error): "\(error)"
        }
    }
}
