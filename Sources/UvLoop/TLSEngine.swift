// One TLS connection without any I/O: encrypted bytes go in and come out through memory BIOs.

import COpenSSL
import Edges

final class TLSEngine {
    enum HandshakeResult {
        case done(CertificateIdentity)
        case wantsInput
        /// A server has read the client's hello and done nothing costly yet: call
        /// ``letHandshakeGoOn()`` when it is this peer's turn.
        case wantsTurn(isUrgent: Bool)
        case failed(TLSError)
    }

    enum ReadResult {
        case bytes(Int)
        case wantsInput
        case closed
        case failed(StreamEnd)
    }

    private let ssl: OpaquePointer
    private let context: TLSContext
    private var input: OpaquePointer
    private var output: OpaquePointer

    /// - Parameter isUrgent: a client asks to be let in before others.
    /// - Returns: nil when OpenSSL is out of memory.
    init?(_ context: TLSContext, isUrgent: Bool = false) {
        guard let ssl = SSL_new(context.raw) else { return nil }
        guard let input = fermata_bio_new(), let output = fermata_bio_new() else {
            SSL_free(ssl)
            return nil
        }
        self.context = context
        self.ssl = ssl
        self.input = input
        self.output = output
        SSL_set_bio(ssl, input, output)  // which then belong to it
        if context.role == .server {
            SSL_set_accept_state(ssl)
        } else {
            SSL_set_connect_state(ssl)
            if isUrgent { fermata_offer_urgent(ssl) }
        }
    }

    deinit {
        X509_free(fermata_take_refused(input))
        SSL_free(ssl)
    }

    /// Takes in what the peer has sent.
    func receive(_ bytes: UnsafeRawBufferPointer) {
        BIO_write(input, bytes.baseAddress, Int32(clamping: bytes.count))
    }

    /// What is to be sent to the peer.
    func takeOutput() -> [UInt8] { drain(output) }

    func handshake() -> HandshakeResult {
        ERR_clear_error()
        let result = SSL_do_handshake(ssl)
        guard result == 1 else {
            switch SSL_get_error(ssl, result) {
            case SSL_ERROR_WANT_READ: return .wantsInput
            case SSL_ERROR_WANT_CLIENT_HELLO_CB:
                return .wantsTurn(
                    isUrgent: fermata_hello_state(ssl) == fermata_hello_seen_urgent)
            default: return .failed(handshakeError())
            }
        }
        guard fermata_has_alpn(ssl) == 1 else { return .failed(.wrongProtocol) }
        guard let certificate = Certificate(SSL_get1_peer_certificate(ssl)) else {
            return .failed(.noPeerCertificate)
        }
        do {
            return .done(
                try certificate.identity(of: Certificate.peerSubject(certificate, code: 0)))
        } catch {
            return .failed(error)
        }
    }

    /// After the handshake: gives back the buffers that it has made large. A memory BIO never shrinks,
    /// and ten thousand idle sessions would keep some kilobytes each.
    func shrinkBuffers() {
        guard let input = fermata_bio_new(), let output = fermata_bio_new() else { return }
        let (pending, unsent) = (drain(self.input), drain(self.output))
        BIO_write(input, pending, Int32(clamping: pending.count))
        BIO_write(output, unsent, Int32(clamping: unsent.count))
        SSL_set_bio(ssl, input, output)  // which frees the old ones
        self.input = input
        self.output = output
    }

    /// After ``HandshakeResult/wantsTurn(isUrgent:)``: the next ``handshake()`` goes on.
    func letHandshakeGoOn() { fermata_set_hello_state(ssl, Int32(fermata_hello_go)) }

    private func handshakeError() -> TLSError {
        let reason = fermata_error_reason()
        switch reason {
        case SSL_R_CERTIFICATE_VERIFY_FAILED:
            let refused = Certificate(fermata_take_refused(input))
            let code = Int32(SSL_get_verify_result(ssl))
            return Certificate.verifyError(
                code, of: Certificate.peerSubject(refused, code: code), refused)
        case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
            return .noPeerCertificate
        case SSL_R_NO_APPLICATION_PROTOCOL, Self.noProtocolAlert:
            return .wrongProtocol
        case SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_UNKNOWN_PROTOCOL, SSL_R_WRONG_SSL_VERSION,
            SSL_R_WRONG_VERSION_NUMBER, SSL_R_VERSION_TOO_LOW, Self.versionAlert:
            return .tlsVersion
        case Self.alerts:
            return .refusedByPeer(reason: Self.alertText(reason))
        default:
            return .failed(operation: "TLS handshake", reason: opensslReason())
        }
    }

    /// OpenSSL's reason codes of alerts that the peer has sent.
    private static let alerts: Range<Int32> = 1_000..<1_256
    private static let noProtocolAlert: Int32 = 1_120
    private static let versionAlert: Int32 = 1_070

    private static func alertText(_ reason: Int32) -> String {
        TLSAlert(number: reason - alerts.lowerBound)?.reason ?? opensslReason()
    }

    /// Decrypts into `buffer`.
    func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        ERR_clear_error()
        let count = SSL_read(ssl, buffer.baseAddress, Int32(clamping: buffer.count))
        guard count <= 0 else { return .bytes(Int(count)) }
        switch SSL_get_error(ssl, count) {
        case SSL_ERROR_WANT_READ: return .wantsInput
        case SSL_ERROR_ZERO_RETURN: return .closed
        default:
            let reason = fermata_error_reason()
            return .failed(
                Self.alerts.contains(reason)
                    ? .refused(reason: Self.alertText(reason)) : .tls(opensslReason()))
        }
    }

    /// Encrypts all of `bytes`; the result is in ``takeOutput()``.
    ///
    /// - Returns: false if the connection is broken.
    func write(_ bytes: [UInt8]) -> Bool {
        guard !bytes.isEmpty else { return true }
        ERR_clear_error()
        var written = 0
        // A memory BIO takes everything, so that a write is never partial.
        return bytes.withUnsafeBytes { SSL_write_ex(ssl, $0.baseAddress, $0.count, &written) } == 1
    }

    /// Says to the peer that nothing more will come.
    func writeCloseNotify() {
        ERR_clear_error()
        SSL_shutdown(ssl)
    }
}
