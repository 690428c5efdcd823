/// A file of lines that grows at its end.
public protocol LineAppender: AnyObject {
    /// Puts the end of the file in order, finds out which lines are there already (see ``FileEnd``),
    /// and appends the others; they are durable when it is over.
    ///
    /// - Parameters:
    ///   - lines: without line feeds.
    ///   - isRecovery: whether some may be there already; else the end of the file is in order.
    ///   - completion: called once, now or later; nil is success, else the reason.
    func append(_ lines: [String], isRecovery: Bool, completion: @escaping (String?) -> Void)
}

/// A sink that is a file of lines.
///
/// The lines due are looked for at the file's end before the first append and after every failed one, so
/// that in the usual case each is there exactly once, also after a crash in between.
public final class LineReceiver: Receiver {
    private let file: any LineAppender
    private let renderer: BulletinRenderer
    private let format: BulletinFormat
    private var isInOrder = false

    public init(
        _ file: any LineAppender, _ renderer: BulletinRenderer, format: BulletinFormat
    ) {
        self.file = file
        self.renderer = renderer
        self.format = format
    }

    /// Lines that go in one write: large enough for speed, small enough for memory.
    public static let batchCountMax = 256

    public func take(_ items: [OutboxItem], completion: @escaping (DeliveryOutcome) -> Void) {
        let lines = items.compactMap { renderer.line($0.bulletin, format) }
        file.append(lines, isRecovery: !isInOrder) { [weak self] problem in
            self?.isInOrder = problem == nil
            completion(problem.map { .later(reason: $0, afterMilliseconds: nil) } ?? .taken)
        }
    }
}

extension BulletinRenderer {
    /// On one line, without its line feed; nil if the format does not tell of it.
    package func line(_ bulletin: Bulletin, _ format: BulletinFormat) -> String? {
        render(bulletin, as: format).map { rendered in
            let text = String(decoding: rendered.body, as: UTF8.self)
            guard rendered.body.contains(where: { $0 == 10 || $0 == 13 }) else { return text }
            return text.split(whereSeparator: \.isNewline).joined(separator: " ")
        }
    }

    /// The text for people, on one line.
    package func text(_ bulletin: Bulletin) -> String { line(bulletin, .text) ?? "" }

    /// A whole mail, with a plain and an HTML part.
    package func mail(_ bulletin: Bulletin, _ settings: MailSettings) -> [UInt8] {
        let plain = render(bulletin, as: .text)
        let html = render(bulletin, as: .html)
        return MailMessage.bytes(
            bulletin, subject: subject(bulletin),
            plain: String(decoding: plain?.body ?? [], as: UTF8.self),
            html: String(decoding: html?.body ?? [], as: UTF8.self), settings: settings)
    }
}
