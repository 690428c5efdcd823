/// Why a session was closed. The raw value is the number in the schema.
public enum CloseCode: Int, Hashable, Sendable, CaseIterable {
    case normal = 1
    case versionMismatch = 2
    case wrongCluster = 3
    case wrongIdentity = 4
    case notPermitted = 5
    case badFrame = 6
    case unknownKind = 7
    case wrongState = 8
    case tooSlow = 9
    case replaced = 10
    case notLeader = 11
    case shuttingDown = 12
    case timeout = 13
    case `internal` = 14

    /// Whether connecting again, with the same certificate and software, must end the same way.
    public var isFinal: Bool {
        switch self {
        case .versionMismatch, .wrongCluster, .wrongIdentity, .notPermitted, .replaced: true
        case .normal, .badFrame, .unknownKind, .wrongState, .tooSlow, .notLeader, .shuttingDown,
            .timeout, .internal:
            false
        }
    }

    /// The same in one word, for counting.
    public var counterName: String {
        switch self {
        case .normal: "normal"
        case .versionMismatch: "versionMismatch"
        case .wrongCluster: "wrongCluster"
        case .wrongIdentity: "wrongIdentity"
        case .notPermitted: "notPermitted"
        case .badFrame: "badFrame"
        case .unknownKind: "unknownKind"
        case .wrongState: "wrongState"
        case .tooSlow: "tooSlow"
        case .replaced: "replaced"
        case .notLeader: "notLeader"
        case .shuttingDown: "shuttingDown"
        case .timeout: "timeout"
        case .internal: "internal"
        }
    }

    /// The schema's name without its prefix, as in logs and in proto-spec/README.md.
    public var name: String {
        switch self {
        case .normal: "NORMAL"
        case .versionMismatch: "VERSION_MISMATCH"
        case .wrongCluster: "WRONG_CLUSTER"
        case .wrongIdentity: "WRONG_IDENTITY"
        case .notPermitted: "NOT_PERMITTED"
        case .badFrame: "BAD_FRAME"
        case .unknownKind: "UNKNOWN_KIND"
        case .wrongState: "WRONG_STATE"
        case .tooSlow: "TOO_SLOW"
        case .replaced: "REPLACED"
        case .notLeader: "NOT_LEADER"
        case .shuttingDown: "SHUTTING_DOWN"
        case .timeout: "TIMEOUT"
        case .internal: "INTERNAL"
        }
    }
}

extension CloseCode: WireEnum {
    public var wire: PBCloseCode { PBCloseCode(rawValue: rawValue) ?? .unspecified }
}
