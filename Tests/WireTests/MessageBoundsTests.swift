import Fleet
import Testing

@testable import Wire

/// What a message costs is bounded before it is decoded.
@Suite("Bounds of messages")
struct MessageBoundsTests {
    /// Cannot be read as anything: a count that is refused in spite of it was looked at before decoding.
    private static let unreadable: [UInt8] = [0x07]

    private func fault(_ kind: MessageKind, _ body: [UInt8]) -> ConversionError? {
        do {
            _ = try Message(kind: kind, body: body)
            return nil
        } catch { return error }
    }

    private func field(_ number: UInt8, _ body: [UInt8] = []) -> [UInt8] {
        // Lengths of one or two bytes are enough here.
        let length =
            body.count < 128
            ? [UInt8(body.count)] : [UInt8(body.count & 0x7F | 0x80), UInt8(body.count >> 7)]
        return [number << 3 | 2] + length + body
    }

    private func times(_ count: Int, _ bytes: [UInt8]) -> [UInt8] {
        (0..<count).flatMap { _ in bytes }
    }

    @Test("too many elements are refused before anything is decoded")
    func counts() throws {
        let cases: [(MessageKind, String, Int, (Int) -> [UInt8])] = [
            (.hostReport, "hostReport.sets", 4_096, { self.times($0, self.field(5)) }),
            (.hostReport, "hostReport.guests", 4_096, { self.times($0, self.field(6)) }),
            (.hostReport, "hostReport.abilities", 64, { self.times($0, self.field(7)) }),
            (.hostReport, "hostReport.software", 256, { self.times($0, self.field(8)) }),
            (
                .hostReport, "hostReport.guests[1].addresses", 32,
                { self.field(6) + self.field(6, self.times($0, self.field(10))) }
            ),
            (.stepReport, "stepReport.phases", 64, { self.times($0, self.field(5)) }),
            (.stepReport, "stepReport.holds", 64, { self.times($0, self.field(6)) }),
            (.directive, "directive.guests", 64, { self.times($0, self.field(5)) }),
            (
                .command, "command.add_release.host_work.apply.arguments", 64,
                {
                    self.field(
                        1, self.field(5, self.field(4, self.times($0, self.field(2)))))
                }
            ),
            (
                .command, "command.add_release.host_work.environment", 64,
                // In two parts, which Protocol Buffers put together.
                { count in
                    let half = count / 2
                    return self.field(1, self.field(5, self.times(half, self.field(7))))
                        + self.field(1, self.field(5, self.times(count - half, self.field(7))))
                }
            ),
        ]
        for (kind, name, max, body) in cases {
            let tooMany = fault(kind, body(max + 1) + Self.unreadable)
            #expect(tooMany?.field == name)
            #expect(tooMany?.problem == .tooMany(count: max + 1, max: max), "\(name)")
            #expect(fault(kind, body(max) + Self.unreadable)?.problem == .unreadable, "\(name)")
        }
    }

    @Test("hosts of a rollout and of a plan are counted")
    func hosts() {
        let max = Limits.selectionHostsMax
        let hosts = times(max + 1, field(2))
        func long(_ number: UInt8, _ body: [UInt8]) -> [UInt8] {
            let count = body.count
            return [
                number << 3 | 2, UInt8(count & 0x7F | 0x80), UInt8(count >> 7 & 0x7F | 0x80),
                UInt8(count >> 14),
            ] + body
        }
        let start = long(2, hosts)
        #expect(
            fault(.command, long(2, start))?.field == "command.start_rollout.selection.hosts")
        #expect(fault(.query, long(9, start))?.field == "query.plan.selection.hosts")
    }

    @Test("other wire types, groups and unknown fields hide nothing and are no elements")
    func others() {
        let guests = times(4_096, field(6))
        // A varint, 8 bytes, 4 bytes and a group, all of field 6; an unknown field of 3 bytes.
        let noise: [UInt8] = [
            0x30, 0x81, 0x01, 0x31, 1, 2, 3, 4, 5, 6, 7, 8, 0x35, 1, 2, 3, 4, 0x33, 0x34, 0x7A, 3,
            0x32,
            0, 0x32,
        ]
        #expect(fault(.hostReport, guests + noise + Self.unreadable)?.problem == .unreadable)
        #expect(fault(.hostReport, noise + guests + field(6))?.field == "hostReport.guests")
        // The same tag, written longer than it need be.
        #expect(fault(.hostReport, guests + [0xB2, 0x00, 0])?.field == "hostReport.guests")
    }

    @Test("each kind has its own longest message, in chunks and when it is written")
    func byteCounts() throws {
        for kind in MessageKind.allCases {
            var assembler = ChunkAssembler()
            let chunk = [UInt8](
                repeating: 0, count: Limits.frameByteCountMax - Frame.headerByteCount)
            var byteCount = 0
            while byteCount + chunk.count <= kind.byteCountMax {
                #expect(
                    try assembler.add(Frame(kind: kind.rawValue, flags: .more, body: chunk)) == nil)
                byteCount += chunk.count
            }
            #expect(throws: FrameError.messageTooLong(limit: kind.byteCountMax)) {
                try assembler.add(Frame(kind: kind.rawValue, body: chunk))
            }
        }
        var bytes: [UInt8] = []
        let words = String(repeating: "x", count: Limits.smallMessageByteCountMax)
        #expect(
            !encodeMessage(
                .refused(Refusal(.invalid, words, advice: "")), correlation: 1, into: &bytes))
        #expect(bytes.isEmpty)
    }

    @Test("what is as large as the vocabulary allows fits its kind")
    func largest() {
        let text = String(repeating: "x", count: Limits.reasonByteCountMax)
        func name(_ number: Int) -> String {
            let digits = String(number)
            return "h" + String(repeating: "0", count: 62 - digits.count) + digits
        }
        let hosts = (0..<Limits.selectionHostsMax).map { HostID(checked: name($0)) }
        let start = OperatorCommand.startRollout(
            release: Samples.release.id, selection: .hosts(hosts), policy: Samples.policy)
        #expect(Message.command(start).encodedBody().count <= MessageKind.command.byteCountMax)
        var work = Samples.hostDirective.wire
        let command = PBHostCommand.with {
            $0.path = text
            $0.arguments = Array(repeating: text, count: Limits.commandWordsMax)
        }
        work.release.hostWork.prepare = command
        work.release.hostWork.apply = command
        work.release.hostWork.check = command
        work.release.hostWork.undo = command
        work.release.hostWork.environment = Array(
            repeating: .with {
                $0.name = text
                $0.value = text
            }, count: Limits.commandWordsMax)
        let byteCount = (try? work.serializedBytes() as [UInt8])?.count
        #expect((byteCount ?? .max) <= MessageKind.directive.byteCountMax)
    }
}
