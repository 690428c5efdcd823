import Fleet
import Notices
import UvLoop

/// The journal, over its socket.
final class JournalReceiver: Receiver {
    private let path: String
    private var sender: DatagramSender?

    private let renderer: BulletinRenderer

    init(socket path: String, _ renderer: BulletinRenderer) {
        self.path = path
        self.renderer = renderer
    }

    func take(_ items: [OutboxItem], completion: @escaping (DeliveryOutcome) -> Void) {
        let bulletin = items[0].bulletin
        let text = renderer.text(bulletin)
        completion(
            send(JournalMessage.bytes(bulletin, text: text), by: &sender) { () throws(UvError) in
                try DatagramSender(unixPath: path)
            })
    }
}

/// Sends a datagram, over a socket that is made anew after a failure: the receiver may have restarted.
private func send(
    _ bytes: [UInt8], by sender: inout DatagramSender?,
    open: () throws(UvError) -> DatagramSender
) -> DeliveryOutcome {
    do throws(UvError) {
        let socket: DatagramSender
        if let sender { socket = sender } else { socket = try open() }
        sender = socket
        try socket.send(bytes)
        return .taken
    } catch {
        sender = nil
        return error.name == "EMSGSIZE"
            ? .refused(reason: "\(error)") : .later(reason: "\(error)", afterMilliseconds: nil)
    }
}

/// A syslog daemon: by datagrams, or over a TCP connection that is kept.
final class SyslogReceiver: Receiver {
    private let settings: SyslogSettings
    private let renderer: BulletinRenderer
    private let hostname: String
    private let loop: Loop
    private var sender: DatagramSender?
    private var stream: SocketStream?
    private static let connectLimit = Duration.seconds(5)

    init(
        _ settings: SyslogSettings, _ renderer: BulletinRenderer, hostname: String, on loop: Loop
    ) {
        self.renderer = renderer
        self.settings = settings
        self.hostname = hostname
        self.loop = loop
    }

    func take(_ items: [OutboxItem], completion: @escaping (DeliveryOutcome) -> Void) {
        let bulletin = items[0].bulletin
        let text = renderer.text(bulletin)
        let bytes = SyslogMessage.bytes(
            bulletin, text: text, facility: settings.facility, hostname: hostname)
        switch settings.transport {
        case .unix(let path):
            completion(
                send(bytes, by: &sender) { () throws(UvError) in
                    try DatagramSender(unixPath: path)
                })
        case .udp(let place):
            withAddress(place, completion) { [self] address in
                completion(
                    send(bytes, by: &sender) { () throws(UvError) in
                        try DatagramSender(udp: address)
                    })
            }
        case .tcp(let place):
            write(SyslogMessage.framed(bytes), to: place, completion)
        }
    }

    private func withAddress(
        _ place: String, _ completion: @escaping (DeliveryOutcome) -> Void,
        _ body: @escaping (SocketAddress) -> Void
    ) {
        resolve(place, on: loop) { result in
            switch result {
            case .success(let addresses): body(addresses[0])
            case .failure(let error):
                completion(.later(reason: "\(error)", afterMilliseconds: nil))
            }
        }
    }

    private func write(
        _ bytes: [UInt8], to place: String, _ completion: @escaping (DeliveryOutcome) -> Void
    ) {
        if let stream { return write(bytes, on: stream, completion) }
        withAddress(place, completion) { [self] address in
            SocketStream.connectTCP(address, on: loop, timeout: Self.connectLimit) {
                [self] result in
                switch result {
                case .success(let stream):
                    self.stream = stream
                    // Read, so that its end is noticed; nothing is expected.
                    stream.onBytes = { _ in }
                    stream.onEnd = { [weak self] _ in self?.stream = nil }
                    write(bytes, on: stream, completion)
                case .failure(let error):
                    completion(.later(reason: "\(error)", afterMilliseconds: nil))
                }
            }
        }
    }

    private func write(
        _ bytes: [UInt8], on stream: SocketStream,
        _ completion: @escaping (DeliveryOutcome) -> Void
    ) {
        stream.write(bytes) { [weak self] error in
            guard let error else { return completion(.taken) }
            self?.stream = nil
            stream.close()
            completion(.later(reason: "\(error)", afterMilliseconds: nil))
        }
    }
}

/// A program that is run for each bulletin, with its JSON on stdin. Exit code 0: taken; anything else is
/// tried again.
final class CommandReceiver: Receiver {
    private let settings: CommandSettings
    private let renderer: BulletinRenderer
    private let loop: Loop

    init(_ settings: CommandSettings, _ renderer: BulletinRenderer, on loop: Loop) {
        self.renderer = renderer
        self.settings = settings
        self.loop = loop
    }

    func take(_ items: [OutboxItem], completion: @escaping (DeliveryOutcome) -> Void) {
        do {
            try BoundedCommand(
                executable: settings.executable, arguments: settings.arguments,
                input: renderer.render(items[0].bulletin, as: .json)?.body,
                limit: .milliseconds(settings.limitMilliseconds), on: loop
            ) { [settings] end, output in
                let said = String(decoding: output.suffix(200), as: UTF8.self)
                switch end {
                case .exited(ExitStatus(code: 0, signal: 0)): completion(.taken)
                case .exited(let status):
                    completion(.later(reason: "\(status): \(said)", afterMilliseconds: nil))
                case .tookTooLong:
                    completion(
                        .later(
                            reason: "not done after \(settings.limitMilliseconds) ms: \(said)",
                            afterMilliseconds: nil))
                }
            }
        } catch {
            completion(.later(reason: "\(error)", afterMilliseconds: nil))
        }
    }
}

/// A server that takes mails. 4xx of SMTP: later; 5xx: refused.
final class MailReceiver: Receiver {
    private let settings: MailSettings
    private let renderer: BulletinRenderer
    private let password: String?
    private let client: HTTPClient

    init(
        _ settings: MailSettings, _ renderer: BulletinRenderer, _ client: HTTPClient
    ) throws(SinkProblem) {
        self.renderer = renderer
        self.settings = settings
        password = try settings.passwordFile.map { path throws(SinkProblem) in try secret(path) }
        self.client = client
    }

    func take(_ items: [OutboxItem], completion: @escaping (DeliveryOutcome) -> Void) {
        let scheme = settings.security == .tls ? "smtps" : "smtp"
        client.send(
            MailRequest(
                url: "\(scheme)://\(settings.server)",
                needsStartTLS: settings.security == .startTLS, from: settings.from, to: settings.to,
                user: settings.user, password: password, authorityFile: settings.authorityFile,
                message: renderer.mail(items[0].bulletin, settings))
        ) { result in
            switch result {
            case .success(let answer) where answer.status < 400: completion(.taken)
            case .success(let answer) where answer.status >= 500:
                completion(.refused(reason: "it answered \(answer.status): \(words(answer))"))
            case .success(let answer):
                completion(
                    .later(
                        reason: "it answered \(answer.status): \(words(answer))",
                        afterMilliseconds: nil))
            case .failure(let error):
                completion(.later(reason: error.reason, afterMilliseconds: nil))
            }
        }
    }
}

private func words(_ answer: HTTPAnswer) -> String {
    String(decoding: answer.body.prefix(200), as: UTF8.self)
}
