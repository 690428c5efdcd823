import GRDB

// The notifier's database:
//
//   follower (one row)   cluster, sequence of the last event stored, history
//   annotation           one row for each hold, for ever; annotationId is the idempotency key
//   outbox               one row for each annotation and sink; deliveredAt is null until delivered
//   gap                  events that the leader no longer had when this notifier asked for them
//
// `history` counts how often the leader's events were seen to begin anew (a restored backup):
// only then may the name of a hold come back for another hold.

/// `FRMN`, in the header of the file.
let applicationID: Int32 = 0x4652_4D4E

var notifierMigrator: DatabaseMigrator {
    var migrator = DatabaseMigrator()
    migrator.registerMigration("1 annotations and outbox") { database in
        try database.execute(sql: "PRAGMA application_id = \(applicationID)")
        try database.execute(
            sql: """
                CREATE TABLE follower (
                    id INTEGER PRIMARY KEY CHECK (id = 1),
                    cluster TEXT NOT NULL,
                    sequence INTEGER NOT NULL,
                    history INTEGER NOT NULL
                ) STRICT;
                CREATE TABLE annotation (
                    number INTEGER PRIMARY KEY AUTOINCREMENT,
                    annotationId TEXT NOT NULL UNIQUE,
                    sequence INTEGER NOT NULL,
                    guest TEXT NOT NULL,
                    host TEXT NOT NULL,
                    availabilitySet TEXT,
                    updateDomain INTEGER,
                    rollout INTEGER NOT NULL,
                    step INTEGER NOT NULL,
                    token INTEGER NOT NULL,
                    release TEXT NOT NULL,
                    component TEXT NOT NULL,
                    version TEXT NOT NULL,
                    heldAtMicroseconds INTEGER NOT NULL,
                    holdMicroseconds INTEGER,
                    outcome TEXT NOT NULL,
                    reason TEXT NOT NULL,
                    resumedBy TEXT NOT NULL,
                    clockErrorBeforeMicroseconds INTEGER,
                    clockErrorAfterMicroseconds INTEGER,
                    clockNote TEXT NOT NULL,
                    hypervisorBefore TEXT NOT NULL,
                    hypervisorAfter TEXT NOT NULL,
                    recordedAtMicroseconds INTEGER NOT NULL
                ) STRICT;
                CREATE INDEX annotationByGuest ON annotation (guest, number);
                CREATE INDEX annotationBySet ON annotation (availabilitySet, number);
                CREATE INDEX annotationByHost ON annotation (host, number);
                CREATE INDEX annotationByRollout ON annotation (rollout, number);
                CREATE TABLE outbox (
                    number INTEGER PRIMARY KEY AUTOINCREMENT,
                    annotationId TEXT NOT NULL REFERENCES annotation (annotationId),
                    sink TEXT NOT NULL,
                    line TEXT NOT NULL,
                    deliveredAtMicroseconds INTEGER,
                    UNIQUE (annotationId, sink)
                ) STRICT;
                CREATE INDEX outboxPending ON outbox (sink, number)
                    WHERE deliveredAtMicroseconds IS NULL;
                CREATE TABLE gap (
                    number INTEGER PRIMARY KEY AUTOINCREMENT,
                    history INTEGER NOT NULL,
                    afterSequence INTEGER NOT NULL,
                    beforeSequence INTEGER NOT NULL,
                    noticedAtMicroseconds INTEGER NOT NULL
                ) STRICT;
                """)
    }
    registerBoardMigration(&migrator)
    return migrator
}
