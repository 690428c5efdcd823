public import Fleet

// JSON of everything the command line shows. Keys are those of Sources/Fleet/Views.swift; what a
// view wraps in a report or a release stands flat beside it; what is absent is null.

extension JSON {
    package init(_ text: String?) { self = text.map { .string($0) } ?? .null }
    package init(_ number: Int?) { self = number.map { .integer(Int64($0)) } ?? .null }
    package init(_ time: Timestamp?) { self = time.map { .string($0.rfc3339) } ?? .null }
    /// In milliseconds.
    init(microseconds: Int64?) { self = microseconds.map { .thousandths($0) } ?? .null }
    init(_ texts: [String]) { self = .array(texts.map { .string($0) }) }
    init<Kind>(_ names: [Identifier<Kind>]) {
        self = .array(names.map { .string($0.rawValue) })
    }
    init(_ pairs: [SetPair]) {
        self = .array(
            pairs.map {
                [
                    "set": .string($0.set.rawValue),
                    "updateDomain": .integer(Int64($0.updateDomain.number)),
                ]
            })
    }
    init(_ count: UInt32) { self = .unsigned(UInt64(count)) }

    /// Members of two objects in one.
    func adding(_ other: JSON) -> JSON {
        guard case .object(let own) = self, case .object(let more) = other else { return self }
        return .object(own + more)
    }
}

extension StatusView {
    public var json: JSON {
        [
            "cluster": .string(cluster), "server": .string(server), "leader": .string(leader),
            "isStandby": .bool(isStandby), "store": .string(store), "term": .unsigned(term),
            "index": .unsigned(index), "softwareVersion": .string(softwareVersion),
            "hostCount": JSON(hostCount), "connectedHostCount": JSON(connectedHostCount),
            "guestCount": JSON(guestCount), "runningGuestCount": JSON(runningGuestCount),
            "setCount": JSON(setCount), "lockedSetCount": JSON(lockedSetCount),
            "stuckSetCount": JSON(stuckSetCount),
            "activeRollouts": JSON(activeRollouts.map(\.description)),
            "notifiers": .array(
                notifiers.map {
                    [
                        "name": .string($0.name),
                        "acknowledgedSequence": .unsigned($0.acknowledgedSequence),
                        "lastSequence": .unsigned($0.lastSequence),
                        "eventsBehind": .unsigned($0.eventsBehind),
                        "connected": $0.connected.map { .bool($0) } ?? .null,
                    ]
                }),
            "keptEventCount": .unsigned(keptEventCount),
            "warnings": JSON(warnings), "sessionCount": JSON(traffic.sessionCount),
            "halfOpenCount": JSON(traffic.halfOpenCount), "counters": traffic.countersJSON,
            "certificates": .array(traffic.certificates.map(\.json)),
        ]
    }
}

extension ServerTraffic {
    /// `{NAME: {REASON: COUNT}}`; a counter without reasons has the reason `all`.
    fileprivate var countersJSON: JSON {
        var members: [JSON.Member] = []
        var reasons: [JSON.Member] = []
        for (index, counter) in counters.enumerated() {
            reasons.append(
                JSON.Member(
                    counter.reason.isEmpty ? "all" : counter.reason, .unsigned(counter.count)))
            let isLast = index + 1 == counters.count || counters[index + 1].name != counter.name
            guard isLast else { continue }
            members.append(JSON.Member(counter.name, .object(reasons)))
            reasons = []
        }
        return .object(members)
    }
}

extension CertificateView {
    public var json: JSON {
        [
            "identity": .string(identity), "serial": .string(serial),
            "expiresAt": JSON(expiresAt),
        ]
    }
}

extension HostView {
    public var json: JSON {
        [
            "id": .string(id.rawValue), "connected": .bool(connected),
            "agentVersion": .string(agentVersion), "acceptedToken": .unsigned(acceptedToken.number),
            "guestCount": JSON(guestCount), "runningGuestCount": JSON(runningGuestCount),
            "lastReportAt": JSON(lastReportAt), "step": JSON(step?.description),
            "warnings": JSON(warnings),
            "software": .array(
                software.map {
                    [
                        "component": .string($0.component.description),
                        "version": .string($0.version),
                    ]
                }),
            "cordon": cordon.map {
                ["reason": .string($0.reason), "by": .string($0.by), "since": JSON($0.since)]
            } ?? .null,
        ]
    }
}

extension GuestView {
    /// `updateDomain` is the one in force, `declaredUpdateDomain` what the host's file names.
    public var json: JSON {
        [
            "id": .string(report.id.rawValue), "host": .string(host.rawValue),
            "set": JSON(report.set?.rawValue), "updateDomain": JSON(updateDomain?.number),
            "declaredUpdateDomain": JSON(report.updateDomain?.number),
            "placedByLeader": .bool(placedByLeader), "hostConnected": .bool(hostConnected),
            "state": .string(report.state.rawValue),
            "hypervisorVersion": .string(report.hypervisorVersion),
            "memoryBytes": .unsigned(report.memoryBytes), "vcpuCount": JSON(report.vcpuCount),
            "hasGuestAgent": .bool(report.hasGuestAgent),
            "handOverProblem": .string(report.handOverProblem),
            "addresses": JSON(report.addresses),
        ]
    }
}

extension SetView {
    public var json: JSON {
        [
            "id": .string(id.rawValue), "updateDomainCount": .integer(Int64(updateDomainCount)),
            "domains": .array(
                domains.map {
                    [
                        "updateDomain": .integer(Int64($0.updateDomain.number)),
                        "guests": JSON($0.guests),
                    ]
                }),
            "lockedUpdateDomain": JSON(lockedUpdateDomain?.number), "warnings": JSON(warnings),
        ]
    }
}

extension LockView {
    public var json: JSON {
        [
            "set": .string(set.rawValue), "updateDomain": .integer(Int64(updateDomain.number)),
            "step": .string(step.description), "token": .unsigned(token.number),
            "host": .string(host.rawValue), "guests": JSON(guests), "grantedAt": JSON(grantedAt),
            "stuck": .bool(stuck), "reason": .string(reason),
        ]
    }
}

extension Policy {
    public var json: JSON {
        [
            "parallelism": JSON(parallelism),
            "deadlineMilliseconds": JSON(deadlineMilliseconds), "failuresMax": JSON(failuresMax),
            "noticeMilliseconds": JSON(noticeMilliseconds),
            "acknowledgement": .string(acknowledgement.rawValue),
        ]
    }
}

extension PlanView.Skipped {
    public var json: JSON {
        [
            "guest": JSON(guest?.rawValue), "host": .string(host.rawValue),
            "reason": .string(reason),
        ]
    }
}

extension PlanView {
    /// - Parameter guests: that cannot be told of a notice.
    public func json(withoutAddress guests: [GuestID]) -> JSON {
        [
            "release": .string(release.rawValue), "policy": policy.json,
            "steps": .array(
                steps.map {
                    [
                        "host": .string($0.host.rawValue), "guests": JSON($0.guests),
                        "pairs": JSON($0.pairs), "wave": JSON($0.wave),
                    ]
                }),
            "waveCount": JSON(waveCount), "skipped": .array(skipped.map(\.json)),
            "problems": JSON(problems), "guestsWithoutAddress": JSON(guests),
        ]
    }
}

extension HoldRecord {
    public var json: JSON {
        [
            "guest": .string(guest.rawValue), "outcome": .string(outcome.rawValue),
            "reason": .string(reason), "heldAt": JSON(heldAt),
            "holdMilliseconds": JSON(microseconds: holdMicroseconds),
            "resumedBy": .string(resumedBy.rawValue),
            "clockErrorMillisecondsBefore": JSON(microseconds: clockErrorBeforeMicroseconds),
            "clockErrorMillisecondsAfter": JSON(microseconds: clockErrorAfterMicroseconds),
            "clockNote": .string(clockNote), "hypervisorBefore": .string(hypervisorBefore),
            "hypervisorAfter": .string(hypervisorAfter),
        ]
    }
}

extension StepView {
    public var json: JSON {
        [
            "id": .string(id.description), "host": .string(host.rawValue), "guests": JSON(guests),
            "pairs": JSON(pairs), "phase": .string(phase.rawValue),
            "token": token.map { .unsigned($0.number) } ?? .null,
            "outcome": JSON(outcome?.rawValue), "reason": .string(reason),
            "grantedAt": JSON(grantedAt), "finishedAt": JSON(finishedAt),
            "phases": .array(
                phases.map { ["phase": .string($0.phase.rawValue), "at": JSON($0.at)] }),
            "holds": .array(holds.map(\.json)), "noticedAt": JSON(noticedAt),
            "notBefore": JSON(notBefore),
        ]
    }
}

extension RolloutView {
    public var json: JSON {
        summaryJSON.adding([
            "steps": .array(steps.map(\.json)), "skipped": .array(skipped.map(\.json)),
        ])
    }

    /// Of one that was listed, without its steps.
    public var summaryJSON: JSON {
        let hosts: JSON =
            switch selection {
            case .allHosts: .null
            case .hosts(let names): JSON(names)
            }
        return [
            "id": .string(id.description), "release": .string(release.rawValue),
            "component": .string(component.description), "version": .string(version),
            "selection": ["allHosts": .bool(selection == .allHosts), "hosts": hosts],
            "policy": policy.json, "state": .string(state.rawValue), "reason": .string(reason),
            "startedAt": JSON(startedAt), "startedBy": .string(startedBy),
            "finishedAt": JSON(finishedAt),
        ]
    }
}

extension FleetEvent {
    /// What a watcher gets as one line of JSON.
    public var json: JSON {
        let start: JSON = ["sequence": .unsigned(sequence), "at": JSON(at)]
        switch body {
        case .rolloutStarted(let rollout, let release, let stepCount):
            return start.adding([
                "event": "rolloutStarted", "rollout": .string(rollout.description),
                "release": .string(release.rawValue), "stepCount": JSON(stepCount),
            ])
        case .rolloutChanged(let rollout, let state, let reason):
            return start.adding([
                "event": "rolloutChanged", "rollout": .string(rollout.description),
                "state": .string(state.rawValue), "reason": .string(reason),
            ])
        case .stepNoticed(let notice):
            return start.adding(["event": "stepNoticed"]).adding(notice.json)
        case .noticeAcknowledged(let step, let guest):
            return start.adding([
                "event": "noticeAcknowledged", "step": .string(step.description),
                "guest": .string(guest.rawValue),
            ])
        case .noticeWithdrawn(let step, let reason):
            return start.adding([
                "event": "noticeWithdrawn", "step": .string(step.description),
                "reason": .string(reason),
            ])
        case .stepEnded(let step, let host, let outcome, let reason):
            return start.adding([
                "event": "stepEnded", "step": .string(step.description),
                "host": .string(host.rawValue), "outcome": JSON(outcome?.rawValue),
                "reason": .string(reason),
            ])
        case .stepGranted(
            let step, let host, let guests, let pairs, let release, let component, let version):
            return start.adding([
                "event": "stepGranted", "step": .string(step.description),
                "host": .string(host.rawValue), "guests": JSON(guests), "pairs": JSON(pairs),
                "release": .string(release.rawValue),
                "component": .string(component.description), "version": .string(version),
            ])
        case .stepEndedWithoutHold(let step, let host, let reason):
            return start.adding([
                "event": "stepEndedWithoutHold", "step": .string(step.description),
                "host": .string(host.rawValue), "reason": .string(reason),
            ])
        case .holdFinished(let hold):
            return start.adding([
                "event": "holdFinished", "step": .string(hold.step.description),
                "host": .string(hold.host.rawValue), "annotationId": .string(hold.holdID),
                "availabilitySet": JSON(hold.pair?.set.rawValue),
                "updateDomain": JSON(hold.pair?.updateDomain.number),
            ]).adding(hold.record.json)
        case .lockReleased(let set, let by, let reason):
            return start.adding([
                "event": "lockReleased", "set": .string(set.rawValue), "by": .string(by),
                "reason": .string(reason),
            ])
        }
    }
}

extension StepProgress {
    public var json: JSON {
        [
            "event": "stepProgress", "at": JSON(at), "step": .string(step.description),
            "token": .unsigned(token.number), "phase": .string(phase.rawValue),
        ]
    }
}
