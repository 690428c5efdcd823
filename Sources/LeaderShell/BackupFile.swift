import Coordination
import Fleet
import LeaderCore
import UvLoop
import Wire

/// A file with the whole state of a cluster.
///
/// ```
/// "FERMATAB"  version  length  BackupHeader  (length  chunk)…  0  SHA-256 of all before it
///  8 bytes    4 bytes  4 bytes                4 bytes          4 bytes        32 bytes
/// ```
/// Numbers are big-endian. The chunks are those of a snapshot.
///
/// - Source: proto-spec/README.md, section 13.
enum BackupFile {
    private static let magic = Array("FERMATAB".utf8)
    private static let version: UInt32 = 1
    private static let checksumByteCount = 32
    /// More than a hundred times the largest fleet.
    private static let byteCountMax = 1 << 36

    /// - Returns: the file's length in bytes.
    static func write(
        _ state: FleetState, _ description: BackupDescription, to path: String
    ) throws(BackupError) -> Int {
        var bytes = magic
        append(version, to: &bytes)
        let header = serialized(
            PBBackupHeader.with {
                $0.index = description.index
                $0.term = description.term
                $0.digest = description.digest
                $0.madeAtMicroseconds = description.madeAt.microseconds
                $0.store = description.store
                $0.software = description.software
            })
        append(UInt32(header.count), to: &bytes)
        bytes += header
        var encoder = SnapshotEncoder(state)
        while let chunk = encoder.next() {
            append(UInt32(chunk.count), to: &bytes)
            bytes += chunk
        }
        append(0, to: &bytes)
        bytes += SHA256Digest.of(bytes)
        if let kind = Files.kind(path: path), kind != .regular {
            throw .file("\(path) is not a regular file, and would be replaced by one")
        }
        do {
            // What is in it is nobody's business who cannot read the server's directory.
            try Files.writeAtomically(path: path, bytes: bytes, durable: true, mode: 0o600)
        } catch {
            throw .file("\(error)")
        }
        return bytes.count
    }

    /// Reads a whole file and checks everything there is to check.
    static func read(
        _ path: String
    ) throws(BackupError) -> (description: BackupDescription, chunks: [[UInt8]]) {
        let bytes: [UInt8]
        do {
            bytes = try Files.read(path: path, byteCountMax: byteCountMax)
        } catch {
            throw .file("\(error)")
        }
        guard bytes.starts(with: magic) else { throw .notABackup(path: path) }
        var reader = Reader(bytes: bytes, position: magic.count, path: path)
        let version = try reader.number()
        guard version == Self.version else { throw .newerFormat(path: path, version: version) }
        let header = try reader.take(Int(try reader.number()))
        var chunks: [[UInt8]] = []
        while true {
            let length = Int(try reader.number())
            if length == 0 { break }
            chunks.append(try reader.take(length))
        }
        let end = reader.position
        let checksum = try reader.take(checksumByteCount)
        guard reader.position == bytes.count else {
            throw .damaged(path: path, reason: "something follows its end")
        }
        guard SHA256Digest.of(Array(bytes[..<end])) == checksum else {
            throw .damaged(path: path, reason: "its checksum does not fit its content")
        }
        guard let message = try? PBBackupHeader(serializedBytes: header) else {
            throw .damaged(path: path, reason: "its header cannot be read")
        }
        let description = BackupDescription(
            index: message.index, term: message.term, digest: message.digest,
            madeAt: Timestamp(microseconds: message.madeAtMicroseconds), store: message.store,
            software: message.software, byteCount: bytes.count)
        return (description, chunks)
    }

    private static func append(_ number: UInt32, to bytes: inout [UInt8]) {
        for shift in [24, 16, 8, 0] as [UInt32] {
            bytes.append(UInt8(truncatingIfNeeded: number >> shift))
        }
    }

    private struct Reader {
        let bytes: [UInt8]
        var position: Int
        let path: String

        mutating func take(_ count: Int) throws(BackupError) -> [UInt8] {
            guard count <= bytes.count - position else {
                throw .damaged(
                    path: path, reason: "it is cut off after \(bytes.count) bytes")
            }
            position += count
            return Array(bytes[position - count..<position])
        }

        mutating func number() throws(BackupError) -> UInt32 {
            try take(4).reduce(0) { $0 << 8 | UInt32($1) }
        }
    }
}
