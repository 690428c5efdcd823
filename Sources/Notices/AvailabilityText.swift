public import Presentation

// How availability is shown: a table for people, JSON for scripts.

/// - Parameter target: in thousandths of a percent.
public func availabilityText(_ rows: [MonthlyAvailability], target: Int64) -> String {
    guard !rows.isEmpty else { return "no holds are recorded\n" }
    var table = TextTable([
        ("MONTH", .left), ("GUEST OR SET", .left), ("HOLDS", .right), ("UNAVAILABLE", .right),
        ("LONGEST", .right), ("FAILURES", .right), ("AVAILABLE", .right), ("TARGET", .left),
    ])
    for row in rows {
        let verdict = row.isMet(target: target) ? "met" : "MISSED"
        table.add([
            "\(row.month)" + (row.isOver ? "" : " so far"), row.name, "\(row.holdCount)",
            spanText(microseconds: row.unavailableMicroseconds),
            spanText(microseconds: row.longestMicroseconds), "\(row.failureCount)",
            percentText(row.thousandthsOfPercent), verdict,
        ])
    }
    var text = table.text
    text += "\nTarget: \(percentText(target)) of each month (UTC).\n"
    for row in rows where row.assumedMicroseconds > 0 {
        let open =
            "\(spanText(microseconds: row.assumedMicroseconds)) of \(row.name) in \(row.month) "
            + "rest on a hold that did not end: they count until a later hold shows the guest "
            + "running, or up to now. If it ran before, say so: --running GUEST=TIME."
        text += open + "\n"
    }
    return text
}

public func availabilityJSON(_ rows: [MonthlyAvailability], target: Int64) -> JSON {
    .array(
        rows.map { row in
            var members: [JSON.Member] = [.init("month", .string(row.month.description))]
            switch row.subject {
            case .guest(let guest): members.append(.init("guest", .string(guest.rawValue)))
            case .set(let set, let guestCount, let withoutRecord):
                members += [
                    .init("availabilitySet", .string(set.rawValue)),
                    .init("guestCount", .integer(Int64(guestCount))),
                    .init("guestsWithoutRecord", .integer(Int64(withoutRecord))),
                ]
            }
            return .object(
                members + [
                    .init("isOver", .bool(row.isOver)),
                    .init("presentMilliseconds", .thousandths(row.presentMicroseconds)),
                    .init("unavailableMilliseconds", .thousandths(row.unavailableMicroseconds)),
                    .init("assumedMilliseconds", .thousandths(row.assumedMicroseconds)),
                    .init("longestMilliseconds", .thousandths(row.longestMicroseconds)),
                    .init("holdCount", .integer(Int64(row.holdCount))),
                    .init("failureCount", .integer(Int64(row.failureCount))),
                    .init("availablePercent", .thousandths(row.thousandthsOfPercent)),
                    .init("targetPercent", .thousandths(target)),
                    .init("isTargetMet", .bool(row.isMet(target: target))),
                ])
        })
}

extension MonthlyAvailability {
    fileprivate var name: String {
        switch subject {
        case .guest(let guest): guest.rawValue
        case .set(let set, let count, let withoutRecord):
            "set \(set) (\(count) guest\(count == 1 ? "" : "s")"
                + (withoutRecord == 0 ? ")" : ", \(withoutRecord) never held)")
        }
    }
}

/// `99.950 %`.
private func percentText(_ thousandths: Int64) -> String {
    let digits = "\(thousandths % 1000)"
    return "\(thousandths / 1000)." + String(repeating: "0", count: 3 - digits.utf8.count) + digits
        + " %"
}
