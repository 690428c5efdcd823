/// One question to a guest, asked before and after a hold; the guest is healthy if it is answered.
public struct Probe: Hashable, Sendable {
    public enum Target: Hashable, Sendable {
        /// Numeric address and port to which a TCP connection must succeed, such as
        /// `10.77.1.10:7000` or `[::1]:7000`.
        case tcp(String)
        /// An `http://` or `https://` URL whose GET must answer with a status of this range.
        /// Redirects are not followed.
        case http(url: String, status: ClosedRange<Int>)
        /// An executable of the host, by absolute path, that must exit with 0.
        case command(path: String, arguments: [String])
    }

    /// What messages call it.
    public var name: String
    public var target: Target
    /// Within which it must succeed, over all tries.
    public var timeout: Duration
    /// How often it is tried at most, each time within its share of ``timeout``; nil for as often
    /// as there is time.
    public var attempts: Int?
    /// The pause after a try that failed.
    public var interval: Duration

    public init(
        name: String, target: Target, timeout: Duration = Probe.timeoutDefault,
        attempts: Int? = nil, interval: Duration = Probe.intervalDefault
    ) {
        self.name = name
        self.target = target
        self.timeout = timeout
        self.attempts = attempts
        self.interval = interval
    }

    public static let timeoutDefault: Duration = .seconds(5)
    public static let intervalDefault: Duration = .milliseconds(250)
    public static let statusDefault = 200...299
    /// Of one guest: all are asked at the same time.
    public static let countMax = 16
}
