// Two events of the largest cloud, for consumers that were written for them. Names of types and fields,
// and their fixed values, are that cloud's, as its documentation shows them (facts.md, "Health
// annotations"); ids are ours: `/clusters/CLUSTER/guests/GUEST`, which no other resource has.
//
//   state       ResourceAnnotated                       AvailabilityStatusChanged
//   ---------   -------------------------------------   ---------------------------------------
//   noticed     -                                       -
//   started     VirtualMachinePlannedFreezeStarted      Available > Unavailable
//   succeeded   VirtualMachinePlannedFreezeSucceeded    Unavailable > Available
//   failed      VirtualMachinePlannedFreezeFailed       Unavailable > Available, runs on the old
//                                                       Unavailable > Degraded, runs, not healthy
//                                                       -, does not run: it stays Unavailable
//   cancelled   once started: …FreezeFailed, without    Unavailable > Available, once started
//               downtime

import Fleet
import Presentation

/// Which health annotation a bulletin becomes.
struct ResourceHealth {
    var annotationName: String
    var impactType: String
    var reason: String

    /// - Returns: nil if there is none for the bulletin's state.
    init?(_ bulletin: Bulletin) {
        let kind: String
        switch bulletin.state {
        case .noticed: return nil
        // It closes what was started. The guest was not held, so there was no downtime.
        case .cancelled:
            guard bulletin.wasStarted else { return nil }
            (kind, impactType, reason) = ("Failed", "Informational", "Planned update failed")
        case .started:
            (kind, impactType, reason) = ("Started", "Informational", "Planned update started")
        case .succeeded:
            (kind, impactType, reason) = (
                "Succeeded", "Downtime Freeze", "Planned update succeeded"
            )
        case .failed:
            (kind, impactType, reason) = ("Failed", "Downtime Freeze", "Planned update failed")
        }
        annotationName = "VirtualMachinePlannedFreeze\(kind)"
    }

    func json(_ bulletin: Bulletin, cluster: String, summary: String) -> JSON {
        resourceEvent(
            bulletin, cluster: cluster, type: "ResourceAnnotated", idSuffix: "",
            resource: "resourceAnnotations", apiVersion: "2022-08-01",
            properties: [
                .init("annotationName", .string(annotationName)),
                .init("reason", .string(reason)),
                .init("summary", .string(summary)),
                .init("context", "Platform Initiated"),
                .init("category", "Planned"),
                .init("impactType", .string(impactType)),
            ])
    }
}

/// How a guest's availability changes with a bulletin.
struct AvailabilityChange {
    var before: String
    var after: String

    /// - Returns: nil if it does not change.
    init?(_ bulletin: Bulletin) {
        before = "Unavailable"
        switch bulletin.state {
        case .noticed: return nil
        case .started: (before, after) = ("Available", "Unavailable")
        case .cancelled:
            guard bulletin.wasStarted else { return nil }
            after = "Available"
        case .succeeded, .failed:
            switch bulletin.annotation?.record.outcome {
            case .lost: return nil
            case .unhealthy: after = "Degraded"
            case .succeeded, .failed, nil: after = "Available"
            }
        }
    }

    func json(_ bulletin: Bulletin, cluster: String) -> JSON {
        // The same bulletin may go out as a health annotation too: each event has its own id.
        resourceEvent(
            bulletin, cluster: cluster, type: "AvailabilityStatusChanged",
            idSuffix: "-availability", resource: "availabilityStatuses", apiVersion: "2023-12-01",
            properties: [
                .init("previousAvailabilityState", .string(before)),
                .init("availabilityState", .string(after)),
                .init("context", "Platform Initiated"),
                .init("category", "Planned"),
            ])
    }
}

/// What both events have in common.
private func resourceEvent(
    _ bulletin: Bulletin, cluster: String, type: String, idSuffix: String, resource: String,
    apiVersion: String, properties: [JSON.Member]
) -> JSON {
    let source = "/clusters/\(cluster)"
    let target = "\(source)/guests/\(bulletin.guest)"
    let occurred = bulletin.occurredAt.rfc3339
    return [
        "id": .string(bulletin.id + idSuffix),
        "source": .string(source),
        "specversion": "1.0",
        "type": .string("Microsoft.ResourceNotifications.HealthResources.\(type)"),
        "subject": .string(target),
        "time": .string(bulletin.at.rfc3339),
        "data": [
            "resourceInfo": [
                "id": .string("\(target)/providers/Microsoft.ResourceHealth/\(resource)/current"),
                "name": "current",
                "type": .string("Microsoft.ResourceHealth/\(resource)"),
                "properties": .object(
                    [
                        .init("targetResourceId", .string(target)),
                        .init("targetResourceType", "Microsoft.Compute/virtualMachines"),
                        .init("occurredTime", .string(occurred)),
                    ] + properties),
            ],
            "operationalInfo": ["resourceEventTime": .string(occurred)],
            "apiVersion": .string(apiVersion),
        ],
    ]
}

extension Bulletin {
    /// When what it tells of came true: the end of the hold, if it has one, else the commit of its
    /// event.
    var occurredAt: Timestamp {
        guard let record = annotation?.record, let length = record.holdMicroseconds else {
            return at
        }
        let (end, overflow) = record.heldAt.microseconds.addingReportingOverflow(length)
        return overflow ? at : Timestamp(microseconds: end)
    }
}
