// Between the two QEMUs of one guest and the HoldMachine: what they say, made into its events, and
// its effects, made into what they are asked. It is told only what is certain.
//
//  from the machine  asked
//  stopAndMove       old: migrate
//  pause             old: stop
//  kill(old)         a last look first: a new one that has ended since it said `completed` cannot be
//                    continued, and its end may not have been read yet. The old one is whole.
//  kill              SIGKILL
//  continueGuest     SIGCONT; old: queryReadiness, and cont once its migration is over; new: cont
//
//  from a QEMU                         to the machine
//  old: STOP                           stopped
//  old: failed or cancelled            moveFailed, 20 ms later: the new one says why in its log, and ends
//  new: failed                         moveFailed, with what it said
//  old: completed or exited, and
//  new: completed                      moved; one without the other: that one is asked after a while
//  RESUME, after cont                  continued: the reply behind it may be lost with its connection
//  reply to cont                       continued: without the event the guest had never stopped
//  no reply to cont in time            continueFailed; what hangs executes nothing, so until then at
//                                      least the guest did not go on
//  refusal of migrate                  moveFailed; a lost reply says nothing: it is looked again
//  connected again during the move     queryMigrate: its events are lost
//    … completed                       as the event
//    … old: none                       moveFailed: the connection ended before the move began
//    … old: failed, cancelled          as the event
//  readiness of an old one that stands
//  still without having said STOP      stopped, at the time when it was told to: that makes the hold some
//                                      milliseconds too long in its record, not too short
//  readiness: not yet; no connection   continueFailed: the machine has it tried again
//  exited                              exited; a new one's with why, as prepareFailed and moveFailed
//
// Why there is no `stop` before `migrate`, see HoldRunner.swift. That is also why the new one's
// `completed` alone is no commit: the old one's migration could fail yet, and it then runs on.

public import Fleet

/// One guest's side of a hold; pure. Times are in microseconds of the hold clock.
public struct HandOver: Hashable, Sendable {
    public enum Input: Hashable, Sendable {
        // From the HoldMachine.
        case stopAndMove
        case pause
        /// `isOldAlive`: its end has not been told. `isNewEnding`: it is gone, or will be at once.
        case kill(Side, isOldAlive: Bool, isNewEnding: Bool)
        case continueGuest(Side, Reach)
        // From the processes.
        case connected(Side)
        case event(MonitorEvent, Side, stamp: Int64?)
        /// The new QEMU says that its migration failed; with the last line of its log, or nothing.
        case refused(lastWords: String)
        case replied(MonitorRequest, Side, MonitorReply)
        /// SIGKILL was delivered or not needed any more, or why it was not.
        case killed(Side, problem: String?)
        /// With the last line of its log, or nothing.
        case exited(Side, lastWords: String)
        case timerFired(Timer)
    }

    /// How a process can be spoken to.
    public enum Reach: Hashable, Sendable {
        case absent
        case disconnected
        case connected
    }

    public enum Timer: Hashable, Sendable {
        /// The old one's failure has become known; the new one's end says more.
        case moveFailed
        /// One side has everything, and this one's word does not come: its connection may be hung.
        case silence(Side)
    }

    public enum Output: Hashable, Sendable {
        /// For the HoldMachine.
        case event(GuestEvent)
        /// Answered by `replied`, at once with `ended` if it is not connected. A connection without
        /// an answer after `limit` counts as hung and is ended.
        case send(MonitorRequest, Side, limit: Duration?)
        /// SIGCONT: whoever stopped it in its hold (SIGSTOP) did not mean to strand its guest.
        case wake(Side)
        /// SIGKILL; then `killed`.
        case kill(Side)
        /// The new one has everything: from here on its pid is the guest's.
        case handPidOver
        case setTimer(Timer, after: Duration)
        /// Where a test makes the agent die or stand still.
        case reached(String)
    }

    let replyLimit: Duration
    /// When `migrate` or `stop` was sent: the earliest that an event can have been caused by us.
    public private(set) var stopSentAt: Int64?
    /// When `cont` was sent first.
    public private(set) var continueSentAt: Int64?
    public private(set) var stopped: EventTime?
    public private(set) var resumed: EventTime?
    /// It went on by itself before this agent had asked anything of it: of a step that another agent
    /// began, whose migration failed.
    private var resumedBefore: EventTime?
    /// When it was first told anything.
    private var begunAt: Int64?
    private var contCount = 0
    /// When the last `cont` was sent.
    private var contSentAt: Int64?
    /// A `cont` waited in vain until then: its guest can have gone on only after that.
    private var hungAt: Int64?
    /// The old QEMU has sent everything and stays stopped.
    private var hasLeft = false
    /// The old one's migration has failed, or its guest went on by itself: what the new one has of it
    /// is of before, whatever becomes of the old one.
    private var hasFailed = false
    /// The new QEMU has received everything.
    private var hasArrived = false
    private var outputs: [Output] = []

    static let moveFailedPause = Duration.milliseconds(20)

    /// - Parameter budget: of the step.
    public init(budget: HoldBudget) { replyLimit = budget.replyLimit }

    /// - Parameters:
    ///   - now: the hold clock.
    ///   - wall: the wall clock.
    /// - Returns: what to do, in this order.
    public mutating func handle(_ input: Input, at now: Int64, wall: Timestamp) -> [Output] {
        outputs = []
        if begunAt == nil { begunAt = now }
        switch input {
        case .stopAndMove:
            resumedBefore = nil
            stopSentAt = now
            outputs.append(.send(.migrate, .old, limit: nil))
        case .pause:
            resumedBefore = nil
            stopSentAt = now
            outputs.append(.send(.stop, .old, limit: nil))
        case .kill(.old, isOldAlive: true, isNewEnding: true): tell(.exited(.new))
        case .kill(let side, _, _): outputs.append(.kill(side))
        case .continueGuest(let side, let reach): continueGuest(side, reach, at: now)
        case .connected(let side): look(side)
        case .event(let event, let side, let stamp):
            on(event, side, stamp, at: now, wall: wall)
        case .refused(let lastWords):
            tell(.moveFailed(reason: reason("the new QEMU refused the device state", lastWords)))
        case .replied(let request, let side, let reply):
            onReply(request, side, reply, at: now, wall: wall)
        case .killed(let side, let problem):
            tell(problem.map { .killFailed(side, reason: $0) } ?? .killed(side))
            if side == .old { outputs.append(.reached("killed")) }
        case .exited(let side, let lastWords): onExited(side, lastWords)
        case .timerFired(.moveFailed):
            tell(.moveFailed(reason: "the device state could not be handed over"))
        case .timerFired(.silence(let side)): if !hasLeft || !hasArrived { look(side) }
        }
        return outputs
    }

    private mutating func tell(_ event: GuestEvent) { outputs.append(.event(event)) }

    private func reason(_ what: String, _ lastWords: String) -> String {
        what + (lastWords.isEmpty ? "" : ": \(lastWords)")
    }

    // MARK: What a QEMU says

    private mutating func on(
        _ event: MonitorEvent, _ side: Side, _ stamp: Int64?, at now: Int64, wall: Timestamp
    ) {
        func time(_ sentAt: Int64) -> EventTime {
            EventTime(stamp: stamp, notBefore: sentAt, hold: now, wall: wall.microseconds)
        }
        switch (event, side) {
        case (.stop, .old):
            guard let sentAt = stopSentAt else { break }
            let time = time(sentAt)
            stopped = time
            let at = mutated(.lengthFromCommand) ? sentAt : time.hold
            tell(.stopped(at: at, wall: time.wall))
            outputs.append(.reached("stopped"))
        case (.resume, _):
            // An old one whose migration failed continues by itself.
            guard let sentAt = continueSentAt ?? stopSentAt else {
                resumedBefore = time(begunAt ?? now)
                break
            }
            resumed = time(sentAt)
            if side == .old { hasFailed = true }
            if continueSentAt != nil { onContinued(side, at: now) }
        case (.migration(let status), _): onMigration(status, side)
        case (.stop, .new): break
        }
    }

    private mutating func onMigration(_ status: MoveStatus, _ side: Side) {
        switch (status, side) {
        case (.completed, _): onCompleted(side)
        case (.failed, .old), (.cancelled, .old):
            hasFailed = true
            outputs.append(.setTimer(.moveFailed, after: Self.moveFailedPause))
        default: break
        }
    }

    private mutating func onCompleted(_ side: Side) {
        if side == .old { hasLeft = true } else { hasArrived = true }
        guard hasLeft && hasArrived || mutated(.movedOnOneWord) else {
            return outputs.append(.setTimer(.silence(side.other), after: replyLimit))
        }
        outputs.append(.handPidOver)
        outputs.append(.reached("moved"))
        tell(.moved)
    }

    private mutating func onExited(_ side: Side, _ lastWords: String) {
        if side == .new {
            let reason = reason("its new QEMU ended", lastWords)
            tell(.prepareFailed(reason: reason))
            tell(.moveFailed(reason: reason))
        }
        tell(.exited(side))
        guard side == .old else { return }
        // What it had sent before it ended may be all there was to send, and the new one may still
        // be reading it. An ended process never continues its guest.
        guard !hasFailed else { return }
        hasLeft = true
        if hasArrived { tell(.moved) }
    }

    /// Its events may be lost.
    private mutating func look(_ side: Side) {
        guard stopSentAt != nil, continueSentAt == nil else { return }
        // Without an answer the connection ends, and this is called again when it is back.
        outputs.append(.send(.queryMigrate, side, limit: replyLimit))
    }

    // MARK: What it answers

    private mutating func onReply(
        _ request: MonitorRequest, _ side: Side, _ reply: MonitorReply, at now: Int64,
        wall: Timestamp
    ) {
        switch (request, reply) {
        case (.migrate, .refused(let text)): tell(.moveFailed(reason: "migrate: \(text)"))
        case (.stop, .done):
            // The event came before; a guest that had stopped by itself brings none.
            tell(.stopped(at: now, wall: wall))
        case (.stop, .refused(let text)), (.stop, .ended(let text)):
            tell(.stopFailed(reason: text))
        case (.queryMigrate, .migration(.notBegun)) where side == .old:
            tell(.moveFailed(reason: "the monitor connection ended before the move began"))
        case (.queryMigrate, .migration(let status)): onMigration(status, side)
        case (.queryReadiness, .readiness(.notYet(let reason))):
            tell(.continueFailed(side, reason: reason))
        case (.queryReadiness, .readiness(.ready(let isExecuting))):
            if !isExecuting { noteLostStop(at: now, wall: wall) }
            cont(side, at: now)
        case (.cont, .ended(let text)):
            if let contSentAt, .microseconds(now - contSentAt) >= replyLimit { hungAt = now }
            tell(.continueFailed(side, reason: text))
        case (.queryReadiness, .refused(let text)), (.queryReadiness, .ended(let text)),
            (.cont, .refused(let text)):
            tell(.continueFailed(side, reason: text))
        case (.cont, .done): onContinued(side, at: now)
        // Only a refusal of `migrate` is certain: after a lost connection it is looked again. No
        // other reply fits its request.
        case (.migrate, _), (.stop, _), (.queryMigrate, _), (.queryReadiness, _), (.cont, _),
            (.contAndLook, _):
            break
        }
    }

    // MARK: Continuing

    private mutating func continueGuest(_ side: Side, _ reach: Reach, at now: Int64) {
        guard reach != .absent else {
            return tell(.continueFailed(side, reason: "there is no such process"))
        }
        outputs.append(.wake(side))
        guard reach == .connected else {
            return tell(.continueFailed(side, reason: "its monitor is not connected"))
        }
        switch side {
        case .old where mutated(.continueUnready): cont(.old, at: now)
        case .old: outputs.append(.send(.queryReadiness, .old, limit: replyLimit))
        case .new: cont(.new, at: now)
        }
    }

    private mutating func cont(_ side: Side, at now: Int64) {
        if continueSentAt == nil { continueSentAt = now }
        contCount += 1
        contSentAt = now
        outputs.append(.send(.cont, side, limit: replyLimit))
    }

    /// Its STOP was lost with a connection, or never told. When it stopped nobody knows, but not
    /// before it was told to.
    private mutating func noteLostStop(at now: Int64, wall: Timestamp) {
        guard stopped == nil, let sentAt = stopSentAt else { return }
        let ago = now - sentAt
        tell(.stopped(at: sentAt, wall: Timestamp(microseconds: wall.microseconds - ago)))
    }

    private mutating func onContinued(_ side: Side, at now: Int64) {
        if side == .new { outputs.append(.reached("continued")) }
        // Without RESUME it executed already: since it was seen to go on, or since an earlier `cont`
        // whose answer was lost with its connection.
        let earlier =
            resumedBefore?.hold ?? (contCount > 1 ? hungAt ?? continueSentAt : nil)
        tell(.continued(side, at: resumed?.hold ?? earlier ?? now))
    }
}
