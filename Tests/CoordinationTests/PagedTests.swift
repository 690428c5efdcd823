import Testing

@testable import Coordination

/// Random changes against the plain collection that they are to behave like.
@Suite("Paged collections")
struct PagedTests {
    @Test("a dictionary does what a plain one does, in ascending order", arguments: 0..<12)
    func dictionary(seed: UInt64) {
        var random = SeededGenerator(state: seed)
        // Few keys, so that they meet; or many, so that pages split and merge.
        let keyMax = [20, 3_000][Int(seed % 2)]
        var paged = PagedDictionary<Int, Int>()
        var model: [Int: Int] = [:]
        var kept: [(PagedDictionary<Int, Int>, [Int: Int])] = []
        for turn in 0..<6_000 {
            let isShrinking = (turn / 2_000) == 1
            let key = Int.random(in: 0..<keyMax, using: &random)
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<(isShrinking ? 7 : 2):
                #expect(paged.removeValue(forKey: key) == model.removeValue(forKey: key))
            case 8:
                let new = paged.update(key) { value in
                    value += 1
                    return value
                }
                model[key]? += 1
                #expect(new == model[key])
            default:
                paged[key] = turn
                model[key] = turn
            }
            #expect(paged[key] == model[key])
            #expect(paged.count == model.count)
            if turn % 500 == 0 { kept.append((paged, model)) }
        }
        for (copy, model) in kept + [(paged, model)] {
            let sorted = model.sorted { $0.key < $1.key }
            #expect(copy.elementsEqual(sorted) { $0 == $1 }, "seed \(seed)")
            #expect(copy.keys.elementsEqual(sorted.map(\.key)))
            #expect(copy.values.elementsEqual(sorted.map(\.value)))
            #expect(copy.isEmpty == model.isEmpty)
            for key in 0..<keyMax { #expect(copy[key] == model[key]) }
        }
    }

    @Test("equal content is equal however it came to be")
    func equality() {
        var ascending = PagedDictionary<Int, Int>()
        var descending = PagedDictionary<Int, Int>()
        for key in 0..<5_000 { ascending[key] = -key }
        for key in (0..<6_000).reversed() { descending[key] = -key }
        #expect(ascending != descending)
        for key in 5_000..<6_000 { descending[key] = nil }
        #expect(ascending == descending)
        #expect(ascending.hashValue == descending.hashValue)
        descending[7] = 7
        #expect(ascending != descending)
    }

    @Test("what is iterated stays what it was")
    func iterator() {
        var paged = PagedDictionary<Int, Int>()
        for key in 0..<1_000 { paged[key] = key }
        var iterator = paged.makeIterator()
        var seen: [Int] = []
        while let (key, value) = iterator.next() {
            #expect(key == value)
            seen.append(key)
            paged[999 - key] = nil
            paged[2_000 + key] = 0
        }
        #expect(seen == Array(0..<1_000))
    }

    @Test("an array does what a plain one does", arguments: 0..<8)
    func array(seed: UInt64) {
        var random = SeededGenerator(state: seed)
        var paged = PagedArray<Int>()
        var model: [Int] = []
        var kept: [(PagedArray<Int>, [Int])] = []
        for turn in 0..<6_000 {
            switch Int.random(in: 0..<20, using: &random) {
            case 0:
                let number = Int.random(
                    in: 0...(turn % 1_000 == 0 ? model.count + 3 : 30), using: &random)
                paged.removeFirst(number)
                model.removeFirst(min(number, model.count))
            case 1..<6 where !model.isEmpty:
                let index = Int.random(in: 0..<model.count, using: &random)
                paged.update(at: index) { $0 += 1 }
                model[index] += 1
                #expect(paged[index] == model[index])
            default:
                paged.append(turn)
                model.append(turn)
            }
            #expect(paged.count == model.count)
            #expect(paged.first == model.first && paged.last == model.last)
            if turn % 500 == 0 { kept.append((paged, model)) }
        }
        for (copy, model) in kept + [(paged, model)] {
            #expect(Array(copy) == model, "seed \(seed)")
            // Without what was dropped before it.
            #expect(copy == PagedArray(model))
            #expect(copy.hashValue == PagedArray(model).hashValue)
        }
        #expect(PagedArray([1, 2]) != [1, 3])
    }

    @Test("a change after a copy of many entries takes no longer than a moment")
    func changeAfterCopy() {
        var dictionary = PagedDictionary<Int, [Int]>()
        var array = PagedArray<[Int]>()
        for number in 0..<200_000 {
            dictionary[number] = [number]
            array.append([number])
        }
        // The quickest of some: other processes share the cores. `make bench-snapshot` has figures.
        var quickest = Duration.seconds(10)
        for number in 0..<20 {
            let copies = (dictionary, array)
            let took = ContinuousClock().measure {
                dictionary[number * 10_000] = []
                array.update(at: number * 10_000) { $0 = [] }
            }
            quickest = min(quickest, took)
            #expect(copies.0[number * 10_000] == [number * 10_000])
            #expect(copies.1[number * 10_000] == [number * 10_000])
            #expect(dictionary[number * 10_000] == [])
        }
        #expect(quickest < .milliseconds(5), "\(quickest)")
    }
}
