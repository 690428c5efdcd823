// What an agent does with directives, with what it keeps of steps, and with their reports.
//
//              directive, can be carried out           kept
//         idle ─────────────────────────────► keeping ──────► working
//          ▲ ▲                                   │               │ stepEnded
//          │ └─────────── keepFailed: refused ───┘               ▼
//          │            kept                             kept
//          └───────────────────────── ending(accepted) ◄────── ending(report)
//                                        └ keepFailed: again each second ┘
//
//  state            event                       next              effects
//  idle             directive, fresh            keeping           keep token and step
//                   …, cannot be carried out    idle              answer refused
//  keeping          the same directive          keeping           answered with the first one
//                   another, fresh              keeping           answer busy
//                   kept                        working           answer accepted; begin
//                   keepFailed                  idle              answer refused
//  working          stepEnded                   ending(report)    keep the report
//  ending(report)   kept                        ending(accepted)  keep the token without the step
//  ending(accepted) kept                        idle              notes away; send report, host report
//  ending(…)        keepFailed                  same              timer: retry
//                   timer retry                 same              the same write again
//  any              directive, not fresh        same              answer as the TokenGate says; a step
//                                                                 that was reported is reported again
//  any              sessionReady                same              host report, all reports
//  any              timer resend                same              all reports; timer: resend
//  any              reportCommitted             same              forget the report
//
//  At the start, by what was kept:
//  no step                                      idle
//  a step and its report                        ending(accepted): the report counts, and the crash came
//                                               in between
//  a step that replaces the agent               working           see which program runs now
//  a step of another boot of the host           ending(report)    it failed; its guests start afresh
//  … with commands                              working           undo first, then start its guests
//  a step with guests that the host has no more ending(report)    it failed
//  any other step                               working           observe its guests; observed: resume
//
// One write is out at a time, and its `kept` or `keepFailed` comes before that of the next. A kill may
// come between any two effects. What makes that harmless is their order: nothing has any effect before
// token and step are durable; the step goes only when its report is durable; the leader hears of the
// end only when the step is gone, so the report can be forgotten as soon as the leader has it.
//
// The agent connects to the leader (`becomeReady`) once all guests are found or started, and a step
// that was taken up has ended, or has had 10 s: one QEMU that nobody reaches must not keep the agent
// from the leader.

public import Fleet

/// The agent's decisions outside of a hold; pure. See ``HoldMachine`` for those inside.
public struct AgentMachine: Hashable, Sendable {
    public enum Event: Hashable, Sendable {
        /// The first event, once no guard is at work any more. `guests`: those of the host's file.
        case start(guests: [GuestID])
        /// `at` is by the wall clock; `guests` and `parts` are as they are now.
        case directive(Directive, at: Timestamp, guests: [HostGuest], parts: MeasuredParts)
        /// What was to be kept is durable.
        case kept
        /// It may be durable or not.
        case keepFailed(reason: String)
        /// What the processes of a step's guests do, one action for each guest that the host's file names,
        /// in its order.
        case observed([RecoveryAction])
        /// The step in flight is over.
        case stepEnded(StepReport)
        /// Every guest that was to be found or started is, or was given up.
        case guestsSettled
        /// There is a session with the leader, a new one each time.
        case sessionReady
        case reportCommitted(StepID, Token)
        /// Something that a host report tells is different.
        case hostChanged
        case timerFired(Timer)
    }

    public enum Timer: Hashable, Sendable, CaseIterable {
        /// The disk did not take something.
        case retry
        case resend
        /// Changes that come together make one host report.
        case hostReport
        /// A step that was taken up has had its time.
        case recovery
    }

    /// What the shell has to do, in this order.
    public enum Effect: Hashable, Sendable {
        /// Durable, then `kept` or `keepFailed`: the file `accepted`, whole.
        case keep(acceptedToken: Token, inFlight: AcceptedStep?)
        /// Durable, then `kept` or `keepFailed`.
        case keepReport(StepReport)
        case forgetReport(StepID, Token)
        /// Answers every directive of this grant that has no answer yet.
        case answer(TokenGate.Grant, DirectiveAnswer)
        /// After this turn, so that the answer is on its way before the work begins. The end of it
        /// is `stepEnded`.
        case begin(AcceptedStep)
        /// Find the processes of its guests, as far as the host's file names them, and ask them; then
        /// `observed`.
        case observe(AcceptedStep)
        /// Finish it from where its guests are, an action for each, with the notes; then `stepEnded`.
        case resume(AcceptedStep, [RecoveryAction])
        /// Undo what its commands have changed; then `stepEnded`.
        case undoAfterReboot(AcceptedStep)
        /// See whether this is the program that it was to install; then `stepEnded`.
        case recoverUpgrade(AcceptedStep)
        /// Find the processes of these guests, start those that have none; then `guestsSettled`.
        case takeUpGuests([GuestID])
        /// Start these, which have no processes; then `guestsSettled`.
        case startGuests([GuestID])
        /// Connect to the leader.
        case becomeReady
        /// Dropped when there is no session.
        case send(StepReport)
        /// Of the host as it is now. If not `always`, only when it differs from the last one.
        case sendHostReport(always: Bool)
        /// The agent's and the guard's, of the step that has ended.
        case removeNotes
        /// Each kind is set again only after it has fired.
        case setTimer(Timer, after: Duration)
    }

    enum State: Hashable, Sendable {
        case idle
        case keeping(AcceptedStep)
        case working(AcceptedStep)
        case ending(StepReport, Writing)
    }

    /// What is being written at the end of a step, or is to be written again.
    enum Writing: Hashable, Sendable { case report, accepted }

    public static let retryPause = Duration.seconds(1)
    public static let resendPeriod = Duration.seconds(5)
    public static let hostReportPause = Duration.milliseconds(20)
    public static let recoveryPatience = Observation.patience

    public let host: HostID
    public let bootID: String
    public private(set) var gate: TokenGate
    /// Those that the leader has not committed, in the order in which the steps ended.
    public private(set) var reports: [StepReport]
    var state: State
    /// The agent has said, or is about to say, that it is there.
    public private(set) var isReady = false
    private var isStepSettled = true
    /// By the host's file. Only looked up, never iterated.
    private var named: Set<GuestID> = []
    private var areGuestsSettled = false
    /// Start once the host is as it was before the step.
    private var guestsToStart: [GuestID] = []
    private var hostReportIsDue = false
    private var effects: [Effect] = []

    /// - Parameters:
    ///   - host: whose agent it is.
    ///   - bootID: of the boot that the host is in now.
    ///   - records: what was kept.
    public init(host: HostID, bootID: String, records: AgentRecords = AgentRecords()) {
        self.host = host
        self.bootID = bootID
        let grant = records.inFlight?.grant
        reports = records.reports.filter { $0.grant != grant }
        gate = TokenGate(
            acceptedToken: records.acceptedToken, inFlight: grant, reported: reports.map(\.grant))
        if let report = records.reports.first(where: { $0.grant == grant }) {
            state = .ending(report, .accepted)
        } else if let step = records.inFlight {
            state = .working(step)
        } else {
            state = .idle
        }
    }

    /// The step that is at work or about to be.
    public var inFlight: AcceptedStep? {
        if case .working(let step) = state { step } else { nil }
    }

    /// Takes in one event.
    public mutating func handle(_ event: Event) -> [Effect] {
        effects = []
        switch event {
        case .start(let guests): start(guests)
        case .directive(let directive, let at, let guests, let parts):
            take(directive, at: at, guests, parts)
        case .kept: onKept()
        case .keepFailed(let reason): onKeepFailed(reason)
        case .observed(let actions):
            guard case .working(let step) = state else { break }
            var rest = actions[...]
            let all = step.directive.guests.map {
                named.contains($0) ? rest.popFirst() ?? .wait : .unnamed
            }
            effects.append(.resume(step, all))
            effects.append(.setTimer(.recovery, after: Self.recoveryPatience))
        case .stepEnded(let report): onStepEnded(report)
        case .guestsSettled:
            areGuestsSettled = true
            becomeReadyOnceSettled()
        case .sessionReady:
            effects.append(.sendHostReport(always: true))
            sendReports()
        case .reportCommitted(let step, let token):
            // As long as the step is kept, its report has to be: it is sent, and committed, again.
            guard gate.inFlight != TokenGate.Grant(step: step, token: token) else { break }
            reports.removeAll { $0.step == step && $0.token == token }
            gate.forget(step: step, token: token)
            effects.append(.forgetReport(step, token))
        case .hostChanged: tellOfHost()
        case .timerFired(let timer): onTimer(timer)
        }
        return effects
    }

    private mutating func onTimer(_ timer: Timer) {
        switch timer {
        case .retry: writeEnd()
        case .resend:
            sendReports()
            effects.append(.setTimer(.resend, after: Self.resendPeriod))
        case .hostReport:
            hostReportIsDue = false
            effects.append(.sendHostReport(always: false))
        case .recovery:
            isStepSettled = true
            becomeReadyOnceSettled()
        }
    }

    // MARK: Directives

    private mutating func take(
        _ directive: Directive, at: Timestamp, _ guests: [HostGuest], _ parts: MeasuredParts
    ) {
        let grant = TokenGate.Grant(step: directive.step, token: directive.token)
        func answer(_ answer: DirectiveAnswer) { effects.append(.answer(grant, answer)) }
        switch gate.judge(directive) {
        case .staleToken(let accepted): return answer(.staleToken(acceptedToken: accepted))
        case .busy(let step): return answer(.busy(with: step))
        case .repeatedInFlight: return answer(.accepted)
        case .repeatedFinished:
            for report in reports
            where report.step == directive.step && !mutated(.reportNotRepeated) {
                effects.append(.send(report))
            }
            return answer(.accepted)
        case .fresh: break
        }
        if case .keeping(let step) = state {
            // The same one is answered with the first, when it is known to be kept.
            if step.grant != grant { answer(.busy(with: step.directive.step)) }
            return
        }
        if let reason = DirectiveCheck.problem(directive, on: host, guests: guests, parts: parts) {
            return answer(.refused(reason: reason))
        }
        let step = AcceptedStep(
            directive: directive, acceptedAt: at, bootID: bootID,
            guests: directive.guests.compactMap { id in
                guests.first { $0.id == id }.map {
                    AcceptedStep.Guest(
                        plan: GuestPlan(id: id, hypervisorBefore: $0.hypervisorVersion),
                        oldGeneration: $0.generation ?? 0)
                }
            })
        state = .keeping(step)
        effects.append(.keep(acceptedToken: directive.token, inFlight: step))
        if mutated(.beginBeforeKept) { onKept() }
    }

    private mutating func onKept() {
        switch state {
        case .idle, .working: break
        case .keeping(let step):
            gate.accept(step.directive)
            state = .working(step)
            effects.append(.answer(step.grant, .accepted))
            effects.append(.begin(step))
        case .ending(let report, .report):
            state = .ending(report, .accepted)
            writeEnd()
        case .ending(let report, .accepted):
            state = .idle
            gate.finish()
            reports.append(report)
            effects.append(.removeNotes)
            effects.append(.send(report))
            if mutated(.reportForgottenWhenSent) {
                reports.removeLast()
                effects.append(.forgetReport(report.step, report.token))
            }
            tellOfHost()
        }
    }

    private mutating func onKeepFailed(_ reason: String) {
        switch state {
        case .idle, .working: break
        case .keeping where mutated(.keepFailureIgnored): onKept()
        case .keeping(let step):
            state = .idle
            effects.append(
                .answer(step.grant, .refused(reason: "the token cannot be kept: \(reason)")))
        case .ending: effects.append(.setTimer(.retry, after: Self.retryPause))
        }
    }

    // MARK: The end of a step

    private mutating func onStepEnded(_ report: StepReport) {
        guard case .working(let step) = state, step.grant == report.grant else { return }
        state = .ending(report, mutated(.stepEndsUnreported) ? .accepted : .report)
        writeEnd()
        if !guestsToStart.isEmpty {
            areGuestsSettled = false
            effects.append(.startGuests(guestsToStart))
            guestsToStart = []
        }
        isStepSettled = true
        becomeReadyOnceSettled()
    }

    private mutating func writeEnd() {
        guard case .ending(let report, let writing) = state else { return }
        switch writing {
        case .report: effects.append(.keepReport(report))
        case .accepted:
            effects.append(.keep(acceptedToken: gate.acceptedToken, inFlight: nil))
        }
    }

    private mutating func sendReports() {
        for report in reports where !mutated(.reportNotRepeated) { effects.append(.send(report)) }
    }

    private mutating func tellOfHost() {
        guard isReady, !hostReportIsDue else { return }
        hostReportIsDue = true
        effects.append(.setTimer(.hostReport, after: Self.hostReportPause))
    }

    // MARK: Start

    private mutating func start(_ guests: [GuestID]) {
        var others = guests
        switch state {
        case .idle, .keeping: break
        case .ending: writeEnd()
        case .working(let step):
            others.removeAll { step.directive.guests.contains($0) }
            takeUp(step, guests)
        }
        effects.append(.takeUpGuests(others))
    }

    private mutating func takeUp(_ step: AcceptedStep, _ guests: [GuestID]) {
        if case .agent = step.directive.release.work {
            // It waits for a session, so nothing waits for it.
            effects.append(.recoverUpgrade(step))
        } else if step.bootID != bootID {
            // Whatever was held is gone, with the notes that knew of it.
            guestsToStart = guests.filter { step.directive.guests.contains($0) }
            if case .host = step.directive.release.work {
                isStepSettled = false
                effects.append(.undoAfterReboot(step))
            } else {
                let reason = "the host was restarted during the step; its guests start afresh"
                onStepEnded(step.report(.failed, reason))
            }
        } else {
            named = Set(guests)
            isStepSettled = false
            effects.append(.observe(step))
        }
    }

    private mutating func becomeReadyOnceSettled() {
        guard !isReady, isStepSettled, areGuestsSettled else { return }
        isReady = true
        effects.append(.becomeReady)
        effects.append(.setTimer(.resend, after: Self.resendPeriod))
    }
}
