public import Edges

/// Why there is no TLS, in words that say what to do.
public enum TLSError: Error, Hashable, Sendable, CustomStringConvertible {
    case fileUnreadable(UvError)
    case fileInvalid(path: String, reason: String)
    /// Permission bits that let others than its owner read a private key.
    case keyReadableByOthers(path: String, mode: UInt32)
    case keyDoesNotMatch(certificatePath: String, keyPath: String)
    /// `of` is a path, or `the peer's certificate` with what it names.
    case expired(of: String, notAfterUnixSeconds: Int64?)
    case notYetValid(of: String, notBeforeUnixSeconds: Int64?)
    case wrongAuthority(of: String, reason: String)
    /// It is on its authority's revocation list.
    case revoked(of: String)
    /// An authority's certificate (CA:TRUE) shown as that of a process.
    case authorityAsLeaf(of: String)
    /// A process's certificate has exactly one URI name.
    case uriNames(of: String, count: Int)
    /// Its extended key usage does not allow what it is used for.
    case wrongUsage(of: String)
    /// `ca.pem` holds something else.
    case notAnAuthority(path: String)
    case noPeerCertificate
    case plaintextPeer
    /// The peer speaks no TLS 1.3.
    case tlsVersion
    /// The peer speaks TLS, but not Fermata's protocol inside.
    case wrongProtocol
    /// The peer has ended the handshake with an alert; see ``TLSAlert``.
    case refusedByPeer(reason: String)
    case timedOut
    /// More than a handshake needs, before we know who it is.
    case sendsTooMuch
    /// The connection ended during the handshake.
    case ended(StreamEnd)
    /// OpenSSL's own words, for what none of the others say.
    case failed(operation: String, reason: String)
    /// A certificate or key that would have been overwritten.
    case alreadyExists(path: String)
    case invalidName(String, reason: String)
    case wrongCluster(path: String, expected: String, found: String)
    case fileUnwritable(UvError)
    /// Another `fermata pki` has had the directory for too long.
    case directoryBusy(path: String)
    /// Nothing of this identity or serial number is in the authority's index.
    case neverIssued(String, directory: String)
    /// A revoked certificate is not renewed for the same key.
    case revokedKey(of: String)

    /// For counting refused handshakes: stable, one of `plaintext`, `tlsVersion`, `noCertificate`,
    /// `wrongAuthority`, `expired`, `notYetValid`, `revoked`, `authorityAsLeaf`, `uriNames`,
    /// `wrongUsage`, `wrongProtocol`, `refusedByPeer`, `timedOut`, `sendsTooMuch`, `ended`,
    /// `other`.
    public var name: String {
        switch self {
        case .plaintextPeer: "plaintext"
        case .tlsVersion: "tlsVersion"
        case .noPeerCertificate: "noCertificate"
        case .wrongAuthority: "wrongAuthority"
        case .expired: "expired"
        case .notYetValid: "notYetValid"
        case .revoked: "revoked"
        case .authorityAsLeaf: "authorityAsLeaf"
        case .uriNames: "uriNames"
        case .wrongUsage: "wrongUsage"
        case .wrongProtocol: "wrongProtocol"
        case .refusedByPeer: "refusedByPeer"
        case .timedOut: "timedOut"
        case .sendsTooMuch: "sendsTooMuch"
        case .ended: "ended"
        case .fileUnreadable, .fileInvalid, .keyReadableByOthers, .keyDoesNotMatch,
            .notAnAuthority, .failed, .alreadyExists, .invalidName, .wrongCluster,
            .fileUnwritable, .directoryBusy, .neverIssued, .revokedKey:
            "other"
        }
    }

    public var description: String {
        switch self {
        case .expired, .notYetValid, .wrongAuthority, .revoked, .authorityAsLeaf, .uriNames,
            .wrongUsage, .noPeerCertificate:
            certificateText
        case .plaintextPeer, .tlsVersion, .wrongProtocol, .refusedByPeer, .timedOut,
            .sendsTooMuch, .ended, .failed:
            handshakeText
        default: fileText
        }
    }

    private var certificateText: String {
        switch self {
        case .expired(let of, let notAfter):
            "\(of) expired\(notAfter.map { " at \(formatUTC($0))" } ?? ""): make a new one with "
                + "`fermata pki renew`, or check this host's clock"
        case .notYetValid(let of, let notBefore):
            "\(of) is not valid \(notBefore.map { "before \(formatUTC($0))" } ?? "yet"): check "
                + "the clocks of both hosts"
        case .wrongAuthority(let of, let reason):
            "\(of) was not issued by our authority (\(reason)): both sides need certificates of "
                + "one cluster's ca.pem"
        case .revoked(let of):
            "\(of) has been revoked: issue a new one (`fermata pki renew … --new-key`) if its "
                + "holder is still to be trusted"
        case .authorityAsLeaf(let of):
            "\(of) cannot identify a Fermata process: it is an authority's (CA:TRUE); use one "
                + "made by `fermata pki issue`"
        case .uriNames(let of, let count):
            "\(of) cannot identify a Fermata process: it has \(count) usable URI names and must "
                + "have one, fermata://CLUSTER/ROLE/NAME"
        case .wrongUsage(let of):
            "\(of) may not be used for this (extended key usage): it needs serverAuth and "
                + "clientAuth"
        case .noPeerCertificate: "the peer sent no certificate: give it one with --credentials"
        default: preconditionFailure("\(name) is not about a certificate")
        }
    }

    private var handshakeText: String {
        switch self {
        case .plaintextPeer: "the peer does not speak TLS: check the address and port"
        case .tlsVersion:
            "the peer does not speak TLS 1.3: check the address and port, and what is between"
        case .wrongProtocol:
            "the peer does not offer the protocol fermata/1: check the address and port, and the "
                + "versions of both sides"
        case .refusedByPeer(let reason): "the peer refused our certificate or offer: \(reason)"
        case .timedOut: "the TLS handshake took too long"
        case .sendsTooMuch:
            "the peer sends more than a TLS handshake needs: check the address and port, and that "
                + "its certificate file holds its own certificate only"
        case .ended(let end): "the connection ended during the TLS handshake: \(end)"
        case .failed(let operation, let reason): "\(operation): \(reason)"
        default: preconditionFailure("\(name) is not about a handshake")
        }
    }

    private var fileText: String {
        switch self {
        case .fileUnreadable(let error):
            "\(error): check the path, or make it with `fermata pki`"
        case .fileInvalid(let path, let reason): "\(path) is not usable: \(reason)"
        case .keyReadableByOthers(let path, let mode):
            "private key \(path) has mode 0\(String(mode, radix: 8)), so others than its owner can "
                + "use it: run chmod 600 on it"
        case .keyDoesNotMatch(let certificatePath, let keyPath):
            "private key \(keyPath) does not belong to certificate \(certificatePath): give the "
                + "pair that was made together; if `fermata pki renew --new-key` was interrupted, "
                + "`fermata pki list` finishes it"
        case .notAnAuthority(let path): "\(path) is not an authority's certificate: give ca.pem"
        case .alreadyExists(let path):
            "\(path) exists already: `fermata pki renew` replaces a certificate; else remove it "
                + "first, or choose another directory or name"
        case .invalidName(let name, let reason): "\"\(name)\" \(reason)"
        case .wrongCluster(let path, let expected, let found):
            "\(path) is the authority of cluster \(found), not of \(expected)"
        case .fileUnwritable(let error): "\(error)"
        case .directoryBusy(let path):
            "another `fermata pki` is at work in \(path): try again when it has finished"
        case .neverIssued(let what, let directory):
            "no certificate \(what) is in the index of \(directory): see `fermata pki list`, or "
                + "give the certificate's file"
        case .revokedKey(let of):
            "\(of) has been revoked, and its key must not come back: give --new-key to make a new "
                + "pair for the same name"
        default: preconditionFailure("\(name) is not about a file")
        }
    }
}
