// etcd's JSON gateway: what is asked and what is answered.
//
// Keys and values are base64, 64-bit numbers are strings, what is zero or empty is left out. Requests
// are written as text; answers are read by Foundation.

import EtcdLog
import Foundation

// MARK: - Questions

extension EtcdCompare {
    var json: String {
        switch self {
        case .modRevision(let key, let revision):
            #"{"key":"\#(base64(key))","target":"MOD","mod_revision":"\#(revision)"}"#
        case .value(let key, let value):
            #"{"key":"\#(base64(key))","target":"VALUE","value":"\#(base64(value))"}"#
        }
    }
}

extension EtcdOperation {
    var json: String {
        switch self {
        case .put(let key, let value):
            #"{"request_put":{"key":"\#(base64(key))","value":"\#(base64(value))"}}"#
        case .get, .range: #"{"request_range":\#(rangeJSON(revision: 0))}"#
        case .delete(let from, let to):
            #"{"request_delete_range":{"key":"\#(base64(from))","range_end":"\#(base64(to))"}}"#
        }
    }

    /// - Parameter revision: as of which it is read; 0 for now, after all that is committed.
    func rangeJSON(revision: Int64) -> String {
        let at = revision > 0 ? #","revision":"\#(revision)""# : ""
        switch self {
        case .get(let key): return #"{"key":"\#(base64(key))"\#(at)}"#
        case .range(let from, let to, let limit):
            // It comes in the order of the keys. To ask for that order would make etcd read all there
            // is for each page, in order to sort it.
            return
                #"{"key":"\#(base64(from))","range_end":"\#(base64(to))","limit":"\#(limit)"\#(at)}"#
        case .put, .delete: preconditionFailure("\(self) is no range")
        }
    }
}

extension EtcdTransaction {
    var json: String {
        func list(_ items: [String]) -> String { "[" + items.joined(separator: ",") + "]" }
        return #"{"compare":\#(list(compare.map(\.json))),"success":\#(list(success.map(\.json)))"#
            + #","failure":\#(list(failure.map(\.json)))}"#
    }
}

// MARK: - Answers

/// What the gateway answers to a question, as it is written.
protocol EtcdMessage: Decodable {
    associatedtype Meaning
    var meaning: Meaning { get }
}

private func number(_ text: String?) -> Int64 { text.flatMap { Int64($0) } ?? 0 }

struct HeaderMessage: Decodable {
    var cluster: String?
    var revision: String?
    enum CodingKeys: String, CodingKey {
        case cluster = "cluster_id"
        case revision
    }
}

struct KeyValueMessage: Decodable {
    var key: String
    var value: String?
    var changed: String?
    enum CodingKeys: String, CodingKey {
        case key, value
        case changed = "mod_revision"
    }

    var meaning: EtcdKeyValue {
        EtcdKeyValue(
            key: String(decoding: unbase64(key), as: UTF8.self),
            value: value.map { unbase64($0) } ?? [], modRevision: number(changed))
    }
}

struct RangeMessage: EtcdMessage {
    var kvs: [KeyValueMessage]?
    var more: Bool?

    var meaning: EtcdRange { EtcdRange((kvs ?? []).map(\.meaning), hasMore: more ?? false) }
}

struct TransactionMessage: EtcdMessage {
    struct Response: Decodable {
        var range: RangeMessage?
        enum CodingKeys: String, CodingKey { case range = "response_range" }
    }
    var header: HeaderMessage
    var succeeded: Bool?
    var responses: [Response]?

    var meaning: EtcdTransactionAnswer {
        EtcdTransactionAnswer(
            cluster: header.cluster ?? "", revision: number(header.revision),
            isDone: succeeded ?? false,
            ranges: (responses ?? []).map { $0.range?.meaning ?? EtcdRange() })
    }
}

struct CompactionMessage: EtcdMessage {
    var meaning: Void { () }
}

struct StatusMessage: EtcdMessage {
    var dbSize: String?
    /// Size of the database in bytes.
    var meaning: Int64 { number(dbSize) }
}

struct AlarmsMessage: EtcdMessage {
    struct Alarm: Decodable { var alarm: String? }
    var alarms: [Alarm]?
    var meaning: [String] { (alarms ?? []).map { $0.alarm ?? "NOSPACE" } }
}

struct TokenMessage: EtcdMessage {
    var token: String?
    var meaning: String { token ?? "" }
}

/// One line of a watch.
struct WatchMessage: Decodable {
    struct Result: Decodable {
        var canceled: Bool?
        var compacted: String?
        var reason: String?
        var events: [Event]?
        enum CodingKeys: String, CodingKey {
            case canceled, events
            case compacted = "compact_revision"
            case reason = "cancel_reason"
        }

        var meaning: EtcdWatchLine {
            guard canceled != true else {
                return .cancelled(isCompacted: compacted != nil, reason: reason)
            }
            return .puts((events ?? []).filter { $0.type != "DELETE" }.map(\.kv.meaning))
        }
    }
    struct Event: Decodable {
        /// `DELETE`; a put has none.
        var type: String?
        var kv: KeyValueMessage
    }
    var result: Result?
    var error: ProblemMessage?
}

/// What the gateway says instead of an answer.
struct ProblemMessage: Decodable {
    var message: String?
    var error: String?
    /// Of gRPC.
    var code: Int?

    var text: String { message ?? error ?? "no reason given" }
}

func base64(_ text: String) -> String { Data(text.utf8).base64EncodedString() }
func base64(_ bytes: [UInt8]) -> String { Data(bytes).base64EncodedString() }
func unbase64(_ text: String) -> [UInt8] {
    Data(base64Encoded: text).map { [UInt8]($0) } ?? []
}
