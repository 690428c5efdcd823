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
func send(
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
        try checkAuthorities(settings.authorityFile)
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
