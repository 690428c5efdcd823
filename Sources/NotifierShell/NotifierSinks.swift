public import Notices
public import UvLoop

/// All that a notifier delivers to.
public struct NotifierSinks {
    /// Of the file of `--sinks`.
    public var settings: [SinkSettings]
    public var templates: BulletinTemplates
    /// Where a line of JSON goes for each annotation; nil if nowhere.
    public var appendPath: String?
    /// Takes a line of text for each annotation, on another thread; nil if nothing is printed.
    public var printLine: (@Sendable (String) throws -> Void)?

    public init(
        settings: [SinkSettings] = [], templates: BulletinTemplates = .builtIn,
        appendPath: String? = nil, printLine: (@Sendable (String) throws -> Void)? = nil
    ) {
        self.settings = settings
        self.templates = templates
        self.appendPath = appendPath
        self.printLine = printLine
    }

    func renderer(cluster: String) -> BulletinRenderer {
        BulletinRenderer(cluster: cluster, templates: templates)
    }

    func open(cluster: String, on loop: Loop) throws(SinkProblem) -> [(Sink, any Receiver)] {
        let renderer = renderer(cluster: cluster)
        var ways: [(Sink, any Receiver)] = []
        let count = LineReceiver.batchCountMax
        if let appendPath {
            do {
                try checkPlace(ofFile: appendPath)
            } catch {
                throw SinkProblem(error.description, advice: "Make it, or give another --append.")
            }
        }
        do throws(UvError) {
            if let printLine {
                let sink = Sink(id: .stdout, batchCountMax: count)
                ways.append((sink, try PrintReceiver(printLine, renderer, on: loop)))
            }
            if let appendPath {
                let file = try LineFileAppender(LineFile(path: appendPath), on: loop)
                let sink = Sink(id: .file, batchCountMax: count)
                ways.append((sink, LineReceiver(file, renderer, format: .json)))
            }
        } catch {
            throw SinkProblem("\(error)")
        }
        for entry in settings {
            // Each has connections of its own: one that hangs takes none of another's.
            let client = HTTPClient(on: loop)
            ways.append((entry.sink, try entry.open(on: loop, client: client, renderer)))
        }
        return ways
    }
}

/// Sends one made-up bulletin to one sink; to one that makes silences two, which make one and end it.
public final class SinkTrial {
    private let receiver: any Receiver
    private let isSilence: Bool

    public init(
        _ settings: SinkSettings, templates: BulletinTemplates, on loop: Loop
    ) throws(SinkProblem) {
        isSilence = settings.kind.isSilence
        receiver = try settings.open(
            on: loop, client: HTTPClient(on: loop),
            BulletinRenderer(cluster: "test", templates: templates))
    }

    /// - Parameter completion: called once, now or later.
    public func run(completion: @escaping (DeliveryOutcome) -> Void) {
        let name = randomName(byteCount: 6)
        guard isSilence else { return send(.trial(name, nowMicroseconds: now), completion) }
        send(.trial(name, isStart: true, nowMicroseconds: now)) { [self] outcome in
            guard outcome == .taken else { return completion(outcome) }
            send(.trial(name, nowMicroseconds: now), completion)
        }
    }

    private var now: Int64 { WallClock.nowMicroseconds }

    private func send(
        _ bulletin: Bulletin, _ completion: @escaping (DeliveryOutcome) -> Void
    ) {
        receiver.take([OutboxItem(number: 1, bulletin: bulletin)], completion: completion)
    }
}
