import Fleet
import Notices

/// A board with two sets and a guest of its own: db-0 (a, 10.0.0.1) and db-1 (b, 10.0.0.2) of `db`,
/// web-0 (a, 10.0.0.3) of `web`, lone (a, 10.0.0.4).
enum BoardSamples {
    static func guest(
        _ name: String, _ host: String, _ set: String?, _ address: String, domain: Int = 0
    ) -> BoardGuest {
        BoardGuest(
            id: GuestID(checked: name), host: HostID(checked: host),
            set: set.map { SetID(checked: $0) }, updateDomain: UpdateDomain(domain),
            addresses: [IPAddress(address)].compactMap(\.self), memoryBytes: 1 << 30,
            vcpuCount: 2)
    }

    static let guests = [
        guest("db-0", "a", "db", "10.0.0.1"), guest("db-1", "b", "db", "10.0.0.2", domain: 1),
        guest("lone", "a", nil, "10.0.0.4"), guest("web-0", "a", "web", "10.0.0.3"),
    ]

    static func board(
        _ memory: BoardMemory = BoardMemory(), sequence: UInt64 = 0, notices: [Notice] = [],
        host: String? = nil
    ) -> NoticeBoard {
        var board = NoticeBoard(memory, host: host.map { HostID(checked: $0) })
        board.take(guests)
        board.load(notices, sequence: sequence)
        return board
    }

    static func step(_ number: UInt32) -> StepID { StepID(rollout: RolloutID(7), number: number) }

    /// 2026-04-11 22:26:58 UTC, and a quarter of an hour earlier.
    static let notBefore = Timestamp(microseconds: 1_775_946_418_000_000)
    static let noticedAt = Timestamp(microseconds: 1_775_945_518_000_000)

    static func notice(
        _ number: UInt32, _ names: [String], sets: [String], isStarted: Bool = false,
        at time: Timestamp = noticedAt
    ) -> Notice {
        Notice(
            step: step(number), host: HostID(checked: "a"),
            guests: names.map { GuestID(checked: $0) },
            pairs: sets.compactMap { set in
                UpdateDomain(0).map { SetPair(set: SetID(checked: set), updateDomain: $0) }
            },
            release: ReleaseID(checked: "qemu-8"), component: .hypervisor, version: "8.2.1",
            noticedAt: time, notBefore: notBefore, deadlineMilliseconds: 8_500,
            isStarted: isStarted, acknowledgedBy: [])
    }

    static func event(_ sequence: UInt64, _ body: FleetEvent.Body) -> FleetEvent {
        FleetEvent(sequence: sequence, at: noticedAt, body: body)
    }

    static func granted(_ sequence: UInt64, _ notice: Notice) -> FleetEvent {
        event(
            sequence,
            .stepGranted(
                step: notice.step, host: notice.host, guests: notice.guests, pairs: notice.pairs,
                release: notice.release, component: notice.component, version: notice.version))
    }

    static func held(_ sequence: UInt64, _ notice: Notice, _ name: String) -> FleetEvent {
        var event = Samples.holdFinished(sequence, step: notice.step.number)
        if case .holdFinished(var hold) = event.body {
            hold.step = notice.step
            hold.record.guest = GuestID(checked: name)
            event.body = .holdFinished(hold)
        }
        return event
    }
}

extension NoticeBoard {
    func document(_ name: String) -> EventDocument {
        guard let guest = guest(GuestID(checked: name)) else {
            preconditionFailure("the board does not know \(name)")
        }
        return document(for: guest)
    }

    /// The names in each event, for short comparisons.
    func resources(_ name: String) -> [[String]] {
        document(name).events.map { $0.resources.map(\.rawValue) }
    }
}
