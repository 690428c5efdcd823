import ArgumentParser
import Presentation
import Wire

struct PlanCommand: QueryCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan", abstract: "Shows what a rollout would do, without doing it.",
        discussion: """
            Steps of one wave can run at the same time: they lock no two update domains of one \
            set. Lines that begin with 'problem:' say what would make the rollout wait.

              fermata plan --release qemu-7.2.22
              fermata plan --release qemu-7.2.22 --host a,b --parallelism 2
            """)
    @OptionGroup var client: ClientOptions
    /// A plan depends on who is connected, which only the leader knows.
    var stale: Bool { false }
    @OptionGroup var rollout: RolloutOptions
    var query: OperatorQuery {
        .plan(release: rollout.release, selection: rollout.selection, policy: rollout.policy)
    }

    func show(_ result: OperatorQueryResult) throws(CommandFailure) {
        guard case .plan(let plan) = result else { throw mismatch() }
        client.output.show(text: plan.text, json: plan.json)
    }
}
