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
            recordedAt: Samples.now, sinks: [Sink(id: .stdout), Sink(id: .file)])
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
        for sink in [SinkID.stdout, .file] {
            let items = try store.pending(sink, after: 0, limit: 10)
            #expect(items.map(\.bulletin.annotation) == [annotation])
            #expect(items.map(\.bulletin.sequence) == [2] && items.map(\.attempts) == [0])
        }
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
        #expect(try store.pending(.file, after: 0, limit: 10).count == 2)
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
        let first = try store.pending(.file, after: 0, limit: 1)
        let marks = first.map { OutboxMark(number: $0.number, change: .delivered) }
        try store.mark(marks, at: Samples.now)
        try store.mark(marks, at: Samples.now)
        let reopened = try NotifierStore(path: store.path, cluster: "demo")
        #expect(try reopened.cursor() == 2)
        #expect(
            try reopened.pending(.file, after: 0, limit: 10).map(\.bulletin.id)
                == ["rollout-1.2-t7-db-0"])
        #expect(try reopened.pending(.stdout, after: 0, limit: 10).count == 2)
    }

    @Test("a dead letter is listed, replayed behind all others, or dropped; others stay")
    func deadLetters() throws {
        _ = try keep((1...3).map { Samples.holdFinished($0, step: UInt32($0)) })
        let items = try store.pending(.file, after: 0, limit: 9)
        let next = Timestamp(microseconds: 7)
        try store.mark(
            [
                OutboxMark(number: items[0].number, change: .dead(attempts: 3, reason: "no")),
                OutboxMark(
                    number: items[1].number,
                    change: .failed(
                        attempts: 5, refusals: 1, nextAttemptAt: next, reason: "away")),
            ], at: Samples.now)
        let left = try store.pending(.file, after: 0, limit: 9)
        #expect(left.map(\.attempts) == [5, 0] && left[0].nextAttemptAt == next)
        #expect(left.map(\.refusals) == [1, 0])
        #expect(try store.settledUpTo(.file) == 1)
        let operatorStore = try NotifierStore(existing: store.path, mayChange: true)
        let letters = try operatorStore.deadLetters(DeadLetterFilter(), limit: 9)
        #expect(letters.map(\.bulletinID) == ["rollout-1.1-t7-db-0"] && letters[0].reason == "no")
        let before = try store.changeNumber()
        #expect(try operatorStore.replay(DeadLetterFilter(sink: .stdout)) == 0)
        #expect(try operatorStore.replay(DeadLetterFilter(sink: .file)) == 1)
        #expect(try store.changeNumber() != before)
        #expect(
            try store.pending(.file, after: left[1].number, limit: 9).map(\.bulletin.id)
                == ["rollout-1.1-t7-db-0"])
        // Nothing pending is put there twice.
        #expect(try operatorStore.replay(AnnotationFilter(), to: .file, now: Samples.now) == 0)
        #expect(try operatorStore.drop(DeadLetterFilter()) == 0)
        // What another notifier has delivered was due before: what was put in again still is.
        try store.markDelivered(.file, upTo: 3, at: Samples.now)
        #expect(
            try store.pending(.file, after: 0, limit: 9).map(\.bulletin.id)
                == ["rollout-1.1-t7-db-0"])
        #expect(try store.settledUpTo(.file) == 3)
        #expect(try operatorStore.replay(AnnotationFilter(), to: .file, now: Samples.now) == 2)
    }

    @Test("what waits for a sink that is none any more is let go, and nothing of others")
    func dropPending() throws {
        _ = try keep((1...3).map { Samples.holdFinished($0, step: UInt32($0)) })
        let items = try store.pending(.file, after: 0, limit: 9)
        try store.mark(
            [
                OutboxMark(number: items[0].number, change: .delivered),
                OutboxMark(number: items[1].number, change: .dead(attempts: 3, reason: "no")),
            ], at: Samples.now)
        #expect(try store.isKnown(.file) && !store.isKnown(SinkID(checked: "nope")))
        let all = DeadLetterFilter(sink: .file, includesPending: true)
        #expect(try store.deadLetters(all, limit: 9).count == 1)
        #expect(try store.drop(all) == 2)
        #expect(try store.pending(.file, after: 0, limit: 9).isEmpty)
        #expect(try store.deadLetters(DeadLetterFilter(), limit: 9).isEmpty)
        #expect(try store.pending(.stdout, after: 0, limit: 9).count == 3)
        #expect(try store.isKnown(.file))
    }

    @Test("a record is shown with the time that sinks were told, as long as it is kept")
    func timeOfRecord() throws {
        _ = try keep([Samples.holdFinished(1, step: 1)])
        let told = try store.pending(.file, after: 0, limit: 1).map(\.bulletin)
        #expect(told.map(\.at) != [Samples.now])
        #expect(try store.bulletin(ofAnnotation: told[0].id) == told[0])
        #expect(try store.bulletins(limit: 9) == told)
        let later = Timestamp(microseconds: Samples.now.microseconds + 86_400_000_000 * 401)
        #expect(try store.deleteOld(Retention(), now: later, countMax: 2).count == 1)
        #expect(try store.bulletin(ofAnnotation: told[0].id)?.at == Samples.now)
    }

    @Test("much is replayed in parts, each once, and a notifier at work writes in between")
    func largeReplay() throws {
        let count = NotifierStore.partCountMax * 2 + 500
        _ = try keep((1...count).map { Samples.holdFinished(UInt64($0), step: UInt32($0)) })
        let all = try store.pending(.file, after: 0, limit: count + 1)
        try store.mark(
            all.map { OutboxMark(number: $0.number, change: .dead(attempts: 1, reason: "no")) },
            at: Samples.now)
        let other = try NotifierStore(existing: store.path, mayChange: true)
        let commits = Commits()
        other.queue.add(transactionObserver: commits)
        #expect(try other.replay(DeadLetterFilter(sink: .file)) == count)
        #expect(commits.count == 3)
        let again = try store.pending(.file, after: all.last?.number ?? 0, limit: count + 1)
        #expect(again.map(\.bulletin.id) == all.map(\.bulletin.id))
        #expect(try other.replay(AnnotationFilter(), to: .file, now: Samples.now) == 0)
        let hook = SinkID(checked: "hook")
        #expect(try other.replay(AnnotationFilter(), to: hook, now: Samples.now) == count)
        #expect(try store.pending(hook, after: 0, limit: count + 1).count == count)
        try store.mark(
            again.map { OutboxMark(number: $0.number, change: .dead(attempts: 1, reason: "no")) },
            at: Samples.now)
        #expect(try other.drop(DeadLetterFilter()) == count)
        #expect(try other.deadLetters(DeadLetterFilter(), limit: 1).isEmpty)
    }

    @Test("changes that are made together come true together, or none of them")
    func together() throws {
        let step = StepID(rollout: RolloutID(1), number: 1)
        let guest = GuestID(checked: "db-0")
        func change(fails: Bool) throws(NotifierStoreError) {
            try store.together { () throws(NotifierStoreError) in
                _ = try store.store(
                    events: [Samples.holdFinished(1, step: 1)], lastSequence: 1,
                    recordedAt: Samples.now, sinks: [Sink(id: .file)])
                try store.save(PendingAcknowledgement(step: step, guest: guest))
                // What has been done is seen within.
                #expect(try store.cursor() == 1)
                #expect(try store.pending(.file, after: 0, limit: 9).count == 1)
                if fails { throw NotifierStoreError.missing(path: "x") }
            }
        }
        #expect(throws: NotifierStoreError.missing(path: "x")) { try change(fails: true) }
        #expect(try store.cursor() == 0 && store.annotations(limit: 9).isEmpty)
        #expect(try store.pendingAcknowledgements().isEmpty)
        try change(fails: false)
        #expect(try store.cursor() == 1 && store.annotations(limit: 9).count == 1)
        #expect(try store.pendingAcknowledgements().count == 1)
        // Marks are written in a lighter way; what comes after them is not.
        let items = try store.pending(.file, after: 0, limit: 9)
        try store.mark(
            [OutboxMark(number: items[0].number, change: .delivered)], at: Samples.now)
        #expect(try store.pending(.file, after: 0, limit: 9).isEmpty)
        let synchronous = try store.queue.read { try Int.fetchOne($0, sql: "PRAGMA synchronous") }
        #expect(synchronous == 2)
    }

    @Test("the newest of a step is found; possible sets and the size of its set are kept")
    func newestOfStep() throws {
        let step = StepID(rollout: RolloutID(1), number: 1)
        let guests = ["db-0", "db-1"].map { GuestID(checked: $0) }
        let pairs = (0...1).compactMap { number in
            UpdateDomain(number).map {
                SetPair(set: SetID(checked: "db-\(number)"), updateDomain: $0)
            }
        }
        let granted = FleetEvent(
            sequence: 1, at: Samples.now,
            body: .stepGranted(
                step: step, host: HostID(checked: "a"), guests: guests, pairs: pairs,
                release: ReleaseID(checked: "r"), component: .network, version: "2"))
        _ = try keep([granted])
        let told = try store.newestBulletins(of: step)
        #expect(told.map(\.state) == [.started, .started])
        #expect(told.map(\.possiblePairs) == [pairs, pairs])
        #expect(try store.bulletin(told[0].id) == told[0])
        var event = Samples.holdFinished(2, step: 1)
        guard case .holdFinished(var hold) = event.body else { return }
        hold.pair = pairs[0]
        event.body = .holdFinished(hold)
        let view = SetView(
            id: pairs[0].set, updateDomainCount: 5,
            domains: [.init(updateDomain: pairs[0].updateDomain, guests: [guests[0]])],
            lockedUpdateDomain: nil, warnings: [])
        _ = try store.store(
            events: [event], lastSequence: 2, recordedAt: Samples.now, sinks: [Sink(id: .file)],
            book: SetBook([view]))
        let size = SetSize(guestCount: 1, updateDomainCount: 1)
        #expect(try store.newestBulletins(of: step).map(\.state) == [.succeeded, .started])
        #expect(try store.pending(.file, after: 0, limit: 9).map(\.bulletin.setSize) == [size])
        #expect(try store.bulletin(ofAnnotation: hold.holdID)?.setSize == size)
        // The rollout is over: whoever was not held is told so.
        _ = try keep([Samples.other(3)])
        #expect(try store.newestBulletins(of: step).map(\.state) == [.succeeded, .cancelled])
    }

    @Test("what is old is deleted, annotations only if that is wanted")
    func retention() throws {
        let told = try keep((1...3).map { Samples.holdFinished($0, step: UInt32($0)) })
        #expect(told.newAnnotationCount == 3)
        let later = Timestamp(microseconds: Samples.now.microseconds + 86_400_000_000 * 401)
        func deleted(
            _ now: Timestamp, _ countMax: Int, _ retention: Retention = Retention()
        ) throws -> [Int] {
            let deleted = try store.deleteOld(retention, now: now, countMax: countMax)
            return [deleted.count, deleted.undelivered]
        }
        let first = try store.pending(.file, after: 0, limit: 1)
        try store.mark(
            first.map { OutboxMark(number: $0.number, change: .delivered) }, at: Samples.now)
        #expect(try deleted(Samples.now, 9) == [0, 0])
        #expect(try deleted(later, 2) == [2, 3])
        #expect(try deleted(later, 2) == [1, 2])
        #expect(try store.pending(.file, after: 0, limit: 9).isEmpty)
        #expect(try store.annotations(limit: 9).count == 3)
        let longest = Retention(
            bulletinDays: Retention.daysMax, annotationDays: Retention.daysMax)
        #expect(try deleted(later, 9, longest) == [0, 0])
        // What is sent again has its bulletin made anew, and keeps it.
        #expect(try store.replay(AnnotationFilter(), to: .file, now: later) == 3)
        #expect(try store.replay(AnnotationFilter(), to: .file, now: later) == 0)
        let again = try store.pending(.file, after: 0, limit: 9).map(\.bulletin)
        #expect(again.map(\.id) == (try store.annotations(limit: 9)).map(\.annotationID))
        #expect(again.allSatisfy { $0.annotation != nil && $0.state == .succeeded })
        #expect(try deleted(later, 9) == [0, 0])
        let all = Retention(bulletinDays: 400, annotationDays: 400)
        #expect(try deleted(later, 9, all) == [3, 0])
        #expect(try store.annotations(limit: 9).isEmpty)
    }

    @Test("a database of the first version keeps its annotations and what was pending")
    func migration() throws {
        let path = scratch.path("old.db")
        let old = try DatabaseQueue(path: path)
        try notifierMigrator.migrate(old, upTo: "1 annotations and outbox")
        try old.write { database in
            try database.execute(
                sql: """
                    INSERT INTO follower VALUES (1, 'demo', 8, 1);
                    INSERT INTO annotation VALUES (1, 'rollout-1.1-t7-db-0', 8, 'db-0', 'a', 'db', 0, 1,
                        1, 7, 'q', 'hypervisor', '2', 5, 14200, 'failed', 'why', 'agent', NULL, NULL,
                        '', '1', '2', 9);
                    INSERT INTO outbox VALUES (4, 'rollout-1.1-t7-db-0', 'stdout', 'x', 3);
                    INSERT INTO outbox VALUES (5, 'rollout-1.1-t7-db-0', 'file', 'x', NULL);
                    """)
        }
        try old.close()
        let store = try NotifierStore(path: path, cluster: "demo")
        #expect(try store.cursor() == 8)
        let pending = try store.pending(.file, after: 0, limit: 9)
        #expect(pending.map(\.number) == [5])
        #expect(pending.first?.bulletin.state == .failed)
        #expect(try store.annotations(limit: 9) == pending.compactMap(\.bulletin.annotation))
        #expect(try store.pending(.stdout, after: 0, limit: 9).isEmpty)
    }

    @Test("what was cancelled after its start is known as that, also from an older version")
    func cancelledAfterStart() throws {
        let path = scratch.path("older.db")
        let old = try DatabaseQueue(path: path)
        try notifierMigrator.migrate(old, upTo: "4 rows put in again")
        try old.write { database in
            try database.execute(sql: "INSERT INTO follower VALUES (1, 'demo', 8, 1)")
            for (id, state) in [
                ("s-noticed-1", "noticed"), ("s-started-2", "started"),
                ("s-started-2-cancelled", "cancelled"), ("t-noticed-3", "noticed"),
                ("t-noticed-3-cancelled", "cancelled"),
            ] {
                try database.execute(
                    sql: """
                        INSERT INTO bulletin (bulletinId, state, history, sequence, atMicroseconds,
                            guest, host, rollout, step, release, component, version, reason,
                            recordedAtMicroseconds)
                        VALUES (?, ?, 1, 1, 1, 'db-0', 'a', 1, 1, 'q', 'hypervisor', '2', '', 1)
                        """, arguments: [id, state])
            }
        }
        try old.close()
        let store = try NotifierStore(path: path, cluster: "demo")
        #expect(try store.bulletin("s-started-2-cancelled")?.wasStarted == true)
        #expect(try store.bulletin("t-noticed-3-cancelled")?.wasStarted == false)
        #expect(try store.bulletin("s-started-2")?.wasStarted == false)
        let step = StepID(rollout: RolloutID(2), number: 1)
        let granted = FleetEvent.Body.stepGranted(
            step: step, host: HostID(checked: "a"), guests: [GuestID(checked: "db-0")], pairs: [],
            release: ReleaseID(checked: "q"), component: .hypervisor, version: "2")
        let ended = FleetEvent.Body.stepEndedWithoutHold(
            step: step, host: HostID(checked: "a"), reason: "busy")
        _ = try store.store(
            events: [
                FleetEvent(sequence: 9, at: Samples.now, body: granted),
                FleetEvent(sequence: 10, at: Samples.now, body: ended),
            ], lastSequence: 10, recordedAt: Samples.now, sinks: [])
        #expect(try store.newestBulletins(of: step).map(\.wasStarted) == [true])
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

private final class Commits: TransactionObserver {
    private(set) var count = 0
    func observes(eventsOfKind eventKind: DatabaseEventKind) -> Bool { false }
    func databaseDidChange(with event: DatabaseEvent) {}
    func databaseDidCommit(_ db: Database) { count += 1 }
    func databaseDidRollback(_ db: Database) {}
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
