import Foundation
import LogCore
import Testing

@testable import EtcdLog

/// What is kept in etcd, byte by byte.
@Suite("etcd log, layout")
struct EtcdLayoutTests {
    /// As versions up to 0.5 declared them, for Foundation to read and write.
    private struct OldEpoch: Codable, Equatable {
        var epoch: UInt64
        var name: String
        var address: String
        var nonce: String
    }
    private struct OldManifest: Codable, Equatable {
        var index: UInt64
        var id: String
        var count: Int
    }

    private func old(_ value: some Encodable) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        return [UInt8](try encoder.encode(value))
    }

    @Test(
        "epochs and manifests are read as they were written before, and can be read as before",
        arguments: ["one", "a/b \"c\" \\ é 🦀 \u{7F}\u{1}\n", ""])
    func compatible(text: String) throws {
        let epoch = EtcdEpoch(epoch: 1 << 40, name: text, address: "[::1]:7400", nonce: text)
        let oldEpoch = OldEpoch(epoch: 1 << 40, name: text, address: "[::1]:7400", nonce: text)
        #expect(EtcdEpoch(try old(oldEpoch)) == epoch)
        #expect(
            try JSONDecoder().decode(OldEpoch.self, from: Data(epoch.bytes)) == oldEpoch)
        let manifest = EtcdManifest(index: 77, id: text, count: 3)
        let oldManifest = OldManifest(index: 77, id: text, count: 3)
        #expect(EtcdManifest(try old(oldManifest)) == manifest)
        #expect(
            try JSONDecoder().decode(OldManifest.self, from: Data(manifest.bytes)) == oldManifest)
    }

    @Test("what is ordinary is the same bytes as ever")
    func bytes() throws {
        let epoch = EtcdEpoch(epoch: 3, name: "one", address: "host:7400", nonce: "12ab")
        #expect(
            String(decoding: epoch.bytes, as: UTF8.self)
                == #"{"address":"host:7400","epoch":3,"name":"one","nonce":"12ab"}"#)
        #expect(
            epoch.bytes
                == (try old(OldEpoch(epoch: 3, name: "one", address: "host:7400", nonce: "12ab"))))
        let id = EtcdLayout.snapshotID(1, 2)
        #expect(
            EtcdManifest(index: 2, id: id, count: 9).bytes
                == (try old(OldManifest(index: 2, id: id, count: 9))))
    }

    @Test("what more a newer version keeps there is no harm; what is not ours is nil")
    func notOurs() {
        let more = #"{"address":"a","epoch":3,"name":"n","nonce":"x","new":{"a":[1,null]}}"#
        #expect(EtcdEpoch(Array(more.utf8))?.epoch == 3)
        for text in [
            "", "x", "{}", "[]", "3", #"{"address":"a","epoch":-1,"name":"n","nonce":"x"}"#,
            #"{"address":"a","epoch":"3","name":"n","nonce":"x"}"#,
            #"{"address":"a","epoch":9223372036854775807,"name":"n","nonce":"x"}"#,
            #"{"address":"a","epoch":18446744073709551616,"name":"n","nonce":"x"}"#,
            #"{"address":"a","epoch":3,"name":"n"}"#, #"{"index":1,"id":"x","count":1} x"#,
            #"{"index":1,"id":"x"}"#, #"{"index":-1,"id":"x","count":1}"#,
        ] {
            #expect(EtcdEpoch(Array(text.utf8)) == nil)
            #expect(EtcdManifest(Array(text.utf8)) == nil)
        }
    }

    @Test("a batch is read back, and never what is cut short or longer than it says")
    func batches() {
        let records: [[UInt8]] = [[1, 2, 3], [], [4]]
        let bytes = EtcdBatch.encode(records)
        #expect(EtcdBatch(bytes) == .records(records))
        for count in 0..<bytes.count {
            let cut = EtcdBatch(Array(bytes[..<count]))
            if case .records(let some) = cut { #expect(some == Array(records.prefix(some.count))) }
            #expect(cut != .records(records))
        }
        let parts = EtcdBatch.encodeParts(epoch: .max, count: 7)
        #expect(EtcdBatch(parts) == .parts(epoch: .max, count: 7))
        #expect(EtcdBatch(parts + [0]) == nil)
        #expect(EtcdBatch([0, 255, 255, 255, 255]) == nil)
        #expect(EtcdBatch([2]) == nil)
    }
}
