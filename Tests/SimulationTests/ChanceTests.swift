import Testing

@testable import Simulation

@Suite struct ChanceTests {
    @Test("a seed gives the row of SplitMix64, everywhere")
    func row() {
        // The reference implementation's first numbers (https://prng.di.unimi.it/splitmix64.c).
        var chance = Chance(seed: 1_234_567)
        let row = (0..<5).map { _ in chance.next() }
        #expect(
            row == [
                6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423,
                4_593_380_528_125_082_431, 16_408_922_859_458_223_821,
            ])
    }

    @Test("bounds are reached, and never passed")
    func bounds() {
        var chance = Chance(seed: 1)
        var seen: Set<Int64> = []
        for _ in 0..<1_000 { seen.insert(chance.within(-2...2)) }
        #expect(seen == [-2, -1, 0, 1, 2])
        #expect(chance.within(7...7) == 7)
        _ = chance.within(.min ... .max)
        #expect((0..<1_000).allSatisfy { _ in (0..<3).contains(chance.below(3)) })
        #expect(chance.below(1) == 0)
    }

    @Test("once in so many is about that; never for 0")
    func odds() {
        var chance = Chance(seed: 2)
        let count = (0..<10_000).filter { _ in chance.oneIn(10) }.count
        #expect((800...1_200).contains(count))
        #expect((0..<100).allSatisfy { _ in !chance.oneIn(0) })
    }

    @Test("a long tail is mostly short")
    func tail() {
        var chance = Chance(seed: 3)
        let drawn = (0..<10_000).map { _ in chance.longTailed(100, doublings: 6) }
        #expect(drawn.allSatisfy { (100...6_400).contains($0) })
        #expect(drawn.filter { $0 <= 200 }.count > 6_000)
        #expect(drawn.contains { $0 > 3_200 })
    }

    @Test("a fork's row is its own")
    func fork() {
        var one = Chance(seed: 4)
        var other = Chance(seed: 4)
        var (left, right) = (one.fork(), other.fork())
        for _ in 0..<10 { _ = left.next() }
        #expect(one.next() == other.next())
        #expect(left.next() != right.next())
    }
}
