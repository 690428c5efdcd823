import COpenSSL

/// A code that only who knows the key can have made (RFC 2104).
public enum HMACSHA256 {
    /// - Returns: 32 bytes.
    public static func code(key: [UInt8], _ bytes: [UInt8]) -> [UInt8] {
        var code = [UInt8](repeating: 0, count: 32)
        var count: UInt32 = 32
        let result = HMAC(
            EVP_sha256(), key, Int32(key.count), bytes, bytes.count, &code, &count)
        precondition(result != nil && count == 32, "OpenSSL has no HMAC")
        return code
    }
}
