import ArgumentParser
import Fleet
import LeaderShell
import LogStore
import Presentation
import UvLoop

private let storeHelp = ArgumentHelp(
    "The log: sqlite:DIRECTORY (the server's --data), or etcd:URL[,URL…].", valueName: "store")

private let clusterHelp = ArgumentHelp(
    "Whose log in etcd is meant, unless --etcd-prefix says it.", valueName: "name")

struct BackupCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "backup",
        abstract: "Writes all that a cluster's log holds into one file.",
        discussion: """
            Works beside a running server, and does not disturb it. The file has the state as of \
            one moment: the fleet, releases, rollouts, locks, and events that no notifier has \
            yet. It does not have the server's credentials and its audit.jsonl.

              fermata backup --store sqlite:/var/lib/fermata/server --file fermata.backup
              fermata backup --store etcd:https://a:2379,https://b:2379 \\
                --cluster demo --etcd-ca ca.pem --etcd-cert me.pem --etcd-key me.key \\
                --file fermata.backup

            To move a cluster to another store, stop its servers, back up the old store, restore \
            into the new one, and start the servers with it; both commands print the same digest.
            """)
    @Option(help: storeHelp, transform: parseStore)
    var store: StoreLocation
    @Option(help: clusterHelp)
    var cluster: String?
    @OptionGroup var etcd: EtcdOptionGroup
    @Option(help: ArgumentHelp("The file to write; replaced if it exists.", valueName: "file"))
    var file: String
    @OptionGroup var output: OutputOptions

    func run() throws {
        let loop = try makeLoop()
        let store = try etcd.openStore(store, cluster: cluster, on: loop)
        let made = try wait(loop, fileIs: .cannotCreate) {
            Backup.make(of: store, at: file, software: Version.software, completion: $0)
        }
        output.show(text: made.text(verb: "backed up", file: file), json: made.json(file: file))
    }
}

struct RestoreCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore",
        abstract: "Puts what a back-up holds into a store.",
        discussion: """
            No server may be running on the store, no standby either: restore listens for three \
            seconds whether one writes it. The file is checked first; then everything is \
            written all or nothing, read back and compared. A store that has a log already is left \
            alone without --replace.

              fermata restore --file fermata.backup --store sqlite:/var/lib/fermata/server

            A back-up that is older than the log that was lost: what was accepted after it is \
            forgotten. Wait two minutes after the last server ended, so that every hold it began is \
            over; then start the server, let all agents connect, and look at `fermata status`, \
            `fermata locks` and `fermata rollout list` before you start anything. Agents tell what \
            they have done meanwhile, and never take a command below the newest they know.
            """)
    @Option(help: ArgumentHelp("A file that `fermata backup` made.", valueName: "file"))
    var file: String
    @Option(help: storeHelp, transform: parseStore)
    var store: StoreLocation
    @Option(help: clusterHelp)
    var cluster: String?
    @OptionGroup var etcd: EtcdOptionGroup
    @Flag(help: "Replace the log that is in the store. What it holds is lost: back it up first.")
    var replace = false
    @OptionGroup var output: OutputOptions

    func run() throws {
        let loop = try makeLoop()
        let store = try etcd.openStore(store, cluster: cluster, on: loop)
        let made = try wait(loop, fileIs: .badInput) {
            Backup.restore(
                from: file, to: store, isReplacing: replace, loop: loop, completion: $0)
        }
        output.show(
            text: made.text(verb: "restored ", file: file)
                + "into       \(printable(store.name))\n",
            json: made.json(file: file, into: store.name))
    }
}

/// - Parameter fileIs: what a file that cannot be used means.
private func wait(
    _ loop: Loop, fileIs: Exit,
    _ start: (@escaping (Result<BackupDescription, BackupError>) -> Void) -> Void
) throws(CommandFailure) -> BackupDescription {
    var answer: Result<BackupDescription, BackupError>?
    start { result in
        answer = result
        loop.stop()
    }
    loop.run()
    switch answer {
    case .success(let description): return description
    case .failure(let error): throw CommandFailure(error, fileIs: fileIs)
    case nil: throw CommandFailure(.internalError, "the store did not answer")
    }
}

extension CommandFailure {
    init(_ error: BackupError, fileIs: Exit) {
        switch error {
        case .log(let error): self.init(LeaderError.log(error))
        case .file: self.init(fileIs, "\(error)", advice: "See --file.")
        case .nothingThere:
            self.init(
                .badInput, "\(error)",
                advice: "Name what the server has as --store, or its --data; in etcd, also its "
                    + "cluster with --cluster.")
        case .isWritten:
            self.init(
                .unavailable, "\(error)",
                advice: "Stop all servers of the cluster, standbys too, and wait two minutes.")
        case .notABackup: self.init(.badInput, "\(error)", advice: "See --file.")
        case .newerFormat:
            self.init(.badInput, "\(error)", advice: "Use the version of Fermata that made it.")
        case .damaged: self.init(.badInput, "\(error)", advice: "Take another copy of the file.")
        case .unreadable: self.init(.badInput, "\(error)")
        case .notEmpty:
            self.init(
                .failed, "\(error)",
                advice: "Nothing was changed. --replace puts the back-up in its place, and what "
                    + "it holds is lost then; `fermata backup` keeps it.")
        case .differs:
            self.init(
                .internalError, "\(error)",
                advice: "Do not start a server on it; restore once more, or into another store.")
        }
    }
}

extension BackupDescription {
    fileprivate func text(verb: String, file: String) -> String {
        """
        \(verb)  \(printable(file)) (\(byteCount) bytes)
        made       \(madeAt.dateText) from \(printable(store))
        index      \(index), term \(term)
        digest     \(printable(digest))

        """
    }

    fileprivate func json(file: String, into: String? = nil) -> JSON {
        let target = into.map { [JSON.Member("restoredInto", .string($0))] } ?? []
        return .object(
            [
                JSON.Member("file", .string(file)),
                JSON.Member("bytes", .integer(Int64(byteCount))),
                JSON.Member("index", .unsigned(index)), JSON.Member("term", .unsigned(term)),
                JSON.Member("digest", .string(digest)), JSON.Member("store", .string(store)),
                JSON.Member("madeAt", .string(madeAt.rfc3339)),
                JSON.Member("software", .string(software)),
            ] + target)
    }
}
