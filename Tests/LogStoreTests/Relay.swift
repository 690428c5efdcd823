import UvLoop

/// A relay between a store and a member of etcd, which loses what a bad network loses.
final class Relay {
    enum Mode {
        case pass
        /// Questions are kept until ``release()``, also when who asked has gone.
        case holdQuestions
        /// Questions go on, answers do not come back.
        case swallowAnswers
        /// As soon as an answer comes the connection is closed instead.
        case cutAtAnswer
        case delayAnswers(Duration)
    }

    /// All that was asked, connection by connection, in pieces as they came.
    private(set) var questions: [String] = []

    var mode: Mode
    /// Called with each piece of an answer before the mode is looked at.
    var onAnswer: (() -> Void)?
    private(set) var answerCount = 0
    private let loop: Loop
    private var upstream: SocketAddress
    private var listener: Listener?
    private var pairs: [Pair] = []

    private final class Pair {
        let client: SocketStream
        var server: SocketStream?
        var waiting: [UInt8] = []
        var held: [UInt8] = []
        init(_ client: SocketStream) { self.client = client }
        func close() {
            client.close()
            server?.close()
        }
    }

    init(to endpoint: String, on loop: Loop, _ mode: Mode = .pass) throws {
        self.loop = loop
        self.mode = mode
        upstream = Self.address(endpoint)
        listener = try Listener.tcp(Self.address("http://127.0.0.1:0"), on: loop) { [weak self] in
            self?.accept($0)
        }
    }

    private static func address(_ endpoint: String) -> SocketAddress {
        let text = String(endpoint.drop { !$0.isNumber })
        guard let address = SocketAddress(parsing: text) else {
            preconditionFailure("\(endpoint) is no address")
        }
        return address
    }

    var endpoint: String { "http://\(listener?.address?.description ?? "")" }

    /// Closes all that goes through; what comes next goes to `endpoint`.
    func turn(to endpoint: String? = nil) {
        if let endpoint { upstream = Self.address(endpoint) }
        cut()
    }

    func cut() {
        let all = pairs
        pairs = []
        for pair in all { pair.close() }
    }

    /// Takes no connection any more.
    func close() {
        listener?.close()
        cut()
    }

    /// Sends the questions that were held.
    func release() {
        for pair in pairs {
            pair.server?.write(pair.held)
            pair.held = []
        }
    }

    var openCount: Int { pairs.count }

    var isHolding: Bool { pairs.contains { !$0.held.isEmpty } }

    private func accept(_ client: SocketStream) {
        let pair = Pair(client)
        pairs.append(pair)
        client.onBytes = { [weak self] in self?.asked(pair, Array($0)) }
        client.onEnd = { [weak self] _ in
            guard pair.held.isEmpty else { return }
            pair.server?.closeAfterWriting()
            self?.pairs.removeAll { $0 === pair && pair.held.isEmpty }
        }
        SocketStream.connectTCP(upstream, on: loop, timeout: .seconds(5)) { [weak self] result in
            guard let self, case .success(let server) = result, pairs.contains(where: { $0 === pair })
            else {
                if case .success(let server) = result { server.close() }
                return client.close()
            }
            pair.server = server
            server.write(pair.waiting)
            pair.waiting = []
            server.onBytes = { [weak self] in self?.answered(pair, Array($0)) }
            server.onEnd = { _ in client.closeAfterWriting() }
        }
    }

    private func asked(_ pair: Pair, _ bytes: [UInt8]) {
        let text = String(decoding: bytes, as: UTF8.self)
        if text.hasPrefix("POST ") {
            questions.append(text)
        } else if let last = questions.indices.last {
            questions[last] += text
        }
        if case .holdQuestions = mode {
            pair.held += bytes
        } else if let server = pair.server {
            server.write(bytes)
        } else {
            pair.waiting += bytes
        }
    }

    private func answered(_ pair: Pair, _ bytes: [UInt8]) {
        answerCount += 1
        onAnswer?()
        switch mode {
        case .pass, .holdQuestions: pair.client.write(bytes)
        case .swallowAnswers: break
        case .cutAtAnswer: pair.close()
        case .delayAnswers(let delay): loop.after(delay) { pair.client.write(bytes) }
        }
    }
}
