import Fleet
import Presentation
import UvLoop
import Wire

/// Shows a rollout live until it is over.
///
/// Happy path: follow events from the first one the server keeps, print those of the rollout; when
/// it is over ask for it once more and print the end.
/// Failure modes:
/// - the session is lost: the connection is made again and following goes on after the last event;
/// - events are missing or refused: a view, asked for every two seconds, says when it is over;
/// - Control-C: the watching ends, the rollout goes on.
final class RolloutWatcher {
    private let connection: ClientConnection
    private let format: OutputFormat
    private var watch: RolloutWatch
    private var statusIsShown = false
    private var lastView: RolloutView?
    private var ending = false
    private let usesStatusLine: Bool

    /// How often the whole rollout is asked for.
    private static let viewInterval = Duration.seconds(2)
    /// How long events may take that are older than the view that ended the watch.
    private static let lateEvents = Duration.milliseconds(300)

    init(_ rollout: RolloutID, connection: ClientConnection, output: OutputFormat) {
        self.connection = connection
        format = output
        watch = RolloutWatch(rollout)
        usesStatusLine = output == .text && StandardOutput.isTerminal
    }

    /// - Throws: unless the rollout succeeds.
    func run() throws(CommandFailure) {
        let rollout = watch.rollout
        connection.onMessage = { [unowned self] in onMessage($0) }
        connection.onReady = { [unowned self] in follow() }
        follow()
        let polling = connection.loop.every(Self.viewInterval) { [unowned self] in askForView() }
        let interrupt = connection.loop.onSignal(2 /* SIGINT */) { [connection] in
            connection.stop(
                with: CommandFailure(
                    .interrupted, "stopped watching; \(rollout) goes on",
                    advice: "`fermata rollout watch \(rollout)` shows it again, `fermata rollout "
                        + "abort \(rollout) --reason …` lets no further step start."))
        }
        defer {
            polling.cancel()
            interrupt.cancel()
            connection.onMessage = nil
            connection.onReady = nil
            hideStatus()
        }
        try connection.run()
        connection.close()
        try finish()
    }

    private func follow() {
        connection.send(.followEvents(afterSequence: watch.sequence, progress: true))
        askForView()
    }

    private func askForView() { connection.send(.query(.rollout(watch.rollout))) }

    private func onMessage(_ message: Message) {
        let wasOver = watch.finalState != nil
        switch message {
        case .eventBatch(let events, _):
            for event in events { watch.on(event: event).map(show) }
            if watch.finalState != nil, !wasOver { askForView() }
        case .stepProgress(let progress): watch.on(progress: progress).map(show)
        case .queryResult(.rollout(let view)) where view.id == watch.rollout:
            watch.on(view: view)
            lastView = view
            if view.state.isOver { endSoon() }
        case .refused(let refusal) where refusal.code == .notFound:
            connection.stop(with: CommandFailure(refusal))
        default: break
        }
        showStatus()
    }

    private func endSoon() {
        guard !ending else { return }
        ending = true
        _ = connection.loop.after(Self.lateEvents) { [connection] in connection.stop(with: nil) }
    }

    private func finish() throws(CommandFailure) {
        guard let view = lastView else { return }
        hideStatus()
        switch format {
        case .text: StandardOutput.write("\n" + view.text)
        case .json:
            let last: JSON = ["event": "rollout", "rollout": view.json]
            StandardOutput.write(last.compact + "\n")
        }
        guard view.state != .succeeded else { return }
        let reason = view.reason.isEmpty ? "" : ": \(view.reason)"
        throw CommandFailure(
            .failed, "\(view.id) \(view.state)\(reason)",
            advice: "Guests that were updated stay so; the others run on the old software. "
                + "`fermata rollout show \(view.id)` says what happened to each, `fermata locks` "
                + "whether a set is stuck. When the cause is gone, start the rollout again: it "
                + "leaves alone what is done.")
    }

    // MARK: - Terminal

    private func show(_ line: RolloutWatch.Line) {
        hideStatus()
        StandardOutput.write((format == .text ? line.text : line.json.compact) + "\n")
    }

    /// One line at the bottom of a terminal, rewritten in place.
    private func showStatus() {
        guard usesStatusLine, watch.finalState == nil else { return }
        StandardOutput.write("\r\u{1B}[K\(watch.statusLine.prefix(79))")
        statusIsShown = true
    }

    private func hideStatus() {
        guard statusIsShown else { return }
        StandardOutput.write("\r\u{1B}[K")
        statusIsShown = false
    }
}
