import Testing

@testable import AgentCore

/// Answers what a round asks about, for as many rounds as it takes.
private struct Answers {
    var observation: Observation
    var now: Int64 = 0
    var round = 0
    var asked: [Int] = []
    var begun: [RecoveryAction]?
    var found: [Int: RecoveryAction] = [:]
    var next: (Observation.Timer, at: Int64)?

    init(_ count: Int) {
        observation = Observation(guestCount: count, deadline: .seconds(5), at: 0)
    }

    mutating func handle(_ input: Observation.Input) {
        for output in observation.handle(input, at: now) {
            switch output {
            case .ask(let index, let round):
                if round != self.round { asked = [] }
                self.round = round
                asked.append(index)
            case .setTimer(let timer, let delay):
                next = (timer, now + Int64(delay / .microseconds(1)))
            case .begun(let actions): begun = actions
            case .found(let index, let action): found[index] = action
            }
        }
    }

    /// One round: nil is a process whose answer does not come.
    mutating func answer(_ states: [[ProcessState?]]) {
        let mine = asked
        let round = round
        for index in mine {
            for (side, state) in zip(Side.allCases, states[index]) {
                if let state { handle(.answered(index, round: round, side, state)) }
            }
        }
        if mine.contains(where: { states[$0].contains(nil) }) { fire() }
    }

    mutating func fire() {
        guard let (timer, at) = next else { return }
        now = at
        handle(.timerFired(timer))
    }
}

@Suite struct ObservationTests {
    @Test("once every process has answered it begins, at once")
    func complete() {
        var answers = Answers(2)
        answers.handle(.begin)
        #expect(answers.asked == [0, 1])
        answers.answer([[.running, .inmigrate], [.absent, .paused]])
        #expect(answers.begun == [.keep(.old), .continueGuest(.new)])
        #expect(answers.now == 0)
    }

    @Test("a guest that does not answer is waited for a second, and found later")
    func late() {
        var answers = Answers(2)
        answers.handle(.begin)
        while answers.begun == nil {
            #expect(answers.asked == [0, 1])
            answers.answer([[.running, .absent], [.unreachable, .absent]])
            if answers.begun == nil { answers.fire() }
        }
        #expect(answers.begun == [.keep(.old), .wait])
        #expect((1_000_000..<1_600_000).contains(answers.now))
        answers.fire()
        #expect(answers.asked == [1])
        answers.answer([[], [.paused, .absent]])
        #expect(answers.found == [1: .continueGuest(.old)])
        // Whatever still comes is of a round that is over.
        let round = answers.round
        #expect(answers.observation.handle(.timerFired(.round(round)), at: 9_000_000).isEmpty)
        #expect(
            answers.observation.handle(.answered(1, round: round, .old, .running), at: 9_000_000)
                .isEmpty)
    }

    @Test("silence is no reason to end anybody, however long it is")
    func silent() {
        for states: [ProcessState?] in [[nil, .paused], [.absent, nil]] {
            var answers = Answers(1)
            answers.handle(.begin)
            while answers.now < 120_000_000 {
                // One answer does not come at all, so each round has its full length.
                answers.answer([states])
                answers.fire()
            }
            #expect(answers.begun == [.wait])
            #expect(answers.found.isEmpty)
        }
    }

    @Test("a new process that still reads what its old one had sent is waited for, and found")
    func arrives() {
        var answers = Answers(1)
        answers.handle(.begin)
        while answers.now < 4_000_000 {
            answers.answer([[.absent, .inmigrate]])
            answers.fire()
        }
        #expect(answers.begun == [.wait])
        answers.answer([[.absent, .paused]])
        #expect(answers.found == [0: .continueGuest(.new)])
    }

    @Test("what has not arrived after the deadline does not: heard in fresh answers")
    func neverArrives() {
        var answers = Answers(1)
        answers.handle(.begin)
        answers.answer([[.absent, .inmigrate]])
        answers.fire()
        // The agent stands still between the question and the answer, which is as old as that.
        answers.now = 60_000_000
        answers.answer([[.absent, .inmigrate]])
        #expect(answers.begun == [.wait])
        answers.fire()
        #expect(answers.found.isEmpty)
        answers.answer([[.absent, .inmigrate]])
        guard case .lost = answers.found[0] else {
            Issue.record("\(answers.found)")
            return
        }
    }

    @Test("an agent that stood still takes nothing for silence that it has not heard")
    func stoodStill() {
        var answers = Answers(1)
        answers.handle(.begin)
        // Its timer is first when it goes on; the answers have been there for long.
        answers.next?.at = 60_000_000
        answers.fire()
        #expect(answers.begun == [.wait])
        answers.fire()
        answers.answer([[.absent, .running]])
        #expect(answers.found == [0: .keep(.new)])
    }
}
