import Foundation
import Notices
import UvLoop

/// A file of lines that grows at its end, each line once.
///
/// Happy path: on another thread, lines are appended in one write and made durable; then they are marked in
/// the outbox.
/// Failure modes:
/// - killed between the append and the mark: the lines are found at the end of the file and are
///   only marked (``recover(_:)``);
/// - killed in the middle of the append, or the disk full: the torn last line is cut off or ended, as
///   ``FileEnd`` says;
/// - moved away by log rotation: the next append makes a new file;
/// - killed while we rotate it ourselves: the end of the one before is looked at as well.
struct LineFile: Sendable {
    let path: String
    /// Beyond it a new file is begun; nil for never.
    var byteCountMax: UInt64?
    /// Kept besides the one that is written, the newest as `path.1`.
    var oldCountMax = 0

    struct Failure: Error, CustomStringConvertible {
        var description: String

        init(description: String) { self.description = description }

        /// In the system's own words, which Foundation hides behind its own.
        init(_ path: String, _ error: any Error) {
            let told = error as NSError
            let cause = told.userInfo[NSUnderlyingErrorKey] as? NSError ?? told
            guard cause.domain == NSPOSIXErrorDomain, let code = Int32(exactly: cause.code) else {
                self.init(description: "\(path): \(cause.localizedDescription)")
                return
            }
            self.init(
                description: "\(UvError(code: -code, operation: "write to", subject: path))")
        }
    }

    func recover(_ due: [String]) throws(Failure) -> Set<String> {
        var present = try recover(due, at: path)
        if byteCountMax != nil, oldCountMax > 0, present.count < due.count {
            present.formUnion(try recover(due, at: "\(path).1"))
        }
        return present
    }

    private func recover(_ due: [String], at path: String) throws(Failure) -> Set<String> {
        guard FileManager.default.fileExists(atPath: path) else { return [] }
        return try withFile(path) { file in
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
        let bytes = Array(lines.map { $0 + "\n" }.joined().utf8)
        try rotate(for: UInt64(bytes.count))
        do {
            try Files.append(path: path, bytes: bytes, durable: true)
        } catch {
            throw Failure(description: "\(error)")
        }
    }

    /// Begins a new file if what is to come does not fit; one is never empty.
    private func rotate(for byteCount: UInt64) throws(Failure) {
        guard let byteCountMax, let size = try? Files.size(path: path), size > 0,
            size + byteCount > byteCountMax
        else { return }
        do {
            guard oldCountMax > 0 else { return try Files.remove(path: path) }
            for number in stride(from: oldCountMax - 1, through: 1, by: -1)
            where Files.exists(path: "\(path).\(number)") {
                try Files.rename(from: "\(path).\(number)", to: "\(path).\(number + 1)")
            }
            try Files.rename(from: path, to: "\(path).1")
        } catch {
            throw Failure(description: "\(error)")
        }
    }

    private func withFile<Value>(
        _ path: String, _ body: (FileHandle) throws -> Value
    ) throws(Failure) -> Value {
        do {
            let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
            defer { try? file.close() }
            return try body(file)
        } catch {
            throw Failure(path, error)
        }
    }
}

/// A ``LineFile`` whose disk may hang: nothing else waits for it.
final class LineFileAppender: LineAppender {
    private let file: LineFile
    private let work: BlockingWork<String?>

    init(_ file: LineFile, on loop: Loop) throws(UvError) {
        self.file = file
        work = try BlockingWork(on: loop)
    }

    func append(_ lines: [String], isRecovery: Bool, completion: @escaping (String?) -> Void) {
        work.run(
            { [file] in
                do {
                    let present = isRecovery ? try file.recover(lines) : []
                    let due = lines.filter { !present.contains($0) }
                    if !due.isEmpty { try file.append(due) }
                    return nil
                } catch {
                    return "\(error)"
                }
            }, completion: { completion($0 ?? "no thread can be started") })
    }
}

/// The standard output, or whatever takes lines of text. A reader that has gone does not come back; what
/// is due stays for the next start. One that only does not read keeps nothing else waiting.
final class PrintReceiver: Receiver {
    private let renderer: BulletinRenderer
    private let printLine: @Sendable (String) throws -> Void
    private let work: BlockingWork<String?>

    init(
        _ printLine: @escaping @Sendable (String) throws -> Void, _ renderer: BulletinRenderer,
        on loop: Loop
    ) throws(UvError) {
        self.renderer = renderer
        self.printLine = printLine
        work = try BlockingWork(on: loop)
    }

    func take(_ items: [OutboxItem], completion: @escaping (DeliveryOutcome) -> Void) {
        let lines = items.map { renderer.text($0.bulletin) }
        work.run(
            { [printLine] in
                do {
                    for line in lines { try printLine(line) }
                    return nil
                } catch {
                    return "nobody reads the standard output any more (\(error))"
                }
            },
            completion: { problem in
                completion(
                    (problem ?? "no thread can be started").map {
                        .later(
                            reason: $0, afterMilliseconds: RetryPolicy.askedMillisecondsMax)
                    } ?? .taken)
            })
    }
}
