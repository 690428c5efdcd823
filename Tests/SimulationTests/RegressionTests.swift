import Fleet
import Foundation
import Testing

@testable import Simulation

/// A scenario that once broke something, from Regressions.txt.
struct Regression: Sendable, CustomTestStringConvertible {
    var name: String
    /// Without the bug.
    var line: String
    /// The deliberate bug with which it breaks something; nil if there is none. SimulateTests runs it with
    /// that, in a process of its own.
    var mutant: String?
    /// What it broke, or what it is there for.
    var story: String
    var testDescription: String { name }

    static let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("Regressions.txt")

    struct Wrong: Error, CustomStringConvertible {
        var description: String
    }

    /// - Parameter text: blocks of a name, and indented a scenario and then its story.
    static func read(_ text: String) throws -> [Regression] {
        var all: [Regression] = []
        for line in text.split(separator: "\n") where !line.hasPrefix("#") {
            let words = line.trimmingCharacters(in: .whitespaces)
            guard line.hasPrefix(" ") else {
                all.append(Regression(name: words, line: "", story: ""))
                continue
            }
            guard var last = all.popLast() else { throw Wrong(description: "no name: \(line)") }
            if last.line.isEmpty {
                let parts = words.split(separator: " mutant=", maxSplits: 1)
                last.line = parts.first.map { String($0) } ?? ""
                last.mutant = parts.dropFirst().first.map { String($0) }
            } else {
                last.story += words
            }
            all.append(last)
        }
        for one in all where one.line.isEmpty || one.story.isEmpty {
            throw Wrong(description: "\(one.name): a scenario and its story belong to a name")
        }
        return all
    }

    static let all = (try? read((try? String(contentsOf: file, encoding: .utf8)) ?? "")) ?? []
}

@Suite struct RegressionTests {
    @Test("the file is read, and each name is there once")
    func file() throws {
        let all = try Regression.read(String(contentsOf: Regression.file, encoding: .utf8))
        #expect(!all.isEmpty)
        #expect(Set(all.map(\.name)).count == all.count)
        for one in all {
            guard let mutant = one.mutant else { continue }
            #expect(Mutant(rawValue: mutant) != nil, "\(one.name): no mutant \(mutant)")
        }
    }

    @Test("what once broke holds", arguments: Regression.all)
    func holds(_ regression: Regression) throws {
        let outcome = Seeds.outcome(of: try Scenario(parsing: regression.line))
        #expect(outcome.violations.isEmpty, "\(regression.story): \(outcome.violations)")
    }
}
