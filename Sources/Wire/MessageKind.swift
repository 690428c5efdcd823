/// Who a peer is, as its certificate says.
public enum Role: String, Hashable, Sendable, CaseIterable {
    case server
    case agent
    case `operator`
    case notifier
}

/// A set of roles, for the table below.
public struct Roles: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    public static let server = Roles(rawValue: 1)
    public static let agent = Roles(rawValue: 2)
    public static let `operator` = Roles(rawValue: 4)
    public static let notifier = Roles(rawValue: 8)
    public static let clients: Roles = [.agent, .operator, .notifier]
    /// Servers connect to each other, too, to learn whether the leader lives.
    public static let all: Roles = [.server, .agent, .operator, .notifier]

    public init(_ role: Role) {
        switch role {
        case .server: self = .server
        case .agent: self = .agent
        case .operator: self = .operator
        case .notifier: self = .notifier
        }
    }
}

/// What a frame's body is. The raw value is the frame's kind on the wire.
public enum MessageKind: UInt16, Hashable, Sendable, CaseIterable {
    case hello = 1
    case helloAccepted = 2
    case close = 3
    case ping = 4
    case pong = 5

    case hostReport = 16
    case hostReportCommitted = 17
    case directive = 18
    case directiveAnswer = 19
    case stepProgress = 20
    case stepReport = 21
    case stepReportCommitted = 22

    case command = 32
    case commandAccepted = 33
    case refused = 34
    case query = 35
    case queryResult = 36

    case followEvents = 40
    case eventBatch = 41
    case acknowledgeEvents = 42
    case claimDeliveries = 43
    case deliveryLease = 44
    case reportDelivered = 45
    case giveUpDeliveries = 46

    /// The one table of who may send what: `toServer` are the roles that may send this kind to a
    /// server, `fromServer` the roles that a server may send it to.
    public var permission: (toServer: Roles, fromServer: Roles) {
        switch self {
        // to a server, from a server
        case .hello: (.all, [])
        case .helloAccepted: ([], .all)
        case .close: (.all, .all)
        case .ping: (.all, .all)
        case .pong: (.all, .all)
        case .hostReport: (.agent, [])
        case .hostReportCommitted: ([], .agent)
        case .directive: ([], .agent)
        case .directiveAnswer: (.agent, [])
        case .stepProgress: (.agent, [.operator, .notifier])
        case .stepReport: (.agent, [])
        case .stepReportCommitted: ([], .agent)
        // Of a notifier only the one that says that a guest is ready.
        case .command: ([.operator, .notifier], [])
        case .commandAccepted: ([], [.operator, .notifier])
        case .refused: ([], .clients)
        case .query: ([.operator, .notifier], [])
        case .queryResult: ([], [.operator, .notifier])
        case .followEvents: ([.operator, .notifier], [])
        case .eventBatch: ([], [.operator, .notifier])
        case .acknowledgeEvents: ([.notifier], [])
        case .claimDeliveries: ([.notifier], [])
        case .deliveryLease: ([], [.notifier])
        case .reportDelivered: ([.notifier], [])
        case .giveUpDeliveries: ([.notifier], [])
        }
    }

    /// Whether a peer of role `sender` may send this kind to a peer of role `receiver`.
    public func isPermitted(from sender: Role, to receiver: Role) -> Bool {
        (receiver == .server && permission.toServer.contains(Roles(sender)))
            || (sender == .server && permission.fromServer.contains(Roles(receiver)))
    }

    /// Kinds that ask for one answer with the same correlation.
    public var isRequest: Bool {
        switch self {
        case .hostReport, .stepReport, .command, .query: true
        default: false
        }
    }

    /// Kinds that answer one request.
    public var isAnswer: Bool {
        switch self {
        case .hostReportCommitted, .stepReportCommitted, .commandAccepted, .refused, .queryResult:
            true
        default: false
        }
    }

    /// Kinds whose sender waits for an answer that only the correlation can name.
    public var needsCorrelation: Bool {
        switch self {
        case .command, .query, .followEvents, .claimDeliveries: true
        default: false
        }
    }

    /// Kinds that keep a session alive or end it: they may come between the chunks of a message.
    public var isControl: Bool { self == .close || self == .ping || self == .pong }
}
