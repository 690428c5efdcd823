import COpenSSL
import Glibc

/// SHA-256, as releases' artifacts, back-ups and states are checked with.
public final class SHA256Digest {
    private let context = EVP_MD_CTX_new()

    public init() {
        let result = EVP_DigestInit_ex(context, EVP_sha256(), nil)
        precondition(result == 1, "OpenSSL has no SHA-256")
    }

    deinit { EVP_MD_CTX_free(context) }

    private func update(_ bytes: UnsafeRawBufferPointer) {
        EVP_DigestUpdate(context, bytes.baseAddress, bytes.count)
    }

    public func update(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { update($0) }
    }

    /// The digest (32 bytes) of all that it was given. To be called once.
    public func finish() -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: 32)
        EVP_DigestFinal_ex(context, &digest, nil)
        return digest
    }

    /// The digest (32 bytes) of a file of any size, read in chunks. Blocks while it reads.
    public static func ofFile(_ path: String) throws(UvError) -> [UInt8] {
        let descriptor = try checkErrno(open(path, O_RDONLY | O_CLOEXEC), "open", path)
        defer { Descriptors.close(descriptor) }
        let digest = SHA256Digest()
        try Files.forEachChunk(of: descriptor, path) { chunk throws(UvError) in
            digest.update(chunk)
        }
        return digest.finish()
    }

    /// The digest (32 bytes) of `bytes`.
    public static func of(_ bytes: [UInt8]) -> [UInt8] {
        let digest = SHA256Digest()
        digest.update(bytes)
        return digest.finish()
    }
}
