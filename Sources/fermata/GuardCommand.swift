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

    func run() throws {
        let code = GuardShell.run(channelDescriptor: channelDescriptor)
        guard code != 0 else { return }
        throw CommandFailure(
            Exit(rawValue: code) ?? .internalError,
            "the guard could not begin: descriptor \(channelDescriptor) is no channel to an agent",
            advice: "The agent starts guards by itself; there is no need to run one.")
    }
}
