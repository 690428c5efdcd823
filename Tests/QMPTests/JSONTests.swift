import Testing

@testable import QMP

@Suite("JSON")
struct JSONTests {
    static let valid: [(String, JSON)] = [
        ("null", .null), (" true ", true), ("false\r\n", false),
        ("0", 0), ("-0", 0), ("-1", -1), ("10", 10),
        ("9223372036854775807", .integer(.max)), ("-9223372036854775808", .integer(.min)),
        ("9223372036854775808", .double(9_223_372_036_854_775_808)),
        ("1.5", .double(1.5)), ("1e2", .double(100)), ("-2.5E-1", .double(-0.25)),
        ("1.0", .double(1)),
        (#""""#, ""), (#""a""#, "a"), (#""é中😀""#, "é中😀"),
        (#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (#""\u00e9\u4E2D\uD83D\uDE00x""#, "é中😀x"), (#""\u0000""#, "\0"),
        ("[]", []), ("[ ]", []), ("[1,2 , [3]]", [1, 2, [3]]),
        ("{}", [:]), ("{ }", [:]), (#"{"a":1, "b" : {"a":null}}"#, ["a": 1, "b": ["a": .null]]),
    ]

    @Test("reads every kind of value", arguments: valid)
    func readsValue(_ text: String, _ value: JSON) throws {
        #expect(try JSON.parse(Array(text.utf8)) == value)
    }

    @Test("writes what it reads back", arguments: valid)
    func writesValue(_ text: String, _ value: JSON) throws {
        #expect(try JSON.parse(value.bytes) == value)
        #expect(!value.bytes.contains { $0 < 0x20 || $0 == 0x7F })
    }

    static let invalid: [(String, JSONProblem, Int)] = [
        ("", .endOfInput, 0), ("  ", .endOfInput, 2), ("tru", .endOfInput, 3),
        ("trux", .unexpectedByte(UInt8(ascii: "x")), 3),
        ("null null", .trailingBytes, 5), ("1,", .trailingBytes, 1),
        ("01", .invalidNumber, 0), ("-", .endOfInput, 1), ("-x", .invalidNumber, 0),
        ("1.", .endOfInput, 2), ("1.x", .invalidNumber, 0), ("1e", .endOfInput, 2),
        ("1e+", .endOfInput, 3), ("+1", .unexpectedByte(UInt8(ascii: "+")), 0),
        (".5", .unexpectedByte(UInt8(ascii: ".")), 0), ("1e999", .numberTooLarge, 0),
        ("NaN", .unexpectedByte(UInt8(ascii: "N")), 0),
        ("\"", .endOfInput, 1), ("\"\n\"", .unexpectedByte(0x0A), 1),
        (#""\n"#, .endOfInput, 3), ("\"\\n\n\"", .unexpectedByte(0x0A), 3),
        (#""\x""#, .invalidEscape, 2), (#""\u12g4""#, .invalidEscape, 5),
        (#""\u12"#, .endOfInput, 5), (#""\ud83d""#, .loneSurrogate, 1),
        (#""\ud83d\n""#, .loneSurrogate, 1), (#""\ud83d\u0041""#, .loneSurrogate, 1),
        (#""\udc00""#, .loneSurrogate, 1),
        ("[", .endOfInput, 1), ("[1", .endOfInput, 2),
        ("[1,]", .unexpectedByte(UInt8(ascii: "]")), 3),
        ("[1 2]", .unexpectedByte(UInt8(ascii: "2")), 3),
        ("{", .endOfInput, 1), ("{1:2}", .unexpectedByte(UInt8(ascii: "1")), 1),
        (#"{"a"}"#, .unexpectedByte(UInt8(ascii: "}")), 4),
        (#"{"a":1,}"#, .unexpectedByte(UInt8(ascii: "}")), 7),
        (#"{"a":1,"a":2}"#, .repeatedKey("a"), 7),
        (#"{"a":1,"\u0061":2}"#, .repeatedKey("a"), 7),
        ("'a'", .unexpectedByte(UInt8(ascii: "'")), 0),
        ("// x", .unexpectedByte(UInt8(ascii: "/")), 0),
    ]

    @Test("refuses what is no JSON, and says where", arguments: invalid)
    func refuses(_ text: String, _ problem: JSONProblem, _ offset: Int) {
        #expect(throws: QMPError.json(problem, offset: offset)) {
            try JSON.parse(Array(text.utf8))
        }
    }

    @Test("refuses invalid UTF-8, with and without escapes before it")
    func refusesInvalidUTF8() {
        let sequences: [[UInt8]] = [
            [0xFF], [0x80], [0xC3], [0xC0, 0x80], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80],
        ]
        for sequence in sequences {
            for escape in ["", "\\n"] {
                let bytes = Array("\"\(escape)".utf8) + sequence + Array("\"".utf8)
                #expect(throws: QMPError.json(.invalidUTF8, offset: 1)) { try JSON.parse(bytes) }
            }
        }
    }

    @Test("finds a repeated key among many")
    func repeatedKeyAmongMany() {
        var members = (0..<100).map { #""k\#($0)":0"# }
        #expect(throws: Never.self) {
            try JSON.parse(Array("{\(members.joined(separator: ","))}".utf8))
        }
        members.append(#""k3":0"#)
        let text = "{\(members.joined(separator: ","))}"
        #expect {
            try JSON.parse(Array(text.utf8))
        } throws: {
            guard case .json(.repeatedKey("k3"), _)? = $0 as? QMPError else { return false }
            return true
        }
    }

    @Test("limits depth and length")
    func limits() throws {
        func nested(_ depth: Int) -> [UInt8] {
            Array(repeating: UInt8(ascii: "["), count: depth)
                + Array(repeating: UInt8(ascii: "]"), count: depth)
        }
        #expect(throws: Never.self) { try JSON.parse(nested(64)) }
        #expect(throws: QMPError.json(.tooDeep(depthMax: 64), offset: 64)) {
            try JSON.parse(nested(65))
        }
        #expect(throws: QMPError.json(.tooDeep(depthMax: 64), offset: 64)) {
            try JSON.parse(Array(repeating: UInt8(ascii: "["), count: 1_000_000))
        }
        #expect(throws: QMPError.json(.tooLong(byteCountMax: 3), offset: 3)) {
            try JSON.parse(Array("1234".utf8), byteCountMax: 3)
        }
    }

    @Test("escapes what would break a line")
    func escapes() {
        #expect(
            JSON.string("a\"\\\n\r\t\u{1}\u{7f}é").description == #""a\"\\\n\r\t\u0001\u007fé""#)
    }
}

@Suite("Lines")
struct LineDecoderTests {
    @Test("are the same however the bytes are split")
    func split() throws {
        let text = Array("one\r\n\r\n\ntwo\nthree\rfour\n".utf8)
        for size in 1...text.count {
            var decoder = LineDecoder(byteCountMax: 20)
            var lines: [String] = []
            for start in stride(from: 0, to: text.count, by: size) {
                decoder.append(text[start..<min(start + size, text.count)])
                while let line = try decoder.next() {
                    lines.append(String(decoding: line, as: UTF8.self))
                }
            }
            #expect(lines == ["one", "two", "three\rfour"])
        }
    }

    @Test("may have just the limit's length, with or without their end")
    func limit() throws {
        for end in ["\n", "\r\n"] {
            var decoder = LineDecoder(byteCountMax: 4)
            decoder.append("1234".utf8)
            #expect(try decoder.next() == nil)
            decoder.append(end.utf8)
            #expect(try decoder.next() == Array("1234".utf8))
            decoder.append("12345\(end)".utf8)
            #expect(throws: QMPError.lineTooLong(byteCountMax: 4)) { try decoder.next() }
        }
        var decoder = LineDecoder(byteCountMax: 4)
        decoder.append("123456".utf8)
        #expect(throws: QMPError.lineTooLong(byteCountMax: 4)) { try decoder.next() }
    }
}
