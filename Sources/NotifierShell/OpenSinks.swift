import Notices
import UvLoop

/// Why a sink cannot be opened.
public struct SinkProblem: Error, Hashable, Sendable, CustomStringConvertible {
    public var description: String
    init(_ description: String) { self.description = description }
}

/// What a file holds, without the line feed at its end.
func secret(_ path: String) throws(SinkProblem) -> String {
    do {
        let bytes = try Files.read(path: path, byteCountMax: 65_536)
        let text = String(decoding: bytes, as: UTF8.self)
        let line = text.hasSuffix("\n") ? String(text.dropLast()) : text
        guard !line.isEmpty, !line.contains(where: \.isNewline) else {
            throw SinkProblem("\(path) does not hold one line")
        }
        return line
    } catch let error as UvError {
        throw SinkProblem("\(error)")
    } catch let error as SinkProblem {
        throw error
    } catch {
        throw SinkProblem("\(path) cannot be read")
    }
}

extension SinkSettings {
    /// Makes what takes this sink's bulletins, and reads its secrets.
    ///
    /// - Parameter client: may be shared by several.
    func open(
        on loop: Loop, client: HTTPClient, _ renderer: BulletinRenderer
    ) throws(SinkProblem) -> any Receiver {
        do throws(SinkProblem) {
            switch kind {
            case .webhook(let target, let settings):
                return try WebhookReceiver(
                    try OpenTarget(target, tokenFile: nil, client, renderer), settings)
            case .grafana(let target, let settings):
                return GrafanaReceiver(
                    try OpenTarget(target, tokenFile: settings.tokenFile, client, renderer),
                    settings)
            case .alertmanager(let target, let settings):
                return SilenceReceiver(
                    try OpenTarget(target, tokenFile: settings.tokenFile, client, renderer),
                    settings)
            case .journald(let path): return JournalReceiver(socket: path, renderer)
            case .syslog(let settings):
                return SyslogReceiver(
                    settings, renderer, hostname: HostFacts.hostName, on: loop)
            case .file(let settings):
                let file = LineFile(
                    path: settings.path, byteCountMax: settings.byteCountMax,
                    oldCountMax: settings.oldCountMax)
                do {
                    return LineReceiver(
                        try LineFileAppender(file, on: loop), renderer, format: settings.format)
                } catch {
                    throw SinkProblem("\(error)")
                }
            case .mail(let settings): return try MailReceiver(settings, renderer, client)
            case .command(let settings):
                guard Files.isExecutable(path: settings.executable) else {
                    throw SinkProblem("\(settings.executable) cannot be executed")
                }
                return CommandReceiver(settings, renderer, on: loop)
            }
        } catch {
            throw SinkProblem("sink \(sink.id): \(error)")
        }
    }
}
