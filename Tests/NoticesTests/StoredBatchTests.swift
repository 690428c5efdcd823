import Fleet
import Notices
import Testing

@Suite struct StoredBatchTests {
    let record = MemoryRecord()

    private func store(
        _ events: [FleetEvent], last: UInt64? = nil
    ) throws(MemoryRecord.Failure) -> StoredBatch {
        try record.store(
            events: events, lastSequence: last ?? events.last?.sequence ?? 0,
            recordedAt: Samples.now, sinks: [Sink(id: .stdout), Sink(id: .file)])
    }

    private var ids: [String] { record.contents.annotations.map(\.annotationID) }

    @Test("each hold becomes one annotation and a line for each sink, other events only a number")
    func folds() throws {
        let batch = try store([Samples.other(1), Samples.holdFinished(2, step: 1)])
        #expect(batch.sequence == 2 && batch.newAnnotationCount == 1)
        #expect(ids == ["rollout-1.1-t7-db-0"])
        #expect(record.contents.outbox.map(\.sink) == [.stdout, .file])
        #expect(record.contents.outbox[0].item.bulletin == record.contents.bulletins[0])
    }

    @Test("a guest is told that its hold begins, and that it will not take place")
    func cancelled() throws {
        let step = StepID(rollout: RolloutID(1), number: 3)
        let guests = [GuestID(checked: "a"), GuestID(checked: "b")]
        let granted = FleetEvent(
            sequence: 1, at: Samples.now,
            body: .stepGranted(
                step: step, host: HostID(checked: "h"), guests: guests, pairs: [],
                release: ReleaseID(checked: "r"), component: .network, version: "2"))
        let ended = FleetEvent(
            sequence: 2, at: Samples.now,
            body: .stepEndedWithoutHold(step: step, host: HostID(checked: "h"), reason: "busy"))
        let over = FleetEvent(
            sequence: 3, at: Samples.now,
            body: .stepEnded(step: step, host: HostID(checked: "h"), outcome: nil, reason: "busy"))
        _ = try store([granted, ended, over])
        let told = record.contents.bulletins
        #expect(told.map(\.state) == [.started, .started, .cancelled, .cancelled])
        #expect(told.map(\.guest) == guests + guests && told[3].reason == "busy")
        #expect(record.contents.outbox.isEmpty, "sinks get annotations unless they ask for more")
    }

    @Test("whoever was told that a hold begins is told that the guest is available after all")
    func availableAgain() throws {
        let notice = BoardSamples.notice(1, ["db-0"], sets: ["db"])
        let ended = FleetEvent.Body.stepEndedWithoutHold(
            step: notice.step, host: notice.host, reason: "the artifact's digest is wrong")
        let withdrawn = BoardSamples.notice(2, ["db-1"], sets: ["db"])
        _ = try store([
            BoardSamples.event(1, .stepNoticed(notice)), BoardSamples.granted(2, notice),
            BoardSamples.event(3, .stepNoticed(withdrawn)), BoardSamples.event(4, ended),
            BoardSamples.event(5, .noticeWithdrawn(step: withdrawn.step, reason: "lunch")),
        ])
        let told = record.contents.bulletins
        #expect(told.map(\.state) == [.noticed, .started, .noticed, .cancelled, .cancelled])
        let renderer = BulletinRenderer(cluster: "demo")
        func body(_ index: Int, _ format: BulletinFormat) -> String? {
            renderer.render(told[index], as: format)
                .map { String(decoding: $0.body, as: UTF8.self) }
        }
        func becomes(_ index: Int, _ state: String) -> Bool {
            body(index, .availabilityStatus)?.contains(#""availabilityState":"\#(state)""#) ?? false
        }
        #expect(becomes(1, "Unavailable") && becomes(3, "Available"))
        #expect(body(3, .resourceHealth)?.contains("VirtualMachinePlannedFreezeFailed") == true)
        #expect(body(3, .text)?.contains("it was not") == true)
        #expect(body(4, .availabilityStatus) == nil && body(4, .resourceHealth) == nil)
        #expect(body(4, .text)?.contains("this will not take place") == true)
    }

    @Test("a guest that was not held with its host is told so at the end of the rollout")
    func notHeld() throws {
        let step = StepID(rollout: RolloutID(1), number: 1)
        let granted = FleetEvent(
            sequence: 1, at: Samples.now,
            body: .stepGranted(
                step: step, host: HostID(checked: "h"),
                guests: ["db-0", "db-1"].map { GuestID(checked: $0) }, pairs: [],
                release: ReleaseID(checked: "r"), component: .network, version: "2"))
        _ = try store([granted, Samples.holdFinished(2, step: 1)])
        #expect(record.contents.bulletins.count == 3)
        _ = try store([Samples.other(3), Samples.other(4)])
        let told = record.contents.bulletins.dropFirst(3)
        #expect(told.map(\.state) == [.cancelled] && told.map(\.guest.rawValue) == ["db-1"])
        #expect(told.first?.reason == "its step ended without a hold of this guest")
    }

    @Test("sinks of a set are told of its guests, and of no others, when a whole host is held")
    func setsOfAHost() throws {
        let guests = ["db-0", "lone", "web-0"].map { GuestID(checked: $0) }
        let db = Samples.pair("db", 1)
        let web = Samples.pair("web", 0)
        let granted = FleetEvent(
            sequence: 1, at: Samples.now,
            body: .stepGranted(
                step: StepID(rollout: RolloutID(1), number: 3), host: HostID(checked: "h"),
                guests: guests, pairs: [db, web], release: ReleaseID(checked: "r"),
                component: .network, version: "2"))
        func view(_ pair: SetPair, _ guest: GuestID) -> SetView {
            SetView(
                id: pair.set, updateDomainCount: 5,
                domains: [.init(updateDomain: pair.updateDomain, guests: [guest])],
                lockedUpdateDomain: nil, warnings: [])
        }
        let filter = BulletinFilter(states: [.started], sets: [db.set])
        let sink = Sink(id: SinkID(checked: "db"), filter: filter)
        func told(_ book: SetBook) throws -> [String] {
            let record = MemoryRecord()
            _ = try record.store(
                events: [granted], lastSequence: 1, recordedAt: Samples.now, sinks: [sink],
                book: book)
            #expect(record.contents.bulletins.map(\.guest) == guests)
            return record.pending(sink.id, limit: 9).map(\.bulletin.guest.rawValue)
        }
        let whole = SetBook([view(db, guests[0]), view(web, guests[2])])
        #expect(try told(whole) == ["db-0"])
        #expect(!whole.isDoubted(by: [Samples.other(1)]) && whole.isDoubted(by: [granted]))
        // What is not known may be of the set.
        #expect(try told(SetBook()) == ["db-0", "lone", "web-0"])
        #expect(try told(SetBook([view(db, guests[0])])) == ["db-0"])
        #expect(try told(SetBook([view(web, guests[2])])) == ["db-0", "lone"])
    }

    @Test("for one host its finished holds are recorded, and the cursor goes on with every event")
    func ofOneHost() throws {
        let record = MemoryRecord()
        var other = Samples.holdFinished(2, step: 2)
        guard case .holdFinished(var hold) = other.body else { return }
        let host = hold.host
        hold.host = HostID(checked: "elsewhere")
        other.body = .holdFinished(hold)
        let granted = FleetEvent(
            sequence: 3, at: Samples.now,
            body: .stepGranted(
                step: StepID(rollout: RolloutID(1), number: 3), host: host,
                guests: [hold.record.guest], pairs: [], release: ReleaseID(checked: "r"),
                component: .network, version: "2"))
        let batch = try record.store(
            events: [Samples.holdFinished(1, step: 1), other, granted], lastSequence: 3,
            recordedAt: Samples.now, sinks: [], host: host)
        #expect(batch.newAnnotationCount == 1 && batch.sequence == 3 && batch.gaps.isEmpty)
        #expect(record.contents.bulletins.map(\.host) == [host])
        #expect(record.contents.bulletins.map(\.state) == [.succeeded])
    }

    @Test("how large its set was is kept with a hold's bulletin")
    func setSize() throws {
        var event = Samples.holdFinished(1, step: 1)
        guard case .holdFinished(var hold) = event.body else { return }
        hold.pair = Samples.pair("db", 0)
        event.body = .holdFinished(hold)
        let domains = (0...2).compactMap { number in
            UpdateDomain(number).map {
                SetView.Domain(updateDomain: $0, guests: [GuestID(checked: "db-\(number)")])
            }
        }
        let view = SetView(
            id: SetID(checked: "db"), updateDomainCount: 5, domains: domains,
            lockedUpdateDomain: nil, warnings: [])
        _ = try record.store(
            events: [event], lastSequence: 1, recordedAt: Samples.now, sinks: [],
            book: SetBook([view]))
        #expect(
            record.contents.bulletins.map(\.setSize) == [
                SetSize(guestCount: 3, updateDomainCount: 3)
            ])
    }

    @Test("what is known by number, or by name and start, adds nothing")
    func known() throws {
        _ = try store([Samples.holdFinished(1, step: 1)])
        #expect(try store([Samples.holdFinished(1, step: 1)]).newAnnotationCount == 0)
        let renumbered = try store([Samples.holdFinished(2, step: 1)])
        #expect(renumbered.newAnnotationCount == 0 && renumbered.conflictingIDs.isEmpty)
        #expect(record.cursor() == 2 && ids.count == 1)
    }

    @Test("another hold under a known name conflicts, unless the events have begun anew")
    func conflicting() throws {
        _ = try store([Samples.holdFinished(1, step: 1)])
        let second = try store([Samples.holdFinished(2, step: 1, heldAt: 5)])
        #expect(second.conflictingIDs == ["rollout-1.1-t7-db-0"] && second.sequence == 2)
        #expect(try store([], last: 1).hasBegunAnew)
        #expect(record.contents.position == FollowPosition(sequence: 0, history: 2))
        let anew = try store([Samples.holdFinished(1, step: 1, heldAt: 5)])
        #expect(anew.newAnnotationCount == 1 && anew.conflictingIDs.isEmpty)
        #expect(ids == ["rollout-1.1-t7-db-0", "rollout-1.1-t7-db-0-history2"])
        #expect(try store([Samples.holdFinished(2, step: 1, heldAt: 5)]).newAnnotationCount == 0)
    }

    @Test("missing numbers are a gap, but not before the first event of all")
    func gap() throws {
        #expect(try store([Samples.other(5)]).gaps.isEmpty)
        let batch = try store([Samples.other(9), Samples.other(10), Samples.other(12)])
        let expected = [
            EventGap(afterSequence: 5, beforeSequence: 9),
            EventGap(afterSequence: 10, beforeSequence: 12),
        ]
        #expect(batch.gaps == expected && record.contents.gaps == expected)
    }

    @Test("a number beyond what a record can hold ends the batch")
    func absurd() throws {
        let batch = try store([Samples.other(1), Samples.other(.max), Samples.other(2)])
        #expect(batch.sequence == 1)
    }

    @Test("a batch that dies at any write has not happened", arguments: 0..<4)
    func dies(writes: Int) throws {
        _ = try store([Samples.other(1)])
        record.writesLeft = writes
        let events = [Samples.holdFinished(3, step: 1), Samples.holdFinished(4, step: 2)]
        #expect(throws: MemoryRecord.Failure.self) { try store(events) }
        #expect(record.cursor() == 1 && ids.isEmpty && record.contents.gaps.isEmpty)
        record.writesLeft = nil
        #expect(try store(events).newAnnotationCount == 2)
    }
}
