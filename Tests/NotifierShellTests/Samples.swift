import Fleet
import Foundation

/// A directory of its own for a test, removed at the end.
final class Scratch {
    let directory: String
    init() throws {
        directory = NSTemporaryDirectory() + "/fermata-notifier-\(UUID().uuidString)"
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(atPath: directory) }
    func path(_ name: String) -> String { directory + "/" + name }
    func text(_ name: String) throws -> String {
        try String(contentsOfFile: path(name), encoding: .utf8)
    }
    func write(_ text: String, to name: String) throws {
        try Data(text.utf8).write(to: URL(fileURLWithPath: path(name)))
    }
}

enum Samples {
    static let now = Timestamp(microseconds: 1_775_946_500_000_000)

    /// The end of a hold as event `sequence`, of step `step` and guest `guest`.
    static func holdFinished(
        _ sequence: UInt64, step: UInt32, guest: String = "db-0", set: String? = "db",
        host: String = "a", rollout: UInt64 = 1, heldAt: Int64 = 1_775_946_418_123_456
    ) -> FleetEvent {
        let record = HoldRecord(
            guest: GuestID(checked: guest), outcome: .succeeded, reason: "",
            heldAt: Timestamp(microseconds: heldAt), holdMicroseconds: 14_200, resumedBy: .agent,
            clockErrorBeforeMicroseconds: -14_000, clockErrorAfterMicroseconds: nil,
            clockNote: "", hypervisorBefore: "7.2.18", hypervisorAfter: "7.2.22")
        let pair = set.flatMap { name in
            UpdateDomain(0).map { SetPair(set: SetID(checked: name), updateDomain: $0) }
        }
        return FleetEvent(
            sequence: sequence, at: Timestamp(microseconds: heldAt),
            body: .holdFinished(
                FinishedHold(
                    record: record, host: HostID(checked: host), pair: pair,
                    step: StepID(rollout: RolloutID(rollout), number: step), token: Token(7),
                    release: ReleaseID(checked: "qemu-7.2.22"), component: .hypervisor,
                    version: "7.2.22")))
    }

    static func other(_ sequence: UInt64) -> FleetEvent {
        FleetEvent(
            sequence: sequence, at: now,
            body: .rolloutChanged(rollout: RolloutID(1), state: .succeeded, reason: ""))
    }
}
