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

    /// The record of one hold as what sinks were told of it. When the leader committed it is kept as long as
    /// bulletins are: then the time at which it was recorded stands for it.
    ///
    /// - Returns: nil if there is none.
    public func bulletin(ofAnnotation id: String) throws(NotifierStoreError) -> Bulletin? {
        try guarded(path, "read") {
            try read { database in
                let sql = """
                    SELECT annotation.*, atMicroseconds, setGuestCount, setUpdateDomainCount FROM annotation
                        LEFT JOIN bulletin ON bulletinId = annotationId WHERE annotationId = ?
                    """
                return try Row.fetchOne(database, sql: sql, arguments: [id])
                    .map { try bulletin(ofAnnotation: $0) }
            }
        }
    }

    /// The same of the newest annotations that fit the filter, oldest first.
    public func bulletins(
        ofAnnotations filter: AnnotationFilter = AnnotationFilter(), limit: Int
    ) throws(NotifierStoreError) -> [Bulletin] {
        let (condition, values) = filter.condition
        let sql = """
            SELECT annotation.*, atMicroseconds, setGuestCount, setUpdateDomainCount FROM annotation
                LEFT JOIN bulletin ON bulletinId = annotationId
            \(condition) ORDER BY annotation.number DESC LIMIT ?
            """
        return try guarded(path, "read") {
            try read { database in
                try Row.fetchAll(database, sql: sql, arguments: values + [limit]).reversed()
                    .map { try bulletin(ofAnnotation: $0) }
            }
        }
    }

    private func bulletin(ofAnnotation row: Row) throws -> Bulletin {
        guard let annotation = Annotation(row: row) else {
            throw NotifierStoreError.damaged(
                path: path, detail: "row \(row["number"] as Int64) of annotation")
        }
        let sequence: Int64 = row["sequence"]
        return Bulletin(
            annotation, sequence: UInt64(clamping: sequence),
            at: (row["atMicroseconds"] as Int64?).map { Timestamp(microseconds: $0) },
            setSize: SetSize(row: row))
    }

    /// What was told last of each guest of a step, in ascending order of guest; also of one whose hold is
    /// not over, or did not take place.
    public func newestBulletins(of step: StepID) throws(NotifierStoreError) -> [Bulletin] {
        try guarded(path, "read") {
            try read { database in
                try Row.fetchAll(
                    database,
                    sql: """
                        SELECT bulletin.*, annotation.* FROM bulletin
                            LEFT JOIN annotation ON annotationId = bulletinId
                        WHERE bulletin.number IN (SELECT max(number) FROM bulletin
                            WHERE rollout = ? AND step = ? GROUP BY guest)
                        ORDER BY bulletin.guest
                        """,
                    arguments: [Int64(bitPattern: step.rollout.number), step.number]
                ).compactMap { Bulletin(row: $0) }
            }
        }
    }

    /// One that is no annotation, by its id as sinks got it.
    public func bulletin(_ id: String) throws(NotifierStoreError) -> Bulletin? {
        try guarded(path, "read") {
            try read { database in
                let sql = "SELECT * FROM bulletin WHERE bulletinId = ?"
                return try Row.fetchOne(database, sql: sql, arguments: [id])
                    .flatMap { Bulletin(row: $0) }
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
                        SELECT annotation.number, annotation.guest, annotation.availabilitySet,
                            heldAtMicroseconds, holdMicroseconds, outcome, setGuestCount
                            FROM annotation
                            LEFT JOIN bulletin ON bulletinId = annotationId \(condition.sql)
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
            holdMicroseconds: row["holdMicroseconds"], outcome: outcome,
            setGuestCount: row["setGuestCount"])
    }
}
