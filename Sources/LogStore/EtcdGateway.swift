// Asks an etcd cluster, over the JSON gateway that each of its members serves.
//
// Happy path: the member that answered last is asked.
// Failure modes: it is not reached, does not answer in time, or has no leader: the next one is asked,
// as EtcdMembers decides, until the limit; an answer that will be the same everywhere (full, not
// permitted) comes at once. Whatever is asked here may be asked twice, and the first may even be
// carried out long after the second (a member that slept): transactions are guarded by their
// conditions, everything else only reads.

public import EtcdLog
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

extension EtcdLogStore {
    /// The log in the etcd cluster that `options` describe.
    ///
    /// - Parameters:
    ///   - limit: how long etcd is asked before it is said to be unavailable.
    ///   - historyInterval: a leader has etcd forget what is older.
    public convenience init(
        _ options: EtcdOptions, on loop: Loop, limit: Duration = EtcdMembers.limitDefault,
        historyInterval: Duration = EtcdLogStore.historyIntervalDefault
    ) {
        self.init(
            EtcdGateway(options, on: loop, limit: limit),
            name: "etcd:" + options.endpoints.joined(separator: ","), prefix: options.prefix,
            on: loop, historyInterval: historyInterval)
    }
}

extension HTTPCall: EtcdWatch {}

final class EtcdGateway: EtcdAccess {
    /// Of a page: 16 values of 1 MiB in base64, and something around them.
    private static let answerByteCountMax = 32 << 20

    private let members: EtcdMembers
    private let http: HTTPClient
    private let options: EtcdOptions
    private var token: String?

    init(_ options: EtcdOptions, on loop: Loop, limit: Duration = EtcdMembers.limitDefault) {
        precondition(!options.endpoints.isEmpty, "etcd without an endpoint")
        self.options = options
        members = EtcdMembers(count: options.endpoints.count, limit: limit, on: loop) {
            HoldClock.nowMicroseconds
        }
        http = HTTPClient(on: loop)
    }

    func transaction(
        _ transaction: EtcdTransaction,
        _ completion: @escaping (Result<EtcdTransactionAnswer, EtcdFailure>) -> Void
    ) {
        ask("/v3/kv/txn", transaction.json, TransactionMessage.self, completion)
    }

    func range(
        _ operation: EtcdOperation, revision: Int64,
        _ completion: @escaping (Result<EtcdRange, EtcdFailure>) -> Void
    ) {
        ask(
            "/v3/kv/range", operation.rangeJSON(revision: revision), RangeMessage.self,
            completion)
    }

    func compact(
        _ revision: Int64, _ completion: @escaping (Result<Void, EtcdFailure>) -> Void
    ) {
        ask(
            "/v3/kv/compaction", #"{"revision":"\#(revision)"}"#, CompactionMessage.self,
            completion)
    }

    func health(_ completion: @escaping (Result<EtcdHealth, EtcdFailure>) -> Void) {
        ask("/v3/maintenance/alarm", #"{"action":"GET"}"#, AlarmsMessage.self) { [self] result in
            switch result {
            case .failure(let failure): completion(.failure(failure))
            case .success(let alarms):
                ask("/v3/maintenance/status", "{}", StatusMessage.self) { [self] result in
                    quota { quota in
                        completion(
                            .success(
                                EtcdHealth(
                                    databaseByteCount: try? result.get(), quotaByteCount: quota,
                                    alarms: alarms)))
                    }
                }
            }
        }
    }

    /// The member's `--quota-backend-bytes`, or its default; only its metrics tell, in every version.
    private func quota(_ completion: @escaping (Int64?) -> Void) {
        let request = HTTPRequest(
            url: options.endpoints[members.current] + "/metrics", tls: options.tls,
            connectLimit: .seconds(1), limit: .seconds(5),
            answerByteCountMax: Self.answerByteCountMax)
        http.send(request) { completion((try? $0.get()).flatMap { quotaOfMetrics($0.body) }) }
    }

    func watch(
        from: String, to: String, revision: Int64, onLine: @escaping (EtcdWatchLine) -> Void,
        onEnd: @escaping (EtcdFailure) -> Void
    ) -> any EtcdWatch {
        // In fragments: who was away for a while gets what it missed at once otherwise.
        let body =
            #"{"create_request":{"key":"\#(base64(from))","range_end":"\#(base64(to))""#
            + #","start_revision":"\#(revision)","filters":["NODELETE"],"fragment":true}}"#
        let asked = members.current
        let request = request("/v3/watch", body, of: asked, limit: nil)
        var lines = LineSplitter()
        var call: HTTPCall?
        let finish = { [self] (reason: String) in
            call?.cancel()
            call = nil
            members.moveOn(from: asked)
            onEnd(.unavailable("\(options.endpoints[asked]): the watch ended: \(reason)"))
        }
        let sent = http.send(
            request,
            onPiece: { piece in
                for line in lines.add(piece) {
                    guard call != nil else { return }
                    let value = try? JSONDecoder().decode(WatchMessage.self, from: Data(line))
                    guard let result = value?.result else {
                        let words = String(decoding: line.prefix(200), as: UTF8.self)
                        return finish(value?.error?.text ?? words)
                    }
                    onLine(result.meaning)
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

    // MARK: One question, several members

    private func request(
        _ path: String, _ body: String, of member: Int, limit: Duration?
    ) -> HTTPRequest {
        var headers = ["Content-Type: application/json"]
        if let token, !token.isEmpty { headers.append("Authorization: \(token)") }
        return HTTPRequest(
            url: options.endpoints[member] + path, headers: headers, body: Array(body.utf8),
            tls: options.tls, connectLimit: .seconds(1), limit: limit,
            answerByteCountMax: Self.answerByteCountMax)
    }

    private func ask<Message: EtcdMessage>(
        _ path: String, _ body: String, _ type: Message.Type,
        _ completion: @escaping (Result<Message.Meaning, EtcdFailure>) -> Void
    ) {
        var question = question(path, body, type)
        question.prepare = { [self] endsAt, then in
            guard options.user != nil, token == nil else { return then(nil) }
            authenticate(endsAt, then)
        }
        members.ask(question, completion)
    }

    private func question<Message: EtcdMessage>(
        _ path: String, _ body: String, _ type: Message.Type
    ) -> EtcdQuestion<Message.Meaning> {
        EtcdQuestion { [self] member, limit, completion in
            http.send(request(path, body, of: member, limit: limit)) { [self] result in
                let verdict = verdict(result, options.endpoints[member], path, type)
                if case .sameAgain = verdict { token = nil }
                completion(verdict)
            }
        }
    }

    private func verdict<Message: EtcdMessage>(
        _ result: Result<HTTPAnswer, HTTPError>, _ place: String, _ path: String,
        _ type: Message.Type
    ) -> EtcdVerdict<Message.Meaning> {
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
            return .answer(value.meaning)
        case .success(let answer): return verdict(answer, place, path)
        }
    }

    /// The numbers are gRPC's codes.
    private func verdict<Answer>(
        _ answer: HTTPAnswer, _ place: String, _ path: String
    ) -> EtcdVerdict<Answer> {
        let problem = try? JSONDecoder().decode(ProblemMessage.self, from: Data(answer.body))
        let words = problem?.text ?? String(decoding: answer.body.prefix(200), as: UTF8.self)
        let reason = "\(place): \(words)"
        func says(_ part: String) -> Bool { words.contains(part) }
        switch problem?.code {
        case 8 where says("space exceeded"): return .failure(.full(reason))
        case 11 where says("compacted"): return .failure(.compacted)
        case 16 where says("token"),
            3 where says("auth store is old") || says("user name is empty"):
            // Without a user there is no other token to be had.
            return options.user == nil
                ? .failure(.notPermitted(reason)) : .sameAgain("the token is not taken")
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
        struct Credentials: Encodable { var name: String, password: String }
        let credentials = Credentials(name: options.user ?? "", password: options.password ?? "")
        let body = (try? JSONEncoder().encode(credentials)).map {
            String(decoding: $0, as: UTF8.self)
        }
        guard let body else { preconditionFailure("user and password are no JSON") }
        members.ask(question(Self.authenticatePath, body, TokenMessage.self), endsAt: endsAt) {
            [self] result in
            switch result {
            case .success(let answer):
                token = answer
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

/// The quota in bytes that etcd's metrics tell, in the text format of Prometheus; nil if they do not.
func quotaOfMetrics(_ body: [UInt8]) -> Int64? {
    let name = Array("etcd_server_quota_backend_bytes ".utf8)
    for line in body.split(separator: UInt8(ascii: "\n")) where line.starts(with: name) {
        let value = Double(String(decoding: line.dropFirst(name.count), as: UTF8.self))
        return value.flatMap { Int64(exactly: $0.rounded()) }.flatMap { $0 > 0 ? $0 : nil }
    }
    return nil
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
