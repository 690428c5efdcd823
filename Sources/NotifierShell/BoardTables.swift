// What the board keeps in the notifier's database, so that the numbers of its documents never go back:
//
//   board (one row)        sequence of the last event folded, base and offset of the numbers
//   boardNotice            each notice that stands on it, as the wire writes it
//   boardIncarnation       of each set, or guest without a set, whose document has ever changed
//   boardPlace             of each guest that has been known, the set or itself: whose documents it reads
//   boardFloor             of each guest that has changed its set
//   boardAcknowledgement   what guests have acknowledged, of which notice, and the leader has not taken yet
import Fleet
import Foundation
import GRDB
import Notices
import Wire

func registerBoardMigration(_ migrator: inout DatabaseMigrator) {
    migrator.registerMigration("board") { database in
        try database.execute(
            sql: """
                CREATE TABLE board (
                    id INTEGER PRIMARY KEY CHECK (id = 1),
                    sequence INTEGER NOT NULL,
                    base INTEGER NOT NULL,
                    numberOffset INTEGER NOT NULL
                ) STRICT;
                INSERT INTO board VALUES (1, 0, 0, 0);
                CREATE TABLE boardNotice (
                    rollout INTEGER NOT NULL,
                    step INTEGER NOT NULL,
                    notice BLOB NOT NULL,
                    PRIMARY KEY (rollout, step)
                ) STRICT;
                CREATE TABLE boardIncarnation (
                    kind TEXT NOT NULL,
                    name TEXT NOT NULL,
                    number INTEGER NOT NULL,
                    PRIMARY KEY (kind, name)
                ) STRICT;
                CREATE TABLE boardFloor (guest TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT;
                CREATE TABLE boardAcknowledgement (
                    rollout INTEGER NOT NULL,
                    step INTEGER NOT NULL,
                    guest TEXT NOT NULL,
                    PRIMARY KEY (rollout, step, guest)
                ) STRICT;
                """)
    }
}

func registerPlacesMigration(_ migrator: inout DatabaseMigrator) {
    migrator.registerMigration("7 where guests were") { database in
        try database.execute(
            sql: """
                CREATE TABLE boardPlace (
                    guest TEXT PRIMARY KEY,
                    kind TEXT NOT NULL,
                    name TEXT NOT NULL
                ) STRICT
                """)
    }
}

func registerNoticedAtMigration(_ migrator: inout DatabaseMigrator) {
    migrator.registerMigration("6 which notice was acknowledged") { database in
        try database.execute(
            sql: "ALTER TABLE boardAcknowledgement ADD COLUMN noticedAtMicroseconds INTEGER")
    }
}

/// A guest's acknowledgement on its way to the leader.
struct PendingAcknowledgement: Hashable {
    var step: StepID
    var guest: GuestID
    /// Of the notice that the guest has read; nil in a row that an older version has left.
    var noticedAt: Timestamp?
}

extension NotifierStore {
    func boardMemory() throws(NotifierStoreError) -> BoardMemory {
        try guarded(path, "read") {
            try read { database in
                var memory = BoardMemory()
                if let row = try Row.fetchOne(database, sql: "SELECT * FROM board") {
                    memory.cursor = UInt64(clamping: row["sequence"] as Int64)
                    memory.base = UInt64(clamping: row["base"] as Int64)
                    memory.offset = UInt64(clamping: row["numberOffset"] as Int64)
                }
                let notices = try Row.fetchAll(
                    database, sql: "SELECT notice FROM boardNotice ORDER BY rollout, step")
                memory.notices = notices.compactMap { notice(fromBytes: $0["notice"]) }
                memory.incarnations = try Row.fetchAll(
                    database, sql: "SELECT * FROM boardIncarnation ORDER BY kind, name"
                ).compactMap { row in
                    Audience(kind: row["kind"], name: row["name"]).map {
                        .init(audience: $0, number: UInt64(clamping: row["number"] as Int64))
                    }
                }
                memory.floors = try Row.fetchAll(
                    database, sql: "SELECT * FROM boardFloor ORDER BY guest"
                ).compactMap { row in
                    GuestID(row["guest"] as String).map {
                        .init(guest: $0, number: UInt64(clamping: row["number"] as Int64))
                    }
                }
                memory.places = try Row.fetchAll(database, sql: "SELECT * FROM boardPlace")
                    .compactMap { row in
                        guard let guest = GuestID(row["guest"] as String) else { return nil }
                        return Audience(kind: row["kind"], name: row["name"]).map {
                            .init(guest: guest, audience: $0)
                        }
                    }
                return memory
            }
        }
    }

    /// Keeps what has changed, all or nothing.
    func save(_ changes: BoardMemory) throws(NotifierStoreError) {
        try guarded(path, "write to") {
            try write { database in
                try database.execute(
                    sql: "UPDATE board SET sequence = ?, base = ?, numberOffset = ?",
                    arguments: [
                        Int64(clamping: changes.cursor), Int64(clamping: changes.base),
                        Int64(clamping: changes.offset),
                    ])
                for step in changes.removed {
                    try database.execute(
                        sql: "DELETE FROM boardNotice WHERE rollout = ? AND step = ?",
                        arguments: [Int64(bitPattern: step.rollout.number), step.number])
                }
                for notice in changes.notices {
                    try database.execute(
                        sql: "INSERT OR REPLACE INTO boardNotice VALUES (?, ?, ?)",
                        arguments: [
                            Int64(bitPattern: notice.step.rollout.number), notice.step.number,
                            bytes(of: notice),
                        ])
                }
                for entry in changes.incarnations {
                    try database.execute(
                        sql: "INSERT OR REPLACE INTO boardIncarnation VALUES (?, ?, ?)",
                        arguments: [
                            entry.audience.kind, entry.audience.name, Int64(clamping: entry.number),
                        ])
                }
                for floor in changes.floors {
                    try database.execute(
                        sql: "INSERT OR REPLACE INTO boardFloor VALUES (?, ?)",
                        arguments: [floor.guest.rawValue, Int64(clamping: floor.number)])
                }
                // Of the whole fleet, the first time.
                for place in changes.places {
                    try database.cachedStatement(
                        sql: "INSERT OR REPLACE INTO boardPlace VALUES (?, ?, ?)"
                    ).execute(arguments: [
                        place.guest.rawValue, place.audience.kind, place.audience.name,
                    ])
                }
            }
        }
    }

    /// - Returns: in the order of steps and guests.
    func pendingAcknowledgements() throws(NotifierStoreError) -> [PendingAcknowledgement] {
        try guarded(path, "read") {
            try read { database in
                try Row.fetchAll(
                    database,
                    sql: "SELECT * FROM boardAcknowledgement ORDER BY rollout, step, guest"
                ).compactMap { row in
                    guard let guest = GuestID(row["guest"] as String) else { return nil }
                    let rollout = RolloutID(UInt64(bitPattern: row["rollout"] as Int64))
                    return PendingAcknowledgement(
                        step: StepID(rollout: rollout, number: row["step"]), guest: guest,
                        noticedAt: (row["noticedAtMicroseconds"] as Int64?).map {
                            Timestamp(microseconds: $0)
                        })
                }
            }
        }
    }

    /// In place of one of an earlier notice.
    func save(_ pending: PendingAcknowledgement) throws(NotifierStoreError) {
        try execute(
            """
            INSERT OR REPLACE INTO boardAcknowledgement (rollout, step, guest, noticedAtMicroseconds)
                VALUES (?, ?, ?, ?)
            """, pending)
    }

    func remove(_ pending: PendingAcknowledgement) throws(NotifierStoreError) {
        try execute(
            """
            DELETE FROM boardAcknowledgement WHERE rollout = ? AND step = ? AND guest = ?
                AND noticedAtMicroseconds IS ?
            """, pending)
    }

    private func execute(
        _ sql: String, _ pending: PendingAcknowledgement
    ) throws(NotifierStoreError) {
        try guarded(path, "write to") {
            try write { database in
                try database.execute(
                    sql: sql,
                    arguments: [
                        Int64(bitPattern: pending.step.rollout.number), pending.step.number,
                        pending.guest.rawValue, pending.noticedAt?.microseconds,
                    ])
            }
        }
    }
}

extension Audience {
    fileprivate var kind: String {
        switch self {
        case .set: "set"
        case .guest: "guest"
        }
    }

    fileprivate var name: String {
        switch self {
        case .set(let set): set.rawValue
        case .guest(let guest): guest.rawValue
        }
    }

    fileprivate init?(kind: String, name: String) {
        switch kind {
        case "set": if let set = SetID(name) { self = .set(set) } else { return nil }
        case "guest": if let guest = GuestID(name) { self = .guest(guest) } else { return nil }
        default: return nil
        }
    }
}

/// The event that brought it, as it came over the wire: one encoding, which has its tests.
private func bytes(of notice: Notice) -> Data {
    let event = FleetEvent(
        sequence: 1, at: notice.noticedAt, body: .stepNoticed(notice))
    return Data(Message.eventBatch([event], lastSequence: 1).encodedBody())
}

private func notice(fromBytes bytes: Data) -> Notice? {
    guard let message = try? Message(kind: .eventBatch, body: [UInt8](bytes)),
        case .eventBatch(let events, _) = message,
        case .stepNoticed(let notice)? = events.first?.body
    else { return nil }
    return notice
}
