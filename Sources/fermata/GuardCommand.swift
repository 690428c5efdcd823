import AgentShell
import ArgumentParser
import Foundation

/// Started by the agent before a hold; nothing that a person would run.
struct GuardCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "guard",
        abstract: "Continues held guests if the agent cannot; the agent starts it.",
        shouldDisplay: false)
    @Option(help: "The connected socket to the agent, an open descriptor.")
    var channelDescriptor: Int32 = 3
    @Option(help: "Instead: watch the agent whose program at this path has been replaced.")
    var upgradeOf: String?
    @Option(help: "The agent's pid.")
    var agentProcess: Int32?

    func run() throws {
        if let upgradeOf, let agentProcess {
            let code = UpgradeWatch.run(
                program: upgradeOf, agentProcess: agentProcess,
                channelDescriptor: channelDescriptor)
            guard code != 0 else { return }
            throw CommandFailure(
                .internalError, "the program before the upgrade of \(upgradeOf) is not back",
                advice: "Rename \(upgradeOf).previous to \(upgradeOf), and start the agent.")
        }
        let code = GuardShell.run(channelDescriptor: channelDescriptor)
        guard code != 0 else { return }
        throw CommandFailure(
            Exit(rawValue: code) ?? .internalError,
            "the guard could not begin: descriptor \(channelDescriptor) is no channel to an agent",
            advice: "The agent starts guards by itself; there is no need to run one.")
    }
}
