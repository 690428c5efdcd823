import ArgumentParser
import Foundation
import Presentation

/// How results are written: `--output text|json`.
enum OutputFormat: String, ExpressibleByArgument, CaseIterable {
    case text
    case json
}

struct OutputOptions: ParsableArguments {
    @Option(help: "How to write the result: text for people or json for scripts.")
    var output: OutputFormat = .text

    /// Writes a result as one document.
    func show(text: @autoclosure () -> String, json: @autoclosure () -> JSON) {
        switch output {
        case .text: StandardOutput.write(text())
        case .json: StandardOutput.write(json().pretty + "\n")
        }
    }
}

enum StandardOutput {
    static var isTerminal: Bool { isatty(STDOUT_FILENO) == 1 }

    /// Writes at once. Ends the process quietly if nobody reads any more.
    static func write(_ text: String) {
        do {
            try tryWrite(text)
        } catch {
            Foundation.exit(Exit.outputClosed.rawValue)
        }
    }

    static func tryWrite(_ text: String) throws {
        try FileHandle.standardOutput.write(contentsOf: Data(text.utf8))
    }
}

enum StandardError {
    static var isTerminal: Bool { isatty(STDERR_FILENO) == 1 }

    static func write(_ text: String) {
        try? FileHandle.standardError.write(contentsOf: Data(text.utf8))
    }

    static func show(_ failure: CommandFailure) {
        write("fermata: \(safe(failure.message))\n")
        if !failure.advice.isEmpty { write("  \(safe(failure.advice))\n") }
    }

    static func note(_ text: String) { write("fermata: \(printable(text))\n") }

    /// Keeps the line breaks of our own messages and nothing else that steers a terminal.
    private static func safe(_ text: String) -> String {
        text.split(separator: "\n", omittingEmptySubsequences: false)
            .map { printable(String($0)) }.joined(separator: "\n")
    }
}
