public import Notices
import UvLoop

/// Why a sink cannot be opened.
public struct SinkProblem: Error, Hashable, Sendable, CustomStringConvertible {
    public var description: String
    /// What to do next.
    public var advice: String
    init(
        _ description: String,
        advice: String =
            "Correct the file of --sinks; `fermata notifier check-sinks FILE` reads it."
    ) {
        self.description = description
        self.advice = advice
    }
}

/// A file that is not there is made; what stands in the way of that while no disk fails is a slip of the
/// pen. One that goes away later is waited for.
func checkPlace(ofFile path: String) throws(SinkProblem) {
    let directory = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
    guard Files.kind(path: directory) == .directory else {
        throw SinkProblem("\(path) cannot be made: there is no directory \(directory)")
    }
    guard Files.kind(path: path) != .directory else {
        throw SinkProblem("\(path) is a directory, and not a file to append to")
    }
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
    /// All that keeps this sink from being opened, as far as the file system of this host tells.
    public var problems: [SinkProblem] {
        var secrets: [String?] = []
        var authorityFile: String?
        switch kind {
        case .webhook(let target, let settings):
            secrets = target.secretFiles + [settings.secretFile]
            authorityFile = target.authorityFile
        case .grafana(let target, let settings):
            secrets = target.secretFiles + [settings.tokenFile]
            authorityFile = target.authorityFile
        case .alertmanager(let target, let settings):
            secrets = target.secretFiles + [settings.tokenFile]
            authorityFile = target.authorityFile
        case .mail(let settings):
            secrets = [settings.passwordFile]
            authorityFile = settings.authorityFile
        case .file, .command, .journald, .syslog: break
        }
        var found: [SinkProblem] = []
        func check(_ body: () throws(SinkProblem) -> Void) {
            do throws(SinkProblem) { try body() } catch {
                found.append(SinkProblem("sink \(sink.id): \(error)"))
            }
        }
        for path in secrets.compactMap(\.self) {
            check { () throws(SinkProblem) in _ = try secret(path) }
        }
        check { () throws(SinkProblem) in try checkAuthorities(authorityFile) }
        switch kind {
        case .file(let settings):
            check { () throws(SinkProblem) in try checkPlace(ofFile: settings.path) }
        case .command(let settings):
            check { () throws(SinkProblem) in try settings.checkExecutable() }
        default: break
        }
        return found
    }

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
                do throws(UvError) {
                    return try SyslogReceiver(
                        settings, renderer, hostname: HostFacts.hostName, on: loop)
                } catch {
                    throw SinkProblem("\(error)")
                }
            case .file(let settings):
                try checkPlace(ofFile: settings.path)
                let file = LineFile(
                    path: settings.path, byteCountMax: settings.byteCountMax,
                    oldCountMax: settings.oldCountMax)
                do throws(UvError) {
                    return LineReceiver(
                        try LineFileAppender(file, on: loop), renderer, format: settings.format)
                } catch {
                    throw SinkProblem("\(error)")
                }
            case .mail(let settings): return try MailReceiver(settings, renderer, client)
            case .command(let settings):
                try settings.checkExecutable()
                return CommandReceiver(settings, renderer, on: loop)
            }
        } catch {
            throw SinkProblem("sink \(sink.id): \(error)")
        }
    }
}

extension HTTPTarget {
    fileprivate var secretFiles: [String] {
        headers.compactMap { header in
            if case .file(let path) = header.value { path } else { nil }
        }
    }
}

extension CommandSettings {
    fileprivate func checkExecutable() throws(SinkProblem) {
        guard Files.isExecutable(path: executable) else {
            throw SinkProblem("\(executable) cannot be executed")
        }
    }
}

/// - Parameter path: of PEM; nil for what the system trusts.
func checkAuthorities(_ path: String?) throws(SinkProblem) {
    guard let path, !Files.isReadable(path: path) else { return }
    throw SinkProblem("the authorities in \(path) cannot be read")
}
