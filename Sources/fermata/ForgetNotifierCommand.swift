import ArgumentParser
import Fleet
import Wire

struct ForgetNotifierCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "forget",
        abstract: "Has the servers keep no more events for a notifier that is gone for good.",
        discussion: """
            Servers keep each event until every notifier that has ever stored one has stored it. One \
            that was replaced under another name, or was only tried, makes them keep all events from \
            then on; `fermata status` shows how far behind each is, and warns.

            Stop it first: a notifier that is connected is not forgotten. One that comes back later \
            counts as new, and may miss what happened meanwhile. Its database stays as it is.

              fermata notifier forget n1 --reason "replaced by n2"
            """)
    @OptionGroup var client: ClientOptions
    @Argument(help: "The notifier, as `fermata status` names it.", transform: parseName)
    var name: NotifierID
    @Option(help: "Why; kept in the server's audit log.", transform: parseReason)
    var reason: String?

    func run() throws {
        try client.carryOut(
            .forgetNotifier(name, reason: reason ?? ""),
            "notifier \(name) is forgotten: no more events are kept for it\n")
    }
}
