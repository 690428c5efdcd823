// What a message may cost before it is read: its bytes, and the elements of its repeated fields. Both are
// known from the bytes alone. Two bytes of an empty element become a hundred or more once decoded, so a
// count that is looked at afterwards would come too late.
import Fleet

extension MessageKind {
    /// Longest body of this kind, put together from chunks.
    ///
    /// - Source: proto-spec/README.md, section 6.
    public var byteCountMax: Int {
        switch self {
        case .hostReport: Limits.hostReportByteCountMax
        case .directive, .stepReport, .command, .query: Limits.stepMessageByteCountMax
        case .queryResult, .eventBatch: Limits.messageByteCountMax
        case .hello, .helloAccepted, .close, .ping, .pong, .hostReportCommitted, .directiveAnswer,
            .stepProgress, .stepReportCommitted, .commandAccepted, .refused, .followEvents,
            .acknowledgeEvents, .claimDeliveries, .deliveryLease, .reportDelivered,
            .giveUpDeliveries:
            Limits.smallMessageByteCountMax
        }
    }

    /// The repeated fields of what a client sends, and of a Directive. What else a server sends is as
    /// long as its state.
    fileprivate var bounds: [BoundedField] {
        switch self {
        case .hostReport: BoundedField.hostReport
        case .directive: BoundedField.directive
        case .stepReport: BoundedField.stepReport
        case .command: BoundedField.command
        case .query: BoundedField.query
        default: []
        }
    }
}

/// A field of the schema whose elements are counted, or that has such a field within.
private struct BoundedField: Sendable {
    let number: UInt64
    let name: String
    /// Of one message; nil for a field that is not repeated. As Protocol Buffers have it, one that is
    /// there twice all the same is put together: its parts are counted as one.
    let max: Int?
    let fields: [BoundedField]

    init(_ number: UInt64, _ name: String, max: Int? = nil, _ fields: [BoundedField] = []) {
        self.number = number
        self.name = name
        self.max = max
        self.fields = fields
    }

    static let hostReport = [
        BoundedField(5, "sets", max: Limits.hostGuestsMax),
        BoundedField(
            6, "guests", max: Limits.hostGuestsMax,
            [BoundedField(10, "addresses", max: Limits.guestAddressesMax)]),
        BoundedField(7, "abilities", max: Limits.agentAbilitiesMax),
        BoundedField(8, "software", max: Limits.hostSoftwareMax),
    ]
    static let stepReport = [
        BoundedField(5, "phases", max: Limits.stepPhasesMax),
        BoundedField(6, "holds", max: Limits.stepGuestsMax),
    ]
    static let directive = [
        BoundedField(4, "release", release),
        BoundedField(5, "guests", max: Limits.stepGuestsMax),
    ]
    static let command = [
        BoundedField(1, "add_release", release), BoundedField(2, "start_rollout", startRollout),
    ]
    static let query = [BoundedField(9, "plan", startRollout)]

    private static let release = [
        BoundedField(
            3, "hypervisor",
            [BoundedField(4, "data_directories", max: Limits.commandWordsMax)]),
        BoundedField(
            5, "host_work",
            [
                BoundedField(3, "prepare", hostCommand), BoundedField(4, "apply", hostCommand),
                BoundedField(5, "check", hostCommand), BoundedField(6, "undo", hostCommand),
                BoundedField(7, "environment", max: Limits.commandWordsMax),
            ]),
    ]
    private static let hostCommand = [BoundedField(2, "arguments", max: Limits.commandWordsMax)]
    private static let startRollout = [
        BoundedField(
            2, "selection", [BoundedField(2, "hosts", max: Limits.selectionHostsMax)])
    ]
}

/// Looks through a body's tags, one level for each that has bounds.
///
/// - Throws: ``ConversionError/Problem/tooMany(count:max:)`` at the first element too many. What cannot
///   be read is left to the decoder, which stops at the same place.
func checkBounds(_ kind: MessageKind, _ body: [UInt8]) throws(ConversionError) {
    let bounds = kind.bounds
    guard !bounds.isEmpty else { return }
    let error = body.withUnsafeBytes { firstExcess(in: [$0], bounds) }
    if let error { throw error }
}

/// - Parameter parts: of one message, in order.
private func firstExcess(
    in parts: [UnsafeRawBufferPointer], _ fields: [BoundedField]
) -> ConversionError? {
    var counts = [Int](repeating: 0, count: fields.count)
    var within = [[UnsafeRawBufferPointer]](repeating: [], count: fields.count)
    for part in parts {
        var reader = TagReader(part)
        while let (number, value) = reader.next() {
            guard let value, let index = fields.firstIndex(where: { $0.number == number })
            else { continue }
            let field = fields[index]
            guard let max = field.max else {
                // What is empty has no elements, and would only cost us memory.
                if !value.isEmpty { within[index].append(value) }
                continue
            }
            counts[index] += 1
            guard counts[index] <= max else {
                return ConversionError(
                    .tooMany(count: counts[index], max: max), field: field.name)
            }
            if !field.fields.isEmpty, let error = firstExcess(in: [value], field.fields) {
                return error.within("\(field.name)[\(counts[index] - 1)]")
            }
        }
    }
    for (field, parts) in zip(fields, within) where !parts.isEmpty {
        if let error = firstExcess(in: parts, field.fields) { return error.within(field.name) }
    }
    return nil
}

/// The fields of one message, without what they mean.
private struct TagReader {
    private let bytes: UnsafeRawBufferPointer
    private var offset = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    /// The next field's number, and its bytes if it has a length; nil at the end and where the bytes
    /// cannot be read.
    ///
    /// A group's fields come as if they were the message's own. Version 1 has no groups, so nobody
    /// honest is counted too high.
    mutating func next() -> (number: UInt64, value: UnsafeRawBufferPointer?)? {
        guard let tag = varint() else { return nil }
        let number = tag >> 3
        switch tag & 7 {
        case 0: return varint() == nil ? nil : (number, nil)
        case 1: return skip(8) ? (number, nil) : nil
        case 2:
            guard let length = varint(), length <= UInt64(bytes.count - offset) else { return nil }
            let start = offset
            offset += Int(length)
            return (number, UnsafeRawBufferPointer(rebasing: bytes[start..<offset]))
        case 3, 4: return (number, nil)
        case 5: return skip(4) ? (number, nil) : nil
        default: return nil
        }
    }

    private mutating func skip(_ count: Int) -> Bool {
        guard count <= bytes.count - offset else { return false }
        offset += count
        return true
    }

    /// - Returns: nil if it does not end, or is longer than any may be.
    private mutating func varint() -> UInt64? {
        var number: UInt64 = 0
        for shift in stride(from: 0, to: 70, by: 7) {
            guard offset < bytes.count else { return nil }
            let byte = bytes[offset]
            offset += 1
            number |= UInt64(byte & 0x7F) << UInt64(shift)
            if byte & 0x80 == 0 { return number }
        }
        return nil
    }
}
