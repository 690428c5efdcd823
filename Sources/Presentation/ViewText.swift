public import Fleet

// Views as text for a terminal: tables, and below them what a person should look at, in sentences.
// Every text ends in a line feed.

private func warningLines(_ warnings: [(subject: String, text: String)]) -> String {
    warnings.map { warning in
        let subject = warning.subject.isEmpty ? "" : "\(warning.subject): "
        return "warning: \(subject)\(printable(warning.text))\n"
    }.joined()
}

extension StatusView {
    public var text: String {
        let led =
            isStandby
            ? "as the standby \(printable(server)) knows it, led by "
                + (leader.isEmpty ? "nobody" : printable(leader)) : "led by \(printable(server))"
        var lines = [
            "cluster    \(printable(cluster)), \(led) "
                + "(term \(term), index \(index), software \(printable(softwareVersion)))",
            isStandby
                ? "hosts      \(hostCount); the leader knows which are connected"
                : "hosts      \(connectedHostCount) of \(hostCount) connected",
            "guests     \(runningGuestCount) of \(guestCount) running",
            "sets       \(setCount), of which \(lockedSetCount) locked"
                + (stuckSetCount == 0 ? "" : " and \(stuckSetCount) stuck"),
            "rollouts   "
                + (activeRollouts.isEmpty
                    ? "none active"
                    : listed(activeRollouts.map(\.description)) + " active"),
        ]
        for notifier in notifiers {
            let behind = notifier.eventsBehind
            lines.append(
                "notifier   \(printable(notifier.name)) "
                    + (behind == 0
                        ? "up to date" : "\(behind) event\(behind == 1 ? "" : "s") behind")
                    + (notifier.connected == false ? ", not connected" : "")
                    + " (\(notifier.acknowledgedSequence) of \(notifier.lastSequence))")
        }
        if keptEventCount > 0 { lines.append("events     \(keptEventCount) kept") }
        if !store.isEmpty { lines.append("store      \(printable(store))") }
        return lines.joined(separator: "\n") + "\n" + warningLines(warnings.map { ("", $0) })
    }
}

private func cordonLines(_ hosts: [HostView]) -> String {
    hosts.compactMap { host in
        host.cordon.map {
            "cordoned: \(host.id) since \($0.since.dateText) \($0.since.timeText(fractionDigits: 0)) "
                + "UTC by \(printable($0.by)): \(printable($0.reason))\n"
        }
    }.joined()
}

/// - Parameter now: to say how long ago a host has reported.
public func text(of hosts: [HostView], now: Timestamp) -> String {
    guard !hosts.isEmpty else {
        return "no hosts yet: start an agent with `fermata agent` and it will show up here\n"
    }
    var table = TextTable([
        ("HOST", .left), ("AGENT", .left), ("GUESTS", .right), ("TOKEN", .right), ("STEP", .left),
        ("LAST REPORT", .right), ("SOFTWARE", .left),
    ])
    for host in hosts {
        let age = now.microseconds.subtractingReportingOverflow(host.lastReportAt.microseconds)
        table.add([
            host.id.rawValue,
            (host.connected ? "connected" : "not connected")
                + (host.cordon == nil ? "" : ", cordoned"),
            "\(host.runningGuestCount)/\(host.guestCount)",
            host.acceptedToken.number == 0 ? "" : host.acceptedToken.description,
            host.step?.description ?? "",
            age.overflow || age.partialValue < 0
                ? "" : "\(spanText(microseconds: age.partialValue)) ago",
            host.software.map { "\($0.component) \($0.version)" }.joined(separator: ", "),
        ])
    }
    return table.text + cordonLines(hosts)
        + warningLines(hosts.flatMap { host in host.warnings.map { (host.id.rawValue, $0) } })
}

public func text(of guests: [GuestView]) -> String {
    guard !guests.isEmpty else { return "no guests\n" }
    var table = TextTable([
        ("GUEST", .left), ("HOST", .left), ("SET", .left), ("UD", .right), ("STATE", .left),
        ("QEMU", .left), ("MEMORY", .right), ("VCPUS", .right), ("AGENT", .left),
    ])
    for guest in guests {
        let report = guest.report
        table.add([
            report.id.rawValue, guest.host.rawValue, report.set?.rawValue ?? "",
            guest.updateDomain.map { "\($0.number)" } ?? "",
            guest.hostConnected ? report.state.rawValue : "\(report.state.rawValue)?",
            report.hypervisorVersion, byteText(report.memoryBytes), "\(report.vcpuCount)",
            report.hasGuestAgent ? "yes" : "no",
        ])
    }
    var output = table.text
    if guests.contains(where: { !$0.hostConnected }) {
        output += "?: as reported last; the host's agent is not connected\n"
    }
    return output
        + warningLines(
            guests.filter { !$0.report.handOverProblem.isEmpty }.map {
                ($0.report.id.rawValue, "cannot be handed over: \($0.report.handOverProblem)")
            })
}

public func text(of sets: [SetView]) -> String {
    guard !sets.isEmpty else { return "no availability sets: name them in the host files\n" }
    var table = TextTable([
        ("SET", .left), ("UD", .right), ("LOCKED", .left), ("GUESTS", .left),
    ])
    for set in sets {
        if set.domains.isEmpty {
            table.add([set.id.rawValue, "0/\(set.updateDomainCount)", "", ""])
        }
        for (index, domain) in set.domains.enumerated() {
            table.add([
                index == 0 ? set.id.rawValue : " ",
                "\(domain.updateDomain.number)/\(set.updateDomainCount)",
                domain.updateDomain == set.lockedUpdateDomain ? "locked" : "",
                domain.guests.map(\.rawValue).joined(separator: " "),
            ])
        }
    }
    return table.text
        + warningLines(sets.flatMap { set in set.warnings.map { (set.id.rawValue, $0) } })
}

public func text(of locks: [LockView]) -> String {
    guard !locks.isEmpty else { return "no locks are held\n" }
    var table = TextTable([
        ("SET", .left), ("UD", .right), ("HOST", .left), ("STEP", .left), ("TOKEN", .right),
        ("SINCE (UTC)", .left), ("STATE", .left), ("GUESTS", .left),
    ])
    for lock in locks {
        table.add([
            lock.set.rawValue, "\(lock.updateDomain.number)", lock.host.rawValue,
            lock.step.description, lock.token.description,
            "\(lock.grantedAt.dateText) \(lock.grantedAt.timeText(fractionDigits: 0))",
            lock.stuck ? "stuck" : "working", lock.guests.map(\.rawValue).joined(separator: " "),
        ])
    }
    let reasons = locks.filter { !$0.reason.isEmpty }.map {
        "\($0.set)/\($0.updateDomain): \(printable($0.reason))\n"
    }
    return table.text + reasons.joined()
}

public func text(of releases: [ReleaseView]) -> String {
    guard !releases.isEmpty else { return "no releases: add one with `fermata release add`\n" }
    var table = TextTable([
        ("RELEASE", .left), ("COMPONENT", .left), ("VERSION", .left), ("SHA-256", .left),
        ("ADDED BY", .left), ("PATH", .left),
    ])
    for view in releases {
        let file = view.release.mainFile
        table.add([
            view.release.id.rawValue, view.release.component.description, view.release.version,
            String(hexText(file.sha256).prefix(12)), view.addedBy, file.path,
        ])
    }
    return table.text
}

/// - Parameter annotations: oldest first.
public func text(of annotations: [Annotation]) -> String {
    guard !annotations.isEmpty else { return "no annotations\n" }
    var table = TextTable([
        ("HELD AT (UTC)", .left), ("GUEST", .left), ("HOST", .left), ("SET", .left),
        ("UD", .right), ("HOLD", .right), ("CLOCK BEFORE", .right), ("AFTER", .right),
        ("QEMU", .left), ("OUTCOME", .left),
    ])
    for annotation in annotations {
        let record = annotation.record
        let heldAt = record.heldAt
        table.add([
            "\(heldAt.dateText) \(heldAt.timeText(fractionDigits: 3))", record.guest.rawValue,
            annotation.host.rawValue, annotation.pair?.set.rawValue ?? "",
            annotation.pair.map { "\($0.updateDomain.number)" } ?? "",
            record.holdMicroseconds.map { spanText(microseconds: $0) } ?? "",
            record.clockErrorBeforeMicroseconds.map { spanText(microseconds: $0) } ?? "",
            record.clockErrorAfterMicroseconds.map { spanText(microseconds: $0) } ?? "",
            record.hypervisorBefore == record.hypervisorAfter
                ? record.hypervisorAfter
                : "\(record.hypervisorBefore) > \(record.hypervisorAfter)",
            record.outcome.rawValue,
        ])
    }
    return table.text
}
