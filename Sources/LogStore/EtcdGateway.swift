// Asks an etcd cluster, over the JSON gateway that each of its members serves.
//
// Happy path: the member that answered last is asked.
// Failure modes: it is not reached, does not answer in time, or has no leader: the next one is asked,
// round and round until the limit; an answer that will be the same everywhere (full, not permitted)
// comes at once. Whatever is asked here may be asked twice, and the first may even be carried out
// long after the second (a member that slept): transactions are guarded by their conditions,
// everything else only reads.

public import LogCore
import Foundation
public import UvLoop

/// Where an etcd cluster is and how it lets us in.
public struct EtcdOptions: Hashable, Sendable {
    /// `http://host:port` or `https://host:port` of each member.
    public var endpoints: [String]
    public var tls: HTTPRequest.TLS
    public var user: String?
    public var password: String?
    /// Everything of ours is below it; ends with a slash.
    public var prefix: String

    public init(
        endpoints: [String], tls: HTTPRequest.TLS = HTTPRequest.TLS(), user: String? = nil,
        password: String? = nil, prefix: String
    ) {
        self.endpoints = endpoints
        self.tls = tls
        self.user = user
        self.password = password
        self.prefix = prefix
    }
}

/// Why a question to etcd has no answer.
enum EtcdFailure: Error, Hashable {
    /// Nobody answered until the limit, or not to this question. A write may be there.
    case unavailable(String)
    /// NOSPACE: only reads and deletions are taken.
    case full(String)
    case notPermitted(String)
    /// The revision that was asked for has been compacted away.
    case compacted
    /// The answer is larger than we take.
    case tooLarge(String)
    /// What is in etcd cannot be what we wrote.
    case damaged(String)

    func error(_ store: String) -> LogStoreError {
        switch self {
        case .unavailable(let reason): .unavailable(store: store, reason: reason)
        case .full(let reason): .full(store: store, reason: reason)
        case .notPermitted(let reason): .notPermitted(store: store, reason: reason)
        case .compacted: .unavailable(store: store, reason: "what was to be read was compacted")
        case .tooLarge(let reason): .unavailable(store: store, reason: reason)
        case .damaged(let reason): .corrupt(path: store, reason: reason)
        }
    }
}

struct EtcdHealth {
    var databaseByteCount: Int64
    /// `NOSPACE` or `CORRUPT`, each.
    var alarms: [String]
}

final class EtcdGateway {
    /// For all members together: who was asked first may be the leader that has just died, the second
    /// may have passed it on to that one, and the third gets it done after the election.
    static let limitDefault = Duration.seconds(6)
    private static let pause = Duration.milliseconds(100)
    /// Of a page: 16 values of 1 MiB in base64, and something around them.
    private static let answerByteCountMax = 32 << 20

    let loop: Loop
    private let limit: Duration
    /// One member may be slow to sync its disk; beyond this the next one is asked as well. As many as
    /// can be down while there is a quorum may use it up, and one more.
    let memberLimit: Duration
    private let http: HTTPClient
    private let options: EtcdOptions
    private var current = 0
    private var token: String?

    init(_ options: EtcdOptions, on loop: Loop, limit: Duration = EtcdGateway.limitDefault) {
        precondition(!options.endpoints.isEmpty, "etcd without an endpoint")
        self.options = options
        self.loop = loop
        self.limit = limit
        memberLimit = limit / ((options.endpoints.count - 1) / 2 + 2)
        http = HTTPClient(on: loop)
    }

    func transaction(
        _ transaction: EtcdTransaction,
        _ completion: @escaping (Result<EtcdTransactionAnswer, EtcdFailure>) -> Void
    ) {
        ask("/v3/kv/txn", transaction.json, completion)
    }

    /// - Parameter revision: 0 for a linearizable read of now.
    func range(
        _ operation: EtcdOperation, revision: Int64 = 0,
        _ completion: @escaping (Result<EtcdRange, EtcdFailure>) -> Void
    ) {
        ask("/v3/kv/range", operation.rangeJSON(revision: revision), completion)
    }

    func compact(_ revision: Int64, _ completion: @escaping (EtcdFailure?) -> Void) {
        struct Answer: Decodable {}
        ask("/v3/kv/compaction", #"{"revision":"\#(revision)"}"#) {
            (result: Result<Answer, EtcdFailure>) in
            if case .failure(let failure) = result { completion(failure) } else { completion(nil) }
        }
    }

    /// Of the member that is asked: its database's size in bytes, and the alarms of the cluster.
    func health(_ completion: @escaping (Result<EtcdHealth, EtcdFailure>) -> Void) {
        struct Status: Decodable { var dbSize: String? }
        struct Alarms: Decodable {
            struct Alarm: Decodable { var alarm: String? }
            var alarms: [Alarm]?
        }
        ask("/v3/maintenance/status", "{}") {
            [self] (result: Result<Status, EtcdFailure>) in
            switch result {
            case .failure(let failure): completion(.failure(failure))
            case .success(let status):
                ask("/v3/maintenance/alarm", #"{"action":"GET"}"#) {
                    (result: Result<Alarms, EtcdFailure>) in
                    completion(
                        result.map { alarms in
                            EtcdHealth(
                                databaseByteCount: status.dbSize.flatMap { Int64($0) } ?? 0,
                                alarms: (alarms.alarms ?? []).map { $0.alarm ?? "NOSPACE" })
                        })
                }
            }
        }
    }

    /// Follows what is put from `from` on and below `to`.
    ///
    /// - Parameters:
    ///   - revision: the first that is wanted.
    ///   - onLine: gets what comes.
    ///   - onEnd: called once, unless it is cancelled. The next member is asked from then on.
    func watch(
        from: String, to: String, revision: Int64,
        onLine: @escaping (EtcdWatchLine.Result) -> Void,
        onEnd: @escaping (EtcdFailure) -> Void
    ) -> HTTPCall {
        // In fragments: who was away for a while gets what it missed at once otherwise.
        let body =
            #"{"create_request":{"key":"\#(base64(from))","range_end":"\#(base64(to))""#
            + #","start_revision":"\#(revision)","filters":["NODELETE"],"fragment":true}}"#
        var request = self.request("/v3/watch", body)
        request.limit = nil
        let asked = current
        var lines = LineSplitter()
        var call: HTTPCall?
        let finish = { [self] (reason: String) in
            call?.cancel()
            call = nil
            moveOn(from: asked)
            onEnd(.unavailable("\(options.endpoints[asked]): the watch ended: \(reason)"))
        }
        let sent = http.send(
            request,
            onPiece: { piece in
                for line in lines.add(piece) {
                    guard call != nil else { return }
                    let value = try? JSONDecoder().decode(EtcdWatchLine.self, from: Data(line))
                    guard let result = value?.result else {
                        let words = String(decoding: line.prefix(200), as: UTF8.self)
                        return finish(value?.error?.text ?? words)
                    }
                    onLine(result)
                }
            },
            completion: { result in
                switch result {
                case .success(let answer):
                    let words = String(decoding: lines.rest.prefix(200), as: UTF8.self)
                    finish("status \(answer.status) \(words)")
                case .failure(let error): finish("\(error)")
                }
            })
        call = sent
        return sent
    }

    /// The smallest key that is not below the prefix.
    static func endOfPrefix(_ prefix: String) -> String {
        var scalars = Array(prefix.utf8)
        scalars[scalars.count - 1] += 1
        return String(decoding: scalars, as: UTF8.self)
    }

    // MARK: One question, several members

    private struct Question {
        var path: String
        var body: String
        /// By ``HoldClock``.
        var endsAt: Int64
        var triedCount = 0
        /// How many in a row have not been taken for whom they should be, or have not taken us.
        var refusedCount = 0
        var lastReason = "no time was left to ask"
    }

    private func moveOn(from asked: Int) {
        // Another question may have moved on already.
        if current == asked { current = (current + 1) % options.endpoints.count }
    }

    private func request(_ path: String, _ body: String) -> HTTPRequest {
        var headers = ["Content-Type: application/json"]
        if let token, !token.isEmpty { headers.append("Authorization: \(token)") }
        return HTTPRequest(
            url: options.endpoints[current] + path, headers: headers, body: Array(body.utf8),
            tls: options.tls, connectLimit: .seconds(1), limit: memberLimit,
            answerByteCountMax: Self.answerByteCountMax)
    }

    private func ask<Answer: Decodable>(
        _ path: String, _ body: String,
        _ completion: @escaping (Result<Answer, EtcdFailure>) -> Void
    ) {
        let endsAt = HoldClock.nowMicroseconds + limit.wholeMicroseconds
        ask(Question(path: path, body: body, endsAt: endsAt), completion)
    }

    private func ask<Answer: Decodable>(
        _ question: Question, _ completion: @escaping (Result<Answer, EtcdFailure>) -> Void
    ) {
        if options.user != nil, token == nil, question.path != Self.authenticatePath {
            return authenticate(question.endsAt) { [self] failure in
                if let failure { return completion(.failure(failure)) }
                ask(question, completion)
            }
        }
        let left = question.endsAt - HoldClock.nowMicroseconds
        guard left > 0 else {
            return completion(.failure(.unavailable(question.lastReason)))
        }
        var request = self.request(question.path, question.body)
        request.limit = min(memberLimit, .microseconds(max(left, 100_000)))
        let asked = current
        http.send(request) { [self] result in
            switch verdict(result, options.endpoints[asked], question.path, Answer.self) {
            case .answer(let answer): completion(.success(answer))
            case .failure(let failure): completion(.failure(failure))
            case .authenticateAgain:
                token = nil
                again(question, "the token is not taken", isRefusal: false, completion)
            case .another(let reason):
                moveOn(from: asked)
                again(question, reason, isRefusal: false, completion)
            case .refusal(let reason):
                moveOn(from: asked)
                again(question, reason, isRefusal: true, completion)
            }
        }
    }

    private func again<Answer: Decodable>(
        _ question: Question, _ reason: String, isRefusal: Bool,
        _ completion: @escaping (Result<Answer, EtcdFailure>) -> Void
    ) {
        var question = question
        question.triedCount += 1
        question.lastReason = reason
        question.refusedCount = isRefusal ? question.refusedCount + 1 : 0
        if question.refusedCount >= options.endpoints.count {
            return completion(.failure(.notPermitted(reason)))
        }
        let isRound = question.triedCount % options.endpoints.count == 0
        loop.after(isRound ? Self.pause : .zero) { [self, question] in
            ask(question, completion)
        }
    }

    private enum Verdict<Answer> {
        case answer(Answer)
        case failure(EtcdFailure)
        case authenticateAgain
        /// Another member may know better.
        case another(String)
        /// By TLS; another member may have a better certificate.
        case refusal(String)
    }

    private func verdict<Answer: Decodable>(
        _ result: Result<HTTPAnswer, HTTPError>, _ place: String, _ path: String,
        _ type: Answer.Type
    ) -> Verdict<Answer> {
        switch result {
        case .failure(let error):
            let reason = "\(place): \(error)"
            return switch error.kind {
            case .tls: .refusal(reason)
            case .tooLarge: .failure(.tooLarge(reason))
            case .notSent, .unknown: .another(reason)
            }
        case .success(let answer) where answer.status == 200:
            guard let value = try? JSONDecoder().decode(type, from: Data(answer.body)) else {
                let words = String(decoding: answer.body.prefix(100), as: UTF8.self)
                return .failure(
                    .unavailable("\(place)\(path) does not answer as an etcd does: \(words)"))
            }
            return .answer(value)
        case .success(let answer): return verdict(answer, place, path)
        }
    }

    /// The numbers are gRPC's codes.
    private func verdict<Answer>(
        _ answer: HTTPAnswer, _ place: String, _ path: String
    ) -> Verdict<Answer> {
        let problem = try? JSONDecoder().decode(EtcdProblem.self, from: Data(answer.body))
        let words = problem?.text ?? String(decoding: answer.body.prefix(200), as: UTF8.self)
        let reason = "\(place): \(words)"
        func says(_ part: String) -> Bool { words.contains(part) }
        switch problem?.code {
        case 8 where says("space exceeded"): return .failure(.full(reason))
        case 11 where says("compacted"): return .failure(.compacted)
        case 16 where says("token"),
            3 where says("auth store is old") || says("user name is empty"):
            // Without a user there is no other token to be had.
            return options.user == nil ? .failure(.notPermitted(reason)) : .authenticateAgain
        case 3 where says("authentication failed"), 7, 16: return .failure(.notPermitted(reason))
        // Cancelled, unknown, deadline exceeded, exhausted, aborted, out of range on a member that is
        // behind, internal, unavailable.
        case 1, 2, 4, 8, 10, 11, 13, 14: return .another(reason)
        case 15: return .failure(.damaged(reason))
        case nil where answer.status >= 500: return .another("\(reason) (\(answer.status))")
        case nil where answer.status == 400 && says("CommonName"):
            // It takes either users or certificates that name one, but not such ones at its gateway.
            return .failure(
                .notPermitted("\(reason); use a client certificate without a common name"))
        default:
            return .failure(.unavailable("\(reason) (status \(answer.status), \(path))"))
        }
    }

    // MARK: Users

    private static let authenticatePath = "/v3/auth/authenticate"

    private func authenticate(
        _ endsAt: Int64, _ completion: @escaping (EtcdFailure?) -> Void
    ) {
        struct Answer: Decodable { var token: String? }
        struct Credentials: Encodable { var name: String, password: String }
        let credentials = Credentials(name: options.user ?? "", password: options.password ?? "")
        let body = String(decoding: jsonBytes(credentials), as: UTF8.self)
        ask(Question(path: Self.authenticatePath, body: body, endsAt: endsAt)) {
            [self] (result: Result<Answer, EtcdFailure>) in
            switch result {
            case .success(let answer):
                token = answer.token ?? ""
                completion(nil)
            case .failure(.unavailable(let reason)) where reason.contains("is not enabled"):
                // Everybody is let in for now.
                token = ""
                completion(nil)
            case .failure(let failure): completion(failure)
            }
        }
    }
}

/// Cuts what comes in pieces into lines.
struct LineSplitter {
    private(set) var rest: [UInt8] = []

    /// - Returns: the lines that are whole now, without their ends.
    mutating func add(_ piece: [UInt8]) -> [ArraySlice<UInt8>] {
        let newline = UInt8(ascii: "\n")
        // A line may be some megabytes in many pieces: what was looked at is not looked at again.
        guard let last = piece.lastIndex(of: newline) else {
            rest += piece
            return []
        }
        let whole = rest + piece[...last]
        rest = Array(piece[(last + 1)...])
        return whole.split(separator: newline)
    }
}

extension Duration {
    var wholeMicroseconds: Int64 {
        let (seconds, attoseconds) = components
        return seconds * 1_000_000 + attoseconds / 1_000_000_000_000
    }
}
