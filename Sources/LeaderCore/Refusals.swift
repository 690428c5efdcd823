import Edges
import Fleet
import Logging
import SessionCore
import Wire

/// Answers with Refused, for whoever asks: counts each (`requests_refused`, by its code) and logs no flood.
///
/// Commands have more to it, see ``Leadership``: they are counted by themselves and go on record.
final class Refusals {
    private unowned let edges: any ServerEdges
    private let loop: any EventLoop
    private let lines: RefusalLog
    private var timer: (any LoopTimer)?

    init(edges: any ServerEdges, loop: any EventLoop, log: Logger) {
        self.edges = edges
        self.loop = loop
        lines = RefusalLog(log, of: "request") { loop.nowMilliseconds }
    }

    /// - Parameter kind: what is refused.
    func answer(
        _ refusal: Refusal, to kind: MessageKind, of session: any PeerSession, correlation: UInt64
    ) {
        edges.count("requests_refused", refusal.code.rawValue)
        let wasLogged = lines.refused(
            session.peer, reason: "\(kind).\(refusal.code.rawValue)",
            "\(session.identity): \(refusal.message)")
        session.send(.refused(refusal), correlation: correlation)
        guard !wasLogged, timer == nil else { return }
        timer = loop.after(.seconds(1)) { [weak self] in
            self?.timer = nil
            self?.lines.flush()
        }
    }

    /// Answers a query; if the answer is longer than a message may be, with words.
    func answer(
        _ result: Result<OperatorQueryResult, Refusal>, of session: any PeerSession,
        correlation: UInt64
    ) {
        switch result {
        case .success(let found):
            if session.send(.queryResult(found), correlation: correlation) || !session.isReady {
                return
            }
            let refusal = Refusal(
                .invalid,
                "the answer would be longer than \(MessageKind.queryResult.byteCountMax) bytes",
                advice: "Ask for less of it.")
            answer(refusal, to: .query, of: session, correlation: correlation)
        case .failure(let refusal):
            answer(refusal, to: .query, of: session, correlation: correlation)
        }
    }
}
