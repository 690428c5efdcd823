// What a bulletin says, sentence by sentence. The built-in templates put the sentences together; a
// template of an operator's own may leave them out and say the same from the plain fields.

import Fleet
import Presentation

/// The sentences of a bulletin, each on one line. Those that do not apply are nil.
struct BulletinWords {
    /// What it is about, in a few words and without a full stop: a subject line or a title.
    var headline: String
    /// What happens or happened to which guest, when and why.
    var happened: String
    /// What becomes or became of the guest and its memory.
    var memory: String?
    /// Who let the guest go on, if that was not its agent.
    var resumer: String?
    var clock: String?
    /// How its set is updated, or what a set would give it.
    var advice: String?

    var sentences: [String] {
        [happened] + [memory, resumer, clock, advice].compactMap(\.self)
    }

    /// All of them on one line.
    var text: String { sentences.joined(separator: " ") }

    init(_ bulletin: Bulletin) {
        if let annotation = bulletin.annotation {
            self.init(annotation, setSize: bulletin.setSize)
        } else {
            self.init(withoutHold: bulletin)
        }
    }

    private init(withoutHold bulletin: Bulletin) {
        let guest = "guest \(bulletin.guest) on host \(bulletin.host)"
        let purpose = purposeText(component: bulletin.component, from: "", to: bulletin.version)
        let what = "\(softwareText(bulletin.component)) update to \(printable(bulletin.version))"
        let keeps =
            "Its memory stays in RAM, it is not rebooted, its programs go on where they stopped, "
            + "and its clock is corrected."
        let reason = bulletin.reason.isEmpty ? "" : ": \(printable(bulletin.reason))"
        switch bulletin.state {
        case .noticed:
            let when = bulletin.notBefore.map { ", not before \(momentText($0))" } ?? ""
            headline = "Guest \(bulletin.guest) will be paused for the \(what)\(when)"
            happened = "The \(guest) will be paused for a moment \(purpose)\(when)."
            memory = keeps
        case .started:
            headline = "Guest \(bulletin.guest) is about to be paused for the \(what)"
            happened =
                "On \(momentText(bulletin.at)) the pause of \(guest) began to be prepared, "
                + "\(purpose); it follows at once."
            memory = keeps
        case .cancelled:
            headline = "Guest \(bulletin.guest) is not paused for the \(what)"
            happened = sentence(
                "The \(guest) was to be paused \(purpose); "
                    + (bulletin.wasStarted ? "it was not" : "this will not take place")
                    + reason)
            memory = "It runs as before."
        case .succeeded, .failed:
            // A hold without its annotation: the leader never says that, but the words are right.
            headline = "The \(what) of guest \(bulletin.guest) has \(bulletin.state.rawValue)"
            happened = sentence("On \(momentText(bulletin.at)) the hold of \(guest) ended\(reason)")
        }
    }

    private init(_ annotation: Annotation, setSize: SetSize?) {
        headline = Self.headline(annotation)
        happened = annotation.whatHappened
        memory = annotation.outcomeText
        resumer = annotation.resumerText
        clock = annotation.clockText
        advice = annotation.setText
        guard let pair = annotation.pair, let setSize, annotation.record.outcome.releasesLocks
        else { return }
        if setSize.guestCount <= 1 {
            advice =
                "It is the only guest of availability set \(pair.set): put two or more guests that "
                + "back each other up in it, and they will never be paused at the same time."
        } else if setSize.updateDomainCount <= 1 {
            advice =
                "All \(setSize.guestCount) guests of availability set \(pair.set) are in update "
                + "domain \(pair.updateDomain.number) and may be paused at the same time: spread "
                + "them over two or more update domains."
        }
    }

    private static func headline(_ annotation: Annotation) -> String {
        let record = annotation.record
        let version = printable(annotation.version)
        let what = "\(softwareText(annotation.component)) update to \(version)"
        let length =
            record.holdMicroseconds.map { " for \(spanText(microseconds: $0))" } ?? ""
        switch record.outcome {
        case .succeeded: return "Guest \(record.guest) was paused\(length) for the \(what)"
        case .failed:
            return "Guest \(record.guest) was paused\(length); the \(what) was undone"
        case .unhealthy:
            return "Guest \(record.guest) is not confirmed healthy after the \(what)"
        case .lost: return "GUEST \(record.guest) DOES NOT RUN after the \(what)"
        }
    }
}

/// `QEMU`, or what the component is called.
private func softwareText(_ component: Component) -> String {
    component == .hypervisor ? "QEMU" : printable("\(component)")
}

/// `2026-04-11 at 22:26:58 UTC`.
func momentText(_ time: Timestamp) -> String {
    "\(time.dateText) at \(time.timeText(fractionDigits: 0)) UTC"
}
