/// Cuts a stream of bytes into lines, however the stream is split.
///
/// The monitor and the guest agent end each object with a line feed (the monitor with a carriage
/// return before it), and have none within, since JSON escapes it in strings.
public struct LineDecoder: Sendable {
    public let byteCountMax: Int
    private var buffer: [UInt8] = []
    /// Bytes of `buffer` that belong to lines already given out.
    private var consumedCount = 0
    /// Bytes of `buffer` known to hold no line feed behind `consumedCount`.
    private var scannedCount = 0

    /// - Parameter byteCountMax: the longest line that is taken, without its end.
    public init(byteCountMax: Int) {
        self.byteCountMax = byteCountMax
    }

    /// Adds what was received.
    public mutating func append(_ bytes: UnsafeRawBufferPointer) {
        compact()
        buffer.append(contentsOf: bytes)
    }

    /// Adds what was received.
    public mutating func append(_ bytes: some Collection<UInt8>) {
        compact()
        buffer.append(contentsOf: bytes)
    }

    /// Takes the next line, without its end. Empty lines are skipped.
    ///
    /// - Returns: nil if more bytes are needed.
    /// - Throws: ``QMPError/lineTooLong(byteCountMax:)`` as soon as that is certain. The stream is
    ///   of no more use then.
    public mutating func next() throws(QMPError) -> [UInt8]? {
        while true {
            guard
                let end = buffer[scannedCount...].firstIndex(of: UInt8(ascii: "\n"))
            else {
                scannedCount = buffer.count
                // One more for the carriage return.
                guard buffer.count - consumedCount <= byteCountMax + 1 else {
                    throw .lineTooLong(byteCountMax: byteCountMax)
                }
                return nil
            }
            var line = buffer[consumedCount..<end]
            if line.last == UInt8(ascii: "\r") { line.removeLast() }
            guard line.count <= byteCountMax else {
                throw .lineTooLong(byteCountMax: byteCountMax)
            }
            let result = Array(line)
            consumedCount = end + 1
            scannedCount = consumedCount
            if !result.isEmpty { return result }
        }
    }

    /// Skips bytes up to and with `sentinel`, and what was not yet given out before it.
    ///
    /// - Returns: how many bytes were skipped, and whether the sentinel was among them.
    mutating func skip(through sentinel: UInt8) -> (byteCount: Int, found: Bool) {
        let rest = buffer[consumedCount...]
        let end = rest.firstIndex(of: sentinel).map { $0 + 1 }
        let skippedCount = (end ?? buffer.count) - consumedCount
        consumedCount += skippedCount
        scannedCount = consumedCount
        return (skippedCount, end != nil)
    }

    /// Forgets everything that was received and not given out.
    mutating func removeAll() {
        buffer.removeAll(keepingCapacity: true)
        consumedCount = 0
        scannedCount = 0
    }

    private mutating func compact() {
        guard consumedCount > 0 else { return }
        buffer.removeFirst(consumedCount)
        scannedCount -= consumedCount
        consumedCount = 0
    }
}
