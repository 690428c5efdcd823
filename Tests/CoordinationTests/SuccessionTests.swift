import Testing

@testable import Coordination

/// One server's view, with moments in milliseconds.
@Suite("Succession")
struct SuccessionTests {
    private func standby(rank: Int = 0, jitter: Int64 = 7) -> Succession {
        var one = Succession(name: "one", rank: rank, jitterMilliseconds: jitter, at: 0)
        one.sawLog(at: 0)
        return one
    }

    /// Follows `two`, which leads, since 10 s.
    private func following(rank: Int = 0) -> Succession {
        var one = standby(rank: rank)
        one.sawWriter("two", epoch: 4, at: 100)
        one.sessionOpened(at: 200)
        one.sawLife(at: 10_000)
        return one
    }

    @Test("while there is a session with the leader nobody takes over, however silent the log is")
    func session() {
        #expect(following().takesOverAt() == nil)
    }

    @Test("a leader that says it ends is followed at once, one server after the other")
    func handedOver() {
        for rank in 0..<3 {
            var one = following(rank: rank)
            one.sessionEnded(.handedOver, at: 10_100)
            #expect(one.takesOverAt() == 10_107 + Int64(rank) * Succession.rankMilliseconds)
        }
    }

    @Test("a process that is gone is followed at once: its session broke and nobody listens there")
    func dead() {
        var one = following()
        one.sessionEnded(.broken, at: 10_100)
        #expect(one.takesOverAt() == 10_000 + Succession.silenceMilliseconds + 14)
        one.connectionRefused(at: 10_160)
        #expect(one.takesOverAt() == 10_167)
    }

    @Test("a broken link alone changes nothing while the log shows life")
    func cutOff() {
        var one = following()
        one.sessionEnded(.broken, at: 10_100)
        for second in Int64(11)...60 {
            one.sawLife(at: second * 1_000)
            let due = one.takesOverAt()
            #expect(due == second * 1_000 + Succession.silenceMilliseconds + 14)
        }
    }

    @Test("a link that flaps does not make leadership flap")
    func flapping() {
        var one = following()
        var now: Int64 = 10_100
        for _ in 0..<20 {
            // Refused by a firewall, not by a system whose process is gone.
            one.sessionEnded(.broken, at: now)
            one.sessionOpened(at: now + 50)
            one.sawLife(at: now + 60)
            one.sessionEnded(.broken, at: now + 100)
            one.connectionRefused(at: now + 150)
            #expect(one.takesOverAt() == now + 60 + Succession.silenceMilliseconds + 14)
            one.sessionOpened(at: now + 200)
            now += 300
        }
    }

    @Test("a refusal counts only after a session with that very leader")
    func neverMet() {
        var one = standby()
        one.sawWriter("two", epoch: 4, at: 100)
        one.connectionRefused(at: 200)
        #expect(one.takesOverAt() == 100 + Succession.silenceMilliseconds + 14)
        var other = following()
        other.sessionEnded(.broken, at: 10_100)
        other.sawWriter("three", epoch: 5, at: 10_200)
        other.connectionRefused(at: 10_300)
        #expect(other.takesOverAt() == 10_200 + Succession.silenceMilliseconds + 14)
    }

    @Test("an older writer, told late, is not believed")
    func late() {
        var one = following()
        one.sessionEnded(.handedOver, at: 10_100)
        one.sawWriter("three", epoch: 4, at: 10_200)
        #expect(one.takesOverAt() == 10_107)
    }

    @Test("without the log there is no take-over")
    func noLog() {
        var one = following()
        one.sessionEnded(.handedOver, at: 10_100)
        one.lostLog()
        #expect(one.takesOverAt() == nil)
        one.sawLog(at: 12_000)
        #expect(one.takesOverAt() == 10_107)
    }

    @Test("a server that finds itself as the writer was started again, and leads again at once")
    func itself() {
        var one = standby()
        one.sawWriter("one", epoch: 9, at: 20)
        #expect(one.takesOverAt() == 7)
    }

    @Test("the first servers of a cluster do not all try at once")
    func first() {
        #expect(standby(rank: 0).takesOverAt() == 14)
        #expect(standby(rank: 2).takesOverAt() == 14 + 4 * Succession.rankMilliseconds)
    }

    @Test("who gives leadership up lets the others go first, and tries again if nobody does")
    func stepsBack() {
        var one = standby()
        one.sawWriter("one", epoch: 9, at: 20)
        one.stepsBack(at: 5_000)
        #expect(one.takesOverAt() == 6_000)
        one.sawWriter("two", epoch: 10, at: 5_200)
        one.sessionOpened(at: 5_300)
        #expect(one.takesOverAt() == nil)
    }

    @Test("an interruption of the log is no silence of the writer's; it is listened for anew")
    func interrupted() {
        var one = following()
        one.sessionEnded(.broken, at: 10_100)
        one.lostLog()
        #expect(one.takesOverAt() == nil)
        one.sawLog(at: 60_000)
        #expect(one.takesOverAt() == 60_000 + Succession.silenceMilliseconds + 14)
        #expect(!one.isVacant, "silence proves nothing")
    }

    @Test("a session with the leader before says nothing about the next one")
    func oldSession() {
        var one = following()
        one.sawWriter("three", epoch: 5, at: 11_000)
        #expect(one.takesOverAt() == 11_000 + Succession.silenceMilliseconds + 14)
    }

    @Test("a log that was set back has an older writer, who counts")
    func setBack() {
        var one = standby()
        one.sawWriter("one", epoch: 9, at: 20)
        one.sawWriter("two", epoch: 3, at: 5_000)
        #expect(!one.isVacant)
        #expect(one.takesOverAt() == 5_000 + Succession.silenceMilliseconds + 14)
    }
}
