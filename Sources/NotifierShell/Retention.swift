public import Fleet
import GRDB

// What grows for ever unless it is deleted: a little at a time, so that following never waits for it.

/// How long what is told is kept.
public struct Retention: Hashable, Sendable {
    /// Bulletins with their rows of the outbox, and gaps; also what no sink has taken by then.
    public var bulletinDays: Int
    /// Annotations; nil for ever.
    public var annotationDays: Int?

    public static let bulletinDaysDefault = 400
    /// A hundred years: what is longer is for ever.
    public static let daysMax = 36_500

    public init(bulletinDays: Int = bulletinDaysDefault, annotationDays: Int? = nil) {
        self.bulletinDays = bulletinDays
        self.annotationDays = annotationDays
    }
}

/// What was deleted in one turn.
public struct DeletedCount: Hashable, Sendable {
    /// The larger of bulletins and annotations.
    public var count = 0
    /// Rows of the outbox that went with their bulletins and that a sink still had to be asked about.
    public var undelivered = 0
}

extension NotifierStore {
    /// Deletes some of what is too old.
    ///
    /// - Parameter countMax: of each kind.
    /// - Returns: how many; less than `countMax` if nothing is left.
    public func deleteOld(
        _ retention: Retention, now: Timestamp, countMax: Int
    ) throws(NotifierStoreError) -> DeletedCount {
        func limit(_ days: Int) -> Int64 { now.microseconds - Int64(days) * 86_400_000_000 }
        return try guarded(path, "write to") {
            try write { database in
                func old(_ table: String) -> String {
                    "(SELECT number FROM \(table) WHERE recordedAtMicroseconds < ? LIMIT ?)"
                }
                func delete(_ table: String, before: Int64) throws -> Int {
                    try database.execute(
                        sql: "DELETE FROM \(table) WHERE number IN \(old(table))",
                        arguments: [before, countMax])
                    return database.changesCount
                }
                var deleted = DeletedCount()
                let oldest = limit(retention.bulletinDays)
                deleted.undelivered =
                    try Int.fetchOne(
                        database,
                        sql: """
                            SELECT count(*) FROM outbox
                                WHERE \(isPending) AND bulletin IN \(old("bulletin"))
                            """, arguments: [oldest, countMax]) ?? 0
                deleted.count = try delete("bulletin", before: oldest)
                if let days = retention.annotationDays {
                    deleted.count = max(
                        deleted.count, try delete("annotation", before: limit(days)))
                }
                return deleted
            }
        }
    }
}
