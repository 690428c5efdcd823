import Fleet
import Presentation
import Testing

@testable import Notices

/// Numbers from a seed, the same in every run.
private struct SeededNumbers: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

@Suite struct AvailabilityTests {
    private static let second: Int64 = 1_000_000
    private static let day = 86_400 * second

    private func time(_ text: String) -> Timestamp {
        guard let time = Timestamp(rfc3339: text) else { preconditionFailure(text) }
        return time
    }

    private func record(
        _ guest: String, _ at: String, _ milliseconds: Int64?, _ outcome: StepOutcome = .succeeded,
        set: String? = "db", of size: Int? = nil
    ) -> AvailabilityRecord {
        AvailabilityRecord(
            guest: GuestID(checked: guest), set: set.map { SetID(checked: $0) }, heldAt: time(at),
            holdMicroseconds: milliseconds.map { $0 * 1000 }, outcome: outcome,
            setGuestCount: size)
    }

    private func account(
        _ records: [AvailabilityRecord], now: String, running: [GuestSighting] = []
    ) -> AvailabilityAccount {
        AvailabilityAccount(records, running: running, now: time(now))
    }

    @Test("a hold counts by what it lasted, in the month in which it was")
    func holds() {
        let rows = account(
            [
                record("a", "2026-10-31T23:59:59Z", 3000), record("a", "2026-11-10T00:00:00Z", 500),
            ], now: "2026-11-11T00:00:00Z"
        ).guestMonths()
        #expect(rows.map(\.month.description) == ["2026-10", "2026-11"])
        #expect(rows.map(\.unavailableMicroseconds) == [1_000_000, 2_500_000])
        #expect(rows.map(\.holdCount) == [1, 1])
        #expect(rows.map(\.longestMicroseconds) == [1_000_000, 2_000_000])
        #expect(rows.map(\.isOver) == [true, false])
        #expect(rows.map(\.presentMicroseconds) == [31 * Self.day, 10 * Self.day])
        #expect(rows.allSatisfy { $0.isMet(target: 99_950) && $0.assumedMicroseconds == 0 })
    }

    @Test("a lost guest is down until a later hold shows it running, and that is said")
    func lost() {
        let records = [
            record("a", "2026-11-02T00:00:00Z", nil, .lost),
            record("a", "2026-11-03T00:00:00Z", 20),
        ]
        let row = account(records, now: "2026-12-05T00:00:00Z").guestMonths()[0]
        #expect(row.unavailableMicroseconds == Self.day + 20_000)
        #expect(row.assumedMicroseconds == Self.day)
        #expect(row.failureCount == 1 && !row.isMet(target: 99_950))
    }

    @Test("a lost guest that nothing shows running is down up to now, over the months")
    func stillLost() {
        let rows = account(
            [record("a", "2026-11-30T00:00:00Z", nil, .lost)], now: "2026-12-05T12:00:00Z"
        ).guestMonths()
        #expect(rows.map(\.unavailableMicroseconds) == [Self.day, 4 * Self.day + Self.day / 2])
        #expect(rows.map(\.thousandthsOfPercent) == [96_666, 0])
        #expect(rows.map(\.failureCount) == [1, 0])
    }

    @Test("who saw it running ends it; a sighting before the loss does not")
    func running() {
        let sightings = ["2026-11-01T12:00:00Z", "2026-11-02T06:00:00Z", "2026-11-04T00:00:00Z"]
            .map { GuestSighting(guest: GuestID(checked: "a"), at: time($0)) }
        let row = account(
            [record("a", "2026-11-02T00:00:00Z", 40, .lost)], now: "2026-11-30T00:00:00Z",
            running: sightings
        ).guestMonths()[0]
        #expect(row.unavailableMicroseconds == Self.day / 4)
        #expect(row.assumedMicroseconds == Self.day / 4)
    }

    @Test("a set is unavailable only while all its guests are")
    func sets() {
        let apart = [
            record("a", "2026-11-02T00:00:00Z", 30_000),
            record("b", "2026-11-02T00:01:00Z", 30_000),
        ]
        let row = account(apart, now: "2026-12-01T00:00:00Z").setMonths()[0]
        #expect(row.subject == .set(SetID(checked: "db"), guestCount: 2, withoutRecord: 0))
        #expect(row.unavailableMicroseconds == 0 && row.holdCount == 2)
        let both = account(
            apart + [record("a", "2026-11-05T00:00:00Z", nil, .lost)]
                + [record("b", "2026-11-06T00:00:00Z", 2000)], now: "2026-12-01T00:00:00Z"
        ).setMonths()[0]
        #expect(both.unavailableMicroseconds == 2 * Self.second)
        #expect(both.assumedMicroseconds == 2 * Self.second && both.failureCount == 1)
        let alone = account(
            [record("a", "2026-11-02T00:00:00Z", 30_000, of: 1)], now: "2026-12-01T00:00:00Z"
        ).setMonths()[0]
        #expect(alone.unavailableMicroseconds == 30 * Self.second)
    }

    @Test("a set's guest that was never held is up, as far as anybody knew of it")
    func neverHeld() {
        let records = [
            record("a", "2026-11-02T00:00:00Z", 20, of: 1),
            record("a", "2026-11-03T00:00:00Z", nil, .lost, of: 2),
            record("a", "2026-11-04T00:00:00Z", 20),
            // A year later, so that it is not there before.
            record("b", "2027-11-04T00:00:00Z", 20, of: 2),
        ]
        let later = account(records, now: "2027-12-01T00:00:00Z").setMonths()
        #expect(later.allSatisfy { $0.unavailableMicroseconds == ($0 == later[0] ? 20_000 : 0) })
        let account = account(records, now: "2026-12-01T00:00:00Z")
        let row = account.setMonths()[0]
        #expect(row.subject == .set(SetID(checked: "db"), guestCount: 2, withoutRecord: 1))
        // The first hold was in a set of one.
        #expect(row.unavailableMicroseconds == 20_000 && row.assumedMicroseconds == 0)
        #expect(row.failureCount == 1 && row.isMet(target: 99_950))
        #expect(account.guestMonths()[0].unavailableMicroseconds == Self.day + 40_000)
        #expect(availabilityText([row], target: 99_950).contains("(2 guests, 1 never held)"))
    }

    @Test("an unhealthy guest runs: its hold counts, and it is a failure")
    func unhealthy() {
        let row = account(
            [record("a", "2026-11-02T00:00:00Z", 500, .unhealthy)], now: "2026-11-30T00:00:00Z"
        ).guestMonths()[0]
        #expect(row.unavailableMicroseconds == 500_000 && row.assumedMicroseconds == 0)
        #expect(row.failureCount == 1)
    }

    @Test("a guest that was not there yet keeps its set from nothing")
    func absent() {
        let records = [
            record("a", "2026-10-05T00:00:00Z", 10_000),
            record("b", "2026-11-05T00:00:00Z", 10_000),
        ]
        let rows = account(records, now: "2026-12-01T00:00:00Z").setMonths()
        #expect(rows.map(\.unavailableMicroseconds) == [10 * Self.second, 0])
    }

    @Test("the target is met to the microsecond, and what is shown never looks better")
    func target() {
        // Of 30 days, 0.05 % are 1296 s.
        for (milliseconds, isMet, shown) in [
            (1_296_000, true, 99_950), (1_296_001, false, 99_949), (0, true, 100_000),
        ] as [(Int64, Bool, Int64)] {
            let row = account(
                [record("a", "2026-11-02T00:00:00Z", milliseconds)], now: "2026-12-01T00:00:00Z"
            ).guestMonths()[0]
            #expect(row.isMet(target: 99_950) == isMet && row.thousandthsOfPercent == shown)
        }
    }

    @Test("a month of a century is as long as it is")
    func months() throws {
        let names = ["2026-12", "2028-02", "2100-02", "1969-12", "0000-01"]
        let days = try names.map { name in
            let month = try #require(CalendarMonth(name))
            #expect(month.description == name && CalendarMonth(month.start) == month)
            let last = Timestamp(microseconds: month.end.microseconds - 1)
            #expect(CalendarMonth(last) == month && CalendarMonth(month.end) == month.next)
            return (month.end.microseconds - month.start.microseconds) / Self.day
        }
        #expect(days == [31, 29, 28, 31, 31])
        #expect(CalendarMonth("2026-13") == nil && CalendarMonth("2026-1") == nil)
    }

    @Test(
        "by hand or by the account: the same, for any history", arguments: 0..<200 as Range<UInt64>)
    func anyHistory(seed: UInt64) throws {
        var numbers = SeededNumbers(state: seed)
        // Around the turn of a month, in whole minutes, so that a count by hand is short.
        let minute = 60 * Self.second
        let start = time("2026-10-31T22:00:00Z").microseconds
        let minuteCount: Int64 = 240
        let now = Timestamp(microseconds: start + minuteCount * minute)
        let records = (0..<Int.random(in: 1...12, using: &numbers)).map { _ in
            let outcome = StepOutcome.allCases.randomElement(using: &numbers) ?? .succeeded
            let length = Int64.random(in: 0...20, using: &numbers)
            return AvailabilityRecord(
                guest: GuestID(checked: ["a", "b", "c"].randomElement(using: &numbers) ?? "a"),
                set: SetID(checked: "s"),
                heldAt: Timestamp(
                    microseconds: start + minute * Int64.random(in: 0...250, using: &numbers)),
                holdMicroseconds: Bool.random(using: &numbers) ? length * minute : nil,
                outcome: outcome)
        }
        let present = ["a", "b", "c"].map {
            GuestSighting(guest: GuestID(checked: $0), at: Timestamp(microseconds: start))
        }
        let account = AvailabilityAccount(records, present: present, now: now)
        let known = records.filter { $0.heldAt < now }
        func isDown(_ guest: GuestID, _ moment: Int64) -> Bool {
            let ours = known.filter { $0.guest == guest }
            return ours.contains { record in
                let begun = record.heldAt.microseconds
                let length = record.holdMicroseconds ?? 0
                if begun <= moment && moment < begun + length { return true }
                guard record.outcome == .lost || record.holdMicroseconds == nil else {
                    return false
                }
                let next = ours.map(\.heldAt.microseconds).filter { $0 > begun }.min() ?? .max
                return begun <= moment && moment < next
            }
        }
        let guests = Set(known.map(\.guest))
        let moments = (0..<minuteCount).map { start + $0 * minute }
        for guest in guests {
            let rows = account.guestMonths(of: guest)
            let byHand = moments.count { isDown(guest, $0) }
            #expect(rows.reduce(0) { $0 + $1.unavailableMicroseconds } == Int64(byHand) * minute)
            #expect(rows.reduce(0) { $0 + $1.holdCount } == known.count { $0.guest == guest })
            #expect(rows.reduce(0) { $0 + $1.presentMicroseconds } == minuteCount * minute)
            for row in rows {
                #expect(row.assumedMicroseconds <= row.unavailableMicroseconds)
                #expect(row.longestMicroseconds <= row.unavailableMicroseconds)
                #expect(row.unavailableMicroseconds <= row.presentMicroseconds)
            }
        }
        let set = account.setMonths()
        let byHand = moments.count { moment in guests.allSatisfy { isDown($0, moment) } }
        let down = guests.isEmpty ? 0 : Int64(byHand) * minute
        #expect(set.reduce(0) { $0 + $1.unavailableMicroseconds } == down)
    }

    @Test("months add up to what the holds lasted, when holds do not overlap")
    func sums() {
        var numbers = SeededNumbers(state: 7)
        var at = time("2025-11-20T00:00:00Z").microseconds
        var total: Int64 = 0
        let records = (0..<400).map { _ in
            let length = Int64.random(in: 1...30_000_000, using: &numbers)
            defer { at += length + Int64.random(in: 0...Self.day * 2, using: &numbers) }
            total += length
            return AvailabilityRecord(
                guest: GuestID(checked: "a"), set: nil, heldAt: Timestamp(microseconds: at),
                holdMicroseconds: length, outcome: .failed)
        }
        let rows = AvailabilityAccount(records, now: Timestamp(microseconds: at + Self.day))
            .guestMonths()
        #expect(rows.reduce(0) { $0 + $1.unavailableMicroseconds } == total)
        #expect(rows.reduce(0) { $0 + $1.holdCount } == 400)
        #expect(zip(rows, rows.dropFirst()).allSatisfy { $0.month.next == $1.month })
    }

    @Test("people read it in a table, with what is assumed said below")
    func table() {
        let rows = account(
            [
                record("a", "2026-11-02T00:00:00Z", 1500), record("b", "2026-11-02T00:01:00Z", 14),
                record("b", "2026-11-05T00:00:00Z", nil, .lost),
            ], now: "2026-11-06T00:00:00Z")
        #expect(
            availabilityText(rows.guestMonths() + rows.setMonths(), target: 99_950) == """
                MONTH           GUEST OR SET       HOLDS  UNAVAILABLE  LONGEST  FAILURES  AVAILABLE  TARGET
                2026-11 so far  a                      1       1.50 s   1.50 s         0   99.999 %  met
                2026-11 so far  b                      2      1 d 0 h  1 d 0 h         1   79.999 %  MISSED
                2026-11 so far  set db (2 guests)      3       0.0 ms   0.0 ms         1  100.000 %  met

                Target: 99.950 % of each month (UTC).
                1 d 0 h of b in 2026-11 rest on a hold that did not end: they count until a later \
                hold shows the guest running, or up to now. If it ran before, say so: --running \
                GUEST=TIME.

                """)
        #expect(
            availabilityJSON(rows.guestMonths(of: GuestID(checked: "a")), target: 99_950).compact
                == #"[{"month":"2026-11","guest":"a","isOver":false,"presentMilliseconds":432000000,"#
                + #""unavailableMilliseconds":1500,"assumedMilliseconds":0,"#
                + #""longestMilliseconds":1500,"holdCount":1,"failureCount":0,"#
                + #""availablePercent":99.999,"targetPercent":99.95,"isTargetMet":true}]"#)
    }
}
