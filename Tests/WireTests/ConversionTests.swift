import Fleet
import SwiftProtobuf
import Testing

@testable import Wire

@Suite("Messages and the vocabulary")
struct ConversionTests {
    @Test("every sample comes back as it went", arguments: Samples.messages.map(\.name))
    func roundTrip(name: String) throws {
        let message = try #require(Samples.messages.first { $0.name == name }).message
        #expect(try Message(kind: message.kind, body: message.encodedBody()) == message)
    }

    @Test("there is a sample of every kind")
    func allKinds() {
        #expect(Set(Samples.messages.map(\.message.kind)) == Set(MessageKind.allCases))
    }

    @Test("every value of every enum has its own number, and none has 0")
    func enums() throws {
        func check<Value: WireEnum & Hashable>(
            _ type: Value.Type, but other: Value? = nil
        ) throws {
            var seen: Set<Int> = []
            for value in type.allCases where value != other {
                #expect(value.wire.rawValue != 0)
                #expect(seen.insert(value.wire.rawValue).inserted)
                #expect(try Value.checked(value.wire, "x") == value)
            }
        }
        try check(GuestState.self)
        try check(StepPhase.self)
        try check(StepOutcome.self)
        try check(Resumer.self)
        try check(Refusal.Code.self)
        // Said by a field beside it.
        try check(RolloutState.self, but: .paused)
        try check(CloseCode.self)
    }

    @Test("the schema's enums have nothing that the vocabulary lacks")
    func schemaEnums() {
        #expect(PBGuestState.allCases.count == GuestState.allCases.count + 1)
        #expect(PBStepPhase.allCases.count == StepPhase.allCases.count + 1)
        #expect(PBStepOutcome.allCases.count == StepOutcome.allCases.count + 1)
        #expect(PBResumer.allCases.count == Resumer.allCases.count + 1)
        #expect(PBRefusalCode.allCases.count == Refusal.Code.allCases.count + 1)
        // `paused` is `RUNNING` with a field beside it.
        #expect(PBRolloutState.allCases.count == RolloutState.allCases.count)
        #expect(PBCloseCode.allCases.count == CloseCode.allCases.count + 1)
    }

    @Test("a bad message is refused with the field at fault", arguments: BadMessages.all)
    func refused(bad: BadMessage) throws {
        let error = #expect(throws: ConversionError.self) {
            try Message(kind: bad.kind, body: bad.body)
        }
        #expect(error?.field == bad.field)
        #expect(error?.description.isEmpty == false)
    }

    @Test("cut bytes of a message never crash, whatever they give")
    func cutBytes() {
        for (_, message) in Samples.messages {
            let body = message.encodedBody()
            for count in 0..<body.count {
                _ = try? Message(kind: message.kind, body: Array(body[..<count]))
            }
        }
    }

    @Test("flipped bits of a message never crash, and what is taken goes out again")
    func flippedBits() throws {
        var random = SplitMix(state: 1)
        for (_, message) in Samples.messages {
            let body = message.encodedBody()
            guard !body.isEmpty else { continue }
            for _ in 0..<200 {
                var changed = body
                let bit = Int(random.next() % UInt64(body.count * 8))
                changed[bit / 8] ^= 1 << (bit % 8)
                guard let taken = try? Message(kind: message.kind, body: changed) else { continue }
                #expect(try Message(kind: taken.kind, body: taken.encodedBody()) == taken)
            }
        }
    }

    @Test("unknown fields are skipped")
    func unknownFields() throws {
        let ping = Message.ping(nonce: 5)
        let later = ping.encodedBody() + [0xFA, 0x3F, 0x01, 0x41]  // field 1023, bytes "A"
        #expect(try Message(kind: .ping, body: later) == ping)
    }

    @Test("a reason that is too long is cut between characters, not refused")
    func cutReasons() throws {
        let long = String(repeating: "é", count: Limits.reasonByteCountMax)
        let message = Message.refused(Refusal(.invalid, "x" + long))
        guard
            case .refused(let refusal) = try Message(
                kind: .refused, body: message.encodedBody())
        else {
            Issue.record("not a refusal")
            return
        }
        #expect(refusal.message.utf8.count == Limits.reasonByteCountMax - 1)
        #expect(refusal.message.hasSuffix("é"))
        #expect(cutText("short") == "short")
    }

    @Test("reports go out sorted, whatever order they were made in")
    func sorted() throws {
        var report = Samples.hostReport
        report.guests.reverse()
        let wire = report.wire
        #expect(try HostReport(wire: wire) == Samples.hostReport)
    }

    @Test("a later version's hello is readable as far as its versions")
    func laterHello() throws {
        var wire = Samples.hello().wire
        wire.versionMin = 2
        wire.versionMax = 9
        wire.role = "replica"
        wire.instance = .init([1])
        let body: [UInt8] = try wire.serializedBytes()
        #expect(try Hello.versions(in: body) == 2...9)
    }

    @Test("an identity is exactly fermata://CLUSTER/ROLE/NAME")
    func identities() {
        for uri in [
            "fermata://demo/agent/a", "fermata://d/operator/alice.b", "fermata://d/server/1",
            "fermata://d/notifier/n_1",
        ] {
            #expect(PeerIdentity(uri: uri)?.uri == uri)
        }
        for uri in [
            "", "fermata://", "fermata://demo/agent", "fermata://demo/agent/", "fermata:///agent/a",
            "fermata://demo/authority/ca", "fermata://demo/Agent/a", "fermata://demo/agent/a/b",
            "fermata://demo/agent/a/", "https://demo/agent/a", "fermata://demo/agent/a b",
            "fermata://demo/agent/é", " fermata://demo/agent/a", "fermata://demo//agent/a",
        ] {
            #expect(PeerIdentity(uri: uri) == nil, "\(uri)")
        }
    }

    @Test("nobody may send what his role has no business with")
    func permissions() {
        for kind in MessageKind.allCases {
            // One direction at least, nothing between two clients, and between two servers only what
            // tells that one lives.
            #expect(!kind.permission.toServer.isEmpty || !kind.permission.fromServer.isEmpty)
            let opens = kind == .hello || kind == .helloAccepted
            #expect(kind.isPermitted(from: .server, to: .server) == (opens || kind.isControl))
            #expect(!kind.isPermitted(from: .agent, to: .operator))
        }
        #expect(!MessageKind.command.isPermitted(from: .agent, to: .server))
        #expect(!MessageKind.directive.isPermitted(from: .operator, to: .server))
        #expect(!MessageKind.stepReport.isPermitted(from: .notifier, to: .server))
        #expect(MessageKind.stepProgress.isPermitted(from: .server, to: .notifier))
        #expect(!MessageKind.stepProgress.isPermitted(from: .server, to: .agent))
    }
}

/// A small generator with the same numbers in every run.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
