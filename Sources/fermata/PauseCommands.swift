import ArgumentParser
import Fleet
import Presentation
import Wire

// What holds back work without ending it: a rollout that is paused, a host that is cordoned.

struct RolloutPause: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pause",
        abstract: "Lets no further step of a rollout start until it is resumed.",
        discussion: """
            Steps in flight run to their end. A paused rollout can be resumed or aborted; until then \
            no other one can be started for what it has still to do.

              fermata rollout pause rollout-1 --reason "a guest complains"
            """)
    @OptionGroup var client: ClientOptions
    @Argument(help: "The rollout, such as rollout-1.", transform: parseRollout)
    var id: RolloutID
    @Option(help: "Why; shown while it is paused.", transform: parseReason)
    var reason: String?

    func run() throws {
        try client.carryOut(
            .pauseRollout(id, reason: reason ?? ""),
            "\(id) is paused: no further step starts until `fermata rollout resume \(id)`; steps in "
                + "flight run to their end\n")
    }
}

struct RolloutResume: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resume", abstract: "Lets the steps of a paused rollout start again.",
        discussion: "  fermata rollout resume rollout-1")
    @OptionGroup var client: ClientOptions
    @Argument(help: "The rollout, such as rollout-1.", transform: parseRollout)
    var id: RolloutID
    @Option(help: "Why; kept in the server's audit log.", transform: parseReason)
    var reason: String?

    func run() throws {
        try client.carryOut(.resumeRollout(id, reason: reason ?? ""), "\(id) goes on\n")
    }
}

struct CordonCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cordon", abstract: "Lets no step start on a host.",
        discussion: """
            A step in flight on it runs to its end. Steps that are to come wait, and their rollouts \
            with them: `fermata rollout show` says for what. `fermata hosts` shows who has cordoned \
            what, and why.

              fermata cordon b --reason "its disks are being replaced"
            """)
    @OptionGroup var client: ClientOptions
    @Argument(help: "The host.", transform: parseName)
    var host: HostID
    @Option(help: "Why; shown to everybody who waits for it.", transform: parseReason)
    var reason: String

    func run() throws {
        try client.carryOut(
            .cordonHost(host, reason: reason),
            "host \(host) is cordoned: no step starts on it until `fermata uncordon \(host)`\n")
    }
}

struct UncordonCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "uncordon", abstract: "Lets steps start on a host again.",
        discussion: "  fermata uncordon b")
    @OptionGroup var client: ClientOptions
    @Argument(help: "The host.", transform: parseName)
    var host: HostID
    @Option(help: "Why; kept in the server's audit log.", transform: parseReason)
    var reason: String?

    func run() throws {
        try client.carryOut(
            .uncordonHost(host, reason: reason ?? ""), "steps may start on host \(host)\n")
    }
}

extension ClientOptions {
    /// Has the server accept a command, and says what is so then.
    func carryOut(_ command: OperatorCommand, _ text: String) throws {
        let connection = try ClientConnection.open(self)
        let accepted = try connection.command(command)
        connection.close()
        output.show(text: text, json: accepted.json)
    }
}
