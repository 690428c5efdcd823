import Foundation
import Glibc
import Testing
import UvLoop

@testable import NotifierShell

@Suite struct HangingSinkTests {
    let scratch: Scratch
    let loop: Loop

    init() throws {
        scratch = try Scratch()
        loop = try Loop()
    }

    @Test("however many files hang, the next is written, and what hung goes on")
    func hangingFiles() throws {
        // Opening a pipe for writing hangs until somebody reads it, as a file of a dead server's would.
        let pipes = (0..<8).map { scratch.path("pipe-\($0)") }
        var hanging: [LineFileAppender] = []
        var ended = 0
        for path in pipes {
            #expect(mkfifo(path, 0o600) == 0)
            let file = try LineFileAppender(LineFile(path: path), on: loop)
            file.append(["line"], isRecovery: false) { _ in ended += 1 }
            hanging.append(file)
        }
        let file = try LineFileAppender(LineFile(path: scratch.path("file")), on: loop)
        var result: String??
        file.append(["first"], isRecovery: false) { result = $0 }
        file.append(["second"], isRecovery: false) { _ in ended += 100 }
        run { ended == 100 }
        #expect(result == .some(nil))
        #expect((try? scratch.text("file")) == "first\nsecond\n")
        for path in pipes { #expect(Glibc.open(path, O_RDONLY | O_NONBLOCK) >= 0) }
        run { ended == 108 }
        #expect(ended == 108)
    }

    private func run(until condition: @escaping () -> Bool) {
        let check = loop.every(.milliseconds(2)) { [loop] in if condition() { loop.stop() } }
        let limit = loop.after(.seconds(10)) { [loop] in loop.stop() }
        loop.run()
        check.cancel()
        limit.cancel()
    }
}
