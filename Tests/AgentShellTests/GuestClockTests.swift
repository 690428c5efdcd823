import AgentCore
import QMP
import Testing
import UvLoop

@testable import AgentShell

/// A guest agent that answers as the test says, on a Unix socket.
private final class ScriptedGuestAgent {
    let path: String
    let loop: Loop
    private var listener: Listener?
    private var pending: [UInt8] = []
    private var stream: SocketStream?

    /// - Parameter answer: gets the command's name and id; nil for no answer.
    init(_ answer: @escaping (_ command: String, _ id: Int64) -> String?) throws {
        loop = try Loop()
        path = "/tmp/fa-clock-\(randomBytes(6).map { String($0, radix: 16) }.joined())"
        listener = try Listener.unix(path: path, on: loop) { [self] stream in
            self.stream = stream
            stream.onBytes = { [self] bytes in
                pending += bytes
                while let end = pending.firstIndex(of: UInt8(ascii: "\n")) {
                    let line = pending[..<end].drop { $0 == 0xFF }
                    guard let message = try? JSON.parse(Array(line), byteCountMax: 65_536),
                        let id = message["id"]?.integer
                    else { return }
                    pending.removeSubrange(...end)
                    let name = message["execute"]?.string ?? ""
                    if name == "guest-sync-delimited" {
                        let number = message["arguments"]?["id"]?.integer ?? 0
                        stream.write([0xFF] + Array("{\"return\":\(number),\"id\":\(id)}\n".utf8))
                    } else if let text = answer(name, id) {
                        stream.write(Array((text + "\n").utf8))
                    }
                }
            }
        }
    }

    /// What is found out about its clock.
    func outcome() -> ClockCorrection.Outcome? {
        var found: ClockCorrection.Outcome?
        let channel = GuestAgentChannel(path: path, on: loop)
        channel.open(limit: .seconds(5)) { [loop] failure in
            #expect(failure == nil)
            GuestClock(channel, on: loop) {
                found = $0
                loop.stop()
            }.start()
        }
        let limit = loop.after(.seconds(30)) { [loop] in loop.stop() }
        loop.run()
        limit.cancel()
        channel.close()
        loop.closeAll()
        try? Files.remove(path: path)
        return found
    }
}

private func now() -> Int64 { WallClock.nowMicroseconds * 1_000 }

@Suite("A guest's clock through its agent") struct GuestClockTests {
    @Test("an agent that hangs is given up on after its limit")
    func hung() throws {
        let agent = try ScriptedGuestAgent { _, _ in nil }
        #expect(
            agent.outcome()
                == .init(note: "not measured: guest-get-time took longer than 5.0 seconds"))
    }

    @Test("an agent that answers garbage is named")
    func garbage() throws {
        let words = [
            "{\"return\":\"noon\",\"id\":ID}": "guest-get-time gave no number",
            "{\"error\":{\"class\":\"GenericError\",\"desc\":\"it is disabled\"},\"id\":ID}":
                "it is disabled",
            "%&/(": "the guest agent: ",
        ]
        for (answer, note) in words {
            let agent = try ScriptedGuestAgent { _, id in
                answer.replacing("ID", with: "\(id)")
            }
            let outcome = try #require(agent.outcome())
            #expect(outcome.before == nil && outcome.after == nil)
            #expect(outcome.note.hasPrefix("not measured: ") && outcome.note.contains(note))
        }
    }

    @Test("an answer to an older question is not taken for one to this")
    func stale() throws {
        let agent = try ScriptedGuestAgent { _, id in
            "{\"return\":0,\"id\":\(id - 1)}\n{\"return\":\(now()),\"id\":\(id)}"
        }
        let outcome = try #require(agent.outcome())
        #expect(abs(try #require(outcome.before)) < 100_000)
        #expect(outcome.note.isEmpty)
    }

    @Test("a clock that is off is set to the host's time")
    func set() throws {
        var isSet = false
        let agent = try ScriptedGuestAgent { command, id in
            if command == "guest-set-time" { isSet = true }
            let time = isSet ? now() : now() - 7_000_000_000
            return command == "guest-set-time"
                ? "{\"return\":{},\"id\":\(id)}" : "{\"return\":\(time),\"id\":\(id)}"
        }
        let outcome = try #require(agent.outcome())
        #expect(isSet)
        #expect(abs(try #require(outcome.before) + 7_000_000) < 100_000)
        #expect(abs(try #require(outcome.after)) < 100_000)
    }
}
