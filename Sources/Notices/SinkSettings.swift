// What a file of sinks says, checked, with every default filled in. HostConfiguration reads it,
// NotifierShell makes receivers of it.

/// One sink of the file.
public struct SinkSettings: Hashable, Sendable {
    public enum Kind: Hashable, Sendable {
        case webhook(HTTPTarget, WebhookSettings)
        case grafana(HTTPTarget, GrafanaSettings)
        case alertmanager(HTTPTarget, SilenceSettings)
        /// The socket's path.
        case journald(socket: String)
        case syslog(SyslogSettings)
        case file(FileSettings)
        case mail(MailSettings)
        case command(CommandSettings)

        /// What is sent; of a kind that has a form of its own, the default.
        package var format: BulletinFormat {
            switch self {
            case .webhook(_, let settings): settings.format
            case .file(let settings): settings.format
            default: .json
            }
        }

        /// It makes silences, which begin before a hold and end after it, whatever came of it.
        package var isSilence: Bool {
            if case .alertmanager = self { true } else { false }
        }
    }
    public var sink: Sink
    public var kind: Kind

    public init(sink: Sink, kind: Kind) {
        self.sink = sink
        self.kind = kind
    }
}

/// Where requests go. Files are read when the sink is opened, so that they can hold secrets.
public struct HTTPTarget: Hashable, Sendable {
    public struct Header: Hashable, Sendable {
        public enum Value: Hashable, Sendable {
            case text(String)
            /// Absolute path; without the line feed at its end.
            case file(String)
        }
        public var name: String
        public var value: Value
        public init(name: String, value: Value) {
            self.name = name
            self.value = value
        }
    }
    public var url: String
    /// In ascending order of name.
    public var headers: [Header]
    /// Absolute path of PEM; nil for what the system trusts.
    public var authorityFile: String?
    public var limitMilliseconds: Int64

    public static let limitMillisecondsDefault: Int64 = 10_000

    public init(
        url: String, headers: [Header] = [], authorityFile: String? = nil,
        limitMilliseconds: Int64 = limitMillisecondsDefault
    ) {
        self.url = url
        self.headers = headers
        self.authorityFile = authorityFile
        self.limitMilliseconds = limitMilliseconds
    }
}

public struct WebhookSettings: Hashable, Sendable {
    /// Absolute path of the key that bodies are signed with; nil for none.
    public var secretFile: String?
    public var format: BulletinFormat
    public init(secretFile: String? = nil, format: BulletinFormat = .json) {
        self.secretFile = secretFile
        self.format = format
    }
}

public struct GrafanaSettings: Hashable, Sendable {
    /// Absolute path of the token of a service account; nil for none.
    public var tokenFile: String?
    /// A dashboard's UID; nil for an annotation of the whole organisation.
    public var dashboard: String?
    /// Besides those that Fermata gives.
    public var tags: [String]
    public init(tokenFile: String? = nil, dashboard: String? = nil, tags: [String] = []) {
        self.tokenFile = tokenFile
        self.dashboard = dashboard
        self.tags = tags
    }
}

public struct SilenceSettings: Hashable, Sendable {
    public struct Matcher: Hashable, Sendable {
        public var name: String
        /// With ``Placeholders``; in a regular expression what they stand for is quoted.
        public var value: String
        public var isRegex: Bool
        public init(name: String, value: String, isRegex: Bool = false) {
            self.name = name
            self.value = value
            self.isRegex = isRegex
        }
    }
    /// All of them have to match.
    public var matchers: [Matcher]
    /// How long a silence lasts if its end is never told.
    public var durationMilliseconds: Int64
    /// Absolute path of a bearer token; nil for none.
    public var tokenFile: String?

    public static let matchersDefault = [Matcher(name: "instance", value: "{guest}")]
    public static let durationMillisecondsDefault: Int64 = 600_000

    public init(
        matchers: [Matcher] = matchersDefault,
        durationMilliseconds: Int64 = durationMillisecondsDefault, tokenFile: String? = nil
    ) {
        self.matchers = matchers
        self.durationMilliseconds = durationMilliseconds
        self.tokenFile = tokenFile
    }
}

public struct SyslogSettings: Hashable, Sendable {
    public enum Transport: Hashable, Sendable {
        /// A datagram socket's path.
        case unix(String)
        /// `host:port`, a numeric address or a name.
        case udp(String)
        case tcp(String)
    }
    public var transport: Transport
    /// 0 to 23, as RFC 5424 numbers them.
    public var facility: Int
    public static let facilityDefault = 3
    public init(transport: Transport, facility: Int = facilityDefault) {
        self.transport = transport
        self.facility = facility
    }
}

public struct FileSettings: Hashable, Sendable {
    /// Absolute.
    public var path: String
    public var format: BulletinFormat
    /// Beyond it a new file is begun; nil for never.
    public var byteCountMax: UInt64?
    /// Files kept besides the one that is written: `path.1` is the newest.
    public var oldCountMax: Int
    public init(
        path: String, format: BulletinFormat = .json, byteCountMax: UInt64? = nil,
        oldCountMax: Int = 5
    ) {
        self.path = path
        self.format = format
        self.byteCountMax = byteCountMax
        self.oldCountMax = oldCountMax
    }
}

public struct MailSettings: Hashable, Sendable {
    public enum Security: String, Hashable, Sendable, CaseIterable {
        /// STARTTLS must be there.
        case startTLS = "starttls"
        /// TLS from the first byte.
        case tls
        case none
    }
    /// `host:port`.
    public var server: String
    public var security: Security
    /// An address.
    public var from: String
    /// Addresses; at least one.
    public var to: [String]
    public var user: String?
    /// Absolute path.
    public var passwordFile: String?
    public var authorityFile: String?
    public init(
        server: String, security: Security = .startTLS, from: String, to: [String],
        user: String? = nil, passwordFile: String? = nil, authorityFile: String? = nil
    ) {
        self.server = server
        self.security = security
        self.from = from
        self.to = to
        self.user = user
        self.passwordFile = passwordFile
        self.authorityFile = authorityFile
    }
}

public struct CommandSettings: Hashable, Sendable {
    /// Absolute path.
    public var executable: String
    public var arguments: [String]
    public var limitMilliseconds: Int64
    public static let limitMillisecondsDefault: Int64 = 30_000
    public init(
        executable: String, arguments: [String] = [],
        limitMilliseconds: Int64 = limitMillisecondsDefault
    ) {
        self.executable = executable
        self.arguments = arguments
        self.limitMilliseconds = limitMilliseconds
    }
}
