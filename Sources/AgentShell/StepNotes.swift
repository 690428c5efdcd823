internal import AgentCore
internal import Fleet
internal import UvLoop

/// The lines that agent and guard leave for a restarted agent. Plain appends in the run directory;
/// that a line could not be written never stops a hold.
struct StepNotes {
    let path: String

    /// The first line says whose notes these are.
    func begin(_ step: StepID, _ token: Token) {
        try? Files.writeAtomically(
            path: path, bytes: Array("step\t\(step)\t\(token)\n".utf8), durable: false)
    }

    func append(_ note: HoldNote) {
        try? Files.append(path: path, bytes: Array((note.line + "\n").utf8), durable: false)
    }

    func remove() { try? Files.remove(path: path) }

    /// - Returns: nothing if the file is of another step. A last line without its end is skipped.
    func read(_ step: StepID, _ token: Token) -> [HoldNote] {
        guard let bytes = try? Files.read(path: path, byteCountMax: 4 << 20) else { return [] }
        guard let end = bytes.lastIndex(of: UInt8(ascii: "\n")) else { return [] }
        let lines = String(decoding: bytes[..<end], as: UTF8.self).split(separator: "\n")
        guard lines.first == "step\t\(step)\t\(token)" else { return [] }
        return lines.dropFirst().compactMap { HoldNote(line: $0) }
    }
}
