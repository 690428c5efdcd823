import Testing

@testable import EtcdLog

@Suite("etcd log, members")
struct EtcdMembersTests {
    let clock = VirtualClock()

    /// What came of it, who was asked when, and when it was over.
    private func ask(
        count: Int, prepare: EtcdFailure?? = nil,
        _ verdict: @escaping (_ number: Int, _ member: Int) -> EtcdVerdict<Int>
    ) -> (result: Result<Int, EtcdFailure>?, asked: [String], at: Int64) {
        let clock = clock
        let loop = VirtualLoop(clock)
        let members = EtcdMembers(count: count, on: loop) { loop.nowMilliseconds * 1_000 }
        var asked: [String] = []
        var question = EtcdQuestion<Int> { member, limit, completion in
            asked.append("\(clock.nowMilliseconds): \(member), \(limit)")
            let number = asked.count
            loop.after(.milliseconds(1)) { completion(verdict(number, member)) }
        }
        if let prepare { question.prepare = { _, then in then(prepare) } }
        var result: Result<Int, EtcdFailure>?
        members.ask(question) { result = $0 }
        _ = clock.run(for: .seconds(30)) { result != nil }
        return (result, asked, clock.nowMilliseconds)
    }

    @Test("the next member is asked at once, a round is followed by a pause")
    func rounds() {
        let (result, asked, _) = ask(count: 2) { number, member in
            number < 4 ? .another("no") : .answer(member)
        }
        #expect(result == .success(1))
        #expect(
            asked == [
                "0: 0, 3.0 seconds", "1: 1, 3.0 seconds", "102: 0, 3.0 seconds",
                "103: 1, 3.0 seconds",
            ])
    }

    @Test("until the limit, with the last reason; the last try gets less")
    func limit() {
        let (result, asked, at) = ask(count: 1) { number, _ in .another("no \(number)") }
        #expect(result == .failure(.unavailable("no \(asked.count)")))
        #expect((6_000...6_101).contains(at))
        #expect(asked.last?.hasSuffix("0.1 seconds") == true)
    }

    @Test("refused by all, one after the other: not permitted; one that only fails begins anew")
    func refused() {
        let all = ask(count: 3) { _, member in .refusal("\(member)") }
        #expect(all.result == .failure(.notPermitted("2")))
        #expect(all.asked.count == 3)
        let some = ask(count: 3) { number, _ in
            number == 2 ? .another("x") : number < 6 ? .refusal("\(number)") : .answer(0)
        }
        #expect(some.result == .failure(.notPermitted("5")))
    }

    @Test("the same member again, and what makes it hopeless before it is sent")
    func again() {
        let same = ask(count: 3) { number, member in
            number < 3 ? .sameAgain("token") : .answer(member)
        }
        #expect(same.result == .success(0))
        let hopeless = ask(count: 3, prepare: .some(.notPermitted("who?"))) { _, _ in .answer(0) }
        #expect(hopeless.result == .failure(.notPermitted("who?")))
        #expect(hopeless.asked.isEmpty)
        let prepared = ask(count: 3, prepare: .some(nil)) { _, _ in .failure(.compacted) }
        #expect(prepared.result == .failure(.compacted))
    }
}
