public import Fleet

/// First message of the connecting side.
public struct Hello: Hashable, Sendable {
    /// The bytes "FERM", read as a little-endian number: what a stray client will not send.
    public static let magic: UInt32 = 0x4D52_4546
    /// Length of ``instance``.
    public static let instanceByteCount = 16

    public var versionMin: UInt32
    public var versionMax: UInt32
    /// Cluster, role and name must be what the certificate says.
    public var identity: PeerIdentity
    /// 16 random bytes, new with every process.
    public var instance: [UInt8]
    /// Name and version of the software, for people.
    public var software: String

    public init(
        versionMin: UInt32 = ProtocolVersion.min, versionMax: UInt32 = ProtocolVersion.max,
        identity: PeerIdentity, instance: [UInt8], software: String
    ) {
        self.versionMin = versionMin
        self.versionMax = versionMax
        self.identity = identity
        self.instance = instance
        self.software = software
    }
}

/// A server's answer to an acceptable hello.
public struct HelloAccepted: Hashable, Sendable {
    public var version: UInt32
    /// Name of the server, as in its certificate.
    public var server: String
    public var isLeader: Bool
    public var term: UInt64
    public var keepaliveMilliseconds: UInt32
    public var silenceMilliseconds: UInt32
    /// `host:port` of every server, the leader first; empty if there is only this one.
    public var servers: [String]
    public var software: String

    public init(
        version: UInt32, server: String, isLeader: Bool, term: UInt64,
        keepaliveMilliseconds: UInt32 = Limits.keepaliveMilliseconds,
        silenceMilliseconds: UInt32 = Limits.peerSilenceMillisecondsMax, servers: [String],
        software: String
    ) {
        self.version = version
        self.server = server
        self.isLeader = isLeader
        self.term = term
        self.keepaliveMilliseconds = keepaliveMilliseconds
        self.silenceMilliseconds = silenceMilliseconds
        self.servers = servers
        self.software = software
    }
}

/// What an operator wants done. Who asks is known from the session, not from the message.
public enum OperatorCommand: Hashable, Sendable {
    case addRelease(Release)
    case startRollout(release: ReleaseID, selection: Selection, policy: Policy)
    case abortRollout(RolloutID, reason: String)
    case releaseLock(SetID, reason: String)
    case pauseRollout(RolloutID, reason: String)
    case resumeRollout(RolloutID, reason: String)
    case cordonHost(HostID, reason: String)
    case uncordonHost(HostID, reason: String)
    /// Keeps no more events for a notifier that is gone for good.
    case forgetNotifier(NotifierID, reason: String)
    /// To the leader itself: another server shall lead.
    case stepDown
    /// A guest is ready for a noticed step; notifiers may say this, too.
    ///
    /// - Parameter noticedAt: of the notice that is meant; nil means whichever stands.
    case acknowledgeNotice(StepID, guest: GuestID, noticedAt: Timestamp?)
}

/// What an operator wants to know.
public enum OperatorQuery: Hashable, Sendable {
    case status
    case hosts
    case guests
    case sets
    case locks
    case releases
    /// Without their steps.
    case rollouts
    case rollout(RolloutID)
    case plan(release: ReleaseID, selection: Selection, policy: Policy)
    /// Every step from its notice, or without one from its grant, to its end.
    case notices
}

/// The answer to the query of the same name.
public enum OperatorQueryResult: Hashable, Sendable {
    case status(StatusView)
    case hosts([HostView])
    case guests([GuestView])
    case sets([SetView])
    case locks([LockView])
    case releases([ReleaseView])
    case rollouts([RolloutView])
    case rollout(RolloutView)
    case plan(PlanView)
    /// In ascending order of step, as of the event `lastSequence`.
    case notices([Notice], lastSequence: UInt64)
}

/// Everything that can be said over the wire, one case for each ``MessageKind``.
public enum Message: Hashable, Sendable {
    case hello(Hello)
    case helloAccepted(HelloAccepted)
    case close(CloseCode, reason: String)
    case ping(nonce: UInt64)
    case pong(nonce: UInt64)

    case hostReport(HostReport)
    case hostReportCommitted(index: UInt64)
    case directive(Directive)
    case directiveAnswer(step: StepID, token: Token, answer: DirectiveAnswer)
    case stepProgress(StepProgress)
    case stepReport(StepReport)
    case stepReportCommitted(step: StepID, token: Token)

    case command(OperatorCommand)
    /// `rollout` is there if the command has started one.
    case commandAccepted(index: UInt64, rollout: RolloutID?)
    case refused(Refusal)
    /// `stale`: a standby may answer with what it knows.
    case query(OperatorQuery, stale: Bool = false)
    case queryResult(OperatorQueryResult)

    /// `progress`: also send ``stepProgress(_:)`` as it comes.
    case followEvents(afterSequence: UInt64, progress: Bool)
    /// `lastSequence` is the newest there is, so that a follower knows how far behind it is.
    case eventBatch([FleetEvent], lastSequence: UInt64)
    /// Everything up to and including `sequence` is kept safe by the notifier.
    case acknowledgeEvents(sequence: UInt64)
    /// The notifier wants to deliver to sinks, now or when its turn comes.
    case claimDeliveries
    /// The answer to ``claimDeliveries``, again whenever the holder changes.
    case deliveryLease(DeliveryLease)
    /// All up to and including `sequence` is delivered to `sink`, under the lease of this number.
    case reportDelivered(number: UInt64, sink: String, sequence: UInt64)
    /// The notifier delivers no more.
    case giveUpDeliveries

    public var kind: MessageKind {
        switch self {
        case .hello: .hello
        case .helloAccepted: .helloAccepted
        case .close: .close
        case .ping: .ping
        case .pong: .pong
        case .hostReport: .hostReport
        case .hostReportCommitted: .hostReportCommitted
        case .directive: .directive
        case .directiveAnswer: .directiveAnswer
        case .stepProgress: .stepProgress
        case .stepReport: .stepReport
        case .stepReportCommitted: .stepReportCommitted
        case .command: .command
        case .commandAccepted: .commandAccepted
        case .refused: .refused
        case .query: .query
        case .queryResult: .queryResult
        case .followEvents: .followEvents
        case .eventBatch: .eventBatch
        case .acknowledgeEvents: .acknowledgeEvents
        case .claimDeliveries: .claimDeliveries
        case .deliveryLease: .deliveryLease
        case .reportDelivered: .reportDelivered
        case .giveUpDeliveries: .giveUpDeliveries
        }
    }
}
