// What agent and guard ask a QEMU monitor during a hold, and what it says, in the words of the machines.

/// How far a migration is, as QEMU says.
public enum MoveStatus: Hashable, Sendable, CustomStringConvertible {
    /// None was ever begun.
    case notBegun
    case completed
    case failed
    case cancelled
    /// Any other, by QEMU's word: it will change yet.
    case underWay(String)

    /// - Parameter word: QEMU's.
    public init(_ word: String) {
        switch word {
        case "none": self = .notBegun
        case "completed": self = .completed
        case "failed": self = .failed
        case "cancelled": self = .cancelled
        default: self = .underWay(word)
        }
    }

    /// QEMU's own word.
    public var description: String {
        switch self {
        case .notBegun: "none"
        case .completed: "completed"
        case .failed: "failed"
        case .cancelled: "cancelled"
        case .underWay(let word): word
        }
    }

    /// Whether nothing of it will come any more, or ever came.
    public var isOver: Bool { if case .underWay = self { false } else { true } }
}

/// Whether a process that was handing its guest over may be continued.
///
/// A migration that is under way, or whose end has not been taken in (`finish-migrate`), would find a
/// running guest at its end, and QEMU 7.2 then aborts.
public enum ContinueReadiness: Hashable, Sendable {
    case ready(isExecuting: Bool)
    case notYet(reason: String)

    /// - Parameters:
    ///   - migration: answer to `query-migrate`; nil if it was refused.
    ///   - runstate: answer to the `query-status` behind it, by QEMU's word; nil if it has none.
    ///   - isExecuting: from the same.
    public init(migration: MoveStatus?, runstate: String?, isExecuting: Bool) {
        let migration = migration ?? .notBegun
        if migration.isOver, let runstate, runstate != "finish-migrate" {
            self = .ready(isExecuting: isExecuting)
        } else {
            self = .notYet(reason: "its migration (\(migration)) is not over")
        }
    }
}

/// What a monitor is asked in a hold.
public enum MonitorRequest: String, Hashable, Sendable, CaseIterable {
    /// `migrate` to where the new QEMU waits.
    case migrate
    /// `query-migrate`.
    case queryMigrate
    /// `query-migrate` and `query-status`, in one write.
    case queryReadiness
    case stop
    case cont
    /// `cont` and `query-status`, in one write.
    case contAndLook
}

/// The answer to a ``MonitorRequest``.
public enum MonitorReply: Hashable, Sendable {
    /// To `migrate`, `stop` and `cont`.
    case done
    /// To `queryMigrate`.
    case migration(MoveStatus)
    /// To `queryReadiness`.
    case readiness(ContinueReadiness)
    /// To `contAndLook`: whether its guest executes then, whatever `cont` was answered with.
    case executing(Bool)
    /// QEMU said no, with its words.
    case refused(String)
    /// The connection is over, or there was none; the command may or may not have been carried out.
    case ended(String)
}

/// What a QEMU tells of itself.
public enum MonitorEvent: Hashable, Sendable {
    case stop
    case resume
    case migration(MoveStatus)
}
