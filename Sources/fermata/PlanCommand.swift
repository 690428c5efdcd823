import ArgumentParser
import Fleet
import Presentation
import Wire

struct PlanCommand: QueryCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan", abstract: "Shows what a rollout would do, without doing it.",
        discussion: """
            Steps of one wave can run at the same time: they lock no two update domains of one \
            set. Lines that begin with 'problem:' say what would make the rollout wait. With --notice a \
            line names the guests that have no address in their host's file: nobody in them is told.

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

    func run() throws {
        let connection = try ClientConnection.open(client)
        let result = try connection.query(query)
        guard case .plan(let plan) = result, plan.policy.noticeMilliseconds > 0 else {
            connection.close()
            return try show(result)
        }
        guard case .guests(let guests) = try connection.query(.guests) else { throw mismatch() }
        connection.close()
        show(plan, deaf: plan.guestsWithoutAddress(guests))
    }

    func show(_ result: OperatorQueryResult) throws(CommandFailure) {
        guard case .plan(let plan) = result else { throw mismatch() }
        show(plan, deaf: [])
    }

    private func show(_ plan: PlanView, deaf: [GuestID]) {
        client.output.show(
            text: plan.text + withoutAddressText(deaf), json: plan.json(withoutAddress: deaf))
    }
}
