import Foundation

/// A file of lines that grows at its end, each line once.
///
/// Happy path: lines are appended in one write, made durable, then marked in the outbox.
/// Failure modes:
/// - killed between the append and the mark: the lines are found at the end of the file and are
///   only marked (``recover(_:)``);
/// - killed in the middle of the append, or the disk full: the torn last line is cut off if it is
///   the beginning of a line that is due, and ended with a line feed if it is somebody else's;
/// - moved away by log rotation: the next append makes a new file.
struct LineFile {
    let path: String

    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    /// Puts the end of the file in order and finds out which lines are there already.
    ///
    /// - Parameter due: lines, without line feeds, that may or may not have been written.
    /// - Returns: those of them that are in the file, whole.
    func recover(_ due: [String]) throws(Failure) -> Set<String> {
        guard FileManager.default.fileExists(atPath: path) else { return [] }
        return try withFile { file in
            let size = try file.seekToEnd()
            // What was written last stands at the end; twice its length leaves room for others.
            let dueByteCount = due.reduce(0) { $0 + $1.utf8.count + 1 }
            let span = min(size, UInt64(dueByteCount) * 2 + 64 * 1024)
            try file.seek(toOffset: size - span)
            let tail = [UInt8](try file.readToEnd() ?? Data())
            var lines = tail.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
            let torn = lines.popLast() ?? []
            if !torn.isEmpty {
                if due.contains(where: { $0.utf8.starts(with: torn) }) {
                    try file.truncate(atOffset: size - UInt64(torn.count))
                } else {
                    _ = try file.seekToEnd()
                    try file.write(contentsOf: Data("\n".utf8))
                }
                try file.synchronize()
            }
            let present = Set(lines.map { String(decoding: $0, as: UTF8.self) })
            return present.intersection(due)
        }
    }

    /// Appends lines and waits until they are on the disk.
    func append(_ lines: [String]) throws(Failure) {
        if !FileManager.default.fileExists(atPath: path) {
            guard FileManager.default.createFile(atPath: path, contents: nil) else {
                throw Failure(description: "cannot create \(path)")
            }
        }
        let bytes = Data(lines.map { $0 + "\n" }.joined().utf8)
        try withFile { file in
            _ = try file.seekToEnd()
            try file.write(contentsOf: bytes)
            try file.synchronize()
        }
    }

    private func withFile<Value>(_ body: (FileHandle) throws -> Value) throws(Failure) -> Value {
        do {
            let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
            defer { try? file.close() }
            return try body(file)
        } catch {
            throw Failure(description: "\(path): \(error.localizedDescription)")
        }
    }
}
