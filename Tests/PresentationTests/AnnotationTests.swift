import Fleet
import Testing

@testable import Presentation

@Suite struct AnnotationTests {
    @Test("the JSON of an annotation has every key of the contract, in its order")
    func json() {
        #expect(
            Samples.annotation().json.pretty == """
                {
                  "annotationId": "rollout-1.3-t7-db-0",
                  "annotation": "hypervisorUpdateSucceeded",
                  "guest": "db-0",
                  "host": "a",
                  "availabilitySet": "db",
                  "updateDomain": 0,
                  "heldAt": "2026-04-11T22:26:58.123456Z",
                  "holdMilliseconds": 14.2,
                  "outcome": "succeeded",
                  "reason": "",
                  "component": "hypervisor",
                  "release": "qemu-7.2.22",
                  "version": "7.2.22",
                  "rollout": "rollout-1",
                  "step": "rollout-1.3",
                  "token": 7,
                  "resumedBy": "agent",
                  "clockErrorMillisecondsBefore": -14,
                  "clockErrorMillisecondsAfter": -0.4,
                  "clockNote": "",
                  "hypervisorBefore": "7.2.18",
                  "hypervisorAfter": "7.2.22",
                  "recordedAt": "2026-04-11T22:26:59.123456Z",
                  "text": "\(Samples.annotation().text)"
                }
                """)
    }

    @Test("a guest without a set and without a measured hold has nulls")
    func jsonNulls() {
        let lost = Samples.record(outcome: .lost, hold: nil, before: nil, after: nil)
        let line = Samples.annotation(lost, pair: nil).json.compact
        for key in [
            "availabilitySet", "updateDomain", "holdMilliseconds", "clockErrorMillisecondsBefore",
            "clockErrorMillisecondsAfter",
        ] {
            #expect(line.contains("\"\(key)\":null"))
        }
        #expect(line.contains("\"annotation\":\"hypervisorUpdateLost\""))
    }

    @Test("a success tells when, how long, why, memory, clock and the set")
    func succeeded() {
        #expect(
            Samples.annotation().text
                == "On 2026-04-11 at 22:26:58.123 UTC guest db-0 on host a was paused for 14.2 ms "
                + "to update the QEMU under it from 7.2.18 to 7.2.22. Its memory stayed in RAM, "
                + "it was not rebooted, and its programs went on where they had stopped. "
                + "Afterwards its clock was 14.0 ms behind; it was corrected and is now 0.4 ms "
                + "behind. Availability set db is updated one update domain at a time; this was "
                + "update domain 0.")
    }

    @Test("a guest without a set is told what a set would give it")
    func noSet() {
        #expect(
            Samples.annotation(pair: nil).text.hasSuffix(
                "is now 0.4 ms behind. It belongs to no availability set: put two or more guests "
                    + "that back each other up in one, and they will never be paused at the same "
                    + "time."))
    }

    @Test("a failure says that the old software runs on, and why")
    func failed() {
        let record = Samples.record(
            outcome: .failed, reason: "the new QEMU exited with status 1", before: nil, after: nil,
            note: "the guest has no guest agent", versionAfter: "7.2.18")
        #expect(
            Samples.annotation(record).text
                == "On 2026-04-11 at 22:26:58.123 UTC guest db-0 on host a was paused for 14.2 ms "
                + "to update the QEMU under it from 7.2.18 to 7.2.22. The update was undone: the "
                + "new QEMU exited with status 1. It runs on as before. Its memory stayed in RAM, "
                + "it was not rebooted, and its programs went on where they had stopped. Its "
                + "clock was not corrected: the guest has no guest agent. Availability set db is "
                + "updated one update domain at a time; this was update domain 0.")
    }

    @Test("an unhealthy guest's set stays closed, and the guard is named")
    func unhealthy() {
        let record = Samples.record(
            outcome: .unhealthy, reason: "the guest agent does not answer.", resumedBy: .guard,
            before: -2_500_000, after: nil, note: "the guest agent does not answer")
        #expect(
            Samples.annotation(record).text
                == "On 2026-04-11 at 22:26:58.123 UTC guest db-0 on host a was paused for 14.2 ms "
                + "to update the QEMU under it from 7.2.18 to 7.2.22. It runs again, but could "
                + "not be confirmed healthy: the guest agent does not answer. No other update "
                + "domain of availability set db will be paused until it is healthy or an "
                + "operator releases the lock. The guard on its host let it go on, because the "
                + "host's agent could not. Afterwards its clock was 2.50 s behind and was not "
                + "corrected: the guest agent does not answer.")
    }

    @Test("a lost guest is not said to have gone on")
    func lost() {
        let record = Samples.record(
            outcome: .lost, reason: "its process was killed", hold: nil, before: nil, after: nil)
        #expect(
            Samples.annotation(record, pair: nil).text
                == "On 2026-04-11 at 22:26:58.123 UTC guest db-0 on host a was paused to update "
                + "the QEMU under it from 7.2.18 to 7.2.22 and did not go on. It does not run any "
                + "more: its process was killed. Look at it before anything else is updated. It "
                + "belongs to no availability set: put two or more guests that back each other up "
                + "in one, and they will never be paused at the same time.")
    }

    @Test("a text is one line whatever the reason holds")
    func oneLine() {
        let record = Samples.record(outcome: .failed, reason: "first\nsecond\u{1B}[2J")
        #expect(!Samples.annotation(record).text.contains { $0.isNewline || $0 == "\u{1B}" })
    }

    @Test("annotations stand in a table, oldest first")
    func table() {
        let second = Samples.record(
            outcome: .failed, hold: nil, before: nil, after: nil, versionAfter: "7.2.18")
        let expected =
            """
            HELD AT (UTC)            GUEST  HOST  SET  UD     HOLD  CLOCK BEFORE    AFTER  QEMU             OUTCOME
            2026-04-11 22:26:58.123  db-0   a     db    0  14.2 ms      -14.0 ms  -0.4 ms  7.2.18 > 7.2.22  succeeded
            2026-04-11 22:26:58.123  db-0   a     -     -        -             -        -  7.2.18           failed

            """
        #expect(
            text(of: [Samples.annotation(), Samples.annotation(second, pair: nil)]) == expected)
    }
}
