// Asks an etcd cluster, over the JSON gateway that each of its members serves.
//
// Happy path: the member that answered last is asked.
// Failure modes: it is not reached, does not answer in time, or has no leader: the next one is asked,
// round and round until the limit; an answer that will be the same everywhere (full, not permitted)
// comes at once. Whatever is asked here may be asked twice: transactions are guarded by their
// conditions, everything else only reads.

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
    /// Nobody answered until the limit. A write may be there.
    case unavailable(String)
    /// NOSPACE: only reads and deletions are taken.
    case full(String)
    case notPermitted(String)
    /// The revision that was asked for has been compacted away.
    case compacted
    /// Etcd does not take what we say, or we do not understand what it says.
    case unexpected(String)

    func error(_ store: String) -> LogStoreError {
        switch self {
        case .unavailable(let reason): .unavailable(store: store, reason: reason)
        case .full(let reason): .full(store: store, reason: reason)
        case .notPermitted(let reason): .notPermitted(store: store, reason: reason)
        case .compacted: .unavailable(store: store, reason: "what was to be read was compacted")
        case .unexpected(let reason): .corrupt(path: store, reason: reason)
        }
    }
}

struct EtcdHealth {
    var databaseByteCount: Int64
    /// `NOSPACE` or `CORRUPT`, each.
    var alarms: [String]
}

final class EtcdGateway {
    /// One member may be slow to sync its disk; beyond this the next one is asked as well.
    static let memberLimit = Duration.seconds(2)
    /// For all members together.
    static let limit = Duration.seconds(4)
    private static let pause = Duration.milliseconds(100)

    let loop: Loop
    private let http: HTTPClient
    private let options: EtcdOptions
    private var current = 0
    private var token: String?

    init(_ options: EtcdOptions, on loop: Loop) {
        precondition(!options.endpoints.isEmpty, "etcd without an endpoint")
        self.options = options
        self.loop = loop
        http = HTTPClient(on: loop)
    }

    func transaction(
        _ transaction: EtcdTransaction, limit: Duration = EtcdGateway.limit,
        _ completion: @escaping (Result<EtcdTransactionAnswer, EtcdFailure>) -> Void
    ) {
        ask("/v3/kv/txn", transaction.json, limit: limit, completion)
    }

    /// - Parameter revision: 0 for a linearizable read of now.
    func range(
        _ operation: EtcdOperation, revision: Int64 = 0,
        _ completion: @escaping (Result<EtcdRange, EtcdFailure>) -> Void
    ) {
        ask(
            "/v3/kv/range", operation.rangeJSON(revision: revision), limit: Self.limit, completion)
    }

    func compact(_ revision: Int64, _ completion: @escaping (EtcdFailure?) -> Void) {
        struct Answer: Decodable {}
        ask("/v3/kv/compaction", #"{"revision":"\#(revision)"}"#, limit: Self.limit) {
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
        ask("/v3/maintenance/status", "{}", limit: Self.limit) {
            [self] (result: Result<Status, EtcdFailure>) in
            switch result {
            case .failure(let failure): completion(.failure(failure))
            case .success(let status):
                ask("/v3/maintenance/alarm", #"{"action":"GET"}"#, limit: Self.limit) {
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

    /// Follows what changes under our prefix.
    ///
    /// - Parameters:
    ///   - revision: the first that is wanted.
    ///   - onLine: gets what comes.
    ///   - onEnd: called once, unless it is cancelled. The next member is asked from then on.
    func watch(
        from revision: Int64, onLine: @escaping (EtcdWatchLine.Result) -> Void,
        onEnd: @escaping (EtcdFailure) -> Void
    ) -> HTTPCall {
        let end = base64(Self.endOfPrefix(options.prefix))
        let body =
            #"{"create_request":{"key":"\#(base64(options.prefix))","range_end":"\#(end)""#
            + #","start_revision":"\#(revision)"}}"#
        var request = self.request("/v3/watch", body)
        request.limit = nil
        var rest: [UInt8] = []
        var isOver = false
        func finish(_ failure: EtcdFailure) {
            guard !isOver else { return }
            isOver = true
            current = (current + 1) % options.endpoints.count
            onEnd(failure)
        }
        var call: HTTPCall?
        call = http.send(
            request,
            onPiece: { piece in
                rest += piece
                while !isOver, let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
                    let line = Data(rest[..<end])
                    rest.removeSubrange(...end)
                    guard let value = try? JSONDecoder().decode(EtcdWatchLine.self, from: line),
                        let result = value.result
                    else {
                        call?.cancel()
                        let words = String(decoding: line.prefix(200), as: UTF8.self)
                        return finish(.unavailable("the watch ended: \(words)"))
                    }
                    onLine(result)
                }
            },
            completion: { result in
                switch result {
                case .success(let answer): finish(.unavailable("status \(answer.status)"))
                case .failure(let error): finish(.unavailable("\(error)"))
                }
            })
        return call!
    }

    /// The smallest key that is not below the prefix.
    static func endOfPrefix(_ prefix: String) -> String {
        var scalars = Array(prefix.utf8)
        scalars[scalars.count - 1] += 1
        return String(decoding: scalars, as: UTF8.self)
    }

    // MARK: One question, several members

    private func request(_ path: String, _ body: String) -> HTTPRequest {
        var headers = ["Content-Type: application/json"]
        if let token { headers.append("Authorization: \(token)") }
        return HTTPRequest(
            url: options.endpoints[current] + path, headers: headers, body: Array(body.utf8),
            tls: options.tls, connectLimit: .seconds(1), limit: Self.memberLimit)
    }

    private func ask<Answer: Decodable>(
        _ path: String, _ body: String, limit: Duration,
        _ completion: @escaping (Result<Answer, EtcdFailure>) -> Void
    ) {
        let endsAt = HoldClock.nowMicroseconds + limit.wholeMicroseconds
        ask(path, body, endsAt, tried: 0, lastReason: "", completion)
    }

    private func ask<Answer: Decodable>(
        _ path: String, _ body: String, _ endsAt: Int64, tried: Int, lastReason: String,
        _ completion: @escaping (Result<Answer, EtcdFailure>) -> Void
    ) {
        if options.user != nil, token == nil, path != "/v3/auth/authenticate" {
            return authenticate(endsAt) { [self] failure in
                if let failure { return completion(.failure(failure)) }
                ask(path, body, endsAt, tried: tried, lastReason: lastReason, completion)
            }
        }
        let left = endsAt - HoldClock.nowMicroseconds
        guard left > 0 else {
            return completion(.failure(.unavailable(lastReason)))
        }
        var request = self.request(path, body)
        request.limit = min(Self.memberLimit, .microseconds(max(left, 100_000)))
        let asked = current
        let again = { [self] (reason: String, immediately: Bool) in
            // Another question may have moved on already.
            if current == asked { current = (current + 1) % options.endpoints.count }
            let count = tried + 1
            let pause: Duration =
                immediately || count % options.endpoints.count != 0 ? .zero : Self.pause
            loop.after(pause) { [self] in
                ask(path, body, endsAt, tried: count, lastReason: reason, completion)
            }
        }
        http.send(request) { [self] result in
            let place = options.endpoints[asked]
            switch result {
            case .failure(let error) where error.kind == .tls:
                completion(.failure(.notPermitted("\(place): \(error)")))
            case .failure(let error): again("\(place): \(error)", false)
            case .success(let answer) where answer.status == 200:
                do {
                    let value = try JSONDecoder().decode(Answer.self, from: Data(answer.body))
                    completion(.success(value))
                } catch {
                    completion(.failure(.unexpected("\(place) answers \(path) with \(error)")))
                }
            case .success(let answer):
                switch Self.verdict(answer, place, path) {
                case .failure(let failure): completion(.failure(failure))
                case .authenticateAgain:
                    token = nil
                    again("\(place): the token has ended", true)
                case .another(let reason): again(reason, false)
                }
            }
        }
    }

    private enum Verdict {
        case failure(EtcdFailure)
        case authenticateAgain
        case another(String)
    }

    /// The numbers are gRPC's codes.
    private static func verdict(_ answer: HTTPAnswer, _ place: String, _ path: String) -> Verdict {
        let problem = try? JSONDecoder().decode(EtcdProblem.self, from: Data(answer.body))
        let words = problem?.text ?? String(decoding: answer.body.prefix(200), as: UTF8.self)
        let reason = "\(place): \(words)"
        switch problem?.code {
        case 8 where words.contains("space exceeded"): return .failure(.full(reason))
        case 11 where words.contains("compacted"): return .failure(.compacted)
        case 16 where words.contains("token"): return .authenticateAgain
        case 7, 16: return .failure(.notPermitted(reason))
        case 3 where words.contains("authentication failed"), 3 where words.contains("user name"):
            return .failure(.notPermitted(reason))
        // Unavailable, deadline exceeded, unknown, cancelled, exhausted, out of range on a member that
        // is behind: another member may know better.
        case 14, 4, 2, 1, 8, 11: return .another(reason)
        case nil where answer.status >= 500: return .another("\(reason) (\(answer.status))")
        default:
            return .failure(.unexpected("\(reason) (status \(answer.status), \(path))"))
        }
    }

    private func authenticate(
        _ endsAt: Int64, _ completion: @escaping (EtcdFailure?) -> Void
    ) {
        struct Answer: Decodable { var token: String? }
        struct Question: Encodable { var name: String, password: String }
        let question = Question(name: options.user ?? "", password: options.password ?? "")
        guard let body = try? JSONEncoder().encode(question) else {
            preconditionFailure("two strings make JSON")
        }
        ask(
            "/v3/auth/authenticate", String(decoding: body, as: UTF8.self), endsAt, tried: 0,
            lastReason: ""
        ) { [self] (result: Result<Answer, EtcdFailure>) in
            switch result {
            case .success(let answer):
                token = answer.token ?? ""
                completion(nil)
            case .failure(let failure): completion(failure)
            }
        }
    }
}

extension Duration {
    var wholeMicroseconds: Int64 {
        let (seconds, attoseconds) = components
        return seconds * 1_000_000 + attoseconds / 1_000_000_000_000
    }
}
