import Fleet
import Foundation
import Testing
import UvLoop
import Wire

@testable import SessionCore
@testable import SessionShell

/// The interpreter that the peer runs in. It needs Debian's python3-protobuf and protobuf-compiler;
/// without them these tests fail, and the peer's own message says what to install.
private enum PythonPeer {
    static let python = "/usr/bin/python3"
}

private typealias ExitStatus = UvLoop.ExitStatus

/// Live sessions with the independent implementation in proto-spec/python/.
@Suite("Sessions with the Python peer")
struct PythonPeerTests {
    /// Starts `script` with fermata_wire imported as `wire`; `sys.argv` holds the arguments.
    private func start(
        _ script: String, _ arguments: [String], on stage: Stage,
        onExit: @escaping (ExitStatus) -> Void
    ) throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
        let library = root.appendingPathComponent("proto-spec/python").path
        var environment = ProcessInfo.processInfo.environment
        environment["PYTHONPATH"] = library
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        _ = try ChildProcess.spawn(
            executable: PythonPeer.python,
            arguments: ["-c", "import sys, fermata_wire as wire\n" + script] + arguments,
            environment: environment, descriptors: [.ignore, .inherit(2), .inherit(2)],
            on: stage.loop, onExit: onExit)
    }

    @Test("a Python operator asks a Swift server, survives pings, and hears why it is closed")
    func pythonClient() throws {
        try withStage { stage in
            let listener = try stage.listener()
            listener.onHello = { _, _ in
                .accept(
                    HelloAccepted(
                        version: 0, server: "s1", isLeader: true, term: 3,
                        keepaliveMilliseconds: 100, silenceMilliseconds: 400, servers: [],
                        software: "test"))
            }
            listener.onMessage = { session, message, correlation in
                switch message {
                case .query(.rollout(let id), stale: _) where id == RolloutID(1):
                    // Longer than the silence limit: only its pongs keep the session open.
                    stage.loop.after(.milliseconds(1_500)) {
                        session.send(
                            .refused(Refusal(.notFound, "no rollout-1")),
                            correlation: correlation)
                    }
                default: session.close(.shuttingDown, reason: "enough")
                }
            }
            let script = """
                with wire.connect("127.0.0.1", int(sys.argv[1]), sys.argv[2]) as session:
                    accepted = session.hello()
                    assert accepted.server == "s1" and accepted.term == 3, accepted
                    answer = session.request(wire.pb.Query(rollout=1))
                    assert answer.kind == "Refused", answer
                    assert answer.message.message == "no rollout-1", answer
                    try:
                        session.request(wire.pb.Query(status=wire.pb.Empty()))
                        raise AssertionError("not closed")
                    except wire.SessionClosed as closed:
                        assert closed.code == "SHUTTING_DOWN", closed
                        assert closed.reason == "enough", closed
                # Another version, then a wrong name: each has its own code.
                for changes, code in [
                    (dict(version_min=2, version_max=3), "VERSION_MISMATCH"),
                    (dict(cluster="other"), "WRONG_CLUSTER"),
                    (dict(name="mallory"), "WRONG_IDENTITY"),
                    (dict(magic=1), "BAD_FRAME"),
                ]:
                    with wire.connect("127.0.0.1", int(sys.argv[1]), sys.argv[2]) as session:
                        try:
                            session.hello(**changes)
                            raise AssertionError(code)
                        except wire.SessionClosed as closed:
                            assert closed.code == code, closed
                """
            var status: ExitStatus?
            try start(
                script, ["\(listener.address.port)", "\(stage.directory)/operator-alice"],
                on: stage
            ) { status = $0 }
            stage.run(until: { status != nil })
            #expect(status == ExitStatus(code: 0, signal: 0))
            #expect(listener.refusedCount == 4)
        }
    }

    @Test("a Python leader takes a Swift agent's report, and its broken frames end the session")
    func pythonServer() throws {
        try withStage { stage in
            // A port that was free a moment ago.
            let probe = try stage.listener()
            let port = probe.address.port
            probe.close(.normal, reason: "")
            let script = """
                with wire.Listener(sys.argv[2], port=int(sys.argv[1])) as listener:
                    with listener.accept(20) as session:
                        assert session.peer == ("demo", "agent", "a"), session.peer
                        hello = session.receive_hello()
                        assert hello.name == "a" and len(hello.instance) == 16, hello
                        session.accept_hello(term=9)
                        report = session.receive()
                        assert report.kind == "HostReport", report
                        assert report.message.host == "a", report
                        session.send(
                            wire.pb.HostReportCommitted(index=5), report.correlation)
                        session.send_bytes(wire.encode_frame(99))          # ignored
                        session.send_bytes(wire.encode_frame(99, flags=2)) # mandatory
                        try:
                            session.receive()
                            raise AssertionError("not closed")
                        except wire.SessionClosed as closed:
                            assert closed.code == "UNKNOWN_KIND", closed
                    with listener.accept(20) as session:
                        session.receive_hello()
                        session.close("VERSION_MISMATCH", "go away")
                """
            var status: ExitStatus?
            try start(script, ["\(port)", "\(stage.directory)/server-s1"], on: stage) {
                status = $0
            }
            let client = try stage.client(["127.0.0.1:\(port)"])
            var answer: Result<Message, RequestError>?
            var problems: [SessionProblem.Kind] = []
            client.onReady = { accepted in
                #expect(accepted.term == 9)
                let report = HostReport(
                    host: HostID(checked: "a"), agentVersion: "1", bootID: "b",
                    acceptedToken: Token(0), sets: [], guests: [])
                client.request(.hostReport(report), timeout: .seconds(10)) { answer = $0 }
            }
            client.onDown = { problems.append($0.problem.kind) }
            client.start()
            stage.run(until: { status != nil && problems.last == .versionMismatch })
            #expect(status == ExitStatus(code: 0, signal: 0))
            #expect(try answer?.get() == .hostReportCommitted(index: 5))
            #expect(problems.suffix(2) == [.protocolViolated, .versionMismatch])
        }
    }
}
