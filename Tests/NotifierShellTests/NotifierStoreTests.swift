import Fleet
import Foundation
import GRDB
import Notices
import Presentation
import Testing

@testable import NotifierShell

@Suite struct NotifierStoreTests {
    let scratch: Scratch
    let store: NotifierStore

    init() throws {
        scratch = try Scratch()
        store = try NotifierStore(path: scratch.path("notifier.db"), cluster: "demo")
    }

    private func keep(_ events: [FleetEvent], last: UInt64? = nil) throws -> StoredBatch {
        try store.store(
            events: events, lastSequence: last ?? events.last?.sequence ?? 0,
            recordedAt: Samples.now, sinks: Sink.allCases)
    }

    @Test("a batch moves the cursor and leaves one annotation and one row a sink for each hold")
    func batch() throws {
        #expect(try store.cursor() == 0)
        let batch = try keep([Samples.other(1), Samples.holdFinished(2, step: 1)])
        #expect(batch.sequence == 2)
        #expect(batch.newAnnotationCount == 1)
        #expect(batch.gaps.isEmpty && !batch.hasBegunAnew)
        #expect(try store.cursor() == 2)
        guard case .holdFinished(let hold) = Samples.holdFinished(2, step: 1).body else { return }
        let annotation = Annotation(hold: hold, recordedAt: Samples.now)
        #expect(try store.annotations(limit: 10) == [annotation])
        #expect(try store.pending(.stdout, limit: 10).map(\.line) == [annotation.text])
        #expect(try store.pending(.file, limit: 10).map(\.line) == [annotation.json.compact])
    }

    @Test("repeated events, also under new numbers, add nothing")
    func repeated() throws {
        _ = try keep([Samples.holdFinished(1, step: 1), Samples.holdFinished(2, step: 2)])
        let again = try keep([Samples.holdFinished(1, step: 1), Samples.holdFinished(2, step: 2)])
        #expect(again.newAnnotationCount == 0)
        #expect(again.sequence == 2)
        let renumbered = try keep([Samples.holdFinished(3, step: 2)])
        #expect(renumbered.newAnnotationCount == 0)
        #expect(try store.annotations(limit: 10).count == 2)
        #expect(try store.pending(.file, limit: 10).count == 2)
    }

    @Test("a name that comes again for another hold is told and not stored")
    func conflicting() throws {
        _ = try keep([Samples.holdFinished(1, step: 1)])
        let batch = try keep([Samples.holdFinished(2, step: 1, heldAt: 5)])
        #expect(batch.conflictingIDs == ["rollout-1.1-t7-db-0"])
        #expect(try store.annotations(limit: 10).count == 1)
    }

    @Test("missing events are told and what follows is stored")
    func gap() throws {
        let first = try keep([Samples.other(5)])
        #expect(first.gaps.isEmpty, "a new notifier starts with what there is")
        let batch = try keep([Samples.holdFinished(9, step: 1), Samples.other(10)])
        #expect(batch.gaps == [.init(afterSequence: 5, beforeSequence: 9)])
        #expect(batch.sequence == 10)
        #expect(try store.annotations(limit: 10).count == 1)
    }

    @Test("a leader that has lost events is followed from its start, without loss or repetition")
    func begunAnew() throws {
        _ = try keep([Samples.holdFinished(1, step: 1), Samples.holdFinished(2, step: 2)])
        let rewound = try keep([], last: 1)
        #expect(rewound.hasBegunAnew)
        #expect(try store.cursor() == 0)
        // The first event is the one known, the second a new hold that reuses a name.
        let batch = try keep([
            Samples.holdFinished(1, step: 1), Samples.holdFinished(2, step: 2, heldAt: 77),
        ])
        #expect(batch.newAnnotationCount == 1)
        #expect(batch.conflictingIDs.isEmpty)
        #expect(
            try store.annotations(limit: 10).map(\.annotationID) == [
                "rollout-1.1-t7-db-0", "rollout-1.2-t7-db-0", "rollout-1.2-t7-db-0-history2",
            ])
        let third = try keep([Samples.holdFinished(3, step: 2, heldAt: 77)])
        #expect(third.newAnnotationCount == 0)
    }

    @Test("a sequence beyond what the database can hold is not taken")
    func absurdSequence() throws {
        let batch = try keep([Samples.other(1), Samples.holdFinished(.max, step: 1)])
        #expect(batch.sequence == 1)
        #expect(try store.annotations(limit: 1).isEmpty)
    }

    @Test("what is stored and not delivered is still there after a restart, and only that")
    func restart() throws {
        _ = try keep([Samples.holdFinished(1, step: 1), Samples.holdFinished(2, step: 2)])
        let first = try store.pending(.file, limit: 1)
        try store.markDelivered(first, at: Samples.now)
        try store.markDelivered(first, at: Samples.now)
        let reopened = try NotifierStore(path: store.path, cluster: "demo")
        #expect(try reopened.cursor() == 2)
        #expect(
            try reopened.pending(.file, limit: 10).map(\.annotationID) == ["rollout-1.2-t7-db-0"])
        #expect(try reopened.pending(.stdout, limit: 10).count == 2)
    }

    @Test("annotations are found by guest, set, host and rollout, the newest ones, oldest first")
    func filter() throws {
        _ = try keep([
            Samples.holdFinished(1, step: 1, guest: "db-0", set: "db", host: "a"),
            Samples.holdFinished(2, step: 2, guest: "web-0", set: nil, host: "a", rollout: 2),
            Samples.holdFinished(3, step: 3, guest: "db-1", set: "db", host: "b"),
        ])
        let reader = try NotifierStore(readingFrom: store.path)
        func guests(_ filter: AnnotationFilter, limit: Int = 10) throws -> [String] {
            try reader.annotations(filter, limit: limit).map(\.record.guest.rawValue)
        }
        #expect(try guests(.init(guest: GuestID("db-1"))) == ["db-1"])
        #expect(try guests(.init(set: SetID("db"))) == ["db-0", "db-1"])
        #expect(try guests(.init(host: HostID("a"))) == ["db-0", "web-0"])
        #expect(try guests(.init(rollout: RolloutID(2))) == ["web-0"])
        #expect(try guests(.init(host: HostID("a"), rollout: RolloutID(1))) == ["db-0"])
        #expect(try guests(.init(), limit: 2) == ["web-0", "db-1"])
    }

    @Test("a database that cannot be used says why")
    func unusable() throws {
        #expect(throws: NotifierStoreError.missing(path: scratch.path("none"))) {
            try NotifierStore(readingFrom: scratch.path("none"))
        }
        try scratch.write(String(repeating: "no database ", count: 500), to: "text")
        for open in [
            { try NotifierStore(readingFrom: $0) },
            { try NotifierStore(path: $0, cluster: "demo") },
        ] as [(String) throws -> NotifierStore] {
            let error = #expect(throws: NotifierStoreError.self) { try open(scratch.path("text")) }
            #expect(error?.description.contains("is damaged: file is not a database") == true)
        }
        let other = try DatabaseQueue(path: scratch.path("other.db"))
        try other.write { try $0.execute(sql: "CREATE TABLE t (a)") }
        #expect(throws: NotifierStoreError.foreign(path: scratch.path("other.db"))) {
            try NotifierStore(path: scratch.path("other.db"), cluster: "demo")
        }
        #expect(
            throws: NotifierStoreError.otherCluster(
                path: store.path, cluster: "demo", wanted: "live")
        ) { try NotifierStore(path: store.path, cluster: "live") }
        let error = #expect(throws: NotifierStoreError.self) {
            try NotifierStore(path: scratch.path("no/such/directory/n.db"), cluster: "demo")
        }
        #expect(error?.description.contains("cannot open the notifier database") == true)
    }

    @Test("overwritten pages are noticed when the notifier starts")
    func damagedPages() throws {
        let events = (1...200).map { Samples.holdFinished(UInt64($0), step: UInt32($0)) }
        _ = try keep(events)
        let path = scratch.path("copy.db")
        try DatabaseQueue(path: store.path).backup(to: DatabaseQueue(path: path))
        let file = try #require(FileHandle(forUpdatingAtPath: path))
        try file.seek(toOffset: 4096 * 3)
        try file.write(contentsOf: Data(repeating: 0xA5, count: 4096 * 6))
        try file.close()
        let error = #expect(throws: NotifierStoreError.self) {
            try NotifierStore(path: path, cluster: "demo")
        }
        guard case .damaged = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }
}

@Suite struct LineFileTests {
    let scratch: Scratch
    let file: LineFile

    init() throws {
        scratch = try Scratch()
        file = LineFile(path: scratch.path("lines.jsonl"))
    }

    @Test("lines are appended in order, and a file that is not there is made")
    func append() throws {
        #expect(try file.recover(["a"]).isEmpty)
        try file.append(["a", "b"])
        try file.append(["c"])
        #expect(try scratch.text("lines.jsonl") == "a\nb\nc\n")
    }

    @Test("a line that was written before the crash is found again")
    func written() throws {
        try file.append(["first", "second"])
        #expect(try file.recover(["second", "third"]) == ["second"])
        #expect(try scratch.text("lines.jsonl") == "first\nsecond\n")
    }

    @Test("a line torn by the crash is cut off, to be written whole")
    func torn() throws {
        try scratch.write("first\nseco", to: "lines.jsonl")
        #expect(try file.recover(["second"]).isEmpty)
        #expect(try scratch.text("lines.jsonl") == "first\n")
        try file.append(["second"])
        #expect(try scratch.text("lines.jsonl") == "first\nsecond\n")
    }

    @Test("a whole line that lacks only its line feed is written again, once")
    func lacksLineFeed() throws {
        try scratch.write("first\nsecond", to: "lines.jsonl")
        #expect(try file.recover(["second"]).isEmpty)
        #expect(try scratch.text("lines.jsonl") == "first\n")
    }

    @Test("somebody else's last line is kept")
    func foreign() throws {
        try scratch.write("a note", to: "lines.jsonl")
        #expect(try file.recover(["second"]).isEmpty)
        #expect(try scratch.text("lines.jsonl") == "a note\n")
    }

    @Test("only the end of a long file is read")
    func long() throws {
        let old = (0..<20_000).map { "line \($0)" }
        try file.append(old)
        #expect(try file.recover(["line 19999", "line 20000"]) == ["line 19999"])
    }

    @Test("a path that cannot be written says so")
    func failure() throws {
        let directory = LineFile(path: scratch.directory)
        #expect(throws: LineFile.Failure.self) { try directory.append(["a"]) }
    }
}
