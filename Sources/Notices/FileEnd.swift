/// What stands at the end of a file of lines after a crash, and what has to be done about it.
///
/// - killed between an append and its mark: the lines are there, whole, and only have to be marked;
/// - killed in the middle of an append, or the disk full: the torn last line is cut off if it is the
///   beginning of a line that is due, and ended with a line feed if it is somebody else's.
public struct FileEnd: Hashable, Sendable {
    public enum Mending: Hashable, Sendable {
        case none
        /// The last bytes are the beginning of a line that will be written again.
        case cut(byteCount: Int)
        case endLine
    }

    public var mending: Mending
    /// Those of the due lines that are there, whole. Only looked up, never iterated.
    public var present: Set<String>

    /// How much of the file's end has to be looked at.
    ///
    /// - Returns: bytes, at most `fileByteCount`.
    public static func byteCount(for due: [String], fileByteCount: UInt64) -> UInt64 {
        // What was written last stands at the end; twice its length leaves room for others.
        let dueByteCount = due.reduce(0) { $0 + $1.utf8.count + 1 }
        return min(fileByteCount, UInt64(dueByteCount) * 2 + 64 * 1024)
    }

    /// - Parameters:
    ///   - tail: the last bytes of the file.
    ///   - due: lines, without line feeds, that may or may not have been written.
    public init(tail: [UInt8], due: [String]) {
        var lines = tail.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        let torn = lines.popLast() ?? []
        if torn.isEmpty {
            mending = .none
        } else if due.contains(where: { $0.utf8.starts(with: torn) }) {
            mending = .cut(byteCount: torn.count)
        } else {
            mending = .endLine
        }
        present = Set(lines.map { String(decoding: $0, as: UTF8.self) }).intersection(due)
    }
}
