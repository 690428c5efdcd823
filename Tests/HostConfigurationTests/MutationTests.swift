import Testing

@testable import HostConfiguration

/// SplitMix64: a failing run is the same run again.
private struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}

@Suite("Mutations of a host file")
struct HostFileMutationTests {
    /// Changes, removes, repeats and inserts pieces at one to four places.
    private func mutated(_ text: String, _ random: inout SeededGenerator) -> String {
        let pieces = [
            "\n", "  ", "\t", ": ", "- ", "? ", "#", "'", "\"", "[", "]", "{", "}", ",", "&a ",
            "*a", "!!str ", "|\n", ">", "%", "@", "~", "null", "true", "-1", "99999999999", "\0",
            "é", "\u{E000}", "---\n", "...\n", "<<: ", "host", "id: g\n", "memory: 1\n", "tap: t",
        ]
        var scalars = Array(text.unicodeScalars)
        for _ in 0..<Int.random(in: 1...4, using: &random) {
            let index = Int.random(in: 0..<scalars.count, using: &random)
            let end = min(scalars.count, index + Int.random(in: 1...40, using: &random))
            switch Int.random(in: 0..<4, using: &random) {
            case 0 where scalars.count > 50: scalars.removeSubrange(index..<end)
            case 1: scalars.insert(contentsOf: scalars[index..<end], at: index)
            case 2:
                let lineEnd = scalars[index...].firstIndex(of: "\n") ?? scalars.count - 1
                let start = scalars[..<index].lastIndex(of: "\n").map { $0 + 1 } ?? 0
                scalars.insert(contentsOf: scalars[start...lineEnd], at: start)
            default:
                let piece = pieces.randomElement(using: &random) ?? ""
                scalars.insert(contentsOf: piece.unicodeScalars, at: index)
            }
        }
        var view = String.UnicodeScalarView()
        view.append(contentsOf: scalars)
        return String(view)
    }

    @Test("never crash; problems are in order and within the file; success is stable")
    func mutations() {
        var random = SeededGenerator(state: 4)
        var successCount = 0
        for _ in 0..<3_000 {
            let text = mutated(fullFile, &random)
            let result = HostFile.parse(text, fileName: "h")
            switch result {
            case .success:
                successCount += 1
                #expect(HostFile.parse(text, fileName: "h") == result)
            case .failure(let problems):
                let places = problems.problems.map { Position(line: $0.line, column: $0.column) }
                #expect(!places.isEmpty && places == places.sorted(), "\(text)")
                let lineCount = text.unicodeScalars.count { $0 == "\n" } + 2
                #expect(places.allSatisfy { (1...lineCount).contains($0.line) && $0.column >= 1 })
                for problem in problems.problems {
                    #expect(!problem.message.isEmpty && !problem.advice.isEmpty)
                    #expect(!problem.description.contains("\u{E000}"), "\(text)")
                    #expect(!problem.description.contains("\n"), "\(text)")
                }
            }
        }
        #expect(successCount > 50, "the mutations must not all be refused")
    }
}
