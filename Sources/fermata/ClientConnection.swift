import Fleet
import Logging
import Presentation
import SessionCore
import SessionShell
import UvLoop
import Wire

/// One session with the leader, for a command that asks something and waits for the answer.
///
/// Happy path: ``open(_:)`` runs the loop until the session is there, ``query(_:)`` and
/// ``command(_:)`` until the answer is.
/// Failure modes: nobody answers at any of the addresses, or the certificate is refused: the
/// command fails at once; only a server that says it does not lead is asked again until the time
/// limit. A session that breaks before the answer: the command fails and says that the outcome is
/// not known. While ``run()`` runs (watching) a lost session is made again.
final class ClientConnection {
    /// What the leader said to a command: it is committed.
    struct Accepted {
        var index: UInt64
        var rollout: RolloutID?
        var json: JSON { ["index": .unsigned(index)] }
    }

    let loop: Loop
    /// While ``run()`` runs: everything that comes.
    var onMessage: ((Message) -> Void)?
    /// While ``run()`` runs: the session is there again.
    var onReady: (() -> Void)?

    private let client: SessionClient
    private let timeout: Duration
    private var failure: CommandFailure?
    /// Problems of the addresses tried since the last pause.
    private var problems: [SessionProblem] = []

    /// A person waits at most this long for a silent command.
    private static let silenceMax = Duration.seconds(1)
    /// How long a watcher waits for the server to come back.
    private static let absenceMax = Duration.seconds(120)

    private init(loop: Loop, client: SessionClient, timeout: Duration) {
        self.loop = loop
        self.client = client
        self.timeout = timeout
    }

    /// Connects as the operator that the options name.
    ///
    /// - Parameter stale: a standby will do.
    static func open(
        _ options: ClientOptions, stale: Bool = false
    ) throws(CommandFailure) -> ClientConnection {
        let servers = try options.servers
        let prefix = try options.credentials
        let credentials = try loadCredentials(prefix, roles: [.operator])
        let loop = try makeLoop()
        // One that hangs must not use up the time that the others have.
        let share = options.timeout / (servers.count + 1)
        let client = SessionClient(
            on: loop, servers: servers, credentials: credentials, software: Version.software,
            dialLimit: servers.count == 1 ? nil : share,
            logger: Logger(label: "fermata") { _ in SwiftLogNoOpLogHandler() })
        client.isUrgent = { true }  // somebody waits
        client.acceptsStandby = stale
        let connection = ClientConnection(loop: loop, client: client, timeout: options.timeout)
        try connection.connect()
        return connection
    }

    /// Also when a command ends with a refusal: the server is told, and need not wonder.
    deinit { client.stop() }

    func close() { client.stop() }

    // MARK: - One question, one answer

    /// - Parameter stale: what a standby knows will do.
    func query(
        _ query: OperatorQuery, stale: Bool = false
    ) throws(CommandFailure) -> OperatorQueryResult {
        guard case .queryResult(let result) = try ask(.query(query, stale: stale)) else {
            throw unexpectedAnswer()
        }
        return result
    }

    func command(_ command: OperatorCommand) throws(CommandFailure) -> Accepted {
        guard case .commandAccepted(let index, let rollout) = try ask(.command(command)) else {
            throw unexpectedAnswer()
        }
        return Accepted(index: index, rollout: rollout)
    }

    private func ask(_ message: Message) throws(CommandFailure) -> Message {
        var answer: Result<Message, RequestError>?
        client.request(message, timeout: timeout) { [loop] result in
            answer = result
            loop.stop()
        }
        let waiting = sayAfterSilence("waiting for the server's answer …")
        loop.run()
        waiting.cancel()
        switch answer {
        case .success(.refused(let refusal)): throw CommandFailure(refusal)
        case .success(let message): return message
        case .failure(let error): throw CommandFailure(error, asked: message)
        case nil: throw CommandFailure(.internalError, "the loop ended before the answer came")
        }
    }

    private func unexpectedAnswer() -> CommandFailure {
        CommandFailure(
            .protocolMismatch, "the server's answer does not fit the question",
            advice: "Compare `fermata --version` here with the software that `fermata status` "
                + "shows.")
    }

    // MARK: - Connecting

    private func connect() throws(CommandFailure) {
        var isReady = false
        var mayWaitForLeader = false
        client.onReady = { [loop] _ in
            isReady = true
            loop.stop()
        }
        client.onDown = { [unowned self] down in
            problems.append(down.problem)
            if down.problem.kind == .notLeader || down.problem.kind == .shuttingDown {
                mayWaitForLeader = true
            }
            if down.problem.isFatal || (down.isRoundOver && !mayWaitForLeader) {
                stop(with: CommandFailure(problems))
            } else if down.isRoundOver {
                problems = [down.problem]
                mayWaitForLeader = false
            }
        }
        client.onMessage = { [unowned self] message, _ in onMessage?(message) }
        let limit = loop.after(timeout) { [unowned self] in
            var failure = CommandFailure(problems)
            if problems.isEmpty {
                failure.message = "no server answered within \(spanText(timeout))"
            }
            stop(with: failure)
        }
        let waiting = sayAfterSilence(
            "connecting to \(client.servers.joined(separator: ", ")) …")
        client.start()
        loop.run()
        limit.cancel()
        waiting.cancel()
        problems = []
        if let failure { throw failure }
        precondition(isReady, "the loop ended before the session was there")
    }

    private func sayAfterSilence(_ text: String) -> Timer {
        loop.after(Self.silenceMax) { StandardError.note(text) }
    }

    // MARK: - Watching

    func send(_ message: Message) {
        client.send(message, correlation: client.nextCorrelation())
    }

    /// Runs until ``stop(with:)``.
    func run() throws(CommandFailure) {
        var absence: Timer?
        client.onReady = { [unowned self] _ in
            if absence != nil { StandardError.note("connected again") }
            absence?.cancel()
            absence = nil
            onReady?()
        }
        client.onDown = { [unowned self] down in
            guard !down.problem.isFatal else { return stop(with: CommandFailure([down.problem])) }
            guard absence == nil else { return }
            StandardError.note("\(down.problem.message); trying again …")
            absence = loop.after(Self.absenceMax) { [unowned self] in
                stop(with: CommandFailure([down.problem]))
            }
        }
        loop.run()
        absence?.cancel()
        if let failure { throw failure }
    }

    /// Ends ``run()``, with an error or without.
    func stop(with failure: CommandFailure?) {
        self.failure = self.failure ?? failure
        loop.stop()
    }
}

/// Reads certificate, key and authority.
func loadCredentials(
    _ prefix: String, roles: [Role]
) throws(CommandFailure) -> Credentials {
    do {
        return try Credentials.load(prefix: prefix, roles: roles)
    } catch {
        throw CommandFailure(.notPermitted, error.message, advice: error.advice.capitalizedFirst)
    }
}

func makeLoop() throws(CommandFailure) -> Loop {
    do {
        return try Loop()
    } catch {
        throw CommandFailure(.internalError, "\(error)")
    }
}

func spanText(_ duration: Duration) -> String {
    let (seconds, attoseconds) = duration.components
    return spanText(microseconds: seconds * 1_000_000 + attoseconds / 1_000_000_000_000)
}

extension String {
    /// Advice of the lower layers is a clause; here it stands as a sentence.
    var capitalizedFirst: String {
        guard let first else { return self }
        let end = ".!?".contains(last ?? ".") ? "" : "."
        return first.uppercased() + dropFirst() + end
    }
}

extension CommandFailure {
    /// Why no session could be had: what each address said.
    init(_ problems: [SessionProblem]) {
        // What cannot be cured by trying again says more than an address where nobody is.
        guard let main = problems.first(where: \.isFatal) ?? problems.last else {
            self.init(
                .unavailable, "no server answered",
                advice: "Check --server (or FERMATA_SERVER) and that `fermata server` runs there.")
            return
        }
        let others = problems.filter { $0 != main }.map { "\n  also: \($0.message)" }
        self.init(
            Exit(rawValue: main.exitCode) ?? .unavailable, main.message + others.joined(),
            advice: main.advice.capitalizedFirst)
    }

    init(_ error: RequestError, asked message: Message) {
        let isCommand = if case .command = message { true } else { false }
        let unknown =
            "Whether the command was carried out is not known: look with `fermata status` or "
            + "`fermata rollout list` before you give it again."
        switch error {
        case .notConnected:
            self.init(.unavailable, "\(error)", advice: "Try again.")
        case .timedOut(let limit):
            self.init(
                .unavailable, "the server did not answer within \(spanText(limit))",
                advice: isCommand ? unknown : "Try again, or give a longer --timeout.")
        case .down(let problem):
            self.init([problem])
            if isCommand { advice = unknown }
        case .notSent:
            self.init(.failed, "\(error)", advice: "Select fewer hosts at a time.")
        }
    }
}
