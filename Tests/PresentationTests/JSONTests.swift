import Fleet
import Testing

@testable import Presentation

@Suite struct JSONTests {
    @Test("keys keep their order and values their type")
    func order() {
        let value: JSON = [
            "zebra": .integer(-1), "apple": .unsigned(.max), "none": .null, "yes": .bool(true),
            "list": [.integer(1), [.integer(2)]], "empty": [], "nothing": .object([]),
        ]
        #expect(
            value.compact
                == #"{"zebra":-1,"apple":18446744073709551615,"none":null,"yes":true,"#
                + #""list":[1,[2]],"empty":[],"nothing":{}}"#)
    }

    @Test("documents are indented by two and short lists stay on a line")
    func pretty() {
        let value: JSON = ["a": [.integer(1), .integer(2)], "b": [["c": .null]], "d": []]
        #expect(
            value.pretty == """
                {
                  "a": [1, 2],
                  "b": [
                    {
                      "c": null
                    }
                  ],
                  "d": []
                }
                """)
    }

    @Test(
        "strings are escaped so that every reader gets the same text",
        arguments: [
            ("plain", #""plain""#), ("\"\\", #""\"\\""#), ("\n\r\t", #""\n\r\t""#),
            ("\u{0}\u{1F}\u{7F}", #""\u0000\u001f\u007f""#), ("\r\n", #""\r\n""#),
            ("\u{2028}\u{2029}", #""\u2028\u2029""#), ("é 日本 🎵", #""é 日本 🎵""#), ("/", #""/""#),
        ])
    func escapes(text: String, json: String) {
        #expect(JSON.string(text).compact == json)
    }

    @Test(
        "thousandths are exact",
        arguments: [
            (0, "0"), (12_400, "12.4"), (-400, "-0.4"), (1, "0.001"), (13_250, "13.25"),
            (-1_000, "-1"), (.max, "9223372036854775.807"), (.min, "-9223372036854775.808"),
        ] as [(Int64, String)])
    func thousandths(value: Int64, text: String) {
        #expect(JSON.thousandths(value).compact == text)
    }
}

@Suite struct TextTableTests {
    @Test("columns are as wide as their longest cell, and numbers stand to the right")
    func aligned() {
        var table = TextTable([("GUEST", .left), ("HOLD", .right), ("SET", .left)])
        table.add(["db-0", "9.1 ms", ""])
        table.add(["a-long-name", "120.4 ms", "é"])
        #expect(
            table.text == """
                GUEST            HOLD  SET
                db-0           9.1 ms  -
                a-long-name  120.4 ms  é

                """)
    }

    @Test("what a peer says cannot break a line or steer the terminal")
    func control() {
        #expect(printable("a\u{1B}[31mb\r\n\u{9B}c\u{202E}d\u{2028}e") == "a [31mb cd e")
    }
}
