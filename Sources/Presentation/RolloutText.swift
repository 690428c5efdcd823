public import Fleet

// Plans and rollouts as text for a terminal.

extension Policy {
    /// `8 steps at once, deadline 30 s, stops after 1 failure`
    public var text: String {
        "up to \(counted(parallelism, "step")) at once, deadline "
            + "\(decimalText(thousandths: Int64(deadlineMilliseconds))) s, stops after "
            + counted(failuresMax, "failure") + noticeText
    }

    private var noticeText: String {
        guard noticeMilliseconds > 0 else { return "" }
        let time = "\(decimalText(thousandths: Int64(noticeMilliseconds))) s"
        return switch acknowledgement {
        case .shortens: ", guests told \(time) before or until all acknowledge"
        case .ignored: ", guests told \(time) before"
        }
    }
}

private func skippedText(_ skipped: [PlanView.Skipped]) -> String {
    guard !skipped.isEmpty else { return "" }
    let lines = skipped.map { skipped in
        let what = skipped.guest.map { "\($0) on host " } ?? "host "
        return "  \(what)\(skipped.host): \(printable(skipped.reason))\n"
    }
    return "left alone:\n" + lines.joined()
}

extension PlanView {
    public var text: String {
        var output =
            "release \(release): \(counted(steps.count, "step")) in \(counted(waveCount, "wave")), "
            + "\(policy.text)\n"
        if !steps.isEmpty {
            var table = TextTable([
                ("WAVE", .right), ("HOST", .left), ("GUESTS", .left), ("LOCKS", .left),
            ])
            for step in steps {
                table.add([
                    "\(step.wave)", step.host.rawValue,
                    step.guests.isEmpty
                        ? "none held" : step.guests.map(\.rawValue).joined(separator: " "),
                    step.pairs.map(\.description).joined(separator: " "),
                ])
            }
            output += table.text
        }
        output += skippedText(skipped)
        output += problems.map { "problem: \(printable($0))\n" }.joined()
        return output
    }
}

extension PlanView {
    /// Who would be held and cannot be told of it: a guest is known by its address alone.
    ///
    /// - Parameter guests: of the whole inventory.
    /// - Returns: in ascending order.
    public func guestsWithoutAddress(_ guests: [GuestView]) -> [GuestID] {
        let held = Set(steps.flatMap(\.guests))
        return guests.filter { held.contains($0.report.id) && $0.report.addresses.isEmpty }
            .map(\.report.id).sorted()
    }
}

/// A line about guests that nobody can tell of a notice; nothing if there are none.
public func withoutAddressText(_ guests: [GuestID]) -> String {
    guard !guests.isEmpty else { return "" }
    let have = guests.count == 1 ? "has no address in its" : "have no address in their"
    // A line is read by a person; scripts have all of them as JSON.
    let namesMax = 20
    var names = guests.prefix(namesMax).map(\.rawValue)
    if guests.count > namesMax { names.append("\(guests.count - namesMax) others") }
    return
        "warning: \(counted(guests.count, "guest")) \(have) host's file, and nobody there can be "
        + "told: \(listed(names))\n"
}

extension RolloutView {
    /// Steps that are over, whatever came of them.
    public var finishedStepCount: Int {
        steps.count { $0.phase == .finished || $0.phase == .cancelled }
    }

    /// `succeeded`, or `failed: reason`.
    public var stateText: String {
        reason.isEmpty ? state.rawValue : "\(state.rawValue): \(printable(reason))"
    }

    public var text: String {
        let hosts =
            switch selection {
            case .allHosts: "all hosts"
            case .hosts(let names):
                "host\(names.count == 1 ? "" : "s") \(listed(names.map(\.rawValue)))"
            }
        var output = "\(id)  \(stateText)\n"
        output += "release    \(release) (\(component) \(printable(version)))\n"
        output += "on         \(hosts), \(policy.text)\n"
        output += "started    \(startedAt.dateText) \(startedAt.timeText(fractionDigits: 0)) UTC"
        output += " by \(printable(startedBy))"
        if let finishedAt {
            let length = finishedAt.microseconds.subtractingReportingOverflow(
                startedAt.microseconds)
            output += ", over after \(spanText(microseconds: length.partialValue))"
        }
        output += "\nsteps      \(finishedStepCount) of \(steps.count) over\n"
        if !steps.isEmpty { output += "\n" + stepTable }
        output += skippedText(skipped)
        let reasons = steps.filter { !$0.reason.isEmpty }.map {
            "step \($0.id.number): \(printable($0.reason))\n"
        }
        return output + reasons.joined()
    }

    private var stepTable: String {
        var table = TextTable([
            ("STEP", .right), ("HOST", .left), ("GUEST", .left), ("LOCKS", .left),
            ("PHASE", .left), ("HOLD", .right), ("CLOCK", .right), ("OUTCOME", .left),
        ])
        for step in steps {
            let locks = step.pairs.map(\.description).joined(separator: " ")
            if step.guests.isEmpty {
                table.add([
                    "\(step.id.number)", step.host.rawValue, "none held", locks,
                    step.phase.rawValue, "", "", step.outcome?.rawValue ?? "",
                ])
            }
            for (index, guest) in step.guests.enumerated() {
                let hold = step.holds.first { $0.guest == guest }
                let outcome = hold?.outcome ?? step.outcome
                table.add([
                    index == 0 ? "\(step.id.number)" : " ", index == 0 ? step.host.rawValue : " ",
                    guest.rawValue, index == 0 ? locks : " ",
                    index == 0 ? step.phase.rawValue : " ",
                    hold?.holdMicroseconds.map { spanText(microseconds: $0) } ?? "",
                    hold?.clockErrorAfterMicroseconds.map { spanText(microseconds: $0) } ?? "",
                    outcome?.rawValue ?? "",
                ])
            }
        }
        return table.text
    }
}

public func text(of rollouts: [RolloutView]) -> String {
    guard !rollouts.isEmpty else { return "no rollouts: start one with `fermata rollout start`\n" }
    var table = TextTable([
        ("ROLLOUT", .left), ("RELEASE", .left), ("VERSION", .left), ("STATE", .left),
        ("STARTED (UTC)", .left), ("BY", .left), ("TOOK", .right),
    ])
    for rollout in rollouts {
        let started = rollout.startedAt
        table.add([
            rollout.id.description, rollout.release.rawValue, rollout.version,
            rollout.state.rawValue,
            "\(started.dateText) \(started.timeText(fractionDigits: 0))", rollout.startedBy,
            rollout.finishedAt.map {
                spanText(
                    microseconds: $0.microseconds.subtractingReportingOverflow(
                        started.microseconds
                    ).partialValue)
            } ?? "",
        ])
    }
    return table.text
}
