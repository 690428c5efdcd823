import Notices

/// Whole requests that a client has sent ahead of an answer that it waits for, in their order. What it can
/// make us keep is bounded: by ``HTTPLimits/pipelinedRequestsMax`` and
/// ``HTTPLimits/pipelinedByteCountMax``.
struct RequestsAhead {
    enum Entry {
        case request(RequestHead, body: [UInt8], closes: Bool)
        /// Of what could not be read as a request.
        case refusal(GuestAnswer)
    }

    private var entries: [(entry: Entry, byteCount: Int)] = []
    private var byteCount = 0
    /// Nothing that comes behind is looked at.
    private(set) var isClosed = false

    var isEmpty: Bool { entries.isEmpty }

    /// - Parameter byteCount: of a request that is still arriving.
    func hasRoom(for byteCount: Int) -> Bool {
        self.byteCount + byteCount <= HTTPLimits.pipelinedByteCountMax
    }

    /// - Returns: false if there is no room for it.
    mutating func add(_ head: RequestHead, _ body: [UInt8], closes: Bool) -> Bool {
        let size = head.byteCount + body.count
        guard entries.count < HTTPLimits.pipelinedRequestsMax, hasRoom(for: size) else {
            return false
        }
        entries.append((.request(head, body: body, closes: closes), size))
        byteCount += size
        isClosed = closes
        return true
    }

    /// The last thing that is answered.
    mutating func close(with refusal: GuestAnswer) {
        entries.append((.refusal(refusal), 0))
        isClosed = true
    }

    mutating func next() -> Entry? {
        guard !entries.isEmpty else { return nil }
        let (entry, size) = entries.removeFirst()
        byteCount -= size
        return entry
    }
}

extension RequestHead {
    /// About what it takes in memory.
    fileprivate var byteCount: Int {
        fields.reduce(method.utf8.count + target.utf8.count) { sum, field in
            sum + field.name.utf8.count + field.value.utf8.count + Self.fieldByteCount
        }
    }

    /// Of a field, besides what it says.
    private static let fieldByteCount = 32
}
