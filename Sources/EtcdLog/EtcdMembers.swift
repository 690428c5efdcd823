// One question to several members of an etcd cluster, until one of them answers it.
//
//   ask ─▶ prepare ─▶ try at a member ──answer, or a failure that is the same everywhere──▶ done
//             ▲             │ not reached, no answer in time, no leader; refused
//             └── pause ◀───┴──▶ next member, round and round until the limit ──▶ unavailable
//
// The member that answered last is asked first. Whatever is asked here may be asked twice: so an append
// whose outcome is unknown is resolved by the same transaction again.

public import Edges

/// What came of one try at one member.
public enum EtcdVerdict<Answer> {
    case answer(Answer)
    /// The same everywhere: it is final.
    case failure(EtcdFailure)
    /// Another member may know better.
    case another(String)
    /// It is not whom it should be, or does not take us; another member may have a better
    /// certificate.
    case refusal(String)
    /// It would answer if it were asked better, as ``EtcdQuestion/prepare`` sees to.
    case sameAgain(String)
}

/// How a question is put to a member.
public struct EtcdQuestion<Answer> {
    /// Called before each try, with the time (as the members' `now`) when the question ends. Calls
    /// back, at once or later, with what makes it hopeless, or nil. Nil if there is nothing to do.
    public var prepare: ((_ endsAt: Int64, @escaping (EtcdFailure?) -> Void) -> Void)?
    /// Asks the member with this index once, and calls back once, later, within the limit or soon
    /// after it.
    public var send:
        (_ member: Int, _ limit: Duration, @escaping (EtcdVerdict<Answer>) -> Void) -> Void

    public init(
        prepare: ((_ endsAt: Int64, @escaping (EtcdFailure?) -> Void) -> Void)? = nil,
        send:
            @escaping (
                _ member: Int, _ limit: Duration, @escaping (EtcdVerdict<Answer>) -> Void
            ) -> Void
    ) {
        self.prepare = prepare
        self.send = send
    }
}

/// The members of an etcd cluster, as one who asks them knows them.
public final class EtcdMembers {
    /// For all members together: who was asked first may be the leader that has just died, the second
    /// may have passed it on to that one, and the third gets it done after the election.
    public static let limitDefault = Duration.seconds(6)
    private static let pause = Duration.milliseconds(100)
    /// A try gets this much even if the question's time is up sooner, in microseconds.
    private static let leftMin: Int64 = 100_000

    /// One member may be slow to sync its disk; beyond this the next one is asked as well. As many as
    /// can be down while there is a quorum may use it up, and one more.
    public let memberLimit: Duration
    /// Who is asked next.
    public private(set) var current = 0
    private let count: Int
    private let limit: Duration
    private let loop: any EventLoop
    private let now: () -> Int64

    /// - Parameters:
    ///   - count: of the members; at least 1.
    ///   - limit: how long a question may take, over all members.
    ///   - now: a clock that only goes forward, in microseconds.
    public init(
        count: Int, limit: Duration = EtcdMembers.limitDefault, on loop: any EventLoop,
        now: @escaping () -> Int64
    ) {
        precondition(count > 0, "etcd without a member")
        self.count = count
        self.limit = limit
        self.loop = loop
        self.now = now
        memberLimit = limit / ((count - 1) / 2 + 2)
    }

    /// From now on the next member is asked.
    ///
    /// - Parameter asked: who has failed; another question may have moved on already.
    public func moveOn(from asked: Int) {
        if current == asked { current = (current + 1) % count }
    }

    /// Asks until there is an answer, or the limit is reached.
    ///
    /// - Parameters:
    ///   - endsAt: by `now`, for what belongs to another question; nil: when the limit is over.
    ///   - completion: called once.
    public func ask<Answer>(
        _ question: EtcdQuestion<Answer>, endsAt: Int64? = nil,
        _ completion: @escaping (Result<Answer, EtcdFailure>) -> Void
    ) {
        let progress = Progress(endsAt: endsAt ?? now() + limit.microseconds)
        ask(question, progress, completion)
    }

    /// How far a question has got.
    private struct Progress {
        var endsAt: Int64
        var triedCount = 0
        /// How many in a row have not been taken for whom they should be, or have not taken us.
        var refusedCount = 0
        var lastReason = "no time was left to ask"
    }

    private func ask<Answer>(
        _ question: EtcdQuestion<Answer>, _ progress: Progress,
        _ completion: @escaping (Result<Answer, EtcdFailure>) -> Void
    ) {
        guard let prepare = question.prepare else {
            return askMember(question, progress, completion)
        }
        prepare(progress.endsAt) { [self] failure in
            if let failure { return completion(.failure(failure)) }
            askMember(question, progress, completion)
        }
    }

    private func askMember<Answer>(
        _ question: EtcdQuestion<Answer>, _ progress: Progress,
        _ completion: @escaping (Result<Answer, EtcdFailure>) -> Void
    ) {
        let left = progress.endsAt - now()
        guard left > 0 else {
            return completion(.failure(.unavailable(progress.lastReason)))
        }
        let asked = current
        question.send(asked, min(memberLimit, .microseconds(max(left, Self.leftMin)))) {
            [self] verdict in
            switch verdict {
            case .answer(let answer): completion(.success(answer))
            case .failure(let failure): completion(.failure(failure))
            case .sameAgain(let reason):
                again(question, progress, reason, isRefusal: false, completion)
            case .another(let reason):
                moveOn(from: asked)
                again(question, progress, reason, isRefusal: false, completion)
            case .refusal(let reason):
                moveOn(from: asked)
                again(question, progress, reason, isRefusal: true, completion)
            }
        }
    }

    private func again<Answer>(
        _ question: EtcdQuestion<Answer>, _ progress: Progress, _ reason: String, isRefusal: Bool,
        _ completion: @escaping (Result<Answer, EtcdFailure>) -> Void
    ) {
        var progress = progress
        progress.triedCount += 1
        progress.lastReason = reason
        progress.refusedCount = isRefusal ? progress.refusedCount + 1 : 0
        if progress.refusedCount >= count {
            return completion(.failure(.notPermitted(reason)))
        }
        let isRound = progress.triedCount % count == 0
        loop.after(isRound ? Self.pause : .zero) { [self, progress] in
            ask(question, progress, completion)
        }
    }
}
