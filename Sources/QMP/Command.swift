/// A command for the monitor, without its id.
///
/// The builders are what Fermata uses; each is named as QEMU names it.
///
/// - Source: QEMU 7.2, `qapi/*.json`.
public struct Command: Hashable, Sendable {
    public var name: String
    /// An object; nil for none.
    public var arguments: JSON?

    public init(_ name: String, arguments: JSON? = nil) {
        self.name = name
        self.arguments = arguments
    }

    /// Reply: ``StatusReply``.
    public static let queryStatus = Command("query-status")
    /// Returns when no virtual CPU executes any more.
    public static let stop = Command("stop")
    /// Continues, or is refused where the state does not allow it.
    public static let cont = Command("cont")
    public static let quit = Command("quit")
    /// Asks the guest to shut down, as its power button does.
    public static let systemPowerdown = Command("system_powerdown")
    /// Reply: ``VersionReply``.
    public static let queryVersion = Command("query-version")
    /// Reply: an array of ``BlockReply``.
    public static let queryBlock = Command("query-block")
    /// Reply: an array of ``CPUReply``.
    public static let queryCPUsFast = Command("query-cpus-fast")
    /// Reply: ``MigrationReply``.
    public static let queryMigrate = Command("query-migrate")
    /// Reply: an object with `base-memory` and perhaps `plugged-memory`, in bytes.
    public static let queryMemorySizeSummary = Command("query-memory-size-summary")
    /// Reply: an array of objects with `id`, `size`, `share`, …
    public static let queryMemdev = Command("query-memdev")
    /// Reply: an array with an object for each block node, those below others too.
    public static let queryNamedBlockNodes = Command(
        "query-named-block-nodes", arguments: ["flat": true])
    /// Reply: an array of objects with `label`, `filename`, …
    public static let queryChardev = Command("query-chardev")
    /// Reply: an array of objects with `name`, perhaps `alias`, …
    public static let queryMachines = Command("query-machines")
    public static let migrateCancel = Command("migrate_cancel")

    /// Switches capabilities of migration, in both processes before anything moves.
    public static func migrateSetCapabilities(
        _ capabilities: [MigrationCapability], enabled: Bool = true
    ) -> Command {
        Command(
            "migrate-set-capabilities",
            arguments: [
                "capabilities": .array(
                    capabilities.map {
                        ["capability": .string($0.rawValue), "state": .bool(enabled)]
                    })
            ])
    }

    /// What a hand-over needs: RAM stays where it is, and events tell of its progress.
    public static let migrateSetHandOverCapabilities = migrateSetCapabilities([
        .ignoreShared, .events,
    ])

    /// Sends the guest's state. Answered at once; the end is told by events.
    ///
    /// - Parameter uri: such as `unix:/run/…/in`.
    public static func migrate(uri: String) -> Command {
        Command("migrate", arguments: ["uri": .string(uri)])
    }

    /// Waits for a guest's state; for a process that was started with `-incoming defer`.
    public static func migrateIncoming(uri: String) -> Command {
        Command("migrate-incoming", arguments: ["uri": .string(uri)])
    }

    /// Reply: the property's value.
    public static func qomGet(_ path: String, _ property: String) -> Command {
        Command("qom-get", arguments: ["path": .string(path), "property": .string(property)])
    }

    /// Reply: an array of objects with `name` and `type`, such as `child<virtio-net-pci>`.
    public static func qomList(_ path: String) -> Command {
        Command("qom-list", arguments: ["path": .string(path)])
    }

    /// Runs a line as a person would type it. Reply: a string, empty or with what was printed; an
    /// error too is only printed.
    public static func humanMonitorCommand(_ line: String) -> Command {
        Command("human-monitor-command", arguments: ["command-line": .string(line)])
    }

    /// Lets every NIC tell the network where it is; a guest that can, too, by ARP and neighbour
    /// discovery of its own.
    ///
    /// - Source: QEMU 7.2, `qapi/net.json` (`announce-self`), `net/announce.c`.
    public static func announceSelf(_ pattern: AnnouncePattern) -> Command {
        Command(
            "announce-self",
            arguments: [
                "initial": .integer(Int64(pattern.initialMilliseconds)),
                "max": .integer(Int64(pattern.maxMilliseconds)),
                "rounds": .integer(Int64(pattern.rounds)),
                "step": .integer(Int64(pattern.stepMilliseconds)),
            ])
    }

    /// Leaves the negotiation; sent by ``MonitorSession`` itself.
    static let qmpCapabilities = Command("qmp_capabilities")

    /// The command as one line.
    func append(id: CommandID, to bytes: inout [UInt8]) {
        var members: [JSON.Member] = [JSON.Member("execute", .string(name))]
        if let arguments { members.append(JSON.Member("arguments", arguments)) }
        members.append(JSON.Member("id", .integer(id.number)))
        JSON.object(members).append(to: &bytes)
        bytes.append(UInt8(ascii: "\n"))
    }
}

/// How often a NIC announces itself, and with what pauses: the first, then each longer by a step, up
/// to a greatest.
public struct AnnouncePattern: Hashable, Sendable {
    public let initialMilliseconds: Int
    public let maxMilliseconds: Int
    public let rounds: Int
    public let stepMilliseconds: Int

    /// Values outside of what a network should bear are brought within.
    ///
    /// - Parameters:
    ///   - initialMilliseconds: 10 to 10,000.
    ///   - maxMilliseconds: `initialMilliseconds` to 10,000.
    ///   - rounds: 1 to 10.
    ///   - stepMilliseconds: 0 to 10,000.
    public init(
        initialMilliseconds: Int = 50, maxMilliseconds: Int = 550, rounds: Int = 5,
        stepMilliseconds: Int = 100
    ) {
        self.initialMilliseconds = min(max(10, initialMilliseconds), 10_000)
        self.maxMilliseconds = min(max(self.initialMilliseconds, maxMilliseconds), 10_000)
        self.rounds = min(max(1, rounds), 10)
        self.stepMilliseconds = min(max(0, stepMilliseconds), 10_000)
    }

    /// What QEMU itself does after an incoming migration: five within a second.
    public static let afterMigration = AnnouncePattern()
}

/// What can be switched on in a migration; only those that Fermata uses.
public enum MigrationCapability: String, Hashable, Sendable, CaseIterable {
    /// Memory that both processes share is not sent.
    case ignoreShared = "x-ignore-shared"
    /// Each change of state is told by an event.
    case events
}
