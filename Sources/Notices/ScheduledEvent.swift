// What guests read before a hold, in the form that guests' agents in the largest cloud already poll,
// and in our own. Formats and which field came with which version: those public clients rely on.
//
//   version       event types                                  fields of an event, added
//   ----------    ----------------------------------------     -------------------------
//   2017-08-01    Freeze, Reboot, Redeploy                     EventId, EventStatus, EventType,
//                                                              ResourceType, Resources, NotBefore
//   2017-11-01    Preempt
//   2019-01-01    Terminate
//   2019-04-01                                                 Description
//   2019-08-01                                                 EventSource
//   2020-07-01                                                 DurationInSeconds
//
// A hold is a Freeze in all of them, so only the fields differ.
public import Fleet
public import Presentation

/// A version of the scheduled-events document, named by its date.
public enum EventsVersion: String, Hashable, Sendable, CaseIterable {
    case v20170801 = "2017-08-01"
    case v20171101 = "2017-11-01"
    case v20190101 = "2019-01-01"
    case v20190401 = "2019-04-01"
    case v20190801 = "2019-08-01"
    case v20200701 = "2020-07-01"

    /// Versions whose documents are the same bytes have the same layout.
    public enum Layout: Int, Hashable, Sendable, CaseIterable, Comparable {
        case first
        case withDescription
        case withSource
        case withDuration
        public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
    }

    public var layout: Layout {
        switch self {
        case .v20170801, .v20171101, .v20190101: .first
        case .v20190401: .withDescription
        case .v20190801: .withSource
        case .v20200701: .withDuration
        }
    }
}

/// One step as one guest is told of it.
public struct ScheduledEvent: Hashable, Sendable {
    public var step: StepID
    /// Shaped like a UUID; see ``Notice/eventID``.
    public var eventID: String
    /// Guests that will be held and that the reader may know of, ascending; never empty.
    public var resources: [GuestID]
    public var isStarted: Bool
    public var notBefore: Timestamp
    /// How long each guest is held at most; 0 if that is not known.
    public var deadlineMilliseconds: UInt32
    public var release: ReleaseID
    public var component: Component
    /// Version of the release.
    public var version: String

    public init(_ notice: Notice, resources: [GuestID]) {
        step = notice.step
        eventID = notice.eventID
        self.resources = resources
        isStarted = notice.isStarted
        notBefore = notice.notBefore
        deadlineMilliseconds = notice.deadlineMilliseconds
        release = notice.release
        component = notice.component
        version = notice.version
    }

    /// Rounded up: a guest is never held for longer than it was told. -1 if it is not known.
    public var durationSeconds: Int64 {
        deadlineMilliseconds == 0 ? -1 : (Int64(deadlineMilliseconds) + 999) / 1_000
    }

    public var description: String {
        let limit = deadlineMilliseconds == 0 ? "shortly" : "for at most \(durationSeconds) s"
        return "Host update: \(component) \(version). The virtual machine is paused \(limit), "
            + "with its memory kept."
    }

    func json(_ layout: EventsVersion.Layout) -> JSON {
        var members: [JSON.Member] = [
            JSON.Member("EventId", .string(eventID)),
            JSON.Member("EventStatus", .string(isStarted ? "Started" : "Scheduled")),
            JSON.Member("EventType", .string("Freeze")),
            JSON.Member("ResourceType", .string("VirtualMachine")),
            JSON.Member("Resources", .array(resources.map { .string($0.rawValue) })),
            JSON.Member("NotBefore", .string(isStarted ? "" : notBefore.rfc1123)),
        ]
        if layout >= .withDescription {
            members.append(JSON.Member("Description", .string(description)))
        }
        if layout >= .withSource {
            members.append(JSON.Member("EventSource", .string("Platform")))
        }
        if layout >= .withDuration {
            members.append(JSON.Member("DurationInSeconds", .integer(durationSeconds)))
        }
        return .object(members)
    }

    /// In our own words.
    var nativeJSON: JSON {
        [
            "id": .string(eventID),
            "step": .string(step.description),
            "status": .string(isStarted ? "started" : "noticed"),
            "guests": .array(resources.map { .string($0.rawValue) }),
            "notBefore": .string(notBefore.rfc3339),
            "deadlineMilliseconds": .unsigned(UInt64(deadlineMilliseconds)),
            "component": .string(component.description),
            "release": .string(release.rawValue),
            "version": .string(version),
            "description": .string(description),
        ]
    }
}

/// What one guest is told, now.
public struct EventDocument: Hashable, Sendable {
    /// Differs whenever the document does, and never goes back. At least 1.
    public var incarnation: UInt64
    /// Ascending by step.
    public var events: [ScheduledEvent]

    public init(incarnation: UInt64, events: [ScheduledEvent]) {
        self.incarnation = incarnation
        self.events = events
    }

    public func json(_ layout: EventsVersion.Layout) -> JSON {
        [
            "DocumentIncarnation": .unsigned(incarnation),
            "Events": .array(events.map { $0.json(layout) }),
        ]
    }

    /// In our own words, of `/v1/events`.
    public var nativeJSON: JSON {
        ["incarnation": .unsigned(incarnation), "events": .array(events.map(\.nativeJSON))]
    }

    /// The entity tag of any rendering of it.
    public var tag: String { "\"\(incarnation)\"" }
}

extension Notice {
    /// Names the event to guests, the same on every notifier: from step and time of the notice, so that
    /// a step that is noticed again after it was withdrawn is another event. Lower case, version 8.
    public var eventID: String {
        var mixed = mix(step.rollout.number)
        mixed = mix(mixed ^ UInt64(step.number))
        return uuid(mix(mixed ^ UInt64(bitPattern: noticedAt.microseconds)))
    }
}

/// A name as 122 bits that look like a UUID: stable, and no secret.
func uuidShaped(_ text: String) -> String {
    uuid(text.utf8.reduce(mix(UInt64(text.utf8.count))) { mix($0 ^ UInt64($1)) })
}

private func uuid(_ seed: UInt64) -> String {
    let first = (seed & ~0xf000) | 0x8000
    let last = (mix(seed) & ~(3 << 62)) | (1 << 63)
    let bytes = [first, last].flatMap { withUnsafeBytes(of: $0.bigEndian, Array.init) }
    var rest = hexText(bytes)[...]
    var groups: [Substring] = []
    for count in [8, 4, 4, 4, 12] {
        groups.append(rest.prefix(count))
        rest = rest.dropFirst(count)
    }
    return groups.joined(separator: "-")
}

/// The finalizer of SplitMix64: every bit of the input moves half of the output's.
private func mix(_ value: UInt64) -> UInt64 {
    var z = value &+ 0x9e37_79b9_7f4a_7c15
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
}
