// Asks the probes of a guest, all at the same time, before and after a hold.
//
// Happy path: each is tried until it succeeds once.
// Failure modes: a try fails, or is not over within its limit: it is ended, and tried again after the
// probe's interval, until its attempts or its time are used up. What then is wrong is told in words
// that begin with the probe's name and end with what it said last. The guest is only asked.
//
// HTTP goes through Debian's curl, in a process of its own: what a guest answers is parsed outside
// the agent, by a parser that has seen the whole Web.

internal import Edges
internal import HostConfiguration
internal import UvLoop

enum HealthProbes {
    static let curl = "/usr/bin/curl"

    /// - Parameter completion: called once, later, with what is wrong, in the order of the probes.
    static func run(
        _ probes: [Probe], on loop: Loop, completion: @escaping (_ problems: [String]) -> Void
    ) {
        var answers = [String?](repeating: nil, count: probes.count)
        var left = probes.count
        guard left > 0 else { return loop.soon { completion([]) } }
        for (index, probe) in probes.enumerated() {
            ProbeRun(probe, on: loop) { problem in
                answers[index] = problem
                left -= 1
                if left == 0 { completion(answers.compactMap(\.self)) }
            }.start()
        }
    }
}

/// One probe with its tries.
private final class ProbeRun {
    private let probe: Probe
    private let loop: Loop
    private let completion: (String?) -> Void
    private var end: Int64 = 0
    private var tries = 0
    /// Of the try at hand, in microseconds.
    private var limit: Int64 = 0
    /// What is wrong, by the last try that had time to find out.
    private var found: (problem: String, limit: Int64)?

    /// With so much time a try has found out what there is to find.
    private static let fairTryMicroseconds: Int64 = 1_000_000
    /// A try that hangs must not take the time of those that would succeed. A command may be slow.
    private static let networkTryMax: Duration = .seconds(2)
    private static let tryMinMicroseconds: Int64 = 5_000

    init(_ probe: Probe, on loop: Loop, completion: @escaping (String?) -> Void) {
        self.probe = probe
        self.loop = loop
        self.completion = completion
    }

    func start() {
        end = HoldClock.nowMicroseconds + probe.timeout.microseconds
        loop.soon { [self] in attempt() }
    }

    private func attempt() {
        tries += 1
        limit = probe.timeout.microseconds
        if tries > 1 {
            // In whole milliseconds, as it may stand in a message.
            let left = (end - HoldClock.nowMicroseconds) / 1_000 * 1_000
            limit = max(Self.tryMinMicroseconds, left)
        }
        if let attempts = probe.attempts {
            limit = min(limit, probe.timeout.microseconds / Int64(attempts))
        }
        switch probe.target {
        case .tcp(let address):
            connect(address, .microseconds(min(limit, Self.networkTryMax.microseconds)))
        case .http(let url, let status):
            get(url, status, .microseconds(min(limit, Self.networkTryMax.microseconds)))
        case .command(let path, let arguments): execute(path, arguments, .microseconds(limit))
        }
    }

    /// - Parameter problem: what a try found; nil if all is well.
    private func tried(_ problem: String?) {
        guard let problem else { return completion(nil) }
        if limit >= min(found?.limit ?? 0, Self.fairTryMicroseconds) { found = (problem, limit) }
        let left = end - HoldClock.nowMicroseconds - probe.interval.microseconds
        guard tries < probe.attempts ?? .max, left > Self.tryMinMicroseconds else {
            let often = tries == 1 ? "" : " (tried \(tries) times within \(probe.timeout))"
            return completion("probe \(probe.name): \(found?.problem ?? problem)\(often)")
        }
        loop.after(probe.interval) { [self] in attempt() }
    }

    private func connect(_ text: String, _ limit: Duration) {
        guard let address = SocketAddress(parsing: text) else {
            return tried("the address \(text) cannot be read")
        }
        SocketStream.connectTCP(address, on: loop, timeout: limit) { [self] answer in
            switch answer {
            case .success(let stream):
                stream.close()
                tried(nil)
            case .failure(let error): tried("no connection to \(address): \(error)")
            }
        }
    }

    private func get(_ url: String, _ status: ClosedRange<Int>, _ limit: Duration) {
        let milliseconds = max(1, limit.microseconds / 1_000)
        let fraction = String(1_000 + milliseconds % 1_000).dropFirst()
        let arguments = [
            // No configuration file, no proxy, no pattern in the URL, nothing but HTTP.
            "--disable", "--noproxy", "*", "--globoff", "--proto", "=http,https",
            "--silent", "--show-error", "--output", "/dev/null", "--write-out", "%{http_code}\n",
            "--max-time", "\(milliseconds / 1_000).\(fraction)", "--url", url,
        ]
        // curl ends by itself at its limit, with better words.
        spawn(HealthProbes.curl, arguments, limit + .seconds(1)) { [self] end, output in
            var lines = String(decoding: output, as: UTF8.self).split(separator: "\n")
            let code = lines.first.flatMap { $0.utf8.count == 3 ? Int($0) : nil }
            if code != nil { lines.removeFirst() }
            let answered = code.flatMap { $0 == 0 ? nil : "HTTP status \($0)" }
            guard end == .exited(ExitStatus(code: 0, signal: 0)), let code, code != 0 else {
                let said = [answered, lastWords(Array(lines.joined(separator: "\n").utf8))]
                    .compactMap { $0 == "" ? nil : $0 }.joined(separator: ", ")
                return tried(said.isEmpty ? "curl ended with \(end)" : said)
            }
            let wanted =
                status.count == 1
                ? "\(status.lowerBound)" : "\(status.lowerBound) to \(status.upperBound)"
            tried(status.contains(code) ? nil : "HTTP status \(code), not \(wanted)")
        }
    }

    private func execute(_ path: String, _ arguments: [String], _ limit: Duration) {
        spawn(path, arguments, limit) { [self] end, output in
            let said = lastWords(output)
            let saying = said.isEmpty ? "" : ": \(said)"
            switch end {
            case .exited(ExitStatus(code: 0, signal: 0)): tried(nil)
            case .exited(let status): tried("\(status)\(saying)")
            case .tookTooLong: tried("took longer than \(limit) and was killed\(saying)")
            }
        }
    }

    private func spawn(
        _ executable: String, _ arguments: [String], _ limit: Duration,
        _ body: @escaping (BoundedCommand.End, [UInt8]) -> Void
    ) {
        do {
            try BoundedCommand(
                executable: executable, arguments: arguments, limit: limit, on: loop,
                completion: body)
        } catch {
            // Nothing that time mends, but the descriptors may be used up for a moment only.
            loop.soon { [self] in tried("could not be asked: \(error)") }
        }
    }
}
