// What a request asks for.
//
//   /metadata/scheduledevents?api-version=V   GET the document, POST acknowledgements
//   /metadata/instance[/PATH]?api-version=V   GET about the guest itself; &format=text for a leaf
//   /metadata/versions                        GET the versions of both
//   /v1/events                                GET the document in our own form: at once, as a long
//                                             poll (?after=N&wait=30s), as a stream (text/event-stream)
//   /v1/events/ID/acknowledgement             POST
//   /v1/annotations[?limit=N]                 GET the guest's own record
//   /healthz                                  GET, for anybody
//
// `/metadata` is compared without case, as the original does. HEAD is what GET would be, without its
// body.

public struct RequestHead: Hashable, Sendable {
    public var method: String
    /// As in the request line, still percent-encoded.
    public var target: String
    public var fields: [HTTPField]
    /// HTTP/1.0 needs no Host.
    public var isVersion10: Bool

    public init(
        method: String, target: String, fields: [HTTPField] = [], isVersion10: Bool = false
    ) {
        self.method = method
        self.target = target
        self.fields = fields
        self.isVersion10 = isVersion10
    }

    /// The value of a field that may stand once; of several, the first.
    ///
    /// - Parameter name: in lower case.
    public func value(_ name: String) -> String? {
        fields.first { isEqualWithoutCase($0.name, name) }?.value
    }
}

public enum Route: Hashable, Sendable {
    case events(EventsVersion)
    case acknowledge
    /// - Parameter path: below `/metadata/instance`, in lower case.
    case instance(path: [String], asText: Bool)
    case versions
    case nativeEvents(NativeWait)
    case nativeAcknowledge(eventID: String)
    case annotations(limit: Int)
    case health

    public enum NativeWait: Hashable, Sendable {
        case no
        /// Answered when the incarnation is another, or when the time is over.
        case poll(after: UInt64, seconds: Int64)
        /// - Parameter after: the last incarnation that the client has; nil if none.
        case stream(after: UInt64?)
    }
}

extension RequestHead {
    /// Finds out what is asked for.
    ///
    /// - Throws: the answer that says why nothing is: 400, 404 or 405.
    public func route() throws(GuestAnswer) -> Route {
        try checkHost()
        let target = try RequestTarget(target)
        let path = target.path
        let first = path.first.map { $0.lowercased() }
        if first == "metadata" { return try metadataRoute(target) }
        switch (first, path.count) {
        case ("healthz", 1):
            try allow(["GET", "HEAD"])
            return .health
        case ("v1", 2) where path[1] == "events":
            try allow(["GET", "HEAD"])
            return .nativeEvents(try nativeWait(target))
        case ("v1", 4) where path[1] == "events" && path[3] == "acknowledgement":
            try allow(["POST"])
            return .nativeAcknowledge(eventID: path[2])
        case ("v1", 2) where path[1] == "annotations":
            try allow(["GET", "HEAD"])
            guard let text = target.query["limit"] else {
                return .annotations(limit: HTTPLimits.annotationsDefault)
            }
            guard let limit = Int(text), (1...HTTPLimits.annotationsMax).contains(limit) else {
                throw .error(
                    400, "limit has to be a number from 1 to \(HTTPLimits.annotationsMax).")
            }
            return .annotations(limit: limit)
        default: throw .error(404, "There is nothing at this path.")
        }
    }

    private func checkHost() throws(GuestAnswer) {
        guard hasHost else { throw .error(400, "A request needs exactly one Host header.") }
    }

    fileprivate var hasHost: Bool {
        var count = 0
        for field in fields where isEqualWithoutCase(field.name, "host") { count += 1 }
        return count == 1 || (count == 0 && isVersion10)
    }

    /// Keeps a server in the guest that fetches URLs for others from being made to ask us.
    fileprivate var isMeantForMetadata: Bool {
        value("metadata").map { isEqualWithoutCase($0, "true") } == true
    }

    fileprivate var isForwarded: Bool { value("x-forwarded-for") != nil }

    private func allow(_ methods: [String]) throws(GuestAnswer) {
        guard !methods.contains(method) else { return }
        let list = methods.joined(separator: ", ")
        throw .error(
            405, "\(method) is not possible here, only \(list).",
            fields: [HTTPField("Allow", list)])
    }

    private func metadataRoute(_ target: RequestTarget) throws(GuestAnswer) -> Route {
        let path = target.path.dropFirst().map { $0.lowercased() }
        switch path.first {
        case "scheduledevents" where path.count == 1:
            try allow(["GET", "HEAD", "POST"])
        case "instance": try allow(["GET", "HEAD"])
        case "versions" where path.count == 1: try allow(["GET", "HEAD"])
        default: throw .error(404, "There is nothing at this path.")
        }
        guard isMeantForMetadata else {
            throw .error(400, "Bad request. Required metadata header not specified.")
        }
        guard !isForwarded else {
            throw .error(400, "Bad request. Requests must not be forwarded (X-Forwarded-For).")
        }
        if path[0] == "versions" { return .versions }
        if path[0] == "scheduledevents" {
            let known = EventsVersion.allCases.map(\.rawValue)
            let text = try version(of: target, known: known)
            guard let version = EventsVersion(rawValue: text) else {
                preconditionFailure("a known version of events has no layout: \(text)")
            }
            return method == "POST" ? .acknowledge : .events(version)
        }
        _ = try version(of: target, known: InstanceDocument.versions)
        let asText = target.query["format"].map { isEqualWithoutCase($0, "text") } ?? false
        return .instance(path: Array(path.dropFirst()), asText: asText)
    }

    private func version(
        of target: RequestTarget, known: [String]
    ) throws(GuestAnswer) -> String {
        if let version = target.query["api-version"], known.contains(version) { return version }
        let isMissing = target.query["api-version"] == nil
        throw .error(
            400,
            isMissing
                ? "Bad request. api-version was not specified in the request."
                : "Bad request. api-version is invalid.",
            members: [.init("newest-versions", .array(known.reversed().map { .string($0) }))])
    }

    private func nativeWait(_ target: RequestTarget) throws(GuestAnswer) -> Route.NativeWait {
        if value("accept")?.lowercased().contains("text/event-stream") == true {
            guard let text = value("last-event-id") else { return .stream(after: nil) }
            guard let after = UInt64(text) else {
                throw .error(400, "Last-Event-ID has to be an incarnation, a number.")
            }
            return .stream(after: after)
        }
        guard let text = target.query["after"] else { return .no }
        guard let after = UInt64(text) else {
            throw .error(400, "after has to be an incarnation, a number.")
        }
        guard let text = target.query["wait"] else {
            return .poll(after: after, seconds: HTTPLimits.waitSecondsDefault)
        }
        guard let seconds = Int64(text.hasSuffix("s") ? text.dropLast() : text[...]),
            (0...HTTPLimits.waitSecondsMax).contains(seconds)
        else {
            throw .error(
                400, "wait has to be a time such as 30s, at most \(HTTPLimits.waitSecondsMax)s.")
        }
        return .poll(after: after, seconds: seconds)
    }

    /// Whether the client says that it has the document with this tag.
    public func has(_ tag: String) -> Bool {
        guard let list = value("if-none-match") else { return false }
        if list == tag { return true }
        for part in list.split(separator: ",") {
            var candidate = withoutBlanks(part)
            if candidate.hasPrefix("W/") { candidate = candidate.dropFirst(2) }
            if candidate == "*" || candidate == tag { return true }
        }
        return false
    }
}

/// One of a header's list, without the spaces and tabs around it.
func withoutBlanks(_ part: Substring) -> Substring {
    var part = part.drop { $0 == " " || $0 == "\t" }
    while let last = part.last, last == " " || last == "\t" { part.removeLast() }
    return part
}

/// A poll for events that was understood once: the same request again needs no reading of its target.
public struct PolledEvents: Hashable, Sendable {
    public let version: EventsVersion
    private let method: String
    private let target: String

    /// - Parameter head: whose ``RequestHead/route()`` is ``Route/events(_:)`` of this version.
    public init(_ head: RequestHead, _ version: EventsVersion) {
        self.version = version
        method = head.method
        target = head.target
    }

    /// Whether this request has the same route.
    public func isAgain(_ head: RequestHead) -> Bool {
        head.target == target && head.method == method && head.hasHost && head.isMeantForMetadata
            && !head.isForwarded
    }
}

/// Path and query of a request's target, decoded.
struct RequestTarget {
    /// Without empty segments at the end.
    var path: [String]
    /// Names in lower case, each once.
    var query: [String: String] = [:]

    init(_ target: String) throws(GuestAnswer) {
        var rest = target[...]
        // A proxy's form: `http://HOST/PATH`.
        if rest.lowercased().hasPrefix("http://") {
            rest = rest.dropFirst(7).drop { $0 != "/" && $0 != "?" }
        }
        guard rest.first == "/" else {
            throw .error(400, "The request's target is not a path.")
        }
        let parts = rest.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        path = []
        for segment in parts[0].dropFirst().split(
            separator: "/", omittingEmptySubsequences: false)
        {
            let decoded = try Self.decode(segment)
            guard decoded != "..", decoded != ".", !decoded.utf8.contains(UInt8(ascii: "/")),
                !decoded.utf8.contains(UInt8(ascii: "\\"))
            else { throw .error(400, "The request's path is not in its simplest form.") }
            path.append(decoded)
        }
        if path.last == "" { path.removeLast() }
        guard parts.count == 2 else { return }
        for pair in parts[1].split(separator: "&") {
            let sides = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let name = try Self.decode(sides[0]).lowercased()
            let value = sides.count == 2 ? try Self.decode(sides[1]) : ""
            guard query.updateValue(value, forKey: name) == nil else {
                throw .error(400, "The parameter \(name) stands twice in the query.")
            }
        }
    }

    private static func decode(_ text: Substring) throws(GuestAnswer) -> String {
        let utf8 = text.utf8
        if utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "%") }) {
            return String(text)
        }
        var bytes: [UInt8] = []
        var rest = utf8[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "%") {
                guard let high = rest.popFirst().flatMap(hexadecimalDigit),
                    let low = rest.popFirst().flatMap(hexadecimalDigit)
                else { throw .error(400, "The request's target has a broken % sequence.") }
                bytes.append(high << 4 | low)
            } else {
                bytes.append(byte)
            }
        }
        guard !bytes.contains(where: { $0 < 0x20 || $0 == 0x7f }),
            let decoded = String(validating: bytes, as: UTF8.self)
        else { throw .error(400, "The request's target has bytes that stand for no text.") }
        return decoded
    }
}

private func hexadecimalDigit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
    default: nil
    }
}

/// - Parameter lower: in lower case.
private func isEqualWithoutCase(_ text: String, _ lower: String) -> Bool {
    guard text.utf8.count == lower.utf8.count else { return false }
    var others = lower.utf8.makeIterator()
    for byte in text.utf8 {
        guard let other = others.next() else { return false }
        if byte != other, !(byte >= 0x41 && byte <= 0x5a && byte | 0x20 == other) { return false }
    }
    return true
}
