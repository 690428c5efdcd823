import Foundation

/// Runs the built `fermata`, as a person would; nothing imports an executable.
struct Runner {
    struct Result {
        var code: Int32
        var output: String
        var errors: String
    }

    struct Missing: Error, CustomStringConvertible {
        var description: String
    }

    /// The tests and the executable are built into one directory.
    static func executable() throws -> URL {
        var directory = URL(fileURLWithPath: ProcessInfo.processInfo.arguments[0])
            .resolvingSymlinksInPath()
        for _ in 0..<4 {
            directory.deleteLastPathComponent()
            let candidate = directory.appendingPathComponent("fermata")
            if FileManager.default.isExecutableFile(atPath: candidate.path),
                (try? candidate.resourceValues(forKeys: [.isDirectoryKey]))?.isDirectory != true
            {
                return candidate
            }
        }
        throw Missing(description: "no fermata beside the tests: run `swift build --build-tests`")
    }

    /// - Parameter environment: all that the process gets, besides PATH.
    static func run(
        _ arguments: [String], environment: [String: String] = [:], in directory: String? = nil
    ) throws -> Result {
        let process = Process()
        process.executableURL = try executable()
        process.arguments = arguments
        process.environment = environment.merging(["PATH": "/usr/bin:/bin"]) { own, _ in own }
        if let directory { process.currentDirectoryURL = URL(fileURLWithPath: directory) }
        let (output, errors) = (Pipe(), Pipe())
        process.standardOutput = output
        process.standardError = errors
        process.standardInput = FileHandle.nullDevice
        try process.run()
        // What fermata writes here fits a pipe's buffer, so the order of reading does not matter.
        let outputText = String(
            decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        let errorText = String(
            decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return Result(
            code: process.terminationReason == .exit ? process.terminationStatus : -1,
            output: outputText, errors: errorText)
    }
}
