import Fleet

// Notifiers, as far as events are kept for them. A name gets in with its first acknowledgement; only an
// operator removes it, since nobody else can know that it will not come back.

extension Coordinator {
    /// Whether it has a session is for the leader, who refuses while it has.
    func proposeForget(
        _ notifier: String, _ reason: String, _ by: String
    ) -> Result<[Fact.Body], Refusal> {
        guard state.notifiers[notifier] != nil else {
            return .failure(
                Refusal(
                    .notFound, "no events are kept for a notifier \(notifier)",
                    advice: "See `fermata status`; those that serve one host only need none."))
        }
        return .success([.notifierForgotten(notifier: notifier, reason: reason, by: by)])
    }

    /// The delivery lease stays as it is, even if it is this one's: should it deliver still, cut off from
    /// us, another must not be given the lease before its time is over. The leader sees to that.
    /// What is delivered was told of sinks, not of notifiers, and spares the next holder to repeat it.
    mutating func applyForget(_ notifier: String) {
        state.notifiers.removeValue(forKey: notifier)
        trimEvents()
    }

    /// - Parameter connected: names of those with a session; nil if that is not known.
    func notifierViews(connected: Set<String>?) -> [NotifierView] {
        state.notifiers.map { name, sequence in
            NotifierView(
                name: name, acknowledgedSequence: sequence, lastSequence: state.lastSequence,
                connected: connected.map { $0.contains(name) })
        }
    }
}

extension NotifierView {
    /// What a person should look at; nil if it keeps up.
    var warning: String? {
        let isAway = connected == false && eventsBehind > UInt64(Limits.eventsForWatchersMin)
        guard isAway || eventsBehind > Limits.notifierEventsBehindMax else { return nil }
        let advice =
            connected == true
            ? "it does not keep up; see its log"
            : "start it, or, if it is gone for good, `fermata notifier forget \(name) --reason …`"
        return "notifier \(name)\(connected == false ? ", which is not connected," : "") is "
            + "\(eventsBehind) events behind, which are kept for it: \(advice)"
    }
}
