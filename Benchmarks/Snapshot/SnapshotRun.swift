import Coordination
import Fleet
import LeaderCore
import LeaderShell
import LogCore
import LogStore
import Logging
import UvLoop

/// Loads the log, commits reports of hosts one after the other, and goes on while a snapshot is
/// written. What the loop cannot do meanwhile is what is measured.
final class SnapshotRun {
    /// Commits before the snapshot begins, to compare with.
    private static let commitsBefore: UInt64 = 1_000

    private let loop: Loop
    private let store: MeasuredStore
    private let committer: Committer
    private let clock = ContinuousClock()
    private var everyone: Set<HostID> = []
    private var guestsPerHost = 1
    private var setCount = 1
    private var commitCount = 0
    private var before = Phase()
    private var during = Phase()
    private var lastTick: (at: ContinuousClock.Instant, cpu: Double)?

    /// What was seen of the loop in one stretch of time.
    private struct Phase {
        var longestGap = 0.0
        var longestGapCpu = 0.0
        var commits: [Double] = []

        var json: [String: Any] {
            let sorted = commits.sorted()
            func quantile(_ part: Double) -> Double {
                sorted.isEmpty ? 0 : sorted[min(sorted.count - 1, Int(Double(sorted.count) * part))]
            }
            return [
                "commits": commits.count, "longestStallMilliseconds": longestGap,
                "longestStallCpuMilliseconds": longestGapCpu,
                "commitMillisecondsMedian": quantile(0.5), "commitMillisecondsP99": quantile(0.99),
                "commitMillisecondsMax": sorted.last ?? 0,
            ]
        }
    }

    init(directory: String) throws {
        loop = try Loop()
        store = MeasuredStore(SQLiteLogStore(directory: directory, loop: loop))
        committer = Committer(
            store: store, snapshotFactsInterval: Self.commitsBefore,
            snapshotFactBytesDivisor: .max, loop: loop,
            log: Logger(label: "bench") { _ in SwiftLogNoOpLogHandler() })
    }

    func run() throws {
        let start = clock.now
        committer.start(LogWriter(name: "bench", address: "")) { [self] result in
            guard case .success = result else { preconditionFailure("\(result)") }
            loop.stop()
        }
        loop.run()
        let loadMilliseconds = milliseconds(start.duration(to: clock.now))
        let loadCpuMilliseconds = cpuMilliseconds()
        let loadedBytes = memory("VmRSS")
        let state = committer.coordinator.state
        everyone = Set(state.hosts.keys)
        guestsPerHost = state.guests.count / state.hosts.count
        setCount = state.sets.count
        committer.connectedHosts = { [self] in everyone }
        committer.onFatal = { preconditionFailure("\($0)") }
        let timer = loop.every(.milliseconds(1)) { [self] in onTick() }
        commitNext()
        loop.run()
        timer.cancel()
        let frozen = committer.coordinator.state
        let (digest, digestMilliseconds) = milliseconds { StateDigest.of(frozen) }
        committer.close()
        try printJSON([
            "loadMilliseconds": loadMilliseconds,
            "loadCpuMilliseconds": loadCpuMilliseconds,
            "loadedMebibytes": loadedBytes >> 20,
            "peakMebibytes": memory("VmHWM") >> 20,
            "snapshotMebibytes": Double(store.byteCount) / 1_048_576,
            "chunks": store.chunkCount,
            "longestChunkBytes": store.longestChunk,
            "snapshotMilliseconds": store.saveMilliseconds,
            "longestEncodeMilliseconds": store.longestNext,
            "longestEncodeCpuMilliseconds": store.longestNextCpu,
            "longestAppendCallMilliseconds": store.longestAppend,
            "before": before.json, "during": during.json,
            "digestMilliseconds": digestMilliseconds, "digest": digest,
        ])
    }

    private func onTick() {
        let now = (at: clock.now, cpu: cpuMilliseconds())
        if let lastTick {
            var phase = store.isSaving ? during : before
            phase.longestGap = max(
                phase.longestGap, milliseconds(lastTick.at.duration(to: now.at)))
            phase.longestGapCpu = max(phase.longestGapCpu, now.cpu - lastTick.cpu)
            if store.isSaving { during = phase } else { before = phase }
        }
        lastTick = now
    }

    private func commitNext() {
        if store.isSaved {
            loop.stop()
            return
        }
        commitCount += 1
        let hostCount = everyone.count
        let report = LargeFleet.report(
            commitCount * 7_919 % hostCount, guestCount: guestsPerHost, setCount: setCount,
            version: "7.2.19-\(commitCount)")
        let start = clock.now
        let wasSaving = store.isSaving
        committer.submit(.reportHost(report)) { [self] result in
            guard case .success = result else { preconditionFailure("\(result)") }
            let took = milliseconds(start.duration(to: clock.now))
            if wasSaving { during.commits.append(took) } else { before.commits.append(took) }
            commitNext()
        }
    }
}

/// A store that times what is asked of it.
private final class MeasuredStore: LogStore {
    private let store: any LogStore
    private let clock = ContinuousClock()
    private(set) var isSaving = false
    private(set) var isSaved = false
    private(set) var byteCount = 0
    private(set) var chunkCount = 0
    private(set) var longestChunk = 0
    private(set) var longestNext = 0.0
    private(set) var longestNextCpu = 0.0
    private(set) var longestAppend = 0.0
    private(set) var saveMilliseconds = 0.0

    init(_ store: any LogStore) { self.store = store }

    var name: String { store.name }
    var warnings: [String] { store.warnings }

    func lead(
        as writer: LogWriter, after index: UInt64,
        completion: @escaping (Result<OpenedLog, LogStoreError>) -> Void
    ) {
        store.lead(as: writer, after: index, completion: completion)
    }

    func append(
        _ records: [[UInt8]], firstIndex: UInt64,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        let (_, took) = milliseconds {
            store.append(records, firstIndex: firstIndex, completion: completion)
        }
        longestAppend = max(longestAppend, took)
    }

    func confirm(completion: @escaping (Result<Void, LogStoreError>) -> Void) {
        store.confirm(completion: completion)
    }

    func save(
        index: UInt64, next: @escaping () -> [UInt8]?,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        guard !isSaved else { return }
        isSaving = true
        let start = clock.now
        let measured = { [self] in
            let cpu = cpuMilliseconds()
            let (chunk, took) = milliseconds(next)
            longestNextCpu = max(longestNextCpu, cpuMilliseconds() - cpu)
            longestNext = max(longestNext, took)
            if let chunk {
                chunkCount += 1
                byteCount += chunk.count
                longestChunk = max(longestChunk, chunk.count)
            }
            return chunk
        }
        store.save(index: index, next: measured) { [self] result in
            isSaving = false
            isSaved = true
            saveMilliseconds = milliseconds(start.duration(to: clock.now))
            completion(result)
        }
    }

    func close() { store.close() }
}
