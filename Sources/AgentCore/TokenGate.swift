public import Fleet

/// Decides which directives an agent takes: invariant 5, fencing.
///
/// ```
///  directive's token          this host's step                     verdict
///  lower than accepted        –                                    staleToken
///  equal to accepted          same step and token, in flight       repeated: accepted, keep going
///  equal to accepted          same step and token, reported        repeated: accepted, report again
///  equal to accepted          another step, or report committed    staleToken
///  higher than accepted       a step in flight                     busy
///  higher than accepted       none in flight                       fresh: keep safe, then begin
/// ```
/// The accepted token is kept durably by the shell, in one write with the directive, before the
/// directive has any effect, so the table also holds across restarts.
public struct TokenGate: Hashable, Sendable {
    /// A step and the token of its grant.
    public struct Grant: Hashable, Sendable {
        public var step: StepID
        public var token: Token
        public init(step: StepID, token: Token) {
            self.step = step
            self.token = token
        }
    }

    public enum Verdict: Hashable, Sendable {
        case fresh
        case repeatedInFlight
        case repeatedFinished
        case staleToken(acceptedToken: Token)
        case busy(with: StepID)
    }

    /// The highest token ever accepted; 0 if none.
    public private(set) var acceptedToken: Token
    public private(set) var inFlight: Grant?
    /// Finished steps whose reports the leader has not committed yet, in the order they ended.
    public private(set) var reported: [Grant]

    public init(acceptedToken: Token, inFlight: Grant? = nil, reported: [Grant] = []) {
        self.acceptedToken = acceptedToken
        self.inFlight = inFlight
        self.reported = reported
    }

    public func judge(_ directive: Directive) -> Verdict {
        let grant = Grant(step: directive.step, token: directive.token)
        if grant == inFlight { return mutated(.repeatedBeginsAgain) ? .fresh : .repeatedInFlight }
        if reported.contains(grant) { return .repeatedFinished }
        guard directive.token > acceptedToken else {
            return .staleToken(acceptedToken: acceptedToken)
        }
        if let inFlight { return .busy(with: inFlight.step) }
        return .fresh
    }

    /// The directive was judged `fresh` and is kept safe.
    public mutating func accept(_ directive: Directive) {
        precondition(judge(directive) == .fresh, "accepting \(directive.step) in \(self)")
        acceptedToken = directive.token
        inFlight = Grant(step: directive.step, token: directive.token)
    }

    /// The step in flight has ended and its report is kept safe.
    public mutating func finish() {
        guard let grant = inFlight else { return }
        inFlight = nil
        reported.append(grant)
    }

    /// The leader has committed the report.
    public mutating func forget(step: StepID, token: Token) {
        reported.removeAll { $0 == Grant(step: step, token: token) }
    }
}
