/// What a QEMU process does with its guest.
///
/// - Source: QEMU 7.2, `qapi/run-state.json`, `RunState`.
public enum RunState: Hashable, Sendable, CustomStringConvertible {
    case debug, inMigrate, internalError, ioError, paused, postMigrate, preLaunch, finishMigrate
    case restoreVM, running, saveVM, shutdown, suspended, watchdog, guestPanicked, colo
    /// A state that QEMU 7.2 does not know.
    case unknown(String)

    /// QEMU's own words.
    static let names: [(RunState, String)] = [
        (.debug, "debug"), (.inMigrate, "inmigrate"), (.internalError, "internal-error"),
        (.ioError, "io-error"), (.paused, "paused"), (.postMigrate, "postmigrate"),
        (.preLaunch, "prelaunch"), (.finishMigrate, "finish-migrate"),
        (.restoreVM, "restore-vm"), (.running, "running"), (.saveVM, "save-vm"),
        (.shutdown, "shutdown"), (.suspended, "suspended"), (.watchdog, "watchdog"),
        (.guestPanicked, "guest-panicked"), (.colo, "colo"),
    ]

    public init(_ name: String) {
        self = Self.names.first { $0.1 == name }?.0 ?? .unknown(name)
    }

    /// QEMU's own word.
    public var description: String {
        if case .unknown(let name) = self { return name }
        return Self.names.first { $0.0 == self }?.1 ?? "unknown"
    }
}

/// How far a migration is.
///
/// - Source: QEMU 7.2, `qapi/migration.json`, `MigrationStatus`.
public enum MigrationStatus: Hashable, Sendable, CustomStringConvertible {
    case none, setup, cancelling, cancelled, active, postcopyActive, postcopyPaused
    case postcopyRecover, completed, failed, colo, preSwitchover, device, waitUnplug
    case unknown(String)

    static let names: [(MigrationStatus, String)] = [
        (.none, "none"), (.setup, "setup"), (.cancelling, "cancelling"),
        (.cancelled, "cancelled"), (.active, "active"), (.postcopyActive, "postcopy-active"),
        (.postcopyPaused, "postcopy-paused"), (.postcopyRecover, "postcopy-recover"),
        (.completed, "completed"), (.failed, "failed"), (.colo, "colo"),
        (.preSwitchover, "pre-switchover"), (.device, "device"), (.waitUnplug, "wait-unplug"),
    ]

    public init(_ name: String) {
        self = Self.names.first { $0.1 == name }?.0 ?? .unknown(name)
    }

    public var description: String {
        if case .unknown(let name) = self { return name }
        return Self.names.first { $0.0 == self }?.1 ?? "unknown"
    }

    /// Whether this migration will not change its state any more.
    public var isOver: Bool { self == .completed || self == .failed || self == .cancelled }
}

/// Answer to `query-status`.
public struct StatusReply: Hashable, Sendable {
    public var running: Bool
    public var state: RunState
    /// - Returns: nil if `value` has not the shape QEMU documents.
    public init?(_ value: JSON) {
        guard let running = value["running"]?.bool, let state = value["status"]?.string
        else { return nil }
        self.running = running
        self.state = RunState(state)
    }
}

/// Answer to `query-migrate`.
public struct MigrationReply: Hashable, Sendable {
    /// ``MigrationStatus/none`` if none was ever begun.
    public var status: MigrationStatus
    /// What went wrong, if QEMU says it.
    public var errorText: String?
    public var totalMilliseconds: Int64?
    /// Often 0 with a guest that was stopped before: trust the events' times instead.
    public var downtimeMilliseconds: Int64?
    /// Bytes of RAM sent; with shared memory only what is not shared, such as ROMs.
    public var ramTransferredBytes: Int64?
    /// - Returns: nil if `value` is no object.
    public init?(_ value: JSON) {
        guard value.members != nil else { return nil }
        status = value["status"]?.string.map(MigrationStatus.init) ?? .none
        errorText = value["error-desc"]?.string
        totalMilliseconds = value["total-time"]?.integer
        downtimeMilliseconds = value["downtime"]?.integer
        ramTransferredBytes = value["ram"]?["transferred"]?.integer
    }
}

/// Answer to `query-version`, and part of the greeting.
public struct VersionReply: Hashable, Sendable, CustomStringConvertible {
    public var major: Int64
    public var minor: Int64
    public var micro: Int64
    /// The distribution's name of it; may be empty.
    public var package: String
    /// - Returns: nil if `value` has not the shape QEMU documents.
    public init?(_ value: JSON) {
        guard let qemu = value["qemu"], let major = qemu["major"]?.integer,
            let minor = qemu["minor"]?.integer, let micro = qemu["micro"]?.integer
        else { return nil }
        self.major = major
        self.minor = minor
        self.micro = micro
        package = value["package"]?.string ?? ""
    }

    /// Such as `7.2.22`.
    public var description: String { "\(major).\(minor).\(micro)" }
}

/// One of the answers to `query-cpus-fast`.
public struct CPUReply: Hashable, Sendable {
    public var index: Int64
    /// The thread of the QEMU process that executes it.
    public var threadID: Int64
    /// - Returns: nil if `value` has not the shape QEMU documents.
    public init?(_ value: JSON) {
        guard let index = value["cpu-index"]?.integer, let threadID = value["thread-id"]?.integer
        else { return nil }
        self.index = index
        self.threadID = threadID
    }
}

/// One of the answers to `query-block`.
public struct BlockReply: Hashable, Sendable {
    /// The device's name; empty for one made with `-blockdev`.
    public var device: String
    /// Path of the object in QEMU's device tree; empty if QEMU does not say it.
    public var path: String
    /// Name of the image file; nil if no medium is in.
    public var file: String?
    public var readOnly: Bool?
    /// `ok`, `failed` or `nospace`; nil if QEMU does not say it.
    public var ioStatus: String?
    /// - Returns: nil if `value` has not the shape QEMU documents.
    public init?(_ value: JSON) {
        guard let device = value["device"]?.string else { return nil }
        self.device = device
        path = value["qdev"]?.string ?? ""
        file = value["inserted"]?["file"]?.string
        readOnly = value["inserted"]?["ro"]?.bool
        ioStatus = value["io-status"]?.string
    }
}

/// Something that QEMU tells of its own accord.
public struct Event: Hashable, Sendable {
    /// What happened; only what Fermata looks at has a case.
    public enum Kind: Hashable, Sendable {
        case stop, resume, shutdown, reset, powerdown, suspend, wakeup, guestPanicked
        /// A disk of the guest gave an error; it may have been stopped for that.
        case blockIOError
        case migration(MigrationStatus)
        case other
    }
    /// QEMU's name of it, such as `STOP`.
    public var name: String
    /// An object; ``JSON/null`` if the event has none.
    public var data: JSON
    /// QEMU's wall clock, since 1970; -1 if it could not read it.
    public var seconds: Int64
    public var microseconds: Int64

    public var kind: Kind {
        switch name {
        case "STOP": .stop
        case "RESUME": .resume
        case "SHUTDOWN": .shutdown
        case "RESET": .reset
        case "POWERDOWN": .powerdown
        case "SUSPEND": .suspend
        case "WAKEUP": .wakeup
        case "GUEST_PANICKED": .guestPanicked
        case "BLOCK_IO_ERROR": .blockIOError
        case "MIGRATION": .migration(MigrationStatus(data["status"]?.string ?? "none"))
        default: .other
        }
    }

    /// QEMU's wall clock in microseconds since 1970; nil if it could not read it or it is absurd.
    public var timestampMicroseconds: Int64? {
        guard seconds >= 0, (0..<1_000_000).contains(microseconds) else { return nil }
        let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000)
        let (sum, carry) = product.addingReportingOverflow(microseconds)
        return overflow || carry ? nil : sum
    }

    /// - Returns: nil if `value` has not the shape QEMU documents.
    init?(_ value: JSON) {
        guard let name = value["event"]?.string,
            let seconds = value["timestamp"]?["seconds"]?.integer,
            let microseconds = value["timestamp"]?["microseconds"]?.integer
        else { return nil }
        self.name = name
        self.seconds = seconds
        self.microseconds = microseconds
        data = value["data"] ?? .null
    }
}
