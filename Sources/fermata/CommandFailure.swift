import Fleet

/// Exit codes, after sysexits.h where it has one that fits. Documented in `fermata --help`.
enum Exit: Int32 {
    /// What was asked for failed: refused, or a rollout that did not succeed.
    case failed = 1
    case usage = 64
    case badInput = 65
    case unavailable = 69
    case internalError = 70
    case cannotCreate = 73
    case protocolMismatch = 76
    case notPermitted = 77
    case configuration = 78
    /// Interrupted from the keyboard: 128 + SIGINT.
    case interrupted = 130
    /// Nobody reads our output any more: 128 + SIGPIPE.
    case outputClosed = 141
}

/// The end of a command that did not do what it was asked: what happened, to what, and what to do.
struct CommandFailure: Error {
    var exit: Exit
    var message: String
    /// Empty if there is nothing to be done.
    var advice: String

    init(_ exit: Exit, _ message: String, advice: String = "") {
        self.exit = exit
        self.message = message
        self.advice = advice
    }

    init(_ refusal: Refusal) {
        exit = refusal.code == .notPermitted ? .notPermitted : .failed
        message = refusal.message
        advice = refusal.advice
    }
}
