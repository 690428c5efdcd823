import Foundation
import Testing

@testable import Wire

/// proto-spec/README.md says what this code does.
@Suite("The specification")
struct SpecificationTests {
    private let text: String
    /// Rows of all tables, as cells.
    private let rows: [[String]]

    init() throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
        text = try String(
            contentsOf: root.appendingPathComponent("proto-spec/README.md"), encoding: .utf8)
        rows = text.split(separator: "\n").filter { $0.hasPrefix("|") }.map { line in
            line.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
        }
    }

    /// `to` and `from` a server, as the table's third column has it.
    private func direction(_ kind: MessageKind) -> String {
        let names: [(Roles, String)] = [
            (.server, "server"), (.agent, "agent"), (.operator, "operator"),
            (.notifier, "notifier"),
        ]
        func list(_ roles: Roles) -> String {
            if roles == .all { return "all" }
            return names.filter { roles.contains($0.0) }.map(\.1).joined(separator: ", ")
        }
        let (toServer, fromServer) = kind.permission
        if toServer == .all, fromServer == .all { return "both, all" }
        var parts: [String] = []
        if !toServer.isEmpty { parts.append("\(list(toServer)) →S") }
        if !fromServer.isEmpty {
            parts.append("S→ \(list(fromServer))")
        }
        return parts.joined(separator: "; ")
    }

    @Test("lists every kind with its number and who may send it")
    func kinds() {
        for kind in MessageKind.allCases {
            let name = "\(kind)".prefix(1).uppercased() + "\(kind)".dropFirst()
            let row = rows.first { $0.count == 4 && $0[0] == "\(kind.rawValue)" }
            #expect(row?[1] == name)
            #expect(row?[2] == direction(kind), "\(name)")
        }
    }

    @Test("says how long each kind may be")
    func byteCounts() {
        for kind in MessageKind.allCases {
            let name = "\(kind)".prefix(1).uppercased() + "\(kind)".dropFirst()
            let row = rows.first {
                $0.count == 2 && $0[0].components(separatedBy: ", ").contains(name)
            }
            let number = (row?[1] ?? rows.first { $0.count == 2 && $0[0] == "all others" }?[1])?
                .replacingOccurrences(of: ",", with: "")
            #expect(number == "\(kind.byteCountMax)", "\(name)")
        }
    }

    @Test("lists every close code with its number, and tells clients when to stop")
    func closeCodes() {
        for code in CloseCode.allCases {
            let row = rows.first { $0.count == 4 && $0[0] == code.name }
            #expect(row?[1] == "\(code.rawValue)")
            #expect(row?[3].hasPrefix("stop") == code.isFinal, "\(code.name)")
        }
    }

    @Test("shows the bytes of the committed session")
    func session() throws {
        let blocks = text.components(separatedBy: "\n    ").dropFirst()
        let shown = blocks.map {
            $0.prefix { $0 != "\n" && $0 != "…" }.filter { $0 != " " }
        }.joined()
        for bytes in [
            frames(.hello(Samples.hello())), frames(.helloAccepted(Samples.accepted)),
            Array(frames(.hostReport(Samples.hostReport), correlation: 1).prefix(16)),
            frames(.hostReportCommitted(index: 300), correlation: 1), frames(.ping(nonce: 1)),
            frames(.pong(nonce: 1)),
            frames(.close(.shuttingDown, reason: "stopped by an operator")),
        ] {
            #expect(shown.contains(hex(bytes)))
        }
    }
}
