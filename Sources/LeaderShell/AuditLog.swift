// What operators asked for, and what came of it: one line of JSON each, added to a file.
//
// Happy path: the lines of one turn of the loop are added in one write and synced, on another thread;
// then whoever waits for one of them goes on, so that nobody is answered before his request is on
// record. Lines that come meanwhile are written next.
// Failure modes: the file cannot be written → logged and counted (`audit_failed`), and the answer goes
// out all the same: what was accepted is in the log already. The file was moved away by log
// rotation → the next line makes a new one.
import LeaderCore
import Logging
import SessionCore
import SessionShell
import UvLoop

final class AuditLog: AuditRecorder {
    private let path: String?
    private let loop: Loop
    private let log: Logger
    private let tally: Tally
    private var lines: [UInt8] = []
    private var waiting: [() -> Void] = []
    private var isWriting = false

    /// - Parameter path: nil keeps no record.
    init(path: String?, loop: Loop, log: Logger, tally: Tally) {
        self.path = path
        self.loop = loop
        self.log = log
        self.tally = tally
    }

    func record(_ entry: AuditEntry, then: @escaping () -> Void) {
        guard path != nil else { return then() }
        let line = entry.line(atMicroseconds: loop.wallMicroseconds)
        if lines.isEmpty { loop.soon { [self] in flush() } }
        lines += Array((line + "\n").utf8)
        waiting.append(then)
    }

    private func flush() {
        guard let path, !isWriting, !lines.isEmpty else { return }
        isWriting = true
        let waiting = waiting
        self.waiting = []
        Files.append(path: path, bytes: lines, on: loop) { [self] problem in
            isWriting = false
            if let problem {
                tally.count("audit_failed")
                log.error(
                    "the audit record cannot be written: free some space or mend the disk",
                    metadata: ["path": "\(path)", "problem": "\(problem)"])
            }
            for then in waiting { then() }
            flush()
        }
        lines = []
    }
}
