import Foundation
import Notices

/// A file of lines that grows at its end, each line once.
///
/// Happy path: lines are appended in one write, made durable, then marked in the outbox.
/// Failure modes:
/// - killed between the append and the mark: the lines are found at the end of the file and are
///   only marked (``recover(_:)``);
/// - killed in the middle of the append, or the disk full: the torn last line is cut off or ended, as
///   ``FileEnd`` says;
/// - moved away by log rotation: the next append makes a new file.
struct LineFile: LineAppender {
    let path: String

    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    func recover(_ due: [String]) throws(Failure) -> Set<String> {
        guard FileManager.default.fileExists(atPath: path) else { return [] }
        return try withFile { file in
            let size = try file.seekToEnd()
            let span = FileEnd.byteCount(for: due, fileByteCount: size)
            try file.seek(toOffset: size - span)
            let end = FileEnd(tail: [UInt8](try file.readToEnd() ?? Data()), due: due)
            switch end.mending {
            case .none: return end.present
            case .cut(let byteCount): try file.truncate(atOffset: size - UInt64(byteCount))
            case .endLine:
                _ = try file.seekToEnd()
                try file.write(contentsOf: Data("\n".utf8))
            }
            try file.synchronize()
            return end.present
        }
    }

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
