public import Fleet

// A server's figures in the text format of Prometheus (exposition format 0.0.4), which node_exporter's
// textfile collector and most agents read.

extension StatusView {
    /// One family of samples after the other, each with its help and type; ends in a line feed.
    public var metricsText: String {
        var text = MetricsText()
        text.gauge("hosts", "Hosts that have ever reported.", UInt64(hostCount))
        text.gauge(
            "hosts_connected", "Hosts whose agent is connected.", UInt64(connectedHostCount))
        text.gauge("guests", "Guests of all hosts.", UInt64(guestCount))
        text.gauge("guests_running", "Guests that execute.", UInt64(runningGuestCount))
        text.gauge("availability_sets", "Availability sets.", UInt64(setCount))
        text.gauge("availability_sets_locked", "Sets with a lock.", UInt64(lockedSetCount))
        text.gauge(
            "availability_sets_stuck", "Locked sets that nobody works on.", UInt64(stuckSetCount))
        text.gauge("rollouts_active", "Rollouts under way.", UInt64(activeRollouts.count))
        text.gauge("log_index", "Index of the newest committed fact.", index)
        text.gauge("term", "The leader's term.", term)
        text.gauge("sessions", "Open sessions.", UInt64(traffic.sessionCount))
        text.gauge(
            "connections_half_open", "Connections without a session yet.",
            UInt64(traffic.halfOpenCount))
        text.gauge(
            "events_kept", "Events in the server's state, kept for notifiers and watchers.",
            keptEventCount)
        text.family(
            "notifier_connected", "gauge", "Whether a notifier has a session.",
            notifiers.compactMap { notifier in
                notifier.connected.map { ([("notifier", notifier.name)], $0 ? "1" : "0") }
            })
        text.family(
            "notifier_events_behind", "gauge", "Events that a notifier has not acknowledged.",
            notifiers.map {
                ([("notifier", $0.name)], "\($0.eventsBehind)")
            })
        text.family(
            "certificate_expiry_timestamp_seconds", "gauge",
            "When a certificate ends, in Unix time: the authority's, the server's, and those of "
                + "open sessions that end within 30 days.",
            traffic.certificates.map {
                (
                    [("identity", $0.identity), ("serial", $0.serial)],
                    "\($0.expiresAt.microseconds / 1_000_000)"
                )
            })
        var rest = traffic.counters[...]
        while let name = rest.first?.name {
            let family = rest.prefix { $0.name == name }
            rest = rest.dropFirst(family.count)
            text.family(
                "\(name)_total", "counter", "Since the server started.",
                family.map { ($0.reason.isEmpty ? [] : [("reason", $0.reason)], "\($0.count)") })
        }
        return text.text
    }
}

/// Builds the exposition format.
private struct MetricsText {
    var text = ""

    mutating func gauge(_ name: String, _ help: String, _ value: UInt64) {
        family(name, "gauge", help, [([], "\(value)")])
    }

    mutating func family(
        _ name: String, _ type: String, _ help: String,
        _ samples: [(labels: [(String, String)], value: String)]
    ) {
        guard !samples.isEmpty else { return }
        let name = "fermata_" + name.utf8.map(isNamePart).joined()
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
        for (labels, value) in samples {
            let inner = labels.map { "\($0.0)=\"\(escaped($0.1))\"" }.joined(separator: ",")
            text += inner.isEmpty ? "\(name) \(value)\n" : "\(name){\(inner)} \(value)\n"
        }
    }

    /// A counter's name comes from a peer: whatever it is, it must not break the format.
    private func isNamePart(_ byte: UInt8) -> String {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            String(UnicodeScalar(byte))
        default: "_"
        }
    }

    private func escaped(_ value: String) -> String {
        var result = ""
        for character in value.unicodeScalars {
            switch character {
            case "\\": result += "\\\\"
            case "\"": result += "\\\""
            case "\n": result += "\\n"
            default: result.unicodeScalars.append(character)
            }
        }
        return result
    }
}
