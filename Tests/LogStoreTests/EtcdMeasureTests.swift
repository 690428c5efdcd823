import Foundation
import Testing
import UvLoop

@testable import EtcdLog
@testable import LogStore

/// Figures, printed: `FERMATA_MEASURE=1 swift test -c release -Xswiftc -enable-testing --filter Measure`.
@Suite(
    "etcd log store, measured", .serialized,
    .enabled(if: ProcessInfo.processInfo.environment["FERMATA_MEASURE"] != nil))
struct EtcdMeasureTests {
    @Test("appends a second, one in flight", arguments: [1, 3], [200, 20_000, 200_000])
    func appends(memberCount: Int, byteCount: Int) throws {
        let cluster = try EtcdCluster(memberCount: memberCount)
        let bench = try Bench()
        let store = bench.store(cluster.endpoints)
        try bench.lead(store)
        let record = [UInt8](repeating: 7, count: byteCount)
        var index: UInt64 = 0
        let start = HoldClock.nowMicroseconds
        var isOver = false
        func next() {
            index += 1
            store.append([record], firstIndex: index) { result in
                #expect(throws: Never.self) { try result.get() }
                if HoldClock.nowMicroseconds - start > 3_000_000 { isOver = true } else { next() }
            }
        }
        next()
        bench.until { isOver }
        let seconds = Double(HoldClock.nowMicroseconds - start) / 1e6
        print(
            "MEASURE \(memberCount) members, \(byteCount) B: \(Int(Double(index) / seconds)) appends/s"
        )
    }

    @Test(
        "a snapshot of 200 MB is read in well under 10 s",
        arguments: [64 << 10, 512 << 10, 1 << 20])
    func snapshot(chunkByteCount: Int) throws {
        let cluster = try EtcdCluster(flags: ["--quota-backend-bytes=4294967296"])
        let bench = try Bench()
        let store = bench.store(cluster.endpoints)
        try bench.lead(store)
        try bench.append(store, ["a"], at: 1)
        let chunk = (0..<chunkByteCount).map { UInt8(truncatingIfNeeded: $0 &* $0) }
        var left = (200 << 20) / chunkByteCount
        let count = left
        var start = HoldClock.nowMicroseconds
        var isSaved = false
        store.save(
            index: 1,
            next: {
                left -= 1; return left >= 0 ? chunk : nil
            }
        ) { result in
            #expect(throws: Never.self) { try result.get() }
            isSaved = true
        }
        bench.until(.seconds(120)) { isSaved }
        let saved = Double(HoldClock.nowMicroseconds - start) / 1e6
        var worst: Int64 = 0
        var last = HoldClock.nowMicroseconds
        let ticker = bench.loop.every(.milliseconds(1)) {
            worst = max(worst, HoldClock.nowMicroseconds - last)
            last = HoldClock.nowMicroseconds
        }
        start = HoldClock.nowMicroseconds
        last = start
        let opened = try bench.lead(bench.store(cluster.endpoints))
        let read = Double(HoldClock.nowMicroseconds - start) / 1e6
        ticker.cancel()
        #expect(opened.snapshot?.chunks.count == count)
        print(
            "MEASURE 200 MB in \(count) chunks: saved in \(saved) s, read in \(read) s, longest stall \(worst / 1_000) ms"
        )
    }
}
