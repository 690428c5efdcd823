import Fleet
import Notices
import Testing

@Suite struct NoticeBoardTests {
    typealias S = BoardSamples

    @Test("a guest sees the events of its own set, or of itself, and nothing else")
    func seesItsOwn() {
        var board = S.board()
        let host = S.notice(1, ["db-0", "lone", "web-0"], sets: ["db", "web"])
        #expect(board.apply(S.event(1, .stepNoticed(host))) == .changed)
        #expect(board.resources("db-0") == [["db-0"]])
        #expect(board.resources("db-1") == [["db-0"]])
        #expect(board.resources("web-0") == [["web-0"]])
        #expect(board.resources("lone") == [["lone"]])
        let alone = S.notice(2, ["lone"], sets: [])
        #expect(board.apply(S.event(2, .stepNoticed(alone))) == .changed)
        #expect(board.resources("lone") == [["lone"], ["lone"]])
        #expect(board.resources("db-0") == [["db-0"]])
    }

    @Test("the incarnation is the sequence of the last event that changed the document, + 1")
    func numbers() {
        var board = S.board(sequence: 40)
        #expect(board.document("db-0").incarnation == 41)
        let notice = S.notice(1, ["db-0"], sets: ["db"])
        let steps: [(FleetEvent, BoardOutcome, UInt64)] = [
            (S.event(41, .stepNoticed(notice)), .changed, 42),
            (
                S.event(42, .noticeAcknowledged(step: notice.step, guest: notice.guests[0])),
                .unchanged, 42
            ),
            (
                S.event(
                    43,
                    .rolloutChanged(rollout: notice.step.rollout, state: .running, reason: "")),
                .unchanged, 42
            ),
            (S.granted(44, notice), .changed, 45),
            (S.held(45, notice, "db-0"), .changed, 46),
            (
                S.event(
                    46,
                    .stepEnded(
                        step: notice.step, host: notice.host, outcome: .succeeded, reason: "")),
                .unchanged, 46
            ),
        ]
        for (event, outcome, incarnation) in steps {
            #expect(board.apply(event) == outcome, "\(event.sequence)")
            #expect(board.document("db-0").incarnation == incarnation, "\(event.sequence)")
            #expect(board.document("db-1").incarnation == incarnation, "\(event.sequence)")
            #expect(board.document("web-0").incarnation == 41)
        }
        #expect(board.document("db-0").events.isEmpty)
        #expect(board.cursor == 46)
    }

    @Test("whatever ends a step takes its event away", arguments: 0..<4)
    func ends(_ way: Int) {
        var board = S.board()
        let notice = S.notice(1, ["db-0"], sets: ["db"])
        _ = board.apply(S.event(1, .stepNoticed(notice)))
        let body: FleetEvent.Body =
            switch way {
            case 0: .noticeWithdrawn(step: notice.step, reason: "its window is over")
            case 1: .stepEndedWithoutHold(step: notice.step, host: notice.host, reason: "busy")
            case 2: .stepEnded(step: notice.step, host: notice.host, outcome: nil, reason: "")
            default: S.held(2, notice, "db-0").body
            }
        #expect(board.apply(S.event(2, body)) == .changed)
        #expect(board.document("db-1") == EventDocument(incarnation: 3, events: []))
    }

    @Test("a guest that is confirmed goes from its event, the others stay")
    func partly() {
        var board = S.board()
        let notice = S.notice(1, ["db-0", "web-0"], sets: ["db", "web"])
        _ = board.apply(S.event(1, .stepNoticed(notice)))
        #expect(board.apply(S.held(2, notice, "db-0")) == .changed)
        #expect(board.resources("db-1").isEmpty && board.resources("web-0") == [["web-0"]])
        #expect(board.document("web-0").incarnation == 2)
    }

    @Test("with its rollout a step's event goes, also of guests that were not held")
    func rolloutIsOver() {
        var board = S.board()
        let notice = S.notice(1, ["db-0", "web-0"], sets: ["db", "web"], isStarted: true)
        var other = S.notice(2, ["lone"], sets: [])
        other.step = StepID(rollout: RolloutID(8), number: 1)
        _ = board.apply(S.granted(1, notice))
        _ = board.apply(S.event(2, .stepNoticed(other)))
        #expect(board.apply(S.held(3, notice, "db-0")) == .changed)
        func changed(_ sequence: UInt64, _ state: RolloutState) -> FleetEvent {
            let rollout = notice.step.rollout
            return S.event(
                sequence, .rolloutChanged(rollout: rollout, state: state, reason: ""))
        }
        #expect(board.apply(changed(4, .stopping)) == .unchanged)
        #expect(board.resources("web-0") == [["web-0"]])
        #expect(board.apply(changed(5, .failed)) == .changed)
        #expect(board.resources("web-0").isEmpty && board.document("web-0").incarnation == 6)
        #expect(board.document("db-0").incarnation == 4)
        #expect(board.resources("lone") == [["lone"]])
        #expect(board.takeChanges()?.removed == [notice.step])
    }

    @Test("a step without notice is told as started, the same by event and by query")
    func unnoticed() {
        var seen = S.board()
        let notice = S.notice(1, ["db-0"], sets: ["db"], isStarted: true)
        #expect(seen.apply(S.granted(1, notice)) == .changed)
        var told = notice
        told.notBefore = told.noticedAt
        var loaded = S.board()
        loaded.load([told], sequence: 1)
        #expect(seen.document("db-0") == loaded.document("db-0"))
        #expect(seen.document("db-0").events.first?.isStarted == true)
        #expect(seen.document("db-0").events.first?.durationSeconds == -1)
    }

    @Test("a missing event is a gap, and a repeated one is nothing")
    func gap() {
        var board = S.board(sequence: 5)
        let notice = S.notice(1, ["db-0"], sets: ["db"])
        #expect(board.apply(S.event(5, .stepNoticed(notice))) == .unchanged)
        #expect(board.apply(S.event(7, .stepNoticed(notice))) == .gap)
        #expect(board.cursor == 5 && board.document("db-0").events.isEmpty)
        board.load([notice], sequence: 9)
        #expect(board.document("db-0").incarnation == 10)
        // Loading the same again changes nothing that a guest could see.
        board.load([notice], sequence: 12)
        #expect(board.document("db-0").incarnation == 10)
        #expect(board.document("web-0").incarnation == 6)
    }

    @Test("a leader restored from a backup never makes a number go back")
    func restored() {
        var board = S.board(sequence: 100)
        let notice = S.notice(1, ["db-0"], sets: ["db"])
        _ = board.apply(S.event(101, .stepNoticed(notice)))
        board.load([], sequence: 30)
        let emptied = board.document("db-0").incarnation
        #expect(emptied > 102)
        #expect(board.document("web-0").incarnation == 101)
        #expect(board.apply(S.event(31, .stepNoticed(notice))) == .changed)
        #expect(board.document("db-0").incarnation > emptied)
    }

    @Test("a restart goes on with the same numbers, and with events since then")
    func restart() throws {
        var board = S.board(sequence: 10)
        let notice = S.notice(1, ["db-0"], sets: ["db"])
        _ = board.apply(S.event(11, .stepNoticed(notice)))
        let changes = board.takeChanges()
        let memory = try #require(changes)
        let nothing = board.takeChanges()
        #expect(nothing == nil)
        var again = NoticeBoard(memory)
        #expect(!again.isReady)
        again.take(S.guests)
        #expect(again.isReady && again.document("db-0") == board.document("db-0"))
        #expect(again.document("web-0") == board.document("web-0"))
        #expect(again.apply(S.granted(12, notice)) == .changed)
        #expect(board.apply(S.granted(12, notice)) == .changed)
        #expect(again.document("db-0") == board.document("db-0"))
        _ = board.apply(S.event(13, .noticeWithdrawn(step: notice.step, reason: "")))
        let removed = board.takeChanges()?.removed
        #expect(removed == [notice.step])
    }

    @Test("a guest that moves to another set gets a higher number")
    func moves() {
        var board = S.board()
        for sequence in UInt64(1)...20 {
            let notice = S.notice(UInt32(sequence), ["db-0"], sets: ["db"])
            _ = board.apply(S.event(sequence, .stepNoticed(notice)))
        }
        let before = board.document("db-1").incarnation
        var guests = S.guests
        guests[1] = S.guest("db-1", "b", "web", "10.0.0.2")
        let isChanged = board.take(guests)
        #expect(isChanged)
        #expect(board.document("db-1").incarnation > before)
        #expect(board.document("db-1").events.isEmpty)
        let isChangedAgain = board.take(guests)
        #expect(!isChangedAgain)
    }

    @Test(
        "a guest that moves while the notifier is down, or is away, gets a higher number",
        arguments: [false, true])
    func movesUnseen(isRestarted: Bool) throws {
        var board = S.board()
        for sequence in UInt64(1)...20 {
            let notice = S.notice(UInt32(sequence), ["db-0"], sets: ["db"])
            _ = board.apply(S.event(sequence, .stepNoticed(notice)))
        }
        let before = board.document("db-1").incarnation
        if isRestarted {
            let memory = board.takeChanges()
            board = NoticeBoard(try #require(memory))
        } else {
            board.take(S.guests.filter { $0.id.rawValue != "db-1" })
        }
        var guests = S.guests
        guests[1] = S.guest("db-1", "b", "web", "10.0.0.2")
        board.take(guests)
        #expect(board.isReady && board.document("db-1").events.isEmpty)
        #expect(board.document("db-1").incarnation > before)
        #expect(board.document("db-0").incarnation == before)
    }

    @Test("a guest that is held and moves while the notifier is down changes both documents")
    func heldAndMoved() throws {
        var board = S.board(sequence: 5)
        _ = board.apply(S.event(6, .stepNoticed(S.notice(1, ["db-0"], sets: ["db"]))))
        let memory = board.takeChanges()
        var again = NoticeBoard(try #require(memory))
        var guests = S.guests
        guests[0] = S.guest("db-0", "a", "web", "10.0.0.1")
        again.take(guests)
        #expect(again.resources("db-1").isEmpty && again.resources("web-0") == [["db-0"]])
        for name in ["db-0", "db-1", "web-0"] {
            #expect(again.document(name).incarnation > board.document(name).incarnation, "\(name)")
        }
    }

    @Test("no two documents of a guest that has moved have one number")
    func movesAndChanges() {
        var board = S.board()
        _ = board.apply(S.event(1, .stepNoticed(S.notice(1, ["db-0"], sets: ["db"]))))
        var guests = S.guests
        guests[1] = S.guest("db-1", "b", "web", "10.0.0.2")
        board.take(guests)
        var seen = [board.document("db-1")]
        for sequence in UInt64(2)...6 {
            let notice = S.notice(UInt32(sequence), ["web-0"], sets: ["web"])
            #expect(board.apply(S.event(sequence, .stepNoticed(notice))) == .changed)
            seen.append(board.document("db-1"))
        }
        for (earlier, later) in zip(seen, seen.dropFirst()) {
            #expect(earlier.incarnation < later.incarnation)
        }
        let floors = board.takeChanges()?.floors
        #expect(floors?.map(\.guest.rawValue) == ["db-1"])
    }

    @Test("a guest is known by its address, unless two claim it or it is another host's")
    func addresses() throws {
        let board = S.board()
        let address = try #require(IPAddress("::ffff:10.0.0.2"))
        #expect(board.guest(at: address)?.id.rawValue == "db-1")
        #expect(S.board(host: "a").guest(at: address) == nil)
        #expect(S.board(host: "b").guest(at: address)?.id.rawValue == "db-1")
        var twice = NoticeBoard()
        twice.take(S.guests + [S.guest("thief", "b", nil, "10.0.0.2")])
        #expect(twice.guest(at: address) == nil && twice.claimedTwice == [address])
    }

    @Test("a guest that the inventory does not have yet is asked for, and told when it comes")
    func unknownGuest() {
        var board = S.board()
        let notice = S.notice(1, ["new-0", "web-0"], sets: ["db", "web"])
        _ = board.apply(S.event(1, .stepNoticed(notice)))
        #expect(!board.knowsAllGuests && board.resources("db-0").isEmpty)
        board.take(S.guests + [S.guest("new-0", "a", "db", "10.0.0.9")])
        #expect(board.knowsAllGuests && board.resources("db-0") == [["new-0"]])
        #expect(board.document("db-0").incarnation > 1)
    }
}
