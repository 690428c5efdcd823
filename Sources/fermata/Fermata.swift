import AgentShell
import ArgumentParser
import Foundation
import SimulationShell

/// The root of the command line.
@main
struct Fermata: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fermata",
        abstract: "Changes the host software under running QEMU guests, a few milliseconds each.",
        discussion: """
            Fermata holds a guest for a moment with its memory kept in RAM, replaces the software \
            under it, and lets it go on: no reboot, no spare host, and never two update domains of \
            one availability set at the same time.

            A fleet runs `fermata server` once, `fermata agent` on every host and \
            `fermata notifier` where the records are wanted. Operators use the other commands.

            A first rollout:
              fermata hosts
              fermata release add new --version 7.2.22 --path /opt/qemu-new/bin/qemu
              fermata plan --release new
              fermata rollout start --release new --watch
              fermata annotations --database notifier.db

            Settings that every client command needs can come from the environment:
              FERMATA_SERVER             the server's host:port, or several with commas
              FERMATA_CREDENTIALS        such as pki/operator-alice (.pem and .key)
              FERMATA_NOTIFIER_DATABASE  the notifier's file, for annotations

            Exit codes:
              0   done
              1   what was asked for failed: refused, or a rollout that did not succeed
              64  wrong use of the command line
              65  a bad input file, such as a host file
              69  no server could be reached, or a port is in use
              70  an error inside Fermata: please report it
              73  a file or directory cannot be created
              76  the two sides speak different versions of the protocol
              77  wrong identity, certificate or cluster, or not permitted
              78  bad configuration
            """,
        version: Version.text,
        subcommands: [
            ServerCommands.self, AgentCommand.self, GuardCommand.self, NotifierCommands.self,
            PKICommand.self, StatusCommand.self, HostsCommand.self, GuestsCommand.self,
            SetsCommand.self, LocksCommand.self, MetricsCommand.self, ReleaseCommand.self,
            PreflightCommand.self, HealthCommand.self, PlanCommand.self,
            RolloutCommand.self, CordonCommand.self, UncordonCommand.self, NoticesCommand.self,
            AnnotationsCommand.self, AvailabilityCommand.self, BackupCommand.self,
            RestoreCommand.self, SimulateCommand.self,
        ])

    static func main() {
        // A reader that goes away, a pager for example, shows as an error of the write instead.
        signal(SIGPIPE, SIG_IGN)
        // The guard is to be small and quick: what parses arguments for people stays out of its way.
        if CommandLine.arguments.dropFirst() == ["guard"] { Foundation.exit(GuardShell.run()) }
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch let failure as CommandFailure {
            StandardError.show(failure)
            Foundation.exit(failure.exit.rawValue)
        } catch {
            end(with: error)
        }
    }

    /// Help, the version, and errors of parsing, which exit with 64.
    private static func end(with error: any Error) -> Never {
        let code = exitCode(for: error)
        let text = fullMessage(for: error)
        guard !code.isSuccess else {
            StandardOutput.write(text.hasSuffix("\n") ? text : text + "\n")
            Foundation.exit(0)
        }
        // A command that has said all, and whose result is its exit code.
        guard !text.isEmpty else { Foundation.exit(code.rawValue) }
        let prefix = "Error: "
        StandardError.write(
            "fermata: " + (text.hasPrefix(prefix) ? String(text.dropFirst(prefix.count)) : text)
                + "\n")
        Foundation.exit(code.rawValue)
    }
}

enum Version {
    static let text = "0.1.0"
    /// What peers are told, for people.
    static let software = "fermata \(text)"
}
