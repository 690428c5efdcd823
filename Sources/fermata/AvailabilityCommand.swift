import ArgumentParser
import Fleet
import Notices
import NotifierShell
import Presentation

struct AvailabilityCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "availability",
        abstract: "Shows how available guests and sets were, by month, as far as holds tell.",
        discussion: """
            Reads the notifier's SQLite file, also while the notifier runs. A guest is unavailable \
            while it is held, and from a hold that it did not come out of until a later hold shows \
            it running; a set is unavailable while all its guests are, also those that were never \
            held, which count as up. One that came out of a hold unhealthy counts as a failure, and \
            runs. What happened outside of holds is not known here. Months are those of UTC; one that is not over counts up to now.

              fermata availability --database notifier.db
              fermata availability --set db --month 2026-11 --target 99.99
              fermata availability --guest db-0 --running db-0=2026-11-20T10:00:00Z
            """)

    @OptionGroup var database: DatabaseOption
    @Option(help: "Only of this guest.", transform: parseName)
    var guest: GuestID?
    @Option(help: "Only of this availability set.", transform: parseName)
    var set: SetID?
    @Option(
        help: ArgumentHelp("Only of this month, such as 2026-11.", valueName: "month"),
        transform: parseMonth)
    var month: CalendarMonth?
    @Option(
        help: ArgumentHelp(
            "What shall be met, in percent, with at most three decimals. (default: 99.95)",
            valueName: "percent"), transform: parsePercent)
    var target: Int64 = 99_950
    @Option(
        help: ArgumentHelp(
            "A guest that a hold lost ran again at this time; repeat it for others.",
            valueName: "guest=time"), transform: parseSighting)
    var running: [GuestSighting] = []
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard guest == nil || set == nil else {
            throw ValidationError("Give --guest or --set, not both.")
        }
    }

    func run() throws {
        let path = try database.path
        let account = AvailabilityAccount(try read(path), running: running, now: .now)
        var rows: [MonthlyAvailability] = []
        if set == nil { rows += account.guestMonths(of: guest) }
        if guest == nil { rows += account.setMonths(of: set) }
        if let month { rows = rows.filter { $0.month == month } }
        output.show(
            text: availabilityText(rows, target: target),
            json: availabilityJSON(rows, target: target))
    }

    private func read(_ path: String) throws(CommandFailure) -> [AvailabilityRecord] {
        do {
            let store = try NotifierStore(readingFrom: path)
            return try store.availabilityRecords(of: guest)
        } catch {
            throw CommandFailure(error)
        }
    }
}

private func parseMonth(_ text: String) throws -> CalendarMonth {
    guard let month = CalendarMonth(text) else {
        throw ValidationError("'\(printable(text))' is not a month. Write 2026-11.")
    }
    return month
}

/// - Returns: thousandths of a percent.
private func parsePercent(_ text: String) throws -> Int64 {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    let isDigits = { (part: Substring) in
        !part.isEmpty && part.utf8.count <= 3 && part.allSatisfy { ("0"..."9").contains($0) }
    }
    if (1...2).contains(parts.count), parts.allSatisfy(isDigits), let whole = Int64(parts[0]) {
        let decimals = parts.count == 2 ? String(parts[1]) : ""
        let padding = String(repeating: "0", count: 3 - decimals.count)
        if let fraction = Int64(decimals + padding), whole * 1000 + fraction <= 100_000 {
            return whole * 1000 + fraction
        }
    }
    throw ValidationError("'\(printable(text))' is not a percentage. Write 99.95.")
}

private func parseSighting(_ text: String) throws -> GuestSighting {
    let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
    guard parts.count == 2, let guest = GuestID(parts[0]) else {
        throw ValidationError("'\(printable(text))' is not GUEST=TIME.")
    }
    return GuestSighting(guest: guest, at: try parseTime(parts[1]))
}
