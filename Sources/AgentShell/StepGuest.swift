internal import AgentCore
internal import Fleet
internal import HostConfiguration
internal import UvLoop

/// One guest of a step with its two processes.
final class StepGuest {
    let keeper: GuestKeeper
    let plan: GuestPlan
    /// Numbers of its two generations.
    let oldNumber: Int
    var newNumber: Int { oldNumber + 1 }
    var old: Generation?
    var new: Generation?
    let oldQueues = TapQueues()
    let newQueues = TapQueues()

    /// Everything that has to work before it counts as prepared, and has not yet.
    var preparationsLeft = 0
    var isPreparing = false
    /// What the preflight found out about the old one, for comparing it with the new one.
    var facts: PreflightFacts?
    /// What its QEMUs say and are asked in the hold.
    var handOver: HandOver
    /// Of a step that an earlier agent began: its processes as they were then.
    var notedPids: [Side: Int32] = [:]
    /// The new process was started by this step and its forwards were left out.
    var addsForwards = true

    /// - Parameters:
    ///   - oldNumber: of the generation that it runs on before the step.
    ///   - budget: of the step.
    init(_ keeper: GuestKeeper, _ plan: GuestPlan, oldNumber: Int, budget: HoldBudget) {
        self.keeper = keeper
        self.plan = plan
        self.oldNumber = oldNumber
        handOver = HandOver(budget: budget)
    }

    var id: GuestID { keeper.id }

    /// It was started and has ended again, as a program that is no QEMU does.
    var newHasJustEnded: Bool { new?.process.hasExited ?? false }

    func generation(_ side: Side) -> Generation? { side == .old ? old : new }
    func pid(_ side: Side) -> Int32? { generation(side)?.process.pid ?? notedPids[side] }
    func reach(_ side: Side) -> HandOver.Reach {
        guard let generation = generation(side) else { return .absent }
        return generation.isConnected ? .connected : .disconnected
    }
    func queues(_ side: Side) -> TapQueues { side == .old ? oldQueues : newQueues }

    func copyQueues(_ side: Side) throws(UvError) {
        guard let generation = generation(side) else { return }
        try queues(side).copy(from: generation.process, generation.tapNumbers)
    }
}
