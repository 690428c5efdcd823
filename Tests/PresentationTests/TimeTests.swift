import Fleet
import Testing

@testable import Presentation

@Suite struct TimeTests {
    @Test(
        "times are written as RFC 3339 in UTC with microseconds",
        arguments: [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1, "1970-01-01T00:00:00.000001Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_775_946_418_000_012, "2026-04-11T22:26:58.000012Z"),
            (4_107_542_399_999_999, "2100-02-28T23:59:59.999999Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
            (-2_208_988_800_000_000, "1900-01-01T00:00:00.000000Z"),
        ] as [(Int64, String)])
    func writes(microseconds: Int64, text: String) {
        #expect(Timestamp(microseconds: microseconds).rfc3339 == text)
        #expect(Timestamp(rfc3339: text) == Timestamp(microseconds: microseconds))
    }

    @Test("the whole range of a timestamp can be written")
    func extremes() {
        #expect(Timestamp(microseconds: .min).rfc3339.hasPrefix("-290308-12-21T"))
        #expect(Timestamp(microseconds: .max).rfc3339 == "294247-01-10T04:00:54.775807Z")
    }

    @Test("every day from 1600 to 2400 follows the one before in the calendar")
    func everyDay() {
        var previous = CivilDate(daysSince1970: -135_140)
        #expect(previous == CivilDate(year: 1600, month: 1, day: 1))
        for day in Int64(-135_139)...157_053 {
            let date = CivilDate(daysSince1970: day)
            let follows =
                (date.year == previous.year && date.month == previous.month
                    && date.day == previous.day + 1)
                || (date.day == 1 && date.month == previous.month % 12 + 1)
            guard follows, date.daysSince1970 == day else {
                Issue.record("\(date) after \(previous)")
                return
            }
            previous = date
        }
    }

    @Test("offsets, lower case and long fractions are read")
    func readsVariants() {
        let noon = Timestamp(rfc3339: "2026-04-11T12:00:00Z")
        #expect(noon == Timestamp(microseconds: 1_775_908_800_000_000))
        #expect(Timestamp(rfc3339: "2026-04-11T14:00:00+02:00") == noon)
        #expect(Timestamp(rfc3339: "2026-04-11t07:30:00.000000999-04:30") == noon)
        #expect(Timestamp(rfc3339: "2026-04-11 12:00:00.0z") == noon)
        #expect(
            Timestamp(rfc3339: "2016-12-31T23:59:60Z")
                == Timestamp(rfc3339: "2017-01-01T00:00:00Z"))
    }

    @Test(
        "what is no time is refused",
        arguments: [
            "", "2026", "2026-04-11", "2026-04-11T12:00:00", "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z", "2026-04-31T00:00:00Z", "2026-00-01T00:00:00Z",
            "2026-04-00T00:00:00Z", "2026-04-11T24:00:00Z", "2026-04-11T12:60:00Z",
            "2026-04-11T12:00:61Z", "2026-04-11T12:00:00.Z", "2026-04-11T12:00:00+0200",
            "2026-04-11T12:00:00Zx", "２026-04-11T12:00:00Z",
        ])
    func refuses(text: String) {
        #expect(Timestamp(rfc3339: text) == nil)
    }

    @Test("a clock time is cut, never rounded into the next second")
    func clockTime() {
        let time = Timestamp(microseconds: 59_999_999)
        #expect(time.timeText(fractionDigits: 3) == "00:00:59.999")
        #expect(time.timeText(fractionDigits: 0) == "00:00:59")
    }
}

@Suite struct SpanTests {
    @Test(
        "durations are written in units that people read",
        arguments: [
            (0, "0.0 ms"), (49, "0.0 ms"), (50, "0.1 ms"), (400, "0.4 ms"), (12_400, "12.4 ms"),
            (999_949, "999.9 ms"), (999_950, "1.00 s"), (1_254_999, "1.25 s"),
            (59_994_999, "59.99 s"), (59_995_000, "1 min 0 s"), (200_000_000, "3 min 20 s"),
            (7_500_000_000, "2 h 5 min"), (273_600_000_000, "3 d 4 h"), (-13_950, "-14.0 ms"),
            (-20, "0.0 ms"), (-1_250_000, "-1.25 s"),
        ] as [(Int64, String)])
    func spans(microseconds: Int64, text: String) {
        #expect(spanText(microseconds: microseconds) == text)
    }

    @Test("the longest and the shortest duration can be written")
    func extremes() {
        #expect(spanText(microseconds: .max) == "106751991 d 4 h")
        #expect(spanText(microseconds: .min) == "-106751991 d 4 h")
    }

    @Test("a clock's error says which way it is off")
    func clockErrors() {
        #expect(clockErrorText(microseconds: -14_000) == "14.0 ms behind")
        #expect(clockErrorText(microseconds: 400) == "0.4 ms ahead")
        #expect(clockErrorText(microseconds: 0) == "exact")
        #expect(clockErrorText(microseconds: .min).hasSuffix("behind"))
    }

    @Test(
        "duration options need a unit and whole milliseconds",
        arguments: [
            ("30s", 30_000), ("500ms", 500), ("2min", 120_000), ("2m", 120_000),
            ("1h", 3_600_000), ("1.5s", 1500), ("0.001s", 1), ("0s", 0), ("0.50min", 30_000),
        ] as [(String, UInt32)])
    func parses(text: String, milliseconds: UInt32) {
        #expect(parseMilliseconds(text) == milliseconds)
    }

    @Test(
        "other duration options are refused",
        arguments: [
            "", "30", "s", "ms", "-1s", "+1s", "1 s", "1.5ms", "0.0001s", "1.s", ".5s", "1.2.3s",
            "1193h1", "1194h", "99999999999999999999s", "999999999999h", "1e3s", "٣s",
        ])
    func refuses(text: String) {
        #expect(parseMilliseconds(text) == nil)
    }

    @Test("byte counts are written in binary units")
    func bytes() {
        #expect(byteText(512) == "512 B")
        #expect(byteText(256 << 20) == "256 MiB")
        #expect(byteText(3 << 29) == "1.5 GiB")
        #expect(byteText(1023) == "1023 B")
        #expect(byteText(1024) == "1 KiB")
        #expect(byteText(.max) == "16777215.9 TiB")
    }

    @Test("hexadecimal digits go both ways and others are refused")
    func hex() {
        #expect(hexText([0, 0x7F, 0xFF]) == "007fff")
        #expect(parseHex("007FfF") == [0, 0x7F, 0xFF])
        #expect(parseHex("") == [])
        #expect(parseHex("0") == nil)
        #expect(parseHex("0g") == nil)
    }
}
