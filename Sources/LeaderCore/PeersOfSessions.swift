// The sessions of `SessionCore` as a server sees them.

public import SessionCore

extension ServerSession: PeerSession {
    public var serial: String { certificate.serialHex }
}

extension SessionClient: LeaderWatch {
    public func whenDown(_ body: @escaping (LeaderWatchDown) -> Void) {
        onDown = { down in
            let reason: LeaderWatchDown.Reason =
                switch down.problem.kind {
                case .notLeader, .shuttingDown: .handedOver
                case .refused: .refused
                default: .other
                }
            body(
                LeaderWatchDown(
                    reason: reason, wasReady: down.wasReady, hasGivenUp: down.retryAfter == nil,
                    problem: "\(down.problem)"))
        }
    }
}
