public import Fleet

/// How long the parts of a hold have taken on this host, in microseconds: the largest of the newest.
///
/// Kept per host, because what continuing forty guests takes is a matter of its cores.
public struct MeasuredParts: Hashable, Sendable {
    /// From the first `stop` to the last guest that stood still.
    public private(set) var pause: [Int64] = []
    /// From the first `cont` to the last guest that executed.
    public private(set) var resume: [Int64] = []
    /// From the stop of one guest to its `cont` in the new QEMU.
    public private(set) var handOver: [Int64] = []

    /// As many as tell what is usual, few enough to forget an old kernel.
    public static let countMax = 16
    /// What is assumed before anything was measured.
    public static let reserveDefault: Int64 = 1_000_000
    /// Below this a measurement says more about luck than about the host.
    public static let reserveMin: Int64 = 200_000

    public init() {}
    public init(pause: [Int64], resume: [Int64], handOver: [Int64]) {
        self.pause = pause.suffix(Self.countMax)
        self.resume = resume.suffix(Self.countMax)
        self.handOver = handOver.suffix(Self.countMax)
    }

    public mutating func notePause(_ microseconds: Int64) { Self.note(microseconds, &pause) }
    public mutating func noteResume(_ microseconds: Int64) { Self.note(microseconds, &resume) }
    public mutating func noteHandOver(_ microseconds: Int64) { Self.note(microseconds, &handOver) }

    private static func note(_ microseconds: Int64, _ list: inout [Int64]) {
        list.append(max(0, microseconds))
        if list.count > countMax { list.removeFirst(list.count - countMax) }
    }

    /// Takes in what a step has told about how long things take on this host.
    ///
    /// - Parameters:
    ///   - report: of the step.
    ///   - scope: whom its release holds.
    ///   - handOvers: one for each of its guests.
    public mutating func note(_ report: StepReport, _ scope: HoldScope, _ handOvers: [HandOver]) {
        // What a guard or a restarted agent had to end says nothing about the next hold.
        guard report.holds.allSatisfy({ $0.resumedBy == .agent }) else { return }
        switch scope {
        case .none: break
        case .guest:
            for record in report.holds where record.outcome == .succeeded {
                if let hold = record.holdMicroseconds { noteHandOver(hold) }
            }
        case .host:
            let sent = handOvers.compactMap(\.stopSentAt).min()
            if let sent, let last = handOvers.compactMap({ $0.stopped?.hold }).max() {
                notePause(last - sent)
            }
            let continued = handOvers.compactMap(\.continueSentAt).min()
            if let continued, let last = handOvers.compactMap({ $0.resumed?.hold }).max() {
                noteResume(last - continued)
            }
        }
    }

    /// What is set aside for pausing every guest: three times the worst that was seen.
    public var pauseReserve: Int64 { Self.reserve(pause) }
    public var resumeReserve: Int64 { Self.reserve(resume) }

    private static func reserve(_ list: [Int64]) -> Int64 {
        guard let worst = list.max() else { return reserveDefault }
        return max(reserveMin, worst * 3)
    }
}

extension HoldBudget {
    /// How the deadline of this directive is divided on a host with these measurements.
    public init(_ directive: Directive, _ parts: MeasuredParts) {
        self.init(deadlineMilliseconds: directive.deadlineMilliseconds)
        guard case .host(let work) = directive.release.work else { return }
        resumeReserveMicroseconds = min(parts.resumeReserve, guardMicroseconds / 2)
        undoLimitMicroseconds = Int64(work.undo?.limitMilliseconds ?? 0) * 1_000
        if let prepare = work.prepare {
            prepareMicroseconds += Int64(prepare.limitMilliseconds) * 1_000
        }
    }

    /// Why a directive cannot be carried out within its deadline, with the numbers; nil if it can.
    public static func problem(_ directive: Directive, _ parts: MeasuredParts) -> String? {
        let budget = HoldBudget(directive, parts)
        switch directive.release.work {
        case .agent: return nil
        case .hypervisor:
            guard let worst = parts.handOver.max(), worst > budget.abortMicroseconds else {
                return nil
            }
            return "a hand-over has taken up to \(seconds(worst)) on this host, and a deadline of "
                + "\(seconds(budget.deadlineMicroseconds)) leaves \(seconds(budget.abortMicroseconds))"
                + " for it: choose a longer one"
        case .host(let work):
            guard work.holdsGuests, !directive.guests.isEmpty else { return nil }
            let apply = Int64(work.apply.limitMilliseconds) * 1_000
            let check = Int64(work.check?.limitMilliseconds ?? 0) * 1_000
            let reserve = budget.guardReserveMicroseconds + parts.resumeReserve
            let sum =
                parts.pauseReserve + apply + check + budget.undoLimitMicroseconds + reserve
            guard sum > budget.deadlineMicroseconds else { return nil }
            return "it does not fit into the deadline of \(seconds(budget.deadlineMicroseconds)): "
                + "pausing \(seconds(parts.pauseReserve)) + apply \(seconds(apply)) + check "
                + "\(seconds(check)) + undo \(seconds(budget.undoLimitMicroseconds)) + reserve to "
                + "resume \(seconds(reserve)) = \(seconds(sum)); lower the commands' limits"
        }
    }

    private static func seconds(_ microseconds: Int64) -> String {
        let tenths = (microseconds + 50_000) / 100_000
        return "\(tenths / 10).\(tenths % 10) s"
    }
}
