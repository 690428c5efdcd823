import Fleet
public import Presentation

extension Bulletin {
    /// Our own form, on which programs may rely: keys only ever get more. One that does not apply is
    /// null, and `reason` and `text` are never.
    ///
    /// For a hold it has every key of ``Annotation/json`` with the same value.
    ///
    /// - Parameter text: the plain text, on one line.
    public func json(text: String) -> JSON {
        let own: [JSON.Member] = [
            .init("id", .string(id)),
            .init("state", .string(state.rawValue)),
            .init("at", .string(at.rfc3339)),
            .init("sequence", .unsigned(sequence)),
            .init("guest", .string(guest.rawValue)),
            .init("host", .string(host.rawValue)),
            .init("availabilitySet", JSON(pair?.set.rawValue)),
            .init("updateDomain", JSON(pair?.updateDomain.number)),
            .init("component", .string(component.description)),
            .init("release", .string(release.rawValue)),
            .init("version", .string(version)),
            .init("rollout", .string(step.rollout.description)),
            .init("step", .string(step.description)),
            .init("token", token.map { .unsigned($0.number) } ?? .null),
            .init("notBefore", JSON(notBefore)),
            .init("reason", .string(annotation?.record.reason ?? reason)),
        ]
        var members = own
        if let annotation {
            members += annotation.members.filter { member in
                !own.contains { $0.key == member.key }
            }
        }
        members.append(.init("text", .string(text)))
        return .object(members)
    }
}
