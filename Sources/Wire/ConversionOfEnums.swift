// The enums of the vocabulary and their numbers in the schema. The way back is found by search
// (see `WireEnum.checked`), so that each pair is written once.
public import Fleet

extension GuestState: WireEnum {
    public var wire: PBGuestState {
        switch self {
        case .starting: .starting
        case .running: .running
        case .held: .held
        case .paused: .paused
        case .stopped: .stopped
        case .lost: .lost
        case .unknown: .unknown
        }
    }
    public init(wire: PBGuestState) throws(ConversionError) {
        self = try Self.checked(wire, "")
    }
}

extension StepPhase: WireEnum {
    public var wire: PBStepPhase {
        switch self {
        case .waiting: .waiting
        case .noticed: .noticed
        case .granted: .granted
        case .accepted: .accepted
        case .preparing: .preparing
        case .held: .held
        case .patched: .patched
        case .resumed: .resumed
        case .confirmed: .confirmed
        case .finished: .finished
        case .cancelled: .cancelled
        }
    }
    public init(wire: PBStepPhase) throws(ConversionError) {
        self = try Self.checked(wire, "")
    }
}

extension StepOutcome: WireEnum {
    public var wire: PBStepOutcome {
        switch self {
        case .succeeded: .succeeded
        case .failed: .failed
        case .unhealthy: .unhealthy
        case .lost: .lost
        }
    }
    public init(wire: PBStepOutcome) throws(ConversionError) {
        self = try Self.checked(wire, "")
    }
}

extension Resumer: WireEnum {
    public var wire: PBResumer {
        switch self {
        case .agent: .agent
        case .guard: .guard
        case .restartedAgent: .restartedAgent
        }
    }
    public init(wire: PBResumer) throws(ConversionError) {
        self = try Self.checked(wire, "")
    }
}

extension Refusal.Code: WireEnum {
    public var wire: PBRefusalCode {
        switch self {
        case .notFound: .notFound
        case .alreadyExists: .alreadyExists
        case .conflict: .conflict
        case .invalid: .invalid
        case .notSupported: .notSupported
        case .notPermitted: .notPermitted
        case .unavailable: .unavailable
        case .nothingToDo: .nothingToDo
        }
    }
    public init(wire: PBRefusalCode) throws(ConversionError) {
        self = try Self.checked(wire, "")
    }
}

extension RolloutState: WireEnum {
    public var wire: PBRolloutState {
        switch self {
        // With `is_paused` beside it: whoever does not know that sees it run.
        case .running, .paused: .running
        case .stopping: .stopping
        case .aborting: .aborting
        case .succeeded: .succeeded
        case .failed: .failed
        case .aborted: .aborted
        }
    }
    /// - Parameter isPaused: from the field beside it; means something only with `running`.
    public init(wire: PBRolloutState, isPaused: Bool) throws(ConversionError) {
        self = try Self.checked(wire, "", isPaused: isPaused)
    }
    static func checked(
        _ wire: PBRolloutState, _ field: StaticString, isPaused: Bool
    ) throws(ConversionError) -> Self {
        let state = try checked(wire, field)
        guard wire == .running else { return state }
        return isPaused ? .paused : .running
    }
}
