// Preflight: can this guest be handed over? Facts in, findings out; nothing here looks at anything.
//
//  name         severity  what is wrong, if …                                           needs
//  -----------  --------  -----------------------------------------------------------  ----------
//  running      blocks    the guest has no QEMU, or does not run                       process
//  monitor      blocks    its monitor, or the guard's, is taken or does not answer     monitor
//  memory       blocks    a RAM backend is not shared: it would be copied in the hold  monitor
//  backend      blocks    shared RAM without a file: the new QEMU would not find it    monitor
//  ramfile      blocks    a RAM file was removed or replaced: the new one has zeros    /proc
//  blocker      blocks    QEMU itself names a reason against migrating                 monitor
//  passthrough  blocks    a device of the host is passed through                       monitor
//  hotplug      blocks    a device came or went since the guest was started           both QEMUs
//  commandline  blocks    a command line that only one process can have               /proc
//  image        blocks    a disk's file is missing, replaced or not to be opened       files
//  backing      blocks    the same of a backing file                                   files
//  format       blocks    an image format that cannot change hands                     monitor
//  lock         blocks    another process holds a lock that the new QEMU would meet    /proc
//  program      blocks    the QEMU to change to is missing or does not start           files
//  modules      blocks    its module directory is missing or has no modules            files
//  firmware     b. / w.   a data directory is missing / has no firmware for the guest  files
//  machine      blocks    the new QEMU does not know the guest's machine, or the host
//                         file's word means another one there                          new QEMU
//  processor    b. / w.   CPU features that the guest knows are missing / there are more  both QEMUs
//  room         blocks    too little memory for the second process                     /proc
//  tap          blocks    a tap has one queue, or headers that QEMU does not expect    /sys
//  pids         blocks    no room for the second process's threads                     /proc
//  descriptors  blocks    no room for its descriptors, or for ours                     /proc
//  guestagent   warns     no guest agent, or it does not answer: the clock stays behind  its socket
//
// "both QEMUs": asked while a step prepares, when the new one waits; `fermata preflight` does not start one.
// What is not known (nil, an empty list) is not held against a guest: whoever gathers the facts
// asks for what can be had at that moment. The names are for scripts and do not change.

/// What a finding is about. The raw value is its name for scripts.
public enum PreflightCheck: String, Hashable, Sendable, CaseIterable {
    case running, monitor, memory, backend, ramfile, blocker, passthrough, hotplug, commandline
    case image, backing, format, lock
    case program, modules, firmware, machine, processor
    case room, tap, pids, descriptors, guestagent
}

public enum PreflightSeverity: String, Hashable, Sendable, CaseIterable {
    /// The guest cannot be handed over, or not without harm.
    case blocks
    /// It can, with something missing.
    case warns
}

/// One thing that is wrong with one guest.
public struct PreflightFinding: Hashable, Sendable, CustomStringConvertible {
    public var check: PreflightCheck
    public var severity: PreflightSeverity
    /// What is wrong, for people; a clause.
    public var problem: String
    /// What would mend it; an imperative.
    public var advice: String

    public init(
        _ check: PreflightCheck, _ severity: PreflightSeverity, problem: String, advice: String
    ) {
        self.check = check
        self.severity = severity
        self.problem = problem
        self.advice = advice
    }

    public var description: String { "\(check.rawValue): \(problem): \(advice)" }
}

/// The judgement: pure functions only.
public enum Preflight {
    /// Judges one guest.
    ///
    /// - Returns: what is wrong, in the order of the table above; empty if nothing is known to be.
    public static func findings(_ facts: PreflightFacts) -> [PreflightFinding] {
        guard facts.isRunning else {
            return [
                PreflightFinding(
                    .running, .blocks, problem: "it does not run",
                    advice: "start or continue it; a guest that stands still needs no hand-over")
            ]
        }
        return monitor(facts) + memory(facts) + devices(facts) + hotPlug(facts)
            + commandLine(facts) + images(facts) + hypervisor(facts) + host(facts)
            + guestAgent(facts)
    }

    /// All that blocks, as one reason; nil if nothing does.
    public static func blockingReason(_ findings: [PreflightFinding]) -> String? {
        let blocking = findings.filter { $0.severity == .blocks }
        guard !blocking.isEmpty else { return nil }
        return blocking.map(\.description).joined(separator: "; ")
    }
}
