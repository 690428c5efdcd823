"""What a notifier has kept: annotations list, show and templates, and availability.

The file is one that `fermata notifier` made; its rows are written here, as a record of months.
"""
import json
import signal
import sqlite3
import subprocess
from datetime import datetime, timedelta, timezone

from support import BAD_INPUT, FERMATA, USAGE, Scratch, fermata, make_pki, wait_until

NAMES = {"subject", "text", "markdown", "html"}


def microseconds(moment):
    return int(moment.timestamp()) * 1_000_000


def moment(text):
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


class Record(Scratch):
    def setUp(self):
        super().setUp()
        self.database = self.directory / "notifier.db"
        pki = make_pki(self.directory / "pki", "demo", certificates=("notifier-n",))
        process = subprocess.Popen(
            [FERMATA, "notifier", "--server", "127.0.0.1:9", "--credentials", pki / "notifier-n",
             "--database", self.database], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(self.is_made, what="the notifier's file")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)

    def is_made(self):
        # Whoever reads while it is being made could be in the notifier's way.
        if not self.database.with_name(self.database.name + "-wal").exists():
            return False
        database = sqlite3.connect(self.database)
        try:
            return database.execute("SELECT cluster FROM follower").fetchone()
        except sqlite3.OperationalError:
            return False
        finally:
            database.close()

    def hold(self, guest, at, milliseconds, outcome="succeeded", update_domain=0, host="a",
             rollout=1, reason="", availability_set="db"):
        with sqlite3.connect(self.database) as database:
            count = database.execute("SELECT count(*) FROM annotation").fetchone()[0] + 1
            columns = {
                "annotationId": f"rollout-{rollout}.{count}-t{count}-{guest}", "sequence": count,
                "guest": guest, "host": host, "availabilitySet": availability_set,
                "updateDomain": update_domain if availability_set else None, "rollout": rollout,
                "step": count, "token": count, "release": "qemu-7.2.22",
                "component": "hypervisor", "version": "7.2.22",
                "heldAtMicroseconds": microseconds(at),
                "holdMicroseconds": None if milliseconds is None else milliseconds * 1000,
                "outcome": outcome, "reason": reason, "resumedBy": "agent",
                "clockErrorBeforeMicroseconds": -14_000, "clockErrorAfterMicroseconds": -400,
                "clockNote": "", "hypervisorBefore": "7.2.18", "hypervisorAfter": "7.2.22",
                "recordedAtMicroseconds": microseconds(at) + 1_000_000}
            database.execute(
                f"INSERT INTO annotation ({', '.join(columns)}) "
                f"VALUES ({', '.join('?' * len(columns))})", list(columns.values()))
        database.close()
        return columns["annotationId"]

    def bulletin(self, state, guest, step, annotation=None, set_guests=None):
        """What was told of a guest; of an annotation with how many guests its set had."""
        with sqlite3.connect(self.database) as database:
            at = microseconds(moment("2026-04-11T21:59:00"))
            columns = {
                "bulletinId": annotation or f"rollout-1.{step}-{guest}-{state}-{at}", "state": state,
                "history": 1, "sequence": step, "atMicroseconds": at, "guest": guest, "host": "a",
                "rollout": 1, "step": step, "release": "qemu-7.2.22", "component": "hypervisor",
                "version": "7.2.22", "reason": "", "recordedAtMicroseconds": at,
                "setGuestCount": set_guests, "setUpdateDomainCount": set_guests}
            database.execute(
                f"INSERT INTO bulletin ({', '.join(columns)}) "
                f"VALUES ({', '.join('?' * len(columns))})", list(columns.values()))
        database.close()
        return columns["bulletinId"]

    def run_with_database(self, *arguments):
        return fermata(*arguments, "--database", self.database)

    def guests(self, *arguments):
        result = self.run_with_database("annotations", *arguments, "--output", "json")
        self.assertEqual(result.code, 0, str(result))
        return [annotation["guest"] for annotation in result.json]


class Annotations(Record):
    def test_they_are_listed_by_what_they_are_of_and_by_time(self):
        now = datetime.now(timezone.utc)
        self.hold("g0", moment("2026-04-11T22:00:00"), 14)
        self.hold("g1", moment("2026-04-12T22:00:00"), 14, host="b", rollout=2)
        self.hold("g2", now - timedelta(hours=3), 14, availability_set="web")
        self.hold("g3", now - timedelta(hours=1), 14, availability_set=None)
        for arguments, expected in (
                ([], "g0 g1 g2 g3"), (["list"], "g0 g1 g2 g3"), (["list", "--limit", "2"], "g2 g3"),
                (["--since", "2h"], "g3"), (["--since", "4h", "--until", "2h"], "g2"),
                (["--since", "2026-04-12T00:00:00+00:00", "--until", "2026-05-01T00:00:00Z"], "g1"),
                (["--since", "9999d"], "g0 g1 g2 g3"), (["--host", "b"], "g1"),
                (["--rollout", "1", "--set", "web"], "g2"), (["--guest", "g3"], "g3")):
            self.assertEqual(self.guests(*arguments), expected.split(), arguments)
        self.assertFails(self.run_with_database("annotations", "--since", "soon"), USAGE, "soon")

    def test_one_is_shown_in_every_form(self):
        name = self.hold("g0", moment("2026-04-11T22:00:00"), 14, outcome="failed",
                         reason="<the new QEMU>")

        def show(form):
            result = self.run_with_database("annotations", "show", name, "--format", form)
            self.assertEqual(result.code, 0, str(result))
            return result.out

        # How large the set was is kept with what was told; without it nothing is advised.
        self.assertNotIn("only guest", show("text"))
        self.bulletin("failed", "g0", 1, annotation=name, set_guests=1)
        listed = self.run_with_database("annotations", "--output", "json").json[0]
        own = json.loads(show("json"))
        self.assertEqual((own["state"], own["id"]), ("failed", name))
        self.assertEqual({key: own[key] for key in listed}, listed)
        self.assertIn("the only guest of availability set db", show("text"))
        self.assertIn("&lt;the new QEMU&gt;", show("html"))
        self.assertIn("\\<the new QEMU\\>", show("markdown"))
        event = json.loads(show("cloudEvent"))
        self.assertEqual((event["specversion"], event["type"], event["source"], event["data"]),
                         ("1.0", "fermata.hold.failed", "fermata://demo", own))
        headers, body = show("cloudEventBinary").split("\n\n")
        self.assertIn("ce-id: " + name, headers.split("\n"))
        self.assertEqual(json.loads(body), own)
        properties = json.loads(show("resourceHealth"))["data"]["resourceInfo"]["properties"]
        self.assertEqual(properties["annotationName"], "VirtualMachinePlannedFreezeFailed")
        properties = json.loads(show("availabilityStatus"))["data"]["resourceInfo"]["properties"]
        self.assertEqual(properties["availabilityState"], "Available")
        self.assertFails(self.run_with_database("annotations", "show", "other"), BAD_INPUT, "other")

    def test_a_step_that_is_not_over_is_shown_and_told_of(self):
        started = self.bulletin("started", "g0", 4)
        self.bulletin("noticed", "g1", 4)
        for name in ("rollout-1.4", started):
            result = self.run_with_database("annotations", "show", name)
            self.assertEqual(result.code, 0, str(result))
            self.assertIn("the pause of guest g0 on host a began to be prepared", result.out)
        shown = self.run_with_database("annotations", "show", "rollout-1.4", "--format", "json").out
        told = [json.loads(line) for line in shown.splitlines() if line]
        self.assertEqual([(t["guest"], t["state"]) for t in told],
                         [("g0", "started"), ("g1", "noticed")])
        self.assertFails(self.run_with_database("annotations", "show", "rollout-1.4-t9-g1"), BAD_INPUT,
                         "there is no annotation", "guest g1 in rollout-1.4 is 'noticed'",
                         "annotations show rollout-1.4")
        self.assertFails(self.run_with_database("annotations", "show", "rollout-1.5"), BAD_INPUT,
                         "there is no annotation")

    def test_templates_are_written_changed_checked_and_used(self):
        name = self.hold("g0", moment("2026-04-11T22:00:00"), 14)
        directory = self.directory / "templates"
        self.assertEqual(fermata("annotations", "templates", directory).code, 0)
        self.assertEqual({file.stem for file in directory.iterdir()}, NAMES)
        self.assertEqual(fermata("annotations", "templates", "--check", directory).code, 0)
        self.assertNotEqual(fermata("annotations", "templates", directory).code, 0)
        fields = fermata("annotations", "templates", "--fields").out
        self.assertIn("holdMilliseconds", fields)
        (directory / "text.mustache").write_text("{{guest}} stand {{holdMilliseconds}} ms\n")
        result = self.run_with_database("annotations", "show", name, "--templates", directory)
        self.assertEqual(result.out, "g0 stand 14 ms\n")
        result = self.run_with_database("annotations", "--text", "--templates", directory)
        self.assertEqual(result.out, "g0 stand 14 ms\n")
        result = self.run_with_database("annotations", "--output", "json", "--templates", directory)
        self.assertEqual(result.json[0]["text"], "g0 stand 14 ms")
        result = self.run_with_database("annotations", "show", name, "--templates", directory,
                                        "--format", "resourceHealth")
        self.assertIn('"summary":"g0 stand 14 ms"', result.out)
        (directory / "html.mustache").write_text("<p>\n{{gest}}\n")
        result = fermata("annotations", "templates", "--check", directory)
        self.assertFails(result, BAD_INPUT, f"{directory}/html.mustache:2", "gest", "--fields")
        (directory / "html.mustache").unlink()
        result = self.run_with_database("annotations", "show", name, "--templates", directory)
        self.assertFails(result, BAD_INPUT, f"{directory}/html.mustache", "is not there")
        self.assertFails(fermata("annotations", "templates", "--check", directory / "none"),
                         BAD_INPUT, "none", "cannot be read")


class Availability(Record):
    def test_months_are_accounted_for_guests_and_sets(self):
        self.hold("g0", moment("2026-03-31T23:59:59"), 3000)
        self.hold("g1", moment("2026-04-10T00:00:00"), 20, update_domain=1)
        self.hold("g0", moment("2026-04-12T00:00:00"), None, outcome="lost")
        self.hold("g0", moment("2026-04-13T00:00:00"), 20)

        def rows(*arguments):
            result = self.run_with_database("availability", *arguments, "--output", "json")
            self.assertEqual(result.code, 0, str(result))
            return result.json

        april = {row.get("guest") or "set " + row["availabilitySet"]: row
                 for row in rows("--month", "2026-04")}
        self.assertEqual(sorted(april), ["g0", "g1", "set db"])
        self.assertEqual(april["g0"]["unavailableMilliseconds"], 86_400_000 + 2000 + 20)
        self.assertEqual(april["g0"]["assumedMilliseconds"], 86_400_000)
        self.assertEqual(april["g0"]["failureCount"], 1)
        self.assertFalse(april["g0"]["isTargetMet"])
        self.assertTrue(april["g1"]["isTargetMet"])
        # g1 is there from April on, and was not held with g0 at any time.
        self.assertEqual(april["set db"]["unavailableMilliseconds"], 0)
        march = rows("--guest", "g0", "--month", "2026-03")[0]
        self.assertEqual((march["unavailableMilliseconds"], march["isOver"]), (1000, True))
        seen = rows("--guest", "g0", "--month", "2026-04", "--target", "99.9",
                    "--running", "g0=2026-04-12T00:10:00Z")[0]
        self.assertEqual(seen["unavailableMilliseconds"], 600_000 + 2000 + 20)
        self.assertTrue(seen["isTargetMet"])
        now = rows("--set", "db")[-1]
        self.assertFalse(now["isOver"])
        text = self.run_with_database("availability", "--month", "2026-04").out
        self.assertIn("MISSED", text)
        self.assertIn("--running GUEST=TIME", text)
        for wrong in (["--month", "2026-13"], ["--target", "101"], ["--running", "g0"],
                      ["--guest", "a", "--set", "b"]):
            self.assertFails(self.run_with_database("availability", *wrong), USAGE)
