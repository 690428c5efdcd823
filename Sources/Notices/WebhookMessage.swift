/// What a webhook gets besides the body.
///
///   Idempotency-Key: rollout-1.3-t7-db-0
///   Fermata-Signature: t=1775946418,v1=HEX
///
/// HEX is HMAC-SHA256, by the key that both sides know, of the time, a full stop and the body. Whoever
/// checks it also checks that the time is not long ago, so that nothing old can be sent to it again.
public enum WebhookMessage {
    public static let keyHeader = "Idempotency-Key"
    public static let signatureHeader = "Fermata-Signature"

    /// The bytes that are signed.
    public static func signed(body: [UInt8], atSeconds: Int64) -> [UInt8] {
        Array("\(atSeconds).".utf8) + body
    }

    /// The header's value.
    public static func signature(_ code: [UInt8], atSeconds: Int64) -> String {
        "t=\(atSeconds),v1=\(hexText(code))"
    }
}

/// Lower-case digits, two a byte.
func hexText(_ bytes: [UInt8]) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(
        decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
}
