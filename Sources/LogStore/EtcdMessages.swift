// etcd's JSON gateway: what is asked and what is answered.
//
// Keys and values are base64, 64-bit numbers are strings, what is zero or empty is left out. Requests
// are written as text; answers are read by Foundation.

import Foundation

/// A part of a transaction's condition.
enum EtcdCompare: Hashable {
    /// The key was last changed by this revision; 0: there is no such key.
    case modRevision(key: String, Int64)
    case value(key: String, [UInt8])

    var json: String {
        switch self {
        case .modRevision(let key, let revision):
            #"{"key":"\#(base64(key))","target":"MOD","mod_revision":"\#(revision)"}"#
        case .value(let key, let value):
            #"{"key":"\#(base64(key))","target":"VALUE","value":"\#(base64(value))"}"#
        }
    }
}

/// One thing that is done in a transaction.
enum EtcdOperation: Hashable {
    case put(key: String, [UInt8])
    case get(key: String)
    /// Keys from `from` on and below `to`, ascending.
    case range(from: String, to: String, limit: Int)
    case delete(from: String, to: String)

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
            return #"{"key":"\#(base64(from))","range_end":"\#(base64(to))","limit":"\#(limit)"\#(at)}"#
        case .put, .delete: preconditionFailure("\(self) is no range")
        }
    }
}

struct EtcdTransaction: Hashable {
    var compare: [EtcdCompare]
    var success: [EtcdOperation]
    var failure: [EtcdOperation] = []

    var json: String {
        func list(_ items: [String]) -> String { "[" + items.joined(separator: ",") + "]" }
        return #"{"compare":\#(list(compare.map(\.json))),"success":\#(list(success.map(\.json)))"#
            + #","failure":\#(list(failure.map(\.json)))}"#
    }
}

// MARK: - Answers

struct EtcdHeader: Decodable {
    var cluster_id: String?
    var revision: String?
    var number: Int64 { revision.flatMap { Int64($0) } ?? 0 }
}

struct EtcdKeyValue: Decodable {
    var key: String
    var value: String?
    var mod_revision: String?

    var name: String { String(decoding: unbase64(key), as: UTF8.self) }
    var bytes: [UInt8] { value.map { unbase64($0) } ?? [] }
    var text: String { String(decoding: bytes, as: UTF8.self) }
    var modRevision: Int64 { mod_revision.flatMap { Int64($0) } ?? 0 }
}

struct EtcdRange: Decodable {
    var header: EtcdHeader?
    var kvs: [EtcdKeyValue]?
    var more: Bool?

    var all: [EtcdKeyValue] { kvs ?? [] }
    var first: EtcdKeyValue? { kvs?.first }
}

struct EtcdTransactionAnswer: Decodable {
    struct Response: Decodable {
        var response_range: EtcdRange?
    }
    var header: EtcdHeader
    var succeeded: Bool?
    var responses: [Response]?

    var isDone: Bool { succeeded ?? false }
    /// What the operation with this index has read.
    func range(_ index: Int) -> EtcdRange {
        guard let responses, index < responses.count else { return EtcdRange() }
        return responses[index].response_range ?? EtcdRange()
    }
}

/// One line of a watch.
struct EtcdWatchLine: Decodable {
    struct Result: Decodable {
        var header: EtcdHeader?
        var created: Bool?
        var canceled: Bool?
        var compact_revision: String?
        var cancel_reason: String?
        var events: [Event]?
    }
    struct Event: Decodable {
        /// `DELETE`; a put has none.
        var type: String?
        var kv: EtcdKeyValue
    }
    var result: Result?
    var error: EtcdProblem?
}

/// What the gateway says instead of an answer.
struct EtcdProblem: Decodable {
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
