// What Fermata keeps in etcd, below its prefix:
//
//   alive             the epoch, rewritten each second by the writer while nothing else is
//   epoch             who may write: {"epoch", "name", "address", "nonce"}; its revision is the fence
//   history           the epoch in which the whole log was last replaced, by `fermata restore`; none if never
//   log/LAST          a batch of records, the last with this index (20 digits)
//   next              index of the next record, decimal
//   part/LAST/EPOCH/N    pieces of a batch that is too large for one request
//   snapshot          {"index", "id", "count"} of the newest whole snapshot
//   snapshot/ID/N     its chunks; ids ascend: EPOCH-NUMBER
//
// Every write is a transaction that compares the revision of `epoch`; an append compares `next` too, and
// a new snapshot the one before. So nothing is written by a deposed leader, and what is sent twice
// counts once, also if the first is carried out late, by a member that slept. What is deleted is
// older than what is kept by its key alone, so a late deletion does no harm either.
//
// Followers watch from `alive` to `log/`: without snapshots and parts.

import LogCore
import QMP

package struct EtcdLayout {
    let prefix: String

    /// - Parameter prefix: everything of ours is below it; ends with a slash.
    package init(prefix: String) { self.prefix = prefix }

    var epoch: String { prefix + "epoch" }
    var next: String { prefix + "next" }
    var alive: String { prefix + "alive" }
    var history: String { prefix + "history" }
    var snapshot: String { prefix + "snapshot" }

    /// - Parameter last: index of the batch's last record.
    package func log(_ last: UInt64) -> String { prefix + "log/" + Self.digits(last, 20) }
    /// Above every index.
    package var endOfLog: String { prefix + "log0" }

    func part(_ last: UInt64, _ epoch: UInt64, _ number: Int) -> String {
        parts(last, epoch) + Self.digits(UInt64(number), 8)
    }
    package func parts(_ last: UInt64, _ epoch: UInt64) -> String {
        "\(partsFrom(last))/\(Self.digits(epoch, 20))/"
    }
    /// The parts of all batches that end with `last` or later.
    func partsFrom(_ last: UInt64) -> String { prefix + "part/" + Self.digits(last, 20) }

    /// - Parameter number: counts the snapshots of an epoch.
    static func snapshotID(_ epoch: UInt64, _ number: UInt64) -> String {
        snapshotIDs(epoch) + digits(number, 20)
    }
    /// How the ids of an epoch's snapshots begin.
    static func snapshotIDs(_ epoch: UInt64) -> String { digits(epoch, 20) + "-" }
    func chunk(_ id: String, _ number: Int) -> String {
        chunks(id) + Self.digits(UInt64(number), 8)
    }
    func chunks(_ id: String) -> String { allChunks + id + "/" }
    var allChunks: String { prefix + "snapshot/" }

    /// Index of the last record of the batch with this key; nil if it is none.
    package func lastIndex(_ key: String) -> UInt64? {
        let start = prefix + "log/"
        guard key.hasPrefix(start) else { return nil }
        return UInt64(key.dropFirst(start.count))
    }

    /// The smallest key that is not below the prefix.
    package static func endOfPrefix(_ prefix: String) -> String {
        var bytes = Array(prefix.utf8)
        bytes[bytes.count - 1] += 1
        return String(decoding: bytes, as: UTF8.self)
    }

    static func digits(_ number: UInt64, _ count: Int) -> String {
        let text = "\(number)"
        return String(repeating: "0", count: max(0, count - text.count)) + text
    }
}

/// Who may write; in etcd as JSON.
struct EtcdEpoch: Hashable {
    var epoch: UInt64
    var name: String
    var address: String
    /// Tells two writers apart that took the same step from the same epoch.
    var nonce: String

    var writer: LogWriter { LogWriter(name: name, address: address) }
}

/// The newest whole snapshot; in etcd as JSON.
struct EtcdManifest: Hashable {
    var index: UInt64
    var id: String
    var count: Int

    /// Whether it was written in this epoch.
    func isOf(_ epoch: UInt64) -> Bool { id.hasPrefix(EtcdLayout.snapshotIDs(epoch)) }
}

// The names are in the order of the alphabet, as they always were.

extension EtcdEpoch {
    var bytes: [UInt8] {
        JSON.object([
            JSON.Member("address", .string(address)), JSON.Member("epoch", number(epoch)),
            JSON.Member("name", .string(name)), JSON.Member("nonce", .string(nonce)),
        ]).bytes
    }

    /// - Returns: nil if it cannot be what we wrote; members of a newer version are no harm.
    init?(_ bytes: [UInt8]) {
        guard let json = try? JSON.parse(bytes),
            let epoch = json["epoch"]?.integer.flatMap({ UInt64(exactly: $0) }),
            // There has to be a next one.
            epoch < Int64.max, let name = json["name"]?.string,
            let address = json["address"]?.string,
            let nonce = json["nonce"]?.string
        else { return nil }
        self.init(epoch: epoch, name: name, address: address, nonce: nonce)
    }
}

extension EtcdManifest {
    var bytes: [UInt8] {
        JSON.object([
            JSON.Member("count", .integer(Int64(count))), JSON.Member("id", .string(id)),
            JSON.Member("index", number(index)),
        ]).bytes
    }

    /// - Returns: nil if it cannot be what we wrote; members of a newer version are no harm.
    init?(_ bytes: [UInt8]) {
        guard let json = try? JSON.parse(bytes),
            let index = json["index"]?.integer.flatMap({ UInt64(exactly: $0) }),
            let id = json["id"]?.string,
            let count = json["count"]?.integer.flatMap({ Int(exactly: $0) })
        else { return nil }
        self.init(index: index, id: id, count: count)
    }
}

/// Epochs and indexes count by one from 1: none ever comes near the end of `Int64`.
private func number(_ value: UInt64) -> JSON {
    guard let number = Int64(exactly: value) else {
        preconditionFailure("\(value) is no index and no epoch")
    }
    return .integer(number)
}

/// A batch of records as the value of one key.
///
/// Byte 0: 0, then for each record its length (4 bytes, little-endian) and its bytes; or byte 0: 1, then
/// 16 bytes: the epoch of the writer and the number of parts whose bytes, one after the other, are
/// such a batch.
package enum EtcdBatch: Hashable {
    case records([[UInt8]])
    case parts(epoch: UInt64, count: Int)

    static func encode(_ records: [[UInt8]]) -> [UInt8] {
        var bytes: [UInt8] = [0]
        bytes.reserveCapacity(1 + records.reduce(0) { $0 + 4 + $1.count })
        for record in records {
            append(UInt64(record.count), 4, to: &bytes)
            bytes += record
        }
        return bytes
    }

    static func encodeParts(epoch: UInt64, count: Int) -> [UInt8] {
        var bytes: [UInt8] = [1]
        append(epoch, 8, to: &bytes)
        append(UInt64(count), 8, to: &bytes)
        return bytes
    }

    /// - Returns: nil if it cannot be what we wrote.
    package init?(_ bytes: [UInt8]) {
        switch bytes.first {
        case 0:
            var records: [[UInt8]] = []
            var at = 1
            while at < bytes.count {
                guard let count = Self.number(bytes, at, 4), at + 4 + Int(count) <= bytes.count
                else { return nil }
                records.append(Array(bytes[(at + 4)..<(at + 4 + Int(count))]))
                at += 4 + Int(count)
            }
            self = .records(records)
        case 1:
            guard bytes.count == 17, let epoch = Self.number(bytes, 1, 8),
                let count = Self.number(bytes, 9, 8), (1...1_000_000).contains(count)
            else { return nil }
            self = .parts(epoch: epoch, count: Int(count))
        default: return nil
        }
    }

    private static func append(_ number: UInt64, _ count: Int, to bytes: inout [UInt8]) {
        for byte in 0..<count { bytes.append(UInt8(truncatingIfNeeded: number >> (8 * byte))) }
    }

    private static func number(_ bytes: [UInt8], _ at: Int, _ count: Int) -> UInt64? {
        guard at + count <= bytes.count else { return nil }
        return (0..<count).reduce(0) { $0 | UInt64(bytes[at + $1]) << (8 * $1) }
    }
}
