// Answers of the notifier's web server, up to their bytes.
public import Presentation

/// Every limit of the web server, each with its reason. Guests are not trusted.
public enum HTTPLimits {
    /// Of all header fields and the target together: what clients send fits ten times over.
    public static let headByteCountMax = 16 * 1024
    public static let headerFieldCountMax = 100
    /// A list of events that a client acknowledges: hundreds fit.
    public static let bodyByteCountMax = 64 * 1024
    /// Arrays and objects within each other; a request has two.
    public static let jsonDepthMax = 8
    public static let startRequestsMax = 1_000
    /// From the first byte of a request to its last: slower ones only want to keep us busy.
    public static let requestSeconds: Int64 = 10
    /// A connection that says nothing: longer than a client polls, and a dead one is not kept for ever.
    public static let idleSeconds: Int64 = 75
    /// An answer that its client does not read.
    public static let unreadSeconds: Int64 = 30
    /// A long poll: less than what middleboxes and clients take for a dead connection.
    public static let waitSecondsMax: Int64 = 60
    public static let waitSecondsDefault: Int64 = 30
    /// Between comments that keep an event stream's connection known to middleboxes.
    public static let keepAliveSeconds: Int64 = 15
    /// Of one address: a client, its library's pool and some streams.
    public static let connectionsPerAddressMax = 32
    /// Requests sent ahead of an answer that takes its time.
    public static let pipelinedRequestsMax = 32
    /// Of all those together: what one client can make us keep besides the request at hand.
    public static let pipelinedByteCountMax = 64 * 1024
    /// Requests that one address may make at once, and then each second: a program that polls each
    /// second, several of them and their restarts fit.
    public static let requestBurst: Int64 = 60
    public static let requestsPerSecond: Int64 = 10
    public static let annotationsDefault = 100
    public static let annotationsMax = 1_000
}

public struct HTTPField: Hashable, Sendable {
    public var name: String
    public var value: String
    public init(_ name: String, _ value: String) {
        self.name = name
        self.value = value
    }
}

/// One answer, whole.
public struct GuestAnswer: Error, Hashable, Sendable {
    public var status: Int
    /// Without those that every answer has: length, date, connection.
    public var fields: [HTTPField]
    public var body: [UInt8]

    public init(status: Int, fields: [HTTPField] = [], body: [UInt8] = []) {
        self.status = status
        self.fields = fields
        self.body = body
    }

    public static func json(
        _ json: JSON, status: Int = 200, fields: [HTTPField] = []
    ) -> GuestAnswer {
        GuestAnswer(
            status: status,
            fields: [HTTPField("Content-Type", "application/json; charset=utf-8")] + fields,
            body: Array(json.compact.utf8))
    }

    /// A refusal in the form that clients of the metadata service know: `{"error": "…"}`.
    public static func error(
        _ status: Int, _ message: String, fields: [HTTPField] = [], members: [JSON.Member] = []
    ) -> GuestAnswer {
        .json(
            .object([JSON.Member("error", .string(message))] + members), status: status,
            fields: fields)
    }

    public static func notModified(tag: String) -> GuestAnswer {
        GuestAnswer(status: 304, fields: [HTTPField("ETag", tag)])
    }

    /// The bytes of status line and header up to and without the date, which changes by the second.
    ///
    /// - Parameter closes: the connection ends after this answer.
    public func head(closes: Bool) -> String {
        var text = "HTTP/1.1 \(status) \(GuestAnswer.reason(status))\r\n"
        for field in fields { text += "\(field.name): \(field.value)\r\n" }
        // A 304 has no body, and a length in it would be that of the answer it stands for.
        if status != 304 { text += "Content-Length: \(body.count)\r\n" }
        text += "Cache-Control: no-store\r\nServer: Fermata\r\n"
        text += closes ? "Connection: close\r\n" : "Connection: keep-alive\r\n"
        return text
    }

    /// The same for a body without a known length, behind which the connection ends.
    public var streamHead: String {
        var text = "HTTP/1.1 \(status) \(GuestAnswer.reason(status))\r\n"
        for field in fields { text += "\(field.name): \(field.value)\r\n" }
        return text + "Cache-Control: no-store\r\nServer: Fermata\r\nConnection: close\r\n"
    }

    static func reason(_ status: Int) -> String {
        switch status {
        case 200: "OK"
        case 304: "Not Modified"
        case 400: "Bad Request"
        case 403: "Forbidden"
        case 404: "Not Found"
        case 405: "Method Not Allowed"
        case 408: "Request Timeout"
        case 413: "Content Too Large"
        case 417: "Expectation Failed"
        case 429: "Too Many Requests"
        case 431: "Request Header Fields Too Large"
        case 503: "Service Unavailable"
        default: "Unknown"
        }
    }
}

/// A piece of a body whose length is not known beforehand (RFC 9112, section 7.1).
public func chunk(_ bytes: some Collection<UInt8>) -> [UInt8] {
    Array("\(String(bytes.count, radix: 16))\r\n".utf8) + bytes + [0x0d, 0x0a]
}

/// The chunk that ends such a body.
public let lastChunk: [UInt8] = Array("0\r\n\r\n".utf8)

/// How often one client may ask. Full at first; a program that polls slower than it fills never
/// empties it.
public struct TokenBucket: Hashable, Sendable {
    private var thousandths: Int64 = HTTPLimits.requestBurst * 1_000
    private var filledAtMilliseconds: Int64

    public init(atMilliseconds now: Int64) { filledAtMilliseconds = now }

    /// - Parameter now: of a clock that does not go back.
    /// - Returns: nil if the request may be answered, else after how many seconds one will be.
    public mutating func take(atMilliseconds now: Int64) -> Int64? {
        let passed = min(max(0, now - filledAtMilliseconds), 3_600_000)
        filledAtMilliseconds = now
        thousandths = min(
            HTTPLimits.requestBurst * 1_000, thousandths + passed * HTTPLimits.requestsPerSecond)
        if thousandths >= 1_000 {
            thousandths -= 1_000
            return nil
        }
        let missing = 1_000 - thousandths
        let perSecond = HTTPLimits.requestsPerSecond * 1_000
        return max(1, (missing + perSecond - 1) / perSecond)
    }

    /// Nothing has been taken for long enough that a new one would be the same.
    public func isFull(atMilliseconds now: Int64) -> Bool {
        thousandths + max(0, now - filledAtMilliseconds) * HTTPLimits.requestsPerSecond
            >= HTTPLimits.requestBurst * 1_000
    }
}
