// Notices and the delivery lease: between the vocabulary (`Fleet`) and the schema (`PB…`).
public import Fleet

extension Acknowledgement {
    public var wire: PBAcknowledgement {
        switch self {
        case .shortens: .shortens
        case .ignored: .ignored
        }
    }
    /// What a later version says is not known here: waiting is then the safe choice.
    public init(wire: PBAcknowledgement) { self = wire == .shortens ? .shortens : .ignored }
}

extension Notice {
    public var wire: PBNotice {
        var wire = PBNotice()
        wire.step = step.wire
        wire.host = host.rawValue
        wire.guests = guests.map(\.rawValue)
        wire.pairs = pairs.map(\.wire)
        wire.release = release.rawValue
        wire.component = component.description
        wire.version = version
        wire.noticedAtMicroseconds = noticedAt.microseconds
        wire.notBeforeMicroseconds = notBefore.microseconds
        wire.deadlineMilliseconds = deadlineMilliseconds
        wire.isStarted = isStarted
        wire.acknowledgedBy = acknowledgedBy.map(\.rawValue)
        return wire
    }
    public init(wire: PBNotice) throws(ConversionError) {
        let guests: [GuestID] = try checkedNames(wire.guests, "guests")
        try checkAscending(guests, "guests") { $0 }
        let acknowledgedBy: [GuestID] = try checkedNames(wire.acknowledgedBy, "acknowledged_by")
        try checkAscending(acknowledgedBy, "acknowledged_by") { $0 }
        let deadlines = Limits.deadlineMillisecondsMin...Limits.deadlineMillisecondsMax
        guard deadlines.contains(wire.deadlineMilliseconds) else {
            throw outOfRange(
                Int64(wire.deadlineMilliseconds), Int64(deadlines.lowerBound),
                Int64(deadlines.upperBound), "deadline_milliseconds")
        }
        self.init(
            step: try required(wire.hasStep, wire.step, "step", StepID.init(wire:)),
            host: try checkedName(wire.host, "host"), guests: guests,
            pairs: try list(wire.pairs, "pairs", SetPair.init(wire:)),
            release: try checkedName(wire.release, "release"),
            component: try checkedComponent(wire.component, "component"),
            version: try checkedText(wire.version, "version"),
            noticedAt: Timestamp(microseconds: wire.noticedAtMicroseconds),
            notBefore: Timestamp(microseconds: wire.notBeforeMicroseconds),
            deadlineMilliseconds: wire.deadlineMilliseconds, isStarted: wire.isStarted,
            acknowledgedBy: acknowledgedBy)
    }
}

/// A text of 1 to ``Limits/nameByteCountMax`` bytes.
func checkedSink(_ text: String, _ field: StaticString) throws(ConversionError) -> String {
    let byteCount = text.utf8.count
    guard byteCount > 0 else { throw ConversionError(.missing, field: "\(field)") }
    guard byteCount <= Limits.nameByteCountMax else {
        throw ConversionError(
            .tooLong(byteCount: byteCount, max: Limits.nameByteCountMax), field: "\(field)")
    }
    return text
}

extension DeliveredSequence {
    public var wire: PBDeliveryLease.Delivered {
        var wire = PBDeliveryLease.Delivered()
        wire.sink = sink
        wire.sequence = sequence
        return wire
    }
    public init(wire: PBDeliveryLease.Delivered) throws(ConversionError) {
        self.init(sink: try checkedSink(wire.sink, "sink"), sequence: wire.sequence)
    }
}

extension DeliveryLease {
    public var wire: PBDeliveryLease {
        var wire = PBDeliveryLease()
        wire.holder = holder
        wire.number = number
        wire.isYours = isYours
        wire.delivered = delivered.map(\.wire)
        return wire
    }
    public init(wire: PBDeliveryLease) throws(ConversionError) {
        self.init(
            holder: try checkedText(wire.holder, "holder"), number: wire.number,
            isYours: wire.isYours,
            delivered: try list(wire.delivered, "delivered", DeliveredSequence.init(wire:)))
    }
}
