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

    public init(bulletinDays: Int = bulletinDaysDefault, annotationDays: Int? = nil) {
        self.bulletinDays = bulletinDays
        self.annotationDays = annotationDays
    }
}

extension NotifierStore {
    /// Deletes some of what is too old.
    ///
    /// - Parameter countMax: of each kind.
    /// - Returns: how many bulletins and annotations; less than `countMax` if nothing is left.
    public func deleteOld(
        _ retention: Retention, now: Timestamp, countMax: Int
    ) throws(NotifierStoreError) -> Int {
        func limit(_ days: Int) -> Int64 { now.microseconds - Int64(days) * 86_400_000_000 }
        return try guarded(path, "write to") {
            try write { database in
                func delete(_ table: String, before: Int64) throws -> Int {
                    try database.execute(
                        sql: """
                            DELETE FROM \(table) WHERE number IN (SELECT number FROM \(table)
                                WHERE recordedAtMicroseconds < ? LIMIT ?)
                            """, arguments: [before, countMax])
                    return database.changesCount
                }
                var count = try delete("bulletin", before: limit(retention.bulletinDays))
                if let days = retention.annotationDays {
                    count = max(count, try delete("annotation", before: limit(days)))
                }
                return count
            }
        }
    }
}
