// The directory of an authority while one command changes it: locked, and changed whole.
//
//   open ─▶ lock ─▶ finish what a killed command has left ─▶ … ─▶ commit ─▶ close
//
//   commit: write all the new files into pki.unfinished (durable) ─▶ put each in its place (atomic,
//           durable) ─▶ remove pki.unfinished
//
// Happy path: as drawn.
// Failure modes: killed before pki.unfinished has its name: nothing has changed. Killed after:
// the next command that opens the directory puts the rest in place. So a key never stays without
// its certificate, and no certificate is out that the index does not know. The first file cannot be
// written: nothing has changed.

import Glibc

final class AuthorityDirectory {
    /// A file's new content.
    struct Change: Hashable {
        /// A name in the directory, or an absolute path.
        var path: String
        var mode: UInt32
        var bytes: [UInt8]
    }

    let path: String
    private let lock: FileLock

    static let journalName = "pki.unfinished"
    private static let lockName = "pki.lock"
    /// A command takes some milliseconds; whoever waits longer than this waits for a stopped one.
    private static let lockTriesMax = 500
    private static let lockPauseMicroseconds: UInt32 = 20_000
    /// An index of a million certificates fits.
    static let fileByteCountMax = 1 << 28

    /// Waits for other commands in the directory, at most 10 s.
    ///
    /// - Throws: ``TLSError/directoryBusy(path:)``; ``TLSError/fileUnwritable(_:)`` if it is no
    ///   directory that we may write to.
    init(_ path: String) throws(TLSError) {
        self.path = path
        lock = try Self.lock(path)
        try finish()
    }

    /// Lets others in. Harmless when repeated.
    func close() { lock.release() }

    private static func lock(_ path: String) throws(TLSError) -> FileLock {
        for _ in 0..<lockTriesMax {
            do {
                return try Files.lock(path: "\(path)/\(lockName)")
            } catch {
                guard error.code == -EWOULDBLOCK else { throw .fileUnwritable(error) }
            }
            usleep(lockPauseMicroseconds)
        }
        throw .directoryBusy(path: path)
    }

    func full(_ name: String) -> String { name.hasPrefix("/") ? name : "\(path)/\(name)" }

    /// Makes all the changes or, whatever happens, none.
    ///
    /// - Throws: ``TLSError/fileUnwritable(_:)``. If that was not the first of them, the rest is put
    ///   in place by the next command that can.
    func commit(_ changes: [Change]) throws(TLSError) {
        try stage(changes)
        do {
            try apply(changes.prefix(1))
        } catch {
            // As for a file on a read-only disk: nobody else is to be kept waiting for it.
            try? unstage()
            throw error
        }
        try apply(changes.dropFirst())
        try unstage()
    }

    func stage(_ changes: [Change]) throws(TLSError) {
        do {
            // It has private keys.
            try Files.writeAtomically(
                path: full(Self.journalName), bytes: Journal.encode(changes), durable: true,
                mode: 0o600)
        } catch { throw .fileUnwritable(error) }
    }

    func apply(_ changes: ArraySlice<Change>) throws(TLSError) {
        do {
            for change in changes {
                try Files.writeAtomically(
                    path: full(change.path), bytes: change.bytes, durable: true, mode: change.mode)
            }
        } catch { throw .fileUnwritable(error) }
    }

    func unstage() throws(TLSError) {
        do { try Files.remove(path: full(Self.journalName)) } catch {
            throw .fileUnwritable(error)
        }
    }

    /// Whether a killed command has left something to be finished.
    static func isUnfinished(_ path: String) -> Bool {
        Files.exists(path: "\(path)/\(journalName)")
    }

    private func finish() throws(TLSError) {
        removeRemains()
        let journal = full(Self.journalName)
        guard Files.exists(path: journal) else { return }
        let bytes: [UInt8]
        do {
            bytes = try Files.read(path: journal, byteCountMax: Self.fileByteCountMax)
        } catch { throw .fileUnreadable(error) }
        guard let changes = Journal.decode(bytes) else {
            throw .fileInvalid(
                path: journal, reason: "it is damaged: look at what it holds, then remove it")
        }
        do {
            try apply(changes[...])
        } catch {
            throw .fileInvalid(
                path: journal,
                reason: "a command that was interrupted cannot be finished (\(error)): make that "
                    + "possible, or remove this file to give its change up")
        }
        try unstage()
    }

    /// Files that a killed command was writing, before they had their names.
    private func removeRemains() {
        for name in (try? Files.list(path: path)) ?? [] {
            let parts = name.split(separator: ".", omittingEmptySubsequences: false)
            guard parts.count > 2, parts.last == "new", let random = parts.dropLast().last,
                (1...12).contains(random.count), random.allSatisfy(\.isHexDigit)
            else { continue }
            try? Files.remove(path: full(name))
        }
    }
}

/// The form of `pki.unfinished`: for each file `MODE BYTECOUNT PATH`, a line feed, and its bytes;
/// at the end `end` and a line feed.
enum Journal {
    static func encode(_ changes: [AuthorityDirectory.Change]) -> [UInt8] {
        var bytes: [UInt8] = []
        for change in changes {
            let mode = String(change.mode, radix: 8)
            bytes += Array("\(mode) \(change.bytes.count) \(change.path)\n".utf8)
            bytes += change.bytes
        }
        return bytes + Array("end\n".utf8)
    }

    static func decode(_ bytes: [UInt8]) -> [AuthorityDirectory.Change]? {
        var changes: [AuthorityDirectory.Change] = []
        var rest = bytes[...]
        while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
            let line = String(decoding: rest[..<end], as: UTF8.self)
            rest = rest[(end + 1)...]
            if line == "end" { return rest.isEmpty ? changes : nil }
            let words = line.split(separator: " ", maxSplits: 2)
            guard words.count == 3, let mode = UInt32(words[0], radix: 8),
                let count = Int(words[1]), 0...rest.count ~= count
            else { return nil }
            changes.append(
                AuthorityDirectory.Change(
                    path: String(words[2]), mode: mode, bytes: Array(rest.prefix(count))))
            rest = rest.dropFirst(count)
        }
        return nil
    }
}
