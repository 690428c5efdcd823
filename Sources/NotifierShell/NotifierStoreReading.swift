public import Fleet
import GRDB
public import Notices
import Presentation

// What commands that only look ask of the record.

extension NotifierStore {
    /// The cluster that is followed.
    public func cluster() throws(NotifierStoreError) -> String {
        try guarded(path, "read") {
            try read { database in
                try String.fetchOne(database, sql: "SELECT cluster FROM follower") ?? ""
            }
        }
    }

    /// The record of one hold as what sinks were told of it. When the leader committed it is not kept
    /// beside an annotation: the time at which it was recorded stands for it.
    ///
    /// - Returns: nil if there is none.
    public func bulletin(ofAnnotation id: String) throws(NotifierStoreError) -> Bulletin? {
        try guarded(path, "read") {
            try read { database in
                let sql = "SELECT * FROM annotation WHERE annotationId = ?"
                guard let row = try Row.fetchOne(database, sql: sql, arguments: [id]) else {
                    return nil
                }
                guard let annotation = Annotation(row: row) else {
                    throw NotifierStoreError.damaged(path: path, detail: "annotation \(id)")
                }
                let sequence: Int64 = row["sequence"]
                return Bulletin(annotation, sequence: UInt64(clamping: sequence))
            }
        }
    }

    /// How many guests and update domains a set has, as far as its latest holds tell.
    public func size(of set: SetID) throws(NotifierStoreError) -> SetSize {
        try guarded(path, "read") {
            try read { database in
                let row = try Row.fetchOne(
                    database,
                    sql: """
                        SELECT count(*) AS guests, count(DISTINCT updateDomain) AS updateDomains
                        FROM annotation AS latest WHERE availabilitySet = ? AND number =
                            (SELECT max(number) FROM annotation WHERE guest = latest.guest)
                        """, arguments: [set.rawValue])
                return SetSize(
                    guestCount: row?["guests"] ?? 0, updateDomainCount: row?["updateDomains"] ?? 0)
            }
        }
    }

    /// All holds of one guest or of all, for the accounting of availability.
    public func availabilityRecords(
        of guest: GuestID? = nil
    ) throws(NotifierStoreError) -> [AvailabilityRecord] {
        try guarded(path, "read") {
            try read { database in
                let condition = AnnotationFilter(guest: guest).condition
                let rows = try Row.fetchCursor(
                    database,
                    sql: """
                        SELECT number, guest, availabilitySet, heldAtMicroseconds, holdMicroseconds,
                            outcome FROM annotation \(condition.sql)
                        """, arguments: condition.values)
                var records: [AvailabilityRecord] = []
                while let row = try rows.next() {
                    guard let record = AvailabilityRecord(row: row) else {
                        throw NotifierStoreError.damaged(
                            path: path, detail: "row \(row["number"] as Int64) of annotation")
                    }
                    records.append(record)
                }
                return records
            }
        }
    }
}

extension AvailabilityRecord {
    fileprivate init?(row: Row) {
        guard let guest = GuestID(row["guest"] as String),
            let outcome = StepOutcome(rawValue: row["outcome"])
        else { return nil }
        self.init(
            guest: guest, set: (row["availabilitySet"] as String?).flatMap { SetID($0) },
            heldAt: Timestamp(microseconds: row["heldAtMicroseconds"]),
            holdMicroseconds: row["holdMicroseconds"], outcome: outcome)
    }
}
