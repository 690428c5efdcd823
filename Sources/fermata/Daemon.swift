import ArgumentParser
import Foundation
import Logging
import SessionShell
import UvLoop

// What the subcommands that stay have in common: server, agent, guard, notifier.

/// How much is logged, from most to least.
enum LogLevel: String, ExpressibleByArgument, CaseIterable {
    case trace
    case debug
    case info
    case notice
    case warning
    case error
    case critical

    var level: Logger.Level { Logger.Level(rawValue: rawValue) ?? .info }
}

struct DaemonOptions: ParsableArguments {
    @Option(
        name: .customLong("credentials"),
        help: ArgumentHelp(
            "Certificate and key, without .pem and .key, with ca.pem beside them. Default: "
                + "FERMATA_CREDENTIALS.", valueName: "prefix"))
    var credentialsOption: String?

    @Option(help: "What to log: this and what is more important.")
    var logLevel: LogLevel = .info

    var credentials: String {
        get throws(CommandFailure) { try credentialsPrefix(credentialsOption) }
    }

    /// Logs to stderr, so that stdout has only what scripts wait for.
    func logger(_ role: String) -> Logger {
        var logger = Logger(label: "fermata.\(role)") {
            StreamLogHandler.standardError(label: $0)
        }
        logger.logLevel = logLevel.level
        return logger
    }
}

struct ServerOptions: ParsableArguments {
    @Option(
        name: .customLong("server"),
        help: ArgumentHelp(
            "Server to follow; repeat it or separate several with commas. Default: FERMATA_SERVER.",
            valueName: "host:port"))
    var serverOptions: [String] = []

    var list: [String] {
        get throws(CommandFailure) {
            try serverList(serverOptions, environment: "FERMATA_SERVER", fallback: nil)
        }
    }
}

extension StandardOutput {
    /// The line that tells whoever started a daemon that it works. A closed stdout is no reason
    /// for a daemon to end.
    static func announce(_ line: String) { try? tryWrite(line + "\n") }
}

/// The loop of a process that stays until SIGTERM, SIGINT or a fatal error.
final class DaemonProcess {
    let loop: Loop
    /// Orderly end: called once, in the loop.
    var onStop: (() -> Void)?
    /// The same for one that needs a while: what it is given is to be called when it is done.
    var onStopping: ((_ completion: @escaping () -> Void) -> Void)?
    private var failure: CommandFailure?
    private var isStopping = false
    private var watches: [SignalWatch] = []

    /// Time for closing frames to leave.
    private static let farewell = Duration.milliseconds(50)

    private var keeper: CredentialsKeeper?

    init(loop: Loop) {
        self.loop = loop
        for signal in [SIGTERM, SIGINT] {
            watches.append(loop.onSignal(signal) { [unowned self] in stop(with: nil) })
        }
    }

    /// Warns when the credentials end soon, and reads them again on SIGHUP.
    ///
    /// - Parameter use: gets the new ones.
    func keep(_ credentials: Credentials, log: Logger, use: @escaping (Credentials) -> Void) {
        let keeper = CredentialsKeeper(credentials, on: loop, log: log)
        keeper.onReload = use
        self.keeper = keeper
        log.info("credentials loaded", metadata: credentials.metadata)
        keeper.warn()
        watches.append(loop.onSignal(SIGHUP) { keeper.reload() })
    }

    func run() throws(CommandFailure) {
        // A timer keeps the loop alive while nothing else does, as between two tries to connect.
        let alive = loop.every(.seconds(3600)) {}
        loop.run()
        alive.cancel()
        if let failure { throw failure }
    }

    /// Ends ``run()``; with an error if there is one.
    func stop(with failure: CommandFailure?) {
        guard !isStopping else { return }
        isStopping = true
        keeper?.stop()
        self.failure = failure
        onStop?()
        onStop = nil
        let end = { [loop] in _ = loop.after(Self.farewell) { loop.stop() } }
        if let onStopping { onStopping(end) } else { end() }
        onStopping = nil
    }
}
