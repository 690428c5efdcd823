// HTTP requests by libcurl's multi interface, on the loop: no thread of its own, no second loop.
//
//   request ─▶ curl_multi ──onSocket──▶ PollHandle ──ready──▶ curl_multi_socket_action ─┐
//                  ▲    └──onTimer───▶ Timer ────────fired──▶        ″                  │
//                  └────────────────── next request ◀── completions, pieces ◀───────────┘
//
// libcurl must not be called from inside its own callbacks, so these only note what came; completions
// and pieces of bodies are handed out after it has returned.
// Failure modes: no connection, TLS trouble, a time limit, a body beyond its limit: HTTPError, once
// for each request. A status of 400 or more is an answer, not an error.

import CCurl
import CUv

public struct HTTPRequest: Hashable, Sendable {
    /// Certificates and key as files of PEM; nil for what the system has.
    public struct TLS: Hashable, Sendable {
        public var authorityFile: String?
        public var certificateFile: String?
        public var keyFile: String?
        public init(
            authorityFile: String? = nil, certificateFile: String? = nil, keyFile: String? = nil
        ) {
            self.authorityFile = authorityFile
            self.certificateFile = certificateFile
            self.keyFile = keyFile
        }
    }

    /// `http:` or `https:`; nothing else is spoken.
    public var url: String
    /// `Name: value`, each.
    public var headers: [String]
    /// Sent with POST; nil makes it a GET.
    public var body: [UInt8]?
    /// Instead of GET or POST.
    public var method: String?
    public var tls: TLS
    /// For the connection with its TLS handshake.
    public var connectLimit: Duration
    /// For the whole exchange; nil for a stream without end.
    public var limit: Duration?
    /// Of the answer's body; beyond it the request fails. Does not count for pieces.
    public var answerByteCountMax: Int

    public init(
        url: String, headers: [String] = [], body: [UInt8]? = nil, method: String? = nil,
        tls: TLS = TLS(),
        connectLimit: Duration = .seconds(2), limit: Duration? = .seconds(5),
        answerByteCountMax: Int = 64 << 20
    ) {
        self.url = url
        self.headers = headers
        self.body = body
        self.method = method
        self.tls = tls
        self.connectLimit = connectLimit
        self.limit = limit
        self.answerByteCountMax = answerByteCountMax
    }
}

public struct HTTPAnswer: Hashable, Sendable {
    /// Of a mail: the server's last reply, 250 for one that it has taken.
    public var status: Int
    public var body: [UInt8]
    /// The header Retry-After.
    public var retryAfter: String?
    public init(status: Int, body: [UInt8], retryAfter: String? = nil) {
        self.status = status
        self.body = body
        self.retryAfter = retryAfter
    }
}

public struct HTTPError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Kind: Hashable, Sendable {
        /// Nothing was sent: whoever should answer was not reached.
        case notSent
        /// It may have been carried out; even twice, since a request is sent again when a connection
        /// that was kept turns out to be dead.
        case unknown
        case tooLarge
        /// A file of the credentials cannot be used, or the peer's certificate is not accepted.
        case tls
    }
    public var kind: Kind
    /// libcurl's words.
    public var reason: String
    /// Of an answer that began well and is too large.
    public var status: Int?
    public var description: String { reason }
    public init(_ kind: Kind, _ reason: String, status: Int? = nil) {
        self.kind = kind
        self.reason = reason
        self.status = status
    }
}

/// One request under way.
public final class HTTPCall {
    fileprivate let easy: OpaquePointerBox
    fileprivate var headers: UnsafeMutablePointer<curl_slist>?
    /// Of a mail: what is still to be sent, and to whom.
    fileprivate var upload: ArraySlice<UInt8> = []
    fileprivate var recipients: UnsafeMutablePointer<curl_slist>?
    fileprivate let words = UnsafeMutablePointer<CChar>.allocate(capacity: Int(CURL_ERROR_SIZE))
    fileprivate var pieces: [[UInt8]] = []
    fileprivate var body: [UInt8] = []
    fileprivate let bodyByteCountMax: Int
    fileprivate var isTooLarge = false
    fileprivate var onPiece: (([UInt8]) -> Void)?
    fileprivate var completion: ((Result<HTTPAnswer, HTTPError>) -> Void)?
    fileprivate weak var client: HTTPClient?

    fileprivate init(_ easy: UnsafeMutableRawPointer, bodyByteCountMax: Int) {
        self.easy = OpaquePointerBox(raw: easy)
        self.bodyByteCountMax = bodyByteCountMax
        words.initialize(repeating: 0, count: Int(CURL_ERROR_SIZE))
    }

    deinit {
        curl_easy_cleanup(easy.raw)
        curl_slist_free_all(headers)
        curl_slist_free_all(recipients)
        words.deallocate()
    }

    /// Ends it without a completion. Harmless when it is over.
    public func cancel() { client?.cancel(self) }

    fileprivate func received(_ bytes: UnsafeRawBufferPointer) -> Bool {
        if onPiece != nil {
            if pieces.isEmpty { client?.withPieces.append(self) }
            pieces.append(Array(bytes))
            return true
        }
        guard body.count + bytes.count <= bodyByteCountMax else {
            isTooLarge = true
            return false
        }
        body.append(contentsOf: bytes)
        return true
    }
}

/// A C pointer that stays inside this module.
private struct OpaquePointerBox {
    let raw: UnsafeMutableRawPointer
}

/// Makes requests, over connections that are kept. Belongs to the loop's thread.
public final class HTTPClient {
    fileprivate var withPieces: [HTTPCall] = []
    private let loop: Loop
    private let multi: UnsafeMutableRawPointer
    private var calls: [UnsafeMutableRawPointer: HTTPCall] = [:]
    private var polls: [Int32: PollHandle] = [:]
    private var timer: Timer?

    /// libcurl wants this once in a process, before anything else.
    private static let isReady: Bool = curl_global_init(Int(CURL_GLOBAL_DEFAULT)) == CURLE_OK

    public init(on loop: Loop) {
        precondition(Self.isReady, "libcurl cannot be initialised")
        self.loop = loop
        guard let multi = curl_multi_init() else { preconditionFailure("out of memory") }
        self.multi = multi
        fermata_curl_set_multi(
            multi,
            { _, socket, what, data, _ in
                owner(data, as: HTTPClient.self).watch(socket, what)
                return 0
            },
            { _, milliseconds, data in
                owner(data, as: HTTPClient.self).setTimer(milliseconds)
                return 0
            }, Unmanaged.passUnretained(self).toOpaque())
    }

    deinit {
        // What libcurl lets go of from here on must not be told to an object that is going away.
        fermata_curl_set_multi(multi, nil, nil, nil)
        // Before libcurl closes the sockets.
        for poll in polls.values { poll.close() }
        timer?.cancel()
        for easy in calls.keys { curl_multi_remove_handle(multi, easy) }
        curl_multi_cleanup(multi)
    }

    /// Begins a request.
    ///
    /// - Parameters:
    ///   - onPiece: gets the body as it comes; the answer's own is then empty.
    ///   - completion: called once, later, unless it is cancelled.
    @discardableResult
    public func send(
        _ request: HTTPRequest, onPiece: (([UInt8]) -> Void)? = nil,
        completion: @escaping (Result<HTTPAnswer, HTTPError>) -> Void
    ) -> HTTPCall {
        let call = begin(bodyByteCountMax: request.answerByteCountMax, completion)
        call.onPiece = onPiece
        prepare(call, request)
        add(call)
        return call
    }

    private func begin(
        bodyByteCountMax: Int, _ completion: @escaping (Result<HTTPAnswer, HTTPError>) -> Void
    ) -> HTTPCall {
        guard let easy = curl_easy_init() else { preconditionFailure("out of memory") }
        let call = HTTPCall(easy, bodyByteCountMax: bodyByteCountMax)
        call.client = self
        call.completion = completion
        return call
    }

    private func add(_ call: HTTPCall) {
        calls[call.easy.raw] = call
        let result = curl_multi_add_handle(multi, call.easy.raw)
        precondition(result == CURLM_OK, "libcurl does not take a request")
    }

    /// Hands a mail to a server.
    ///
    /// - Parameter completion: called once, later. A status of 400 or more is the server's no.
    public func send(
        _ mail: MailRequest, completion: @escaping (Result<HTTPAnswer, HTTPError>) -> Void
    ) {
        let call = begin(bodyByteCountMax: 65_536, completion)
        let easy = call.easy.raw
        func number(_ option: CURLoption, _ value: Int) {
            _ = fermata_curl_set_number(easy, option, value)
        }
        func string(_ option: CURLoption, _ value: String?) {
            if let value { _ = fermata_curl_set_string(easy, option, value) }
        }
        string(CURLOPT_URL, mail.url)
        string(CURLOPT_PROTOCOLS_STR, "smtp,smtps")
        string(CURLOPT_PROXY, "")
        number(CURLOPT_NOSIGNAL, 1)
        number(CURLOPT_QUICK_EXIT, 1)
        number(CURLOPT_CONNECTTIMEOUT_MS, Int(max(1, mail.limit.millisecondsRoundedUp)))
        number(CURLOPT_TIMEOUT_MS, Int(max(1, mail.limit.millisecondsRoundedUp)))
        if mail.needsStartTLS { number(CURLOPT_USE_SSL, Int(CURLUSESSL_ALL.rawValue)) }
        trust(easy, onlyFile: mail.authorityFile)
        string(CURLOPT_USERNAME, mail.user)
        string(CURLOPT_PASSWORD, mail.password)
        string(CURLOPT_MAIL_FROM, "<\(mail.from)>")
        for address in mail.to {
            call.recipients = curl_slist_append(call.recipients, "<\(address)>")
        }
        _ = fermata_curl_set_recipients(easy, call.recipients)
        call.upload = mail.message[...]
        number(CURLOPT_UPLOAD, 1)
        _ = fermata_curl_set_read(
            easy,
            { bytes, size, count, data in
                let call = owner(data, as: HTTPCall.self)
                let part = call.upload.prefix(size * count)
                call.upload = call.upload.dropFirst(part.count)
                guard let bytes else { return 0 }
                part.withUnsafeBytes {
                    UnsafeMutableRawBufferPointer(start: bytes, count: part.count)
                        .copyMemory(from: $0)
                }
                return part.count
            }, Unmanaged.passUnretained(call).toOpaque())
        _ = fermata_curl_set_error_buffer(easy, call.words)
        setWrite(call)
        add(call)
    }

    /// Who names authorities trusts these alone: libcurl would add those of the system's directory.
    private func trust(_ easy: UnsafeMutableRawPointer, onlyFile path: String?) {
        guard let path else { return }
        _ = fermata_curl_set_string(easy, CURLOPT_CAINFO, path)
        _ = fermata_curl_set_string(easy, CURLOPT_CAPATH, nil)
    }

    private func setWrite(_ call: HTTPCall) {
        _ = fermata_curl_set_write(
            call.easy.raw,
            { bytes, size, count, data in
                let byteCount = size * count
                let call = owner(data, as: HTTPCall.self)
                let buffer = UnsafeRawBufferPointer(start: bytes, count: byteCount)
                return call.received(buffer) ? byteCount : 0
            }, Unmanaged.passUnretained(call).toOpaque())
    }

    fileprivate func cancel(_ call: HTTPCall) {
        guard calls.removeValue(forKey: call.easy.raw) != nil else { return }
        curl_multi_remove_handle(multi, call.easy.raw)
        call.completion = nil
        call.onPiece = nil
        call.pieces = []
    }

    private func prepare(_ call: HTTPCall, _ request: HTTPRequest) {
        let easy = call.easy.raw
        func number(_ option: CURLoption, _ value: Int) {
            _ = fermata_curl_set_number(easy, option, value)
        }
        func string(_ option: CURLoption, _ value: String?) {
            if let value { _ = fermata_curl_set_string(easy, option, value) }
        }
        string(CURLOPT_URL, request.url)
        string(CURLOPT_PROTOCOLS_STR, "http,https")
        // What is asked here is in the fleet's own network.
        string(CURLOPT_PROXY, "")
        number(CURLOPT_NOSIGNAL, 1)
        // Whoever gives up while a name is being looked up must not wait for the name server: the
        // loop would stand still. The thread that asks it is let go.
        number(CURLOPT_QUICK_EXIT, 1)
        number(CURLOPT_TCP_NODELAY, 1)
        number(CURLOPT_TCP_KEEPALIVE, 1)
        number(CURLOPT_TCP_KEEPIDLE, 2)
        number(CURLOPT_TCP_KEEPINTVL, 1)
        number(CURLOPT_HTTP_VERSION, Int(CURL_HTTP_VERSION_1_1))
        // To libcurl 0 means 300 s.
        number(CURLOPT_CONNECTTIMEOUT_MS, Int(max(1, request.connectLimit.millisecondsRoundedUp)))
        if let limit = request.limit {
            number(CURLOPT_TIMEOUT_MS, Int(max(1, limit.millisecondsRoundedUp)))
        }
        trust(easy, onlyFile: request.tls.authorityFile)
        string(CURLOPT_SSLCERT, request.tls.certificateFile)
        string(CURLOPT_SSLKEY, request.tls.keyFile)
        // A large body would otherwise wait for the server's leave.
        for header in request.headers + ["Expect:"] {
            call.headers = curl_slist_append(call.headers, header)
        }
        _ = fermata_curl_set_headers(easy, call.headers)
        if let body = request.body {
            body.withUnsafeBytes {
                _ = fermata_curl_set_body(easy, $0.baseAddress, body.count)
            }
        }
        string(CURLOPT_CUSTOMREQUEST, request.method)
        _ = fermata_curl_set_error_buffer(easy, call.words)
        setWrite(call)
    }

    // MARK: What libcurl wants

    private func watch(_ socket: Int32, _ what: Int32) {
        guard what != CURL_POLL_REMOVE else {
            polls.removeValue(forKey: socket)?.close()
            return
        }
        let poll =
            polls[socket]
            ?? PollHandle(on: loop, socket: socket) { [weak self] events in
                self?.act(socket, events)
            }
        polls[socket] = poll
        poll.start(
            readable: what != CURL_POLL_OUT, writable: what != CURL_POLL_IN)
    }

    private func setTimer(_ milliseconds: Int) {
        timer?.cancel()
        timer = nil
        guard milliseconds >= 0 else { return }
        timer = loop.after(.milliseconds(milliseconds)) { [weak self] in
            self?.timer = nil
            self?.act(curl_socket_t(-1), 0)
        }
    }

    private func act(_ socket: Int32, _ events: Int32) {
        var running: Int32 = 0
        curl_multi_socket_action(multi, socket, events, &running)
        handOut()
    }

    private func handOut() {
        let streams = withPieces
        withPieces = []
        for call in streams {
            let pieces = call.pieces
            call.pieces = []
            for piece in pieces { call.onPiece?(piece) }
        }
        var result = CURLE_OK
        while let easy = fermata_curl_next_done(multi, &result) {
            let status = fermata_curl_status(easy)
            let retryAfter = fermata_curl_header(easy, "Retry-After").map { String(cString: $0) }
            curl_multi_remove_handle(multi, easy)
            guard let call = calls.removeValue(forKey: easy) else { continue }
            let completion = call.completion
            call.completion = nil
            call.onPiece = nil
            if result == CURLE_OK {
                completion?(
                    .success(
                        HTTPAnswer(status: status, body: call.body, retryAfter: retryAfter)))
            } else if status >= 400, call.recipients != nil {
                // libcurl takes a server's no to a mail for an error of its own.
                let words = Array(String(cString: call.words).utf8)
                completion?(.success(HTTPAnswer(status: status, body: words)))
            } else {
                completion?(.failure(Self.error(result, call)))
            }
        }
    }

    private static func error(_ result: CURLcode, _ call: HTTPCall) -> HTTPError {
        let words = String(cString: call.words)
        let reason = words.isEmpty ? String(cString: curl_easy_strerror(result)) : words
        let hasSent = fermata_curl_has_sent(call.easy.raw) != 0
        switch result {
        case CURLE_WRITE_ERROR where call.isTooLarge:
            return HTTPError(
                .tooLarge, "the answer has more than \(call.bodyByteCountMax) bytes",
                status: fermata_curl_status(call.easy.raw))
        case CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_CONNECT, CURLE_URL_MALFORMAT,
            CURLE_UNSUPPORTED_PROTOCOL:
            return HTTPError(.notSent, reason)
        case CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_CERTPROBLEM, CURLE_SSL_CACERT_BADFILE,
            CURLE_SSL_CONNECT_ERROR:
            return HTTPError(.tls, reason)
        case CURLE_RECV_ERROR, CURLE_SEND_ERROR:
            // In TLS 1.3 a server refuses a client's certificate when for the client the handshake is
            // over already, and may be gone before libcurl has asked for its address.
            guard words.contains("alert") || words.contains("getpeername") else {
                return HTTPError(.unknown, reason)
            }
            return HTTPError(
                .tls, "the peer refuses our certificate, or that we have none: \(reason)")
        default:
            return HTTPError(hasSent ? .unknown : .notSent, reason)
        }
    }
}

/// A socket of libcurl's, watched.
private final class PollHandle: LoopOwned {
    private let loop: Loop
    private let raw = allocateZeroed(uv_poll_t.self)
    private var body: ((Int32) -> Void)?

    init(on loop: Loop, socket: Int32, _ body: @escaping (Int32) -> Void) {
        self.loop = loop
        self.body = body
        let result = uv_poll_init_socket(loop.raw, raw, socket)
        precondition(result == 0, "a socket of libcurl's cannot be watched")
        raw.pointee.data = Unmanaged.passRetained(self).toOpaque()
    }

    func start(readable: Bool, writable: Bool) {
        var events: Int32 = 0
        if readable { events |= Int32(UV_READABLE.rawValue) }
        if writable { events |= Int32(UV_WRITABLE.rawValue) }
        uv_poll_start(raw, events) { handle, status, events in
            var what: Int32 = 0
            // Not CURL_CSELECT_ERR: libcurl would give up without looking, also where a kept connection
            // has died and a fresh one would do. When it reads it sees what is wrong.
            if status < 0 { what |= CURL_CSELECT_IN | CURL_CSELECT_OUT }
            if events & Int32(UV_READABLE.rawValue) != 0 { what |= CURL_CSELECT_IN }
            if events & Int32(UV_WRITABLE.rawValue) != 0 { what |= CURL_CSELECT_OUT }
            owner(handle?.pointee.data, as: PollHandle.self).body?(what)
        }
    }

    func close() {
        guard body != nil else { return }
        body = nil
        // At once: libcurl closes the socket next.
        uv_poll_stop(raw)
        uv_close(asHandle(raw)) { handle in
            takeOwner(handle?.pointee.data, as: PollHandle.self).raw.deallocate()
        }
    }

    func closeFromLoop() { close() }
}
