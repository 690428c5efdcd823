import GRDB

// The notifier's database:
//
//   follower (one row)   cluster, sequence of the last event stored, history
//   annotation           one row for each hold; annotationId is the idempotency key
//   bulletin             one row for all that is told of one guest; those with an annotation have its id
//   outbox               one row for each bulletin and sink: pending until it is delivered or dead;
//                        isAgain if an operator has put it in again, which other notifiers know nothing of
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
    migrator.registerMigration("2 bulletins and attempts") { try makeBulletins($0) }
    registerBoardMigration(&migrator)
    migrator.registerMigration("3 sets of bulletins") { database in
        try database.execute(
            sql: """
                ALTER TABLE bulletin ADD COLUMN possiblePairs TEXT NOT NULL DEFAULT '';
                ALTER TABLE bulletin ADD COLUMN setGuestCount INTEGER;
                ALTER TABLE bulletin ADD COLUMN setUpdateDomainCount INTEGER;
                """)
    }
    migrator.registerMigration("4 rows put in again") { database in
        try database.execute(
            sql: """
                ALTER TABLE outbox ADD COLUMN isAgain INTEGER NOT NULL DEFAULT 0;
                CREATE INDEX outboxUnsettled ON outbox (sink, bulletin)
                    WHERE deliveredAtMicroseconds IS NULL AND deadAtMicroseconds IS NULL
                        AND isAgain = 0;
                """)
    }
    migrator.registerMigration("5 cancelled after the start") { database in
        // What was cancelled has the id of what was told before, and `-cancelled`.
        try database.execute(
            sql: """
                ALTER TABLE bulletin ADD COLUMN wasStarted INTEGER NOT NULL DEFAULT 0;
                UPDATE bulletin SET wasStarted = 1 WHERE state = 'cancelled' AND EXISTS (
                    SELECT 1 FROM bulletin AS earlier WHERE earlier.state = 'started'
                        AND earlier.bulletinId || '-cancelled' = bulletin.bulletinId
                        AND earlier.bulletinId = substr(
                            bulletin.bulletinId, 1, length(bulletin.bulletinId) - 10));
                """)
    }
    registerNoticedAtMigration(&migrator)
    registerPlacesMigration(&migrator)
    migrator.registerMigration("8 refusals") { database in
        try database.execute(
            sql: "ALTER TABLE outbox ADD COLUMN refusals INTEGER NOT NULL DEFAULT 0")
    }
    return migrator
}

/// Each annotation gets its bulletin, each row of the outbox the counts that it needs. What a row says is
/// made of the bulletin when it is sent.
private func makeBulletins(_ database: Database) throws {
    try database.execute(
        sql: """
            CREATE TABLE bulletin (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                bulletinId TEXT NOT NULL UNIQUE,
                state TEXT NOT NULL,
                history INTEGER NOT NULL,
                sequence INTEGER NOT NULL,
                atMicroseconds INTEGER NOT NULL,
                guest TEXT NOT NULL,
                host TEXT NOT NULL,
                availabilitySet TEXT,
                updateDomain INTEGER,
                rollout INTEGER NOT NULL,
                step INTEGER NOT NULL,
                token INTEGER,
                release TEXT NOT NULL,
                component TEXT NOT NULL,
                version TEXT NOT NULL,
                notBeforeMicroseconds INTEGER,
                reason TEXT NOT NULL,
                recordedAtMicroseconds INTEGER NOT NULL
            ) STRICT;
            INSERT INTO bulletin (bulletinId, state, history, sequence, atMicroseconds, guest, host,
                    availabilitySet, updateDomain, rollout, step, token, release, component, version,
                    notBeforeMicroseconds, reason, recordedAtMicroseconds)
                SELECT annotationId, CASE outcome WHEN 'succeeded' THEN 'succeeded' ELSE 'failed' END,
                    (SELECT history FROM follower), sequence, recordedAtMicroseconds, guest, host,
                    availabilitySet, updateDomain, rollout, step, token, release, component, version,
                    NULL, reason, recordedAtMicroseconds
                FROM annotation ORDER BY number;
            CREATE INDEX bulletinByStep ON bulletin (rollout, step);
            CREATE INDEX bulletinByTime ON bulletin (recordedAtMicroseconds);
            CREATE INDEX annotationByTime ON annotation (recordedAtMicroseconds);
            ALTER TABLE outbox RENAME TO outboxOfLines;
            DROP INDEX outboxPending;
            CREATE TABLE outbox (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                bulletin INTEGER NOT NULL REFERENCES bulletin (number) ON DELETE CASCADE,
                sink TEXT NOT NULL,
                attempts INTEGER NOT NULL DEFAULT 0,
                nextAttemptAtMicroseconds INTEGER,
                deliveredAtMicroseconds INTEGER,
                deadAtMicroseconds INTEGER,
                problem TEXT NOT NULL DEFAULT '',
                UNIQUE (bulletin, sink)
            ) STRICT;
            INSERT INTO outbox (number, bulletin, sink, deliveredAtMicroseconds)
                SELECT outboxOfLines.number, bulletin.number, sink, deliveredAtMicroseconds
                FROM outboxOfLines JOIN bulletin ON bulletinId = annotationId
                ORDER BY outboxOfLines.number;
            DROP TABLE outboxOfLines;
            CREATE INDEX outboxPending ON outbox (sink, number)
                WHERE deliveredAtMicroseconds IS NULL AND deadAtMicroseconds IS NULL;
            CREATE INDEX outboxDead ON outbox (sink, number) WHERE deadAtMicroseconds IS NOT NULL;
            """)
}
