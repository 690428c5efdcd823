import Fleet
import Foundation
import Notices
import Presentation
import UvLoop

// Receivers that speak HTTP. Happy path: a request over a connection that is kept, an answer of 2xx.
// Failure modes: no connection, no answer in time, an answer that breaks off, 5xx → later; any other
// answer, a redirect too → refused. What it took without our knowing it gets again, under the same
// idempotency key. Where only the status is of interest, the rest of a large answer is not waited for.

/// A target with its secrets read.
struct OpenTarget {
    let url: String
    let headers: [String]
    let tls: HTTPRequest.TLS
    let limit: Duration
    let client: HTTPClient
    let renderer: BulletinRenderer

    init(
        _ target: HTTPTarget, tokenFile: String?, _ client: HTTPClient,
        _ renderer: BulletinRenderer
    ) throws(SinkProblem) {
        self.renderer = renderer
        url = target.url.hasSuffix("/") ? String(target.url.dropLast()) : target.url
        var headers: [String] = []
        for header in target.headers {
            switch header.value {
            case .text(let text): headers.append("\(header.name): \(text)")
            case .file(let path): headers.append("\(header.name): \(try secret(path))")
            }
        }
        if let tokenFile { headers.append("Authorization: Bearer \(try secret(tokenFile))") }
        self.headers = headers
        try checkAuthorities(target.authorityFile)
        tls = HTTPRequest.TLS(authorityFile: target.authorityFile)
        limit = .milliseconds(target.limitMilliseconds)
        self.client = client
    }

    func send(
        _ path: String = "", method: String? = nil, headers more: [String] = [],
        body: [UInt8]? = nil, answerByteCountMax: Int = Self.answerByteCountMax,
        completion: @escaping (Result<HTTPAnswer, HTTPError>) -> Void
    ) {
        client.send(
            HTTPRequest(
                url: url + path, headers: headers + more + ["User-Agent: fermata"], body: body,
                method: method, tls: tls, connectLimit: min(limit, .seconds(5)), limit: limit,
                answerByteCountMax: answerByteCountMax),
            completion: completion)
    }

    /// A post of which only the answer's status is of interest.
    func post(
        _ path: String = "", headers: [String], body: [UInt8],
        completion: @escaping (DeliveryOutcome) -> Void
    ) {
        send(
            path, headers: headers, body: body, answerByteCountMax: Self.unreadByteCountMax
        ) { result in
            guard case .failure(let error) = result, error.kind == .tooLarge,
                let status = error.status
            else { return completion(DeliveryOutcome(result)) }
            completion(DeliveryOutcome(.success(HTTPAnswer(status: status, body: []))))
        }
    }

    /// Of a list of silences.
    private static let answerByteCountMax = 16 << 20
    /// Of an answer that nobody reads.
    private static let unreadByteCountMax = 64 << 10
}

extension DeliveryOutcome {
    init(_ result: Result<HTTPAnswer, HTTPError>) {
        switch result {
        case .success(let answer):
            let words = String(decoding: answer.body.prefix(200), as: UTF8.self)
            self.init(
                httpStatus: answer.status, retryAfter: answer.retryAfter,
                nowSeconds: WallClock.nowMicroseconds / 1_000_000, words: printable(words))
        case .failure(let error):
            self = .later(reason: error.reason, afterMilliseconds: nil)
        }
    }
}

final class WebhookReceiver: Receiver {
    private let target: OpenTarget
    private let format: BulletinFormat
    private let secretKey: [UInt8]?

    init(_ target: OpenTarget, _ settings: WebhookSettings) throws(SinkProblem) {
        self.target = target
        format = settings.format
        if let path = settings.secretFile {
            secretKey = Array(try secret(path).utf8)
        } else {
            secretKey = nil
        }
    }

    func take(_ items: [OutboxItem], completion: @escaping (DeliveryOutcome) -> Void) {
        guard let rendered = target.renderer.render(items[0].bulletin, as: format) else {
            return completion(.taken)
        }
        var headers = [
            "Content-Type: \(rendered.contentType)",
            "\(WebhookMessage.keyHeader): \(items[0].bulletin.id)",
        ]
        headers += rendered.headers.map { "\($0.name): \($0.value)" }
        if let secretKey {
            let now = WallClock.nowMicroseconds / 1_000_000
            let signed = WebhookMessage.signed(body: rendered.body, atSeconds: now)
            let code = HMACSHA256.code(key: secretKey, signed)
            headers.append(
                "\(WebhookMessage.signatureHeader): "
                    + WebhookMessage.signature(code, atSeconds: now))
        }
        target.post(headers: headers, body: rendered.body, completion: completion)
    }
}

final class GrafanaReceiver: Receiver {
    private let target: OpenTarget
    private let settings: GrafanaSettings

    init(_ target: OpenTarget, _ settings: GrafanaSettings) {
        self.target = target
        self.settings = settings
    }

    func take(_ items: [OutboxItem], completion: @escaping (DeliveryOutcome) -> Void) {
        let bulletin = items[0].bulletin
        let text = target.renderer.text(bulletin)
        let body = GrafanaMessage.body(bulletin, text: text, settings)
        target.post(
            GrafanaMessage.path,
            headers: [
                "Content-Type: application/json", "\(WebhookMessage.keyHeader): \(bulletin.id)",
            ], body: Array(body.compact.utf8), completion: completion)
    }
}

/// Silences in Alertmanager, as ``SilenceMessage`` says.
final class SilenceReceiver: Receiver {
    private let target: OpenTarget
    private let settings: SilenceSettings
    private static let type = "Content-Type: application/json"

    init(_ target: OpenTarget, _ settings: SilenceSettings) {
        self.target = target
        self.settings = settings
    }

    func take(_ items: [OutboxItem], completion: @escaping (DeliveryOutcome) -> Void) {
        let bulletin = items[0].bulletin
        target.send(SilenceMessage.path) { [self] result in
            guard case .success(let answer) = result, answer.status == 200 else {
                return completion(DeliveryOutcome(result))
            }
            let mark = SilenceMessage.mark(bulletin, cluster: target.renderer.cluster)
            guard let found = Self.silences(marked: mark, in: answer.body) else {
                return completion(
                    .later(reason: "its list of silences is no JSON", afterMilliseconds: nil))
            }
            switch bulletin.state {
            case .noticed, .started:
                found.isEmpty ? make(bulletin, completion) : completion(.taken)
            case .succeeded, .failed, .cancelled: end(found, completion)
            }
        }
    }

    private func make(
        _ bulletin: Bulletin, _ completion: @escaping (DeliveryOutcome) -> Void
    ) {
        let text = target.renderer.text(bulletin)
        let now = Timestamp(microseconds: WallClock.nowMicroseconds)
        guard
            let body = SilenceMessage.body(
                bulletin, cluster: target.renderer.cluster, text: text, settings, now: now)
        else { return completion(.taken) }
        target.post(
            SilenceMessage.path, headers: [Self.type], body: Array(body.compact.utf8),
            completion: completion)
    }

    private func end(_ ids: [String], _ completion: @escaping (DeliveryOutcome) -> Void) {
        guard let id = ids.first else { return completion(.taken) }
        target.send(SilenceMessage.path(of: id), method: "DELETE") { [self] result in
            let outcome = DeliveryOutcome(result)
            // One that is not there any more has ended.
            if case .success(let answer) = result, answer.status == 404 {
                return end(Array(ids.dropFirst()), completion)
            }
            guard outcome == .taken else { return completion(outcome) }
            end(Array(ids.dropFirst()), completion)
        }
    }

    /// The ids of those that are ours, of this hold, and not over; nil if this is no such list.
    private static func silences(marked mark: String, in body: [UInt8]) -> [String]? {
        let list = try? JSONSerialization.jsonObject(with: Data(body))
        guard let list = list as? [[String: Any]] else { return nil }
        return list.compactMap { silence in
            guard let id = silence["id"] as? String, let comment = silence["comment"] as? String,
                let status = silence["status"] as? [String: Any],
                status["state"] as? String != "expired", comment.hasPrefix(mark)
            else { return nil }
            return id
        }
    }
}
