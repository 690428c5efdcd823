// A point at which tests want a process to die or to stop.

/// For tests only: the environment variable `FERMATA_TEST_PAUSE_AT=PHASE` makes an agent, a server or a notifier kill itself
/// (SIGKILL) when it comes to that point of a step, and `PHASE:stop` makes it stop itself (SIGSTOP).
/// Of an agent: accepted, prepared, armed, holding, stopped, moved, committing, killed, continued,
/// confirming, confirmed, finished. Of a server: granted (the grant is not durable yet), committed
/// (the directive is not sent yet), directed, reported (the report is not durable yet), recorded (the
/// agent is not told yet); of the last three, `directed-HOST` means that host's step only. Of a notifier: heard (the end of a hold is not stored yet), stored (nothing has gone
/// out), acknowledged (the leader may forget it), delivering-SINK, taken-SINK (what the receiver answered
/// is not noted yet), marked (it is), reported (the leader knows of a shared sink's delivery). Once for each process: a phase may be told of by two events.
public final class TestPause {
    private var phase: String
    private let signal: Int32

    public init(_ value: String?) {
        let parts = (value ?? "").split(separator: ":").map { String($0) }
        phase = parts.first ?? ""
        signal = parts.last == "stop" ? 19 : 9
    }

    public func reached(_ point: String) {
        guard point == phase, !phase.isEmpty else { return }
        phase = ""
        try? ProcessReference(pid: HostFacts.processID).send(signal: signal)
    }
}
