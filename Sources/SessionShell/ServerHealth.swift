import Fleet
public import SessionCore
public import UvLoop
public import Wire

/// Asks one server whether it is there, as a health check or a load balancer would: TCP, TLS and
/// hello, then an orderly end. A standby is as healthy as a leader.
public enum ServerHealth {
    /// Roles that may ask. An agent or a notifier has one session at a time, and the newest is the
    /// one that stays: asking with its certificate would end the session that it works with.
    public static let roles: [Role] = [.server, .operator]

    /// - Parameters:
    ///   - server: `host:port`.
    ///   - credentials: of one of ``roles``.
    ///   - timeout: for all of it.
    ///   - completion: called once, later.
    public static func ask(
        _ server: String, credentials: Credentials, software: String, timeout: Duration,
        on loop: Loop, completion: @escaping (Result<HelloAccepted, SessionProblem>) -> Void
    ) {
        let role = credentials.identity.role
        precondition(roles.contains(role), "the role \(role.rawValue) has one session only")
        let attempt = SessionAttempt(
            on: loop, server: server, dialer: TLSDialer(on: loop, credentials: credentials),
            hello: Hello(
                identity: credentials.identity,
                instance: randomBytes(Hello.instanceByteCount), software: software),
            // Who asks does so every few seconds and decides by the answer.
            isUrgent: true)
        var answer: Result<HelloAccepted, SessionProblem>?
        let timer = loop.after(timeout) {
            guard answer == nil else { return }
            let problem = SessionProblem(
                .timedOut, "the server at \(server) did not answer within \(timeout)",
                advice: "look into its log, or give it longer")
            answer = .failure(problem)
            attempt.onEnd = nil
            attempt.close(.normal, "no answer in time")
            completion(.failure(problem))
        }
        attempt.onReady = { accepted in
            guard answer == nil else { return }
            answer = .success(accepted)
            attempt.close(.normal, "the health check is over")
        }
        attempt.onEnd = { problem in
            timer.cancel()
            // After an answer this is only the end that we asked for.
            let result = answer ?? .failure(problem)
            answer = result
            completion(result)
        }
        attempt.start()
    }
}
