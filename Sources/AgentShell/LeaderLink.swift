// The agent's session with the leader, as the agent sees it.

public import Fleet
public import SessionCore
internal import Wire

/// What an agent needs of a session with the leader. Belongs to the loop's thread.
public protocol LeaderLink: AnyObject {
    /// There is a session; called again after each reconnect.
    var onReady: (() -> Void)? { get set }
    /// The second argument is called once, with the answer.
    var onDirective: ((Directive, @escaping (DirectiveAnswer) -> Void) -> Void)? { get set }
    var onReportCommitted: ((StepID, Token) -> Void)? { get set }

    /// Whether the session is needed more than others': guests are held, or a report waits.
    var isUrgent: () -> Bool { get set }

    func start()
    func stop()
    // Each is dropped when there is no session: the agent says everything again at `onReady`.
    func send(_ report: HostReport)
    func send(_ progress: StepProgress)
    func send(_ report: StepReport)
}

/// The link over a real session.
public final class SessionLeaderLink: LeaderLink {
    public var onReady: (() -> Void)?
    public var onDirective: ((Directive, @escaping (DirectiveAnswer) -> Void) -> Void)?
    public var onReportCommitted: ((StepID, Token) -> Void)?
    /// A session was lost or could not be had; a fatal problem means that it will not be tried again.
    public var onDown: ((SessionDown) -> Void)?

    public var isUrgent: () -> Bool {
        get { client.isUrgent }
        set { client.isUrgent = newValue }
    }

    /// The server did not take a report, and says why.
    public var onRefused: ((Refusal) -> Void)?

    private let client: SessionClient

    /// - Parameter client: not started; its callbacks become this link's.
    public init(_ client: SessionClient) {
        self.client = client
        client.onReady = { [unowned self] _ in onReady?() }
        client.onDown = { [unowned self] in onDown?($0) }
        client.onMessage = { [unowned self] message, correlation in
            switch message {
            case .directive(let directive):
                onDirective?(directive) { answer in
                    client.send(
                        .directiveAnswer(
                            step: directive.step, token: directive.token, answer: answer),
                        correlation: correlation)
                }
            case .stepReportCommitted(let step, let token): onReportCommitted?(step, token)
            case .refused(let refusal): onRefused?(refusal)
            default: break
            }
        }
    }

    public func start() { client.start() }
    public func stop() { client.stop("the agent ends; its guests run on") }
    public func send(_ report: HostReport) { client.send(.hostReport(report)) }
    public func send(_ progress: StepProgress) { client.send(.stepProgress(progress)) }
    public func send(_ report: StepReport) { client.send(.stepReport(report)) }
}
