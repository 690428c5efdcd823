public import Fleet

// Which of several notifiers delivers to sinks, and how far that has come. Who holds the lease is in
// the log; when a holder counts as gone is for the leader, who sees the sessions.

extension FleetState {
    /// As a notifier is told.
    public func deliveryLease(for notifier: String) -> DeliveryLease {
        var lease = deliveryLease
        lease.isYours = !lease.holder.isEmpty && lease.holder == notifier
        return lease
    }
}

extension Coordinator {
    func proposeDeliveryLease(_ notifier: String) -> Result<[Fact.Body], Refusal> {
        state.deliveryLease.holder == notifier
            ? .success([])
            : .success([
                .deliveryLeaseGranted(notifier: notifier, number: state.deliveryLease.number + 1)
            ])
    }

    func proposeDeliveryGiveUp(_ notifier: String) -> Result<[Fact.Body], Refusal> {
        state.deliveryLease.holder == notifier && !notifier.isEmpty
            ? .success([.deliveryLeaseGivenUp(notifier: notifier)]) : .success([])
    }

    func proposeDelivered(
        _ notifier: String, _ number: UInt64, _ sink: String, _ sequence: UInt64
    ) -> Result<[Fact.Body], Refusal> {
        let lease = state.deliveryLease
        guard lease.holder == notifier, lease.number == number else {
            let holder = lease.holder.isEmpty ? "nobody" : "notifier \(lease.holder)"
            return .failure(
                Refusal(
                    .conflict,
                    "notifier \(notifier) reports deliveries under lease \(number); \(holder) has "
                        + "lease \(lease.number)",
                    advice: "Deliver no more until the lease is yours again."))
        }
        guard sequence <= state.lastSequence else {
            return .failure(
                Refusal(
                    .invalid,
                    "event \(sequence) is reported as delivered; the newest is \(state.lastSequence)",
                    advice: "The server's data is older than the notifier's: see the README."))
        }
        guard !sink.isEmpty, sink.utf8.count <= Limits.nameByteCountMax else {
            return .failure(
                Refusal(
                    .invalid, "a sink's name has \(sink.utf8.count) bytes",
                    advice: "Use 1 to \(Limits.nameByteCountMax)."))
        }
        let known = lease.delivered.first { $0.sink == sink }
        guard known != nil || lease.delivered.count < Limits.sinksMax else {
            return .failure(
                Refusal(
                    .invalid, "there are \(Limits.sinksMax) sinks already",
                    advice: "Use fewer names for sinks."))
        }
        if let known, known.sequence >= sequence { return .success([]) }
        return .success([
            .deliveriesReported(notifier: notifier, sink: sink, sequence: sequence)
        ])
    }

    mutating func applyDelivered(_ sink: String, _ sequence: UInt64) {
        let delivered = state.deliveryLease.delivered
        if let index = delivered.firstIndex(where: { $0.sink == sink }) {
            state.deliveryLease.delivered[index].sequence = sequence
        } else {
            let place = delivered.firstIndex { $0.sink > sink } ?? delivered.endIndex
            state.deliveryLease.delivered.insert(
                DeliveredSequence(sink: sink, sequence: sequence), at: place)
        }
    }
}
