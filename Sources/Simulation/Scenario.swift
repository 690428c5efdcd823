// What a run is made from: a seed, and what is taken away from, or set in, what the seed draws.
//
// Written, it is one line of words `name=value`:
//
//   seed=396 profile=small hosts=3 seconds=41 faults=4,9 without-commands=1-3
//
// A run numbers the faults and the operators' commands in the order in which they come up, also those that
// it leaves out. One that is left out is drawn as ever and has no effect, so everything up to there is as it
// was; after it the run goes its own way, and other faults may bear the numbers that follow.

/// Numbers in order, such as `1-3,9`.
public struct NumberSet: Hashable, Sendable, CustomStringConvertible {
    public private(set) var numbers: Set<Int>

    public init(_ numbers: some Sequence<Int>) { self.numbers = Set(numbers) }

    /// - Parameter text: `none`, or numbers from 1 and ranges of them, with commas in between.
    public init?(_ text: Substring) {
        numbers = []
        if text == "none" { return }
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let ends = part.split(separator: "-", omittingEmptySubsequences: false).map { Int($0) }
            guard ends.count <= 2, let first = ends.first ?? nil, let last = ends.last ?? nil,
                1 <= first, first <= last, last <= Self.numberMax
            else { return nil }
            numbers.formUnion(first...last)
        }
    }

    /// Far more than a run has; so that a line does not ask for all memory.
    static let numberMax = 1_000_000

    public func contains(_ number: Int) -> Bool { numbers.contains(number) }

    public var sorted: [Int] { numbers.sorted() }

    public var description: String {
        guard !numbers.isEmpty else { return "none" }
        var runs: [(first: Int, last: Int)] = []
        for number in sorted {
            if let last = runs.last?.last, last + 1 == number {
                runs[runs.count - 1].last = number
            } else {
                runs.append((number, number))
            }
        }
        return runs.map { $0.first == $0.last ? "\($0.first)" : "\($0.first)-\($0.last)" }
            .joined(separator: ",")
    }
}

/// Which of the numbered things of a run happen.
public enum Kept: Hashable, Sendable {
    case all
    case only(NumberSet)
    case without(NumberSet)

    public func contains(_ number: Int) -> Bool {
        switch self {
        case .all: true
        case .only(let numbers): numbers.contains(number)
        case .without(let numbers): !numbers.contains(number)
        }
    }
}

public struct Scenario: Hashable, Sendable, CustomStringConvertible {
    public var seed: UInt64
    public var profile: Profile
    /// Each nil: as the seed draws it.
    public var servers: Int?
    public var hosts: Int?
    /// Of every host.
    public var guests: Int?
    /// How long faults and commands come.
    public var seconds: Int?
    public var faults = Kept.all
    public var commands = Kept.all

    public init(seed: UInt64, profile: Profile) {
        self.seed = seed
        self.profile = profile
    }

    /// Why a line is no scenario, in a sentence.
    public struct Wrong: Error, Equatable, CustomStringConvertible {
        public var description: String
    }

    /// What each of these may be, at most: a run stays small enough for one computer.
    static let maxima = ["servers": 9, "hosts": 1_000, "guests": 100, "seconds": 86_400]

    public init(parsing line: String) throws(Wrong) {
        var seed: UInt64?
        var profile = Profile.mixed
        var counts: [String: Int] = [:]
        var kept: [String: Kept] = [:]
        var known: [Substring] = []
        for word in line.split(separator: " ") {
            let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2 else { throw Wrong(description: "\(word) is not name=value.") }
            let (name, value) = (parts[0], parts[1])
            guard !known.contains(name) else { throw Wrong(description: "\(name) is there twice.") }
            known.append(name)
            switch name {
            case "seed":
                seed = UInt64(value)
                if seed == nil { throw Wrong(description: "seed is a number, not \(value).") }
            case "profile":
                guard let found = Profile(name: String(value)) else {
                    throw Wrong(description: "There is no profile \(value).")
                }
                profile = found
            case "servers", "hosts", "guests", "seconds":
                counts[String(name)] = try Self.count(name, value)
            case "faults", "without-faults", "commands", "without-commands":
                try Self.keep(name, value, in: &kept)
            default: throw Wrong(description: "A scenario has nothing called \(name).")
            }
        }
        guard let seed else { throw Wrong(description: "A scenario begins with seed=NUMBER.") }
        self.init(seed: seed, profile: profile)
        (servers, hosts) = (counts["servers"], counts["hosts"])
        (guests, seconds) = (counts["guests"], counts["seconds"])
        faults = kept["faults"] ?? .all
        commands = kept["commands"] ?? .all
    }

    private static func count(_ name: Substring, _ value: Substring) throws(Wrong) -> Int {
        let most = maxima[String(name)]!
        guard let count = Int(value), (1...most).contains(count) else {
            throw Wrong(description: "\(name) is a number from 1 to \(most), not \(value).")
        }
        return count
    }

    private static func keep(
        _ name: Substring, _ value: Substring, in kept: inout [String: Kept]
    ) throws(Wrong) {
        guard let numbers = NumberSet(value) else {
            throw Wrong(
                description: "\(name) is none, or numbers such as 1-3,9, not \(value).")
        }
        let isWithout = name.hasPrefix("without-")
        let what = String(isWithout ? name.dropFirst("without-".count) : name)
        guard kept[what] == nil else {
            throw Wrong(description: "Give \(what) or without-\(what), not both.")
        }
        kept[what] = isWithout ? .without(numbers) : .only(numbers)
    }

    public var description: String {
        var words = ["seed=\(seed)", "profile=\(profile.name)"]
        func add(_ name: String, _ count: Int?) {
            if let count { words.append("\(name)=\(count)") }
        }
        func add(_ name: String, _ kept: Kept) {
            switch kept {
            case .all: break
            case .only(let numbers): words.append("\(name)=\(numbers)")
            case .without(let numbers): words.append("without-\(name)=\(numbers)")
            }
        }
        add("servers", servers)
        add("hosts", hosts)
        add("guests", guests)
        add("seconds", seconds)
        add("faults", faults)
        add("commands", commands)
        return words.joined(separator: " ")
    }
}

/// What a run had, after it: numbers of what happened in it, and how large it was.
public struct RunExtent: Hashable, Sendable {
    public var servers = 0
    public var hosts = 0
    /// Of the host that has most.
    public var guests = 0
    public var seconds = 0
    /// Those that happened, in order.
    public var faults: [Int] = []
    public var commands: [Int] = []
    /// When it ended, in microseconds since it began.
    public var end: Int64 = 0

    public init() {}
}
