import Fleet
import Notices
import Testing

@Suite struct ScheduledEventTests {
    typealias S = BoardSamples

    /// Which field came with which version.
    static let fields: [(EventsVersion, [String])] = {
        let first = [
            "EventId", "EventStatus", "EventType", "ResourceType", "Resources", "NotBefore",
        ]
        return [
            (.v20170801, first), (.v20171101, first), (.v20190101, first),
            (.v20190401, first + ["Description"]),
            (.v20190801, first + ["Description", "EventSource"]),
            (.v20200701, first + ["Description", "EventSource", "DurationInSeconds"]),
        ]
    }()

    @Test("every version has its fields and no others", arguments: fields)
    func gates(_ version: EventsVersion, _ names: [String]) {
        let json = document(isStarted: false).json(version.layout)
        guard case .object(let members) = json, case .array(let events)? = members.last?.value,
            case .object(let fields)? = events.first
        else {
            Issue.record("no document: \(json)")
            return
        }
        #expect(members.map(\.key) == ["DocumentIncarnation", "Events"])
        #expect(fields.map(\.key) == names)
    }

    @Test("the newest version, to the byte")
    func newest() {
        let id = S.notice(1, ["db-0"], sets: ["db"]).eventID
        #expect(
            document(isStarted: false).json(.withDuration).compact
                == #"{"DocumentIncarnation":2,"Events":[{"EventId":"\#(id)","#
                + #""EventStatus":"Scheduled","EventType":"Freeze","#
                + #""ResourceType":"VirtualMachine","Resources":["db-0"],"#
                + #""NotBefore":"Sat, 11 Apr 2026 22:26:58 GMT","#
                + #""Description":"Host update: hypervisor 8.2.1. The virtual machine is paused "#
                + #"for at most 9 s, with its memory kept.","EventSource":"Platform","#
                + #""DurationInSeconds":9}]}"#)
    }

    @Test("once started there is no time before which it does not begin")
    func started() {
        let text = document(isStarted: true).json(.first).compact
        #expect(text.contains(#""EventStatus":"Started""#) && text.contains(#""NotBefore":"""#))
    }

    @Test("an event's id is a UUID's shape, the same everywhere, another when noticed again")
    func ids() {
        let id = S.notice(1, ["db-0"], sets: ["db"]).eventID
        #expect(
            id.wholeMatch(of: /[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/)
                != nil)
        #expect(id == S.notice(1, ["web-0"], sets: [], isStarted: true).eventID)
        #expect(id != S.notice(2, ["db-0"], sets: ["db"]).eventID)
        #expect(id != S.notice(1, ["db-0"], sets: ["db"], at: S.notBefore).eventID)
        let ids = Set((UInt32(1)...5_000).map { S.notice($0, [], sets: []).eventID })
        #expect(ids.count == 5_000)
    }

    private func document(isStarted: Bool) -> EventDocument {
        var board = S.board()
        let notice = S.notice(1, ["db-0"], sets: ["db"], isStarted: isStarted)
        _ = board.apply(S.event(1, .stepNoticed(notice)))
        return board.document("db-0")
    }
}
