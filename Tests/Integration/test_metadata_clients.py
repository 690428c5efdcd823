"""Clients of scheduled events that others wrote, unmodified, against the notifier at 169.254.169.254.

- azure-events and azure-events-az of Debian's resource-agents 4.12.0 (urllib), run by a real Pacemaker
  of two guests. At each look, by GET and on a connection of its own:
  `/metadata/instance?api-version=2019-08-01`, from which it takes compute.name, then
  `/metadata/scheduledevents?api-version=2019-08-01`; headers Metadata: true, Accept-Encoding: identity,
  User-Agent: Pacemaker-ResourceAgent/0.10 Debian/12, Connection: close. Once the guest is drained: POST
  to the latter, `{"StartRequests": [{"EventId": "…"}]}` as application/x-www-form-urlencoded; what is
  answered has to be empty or JSON. An EventId must not be a number, nor have a comma. A document whose
  incarnation it has seen to the end is skipped. Resources that it does not know confuse it.
  azure-events-az acknowledges for its own guest; azure-events only ever for another: it goes into
  standby with its guest, and a neighbour that sees the event says that it may start.
- busybox wget, in a QEMU guest, over its tap: GET and POST with api-version 2020-07-01.
- curl, as in the documentation: `-H Metadata:true`, and `-d` for the POST.

Each goes through notice, acknowledgement, hold and removal, of real guests. The notices are of ten
minutes, so a rollout that is over before has been shortened by an acknowledgement.
"""
import calendar
import json
import os
import socket
import subprocess
import time
import unittest

from metadata_lab import EVENTS, METADATA, MetadataCluster, Pacemaker, Reader  # sets the path

from support import CACHE, FERMATA, wait_until

from lab import may_use_taps

NOTICE_SECONDS = 600
_cluster = _pacemaker = None


def setUpModule():
    global _cluster
    if not may_use_taps():
        raise unittest.SkipTest("needs root, for network namespaces")
    _cluster = MetadataCluster(FERMATA, CACHE,
                               keep_directory=bool(os.environ.get("FERMATA_KEEP_LOGS")))
    unittest.addModuleCleanup(_cluster.close)
    _cluster.start()
    _cluster.add_release("to-new", _cluster.new)
    _cluster.add_release("to-old", _cluster.old)


def pacemaker():
    """Pacemaker on db-0 and db-1; begun on the first call."""
    global _pacemaker
    if _pacemaker is None:
        _pacemaker = Pacemaker(_cluster)
    return _pacemaker


class MetadataClients(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.cluster = _cluster

    def start(self, host):
        """A rollout over this host with a notice that nobody here would wait for; its id."""
        c = self.cluster
        version = next(g["hypervisorVersion"] for g in c.cli_json("guests") if g["host"] == host)
        release = "to-old" if version == c.new["version"] else "to-new"
        rollout = c.cli_json(
            "rollout", "start", "--release", release, "--host", host, "--deadline", "10s",
            "--notice", f"{NOTICE_SECONDS}s", "--acknowledgement", "shortens")["rollout"]
        self.addCleanup(self.end, rollout)
        return rollout

    def end(self, rollout):
        """Of a test that failed: nothing of it is left for the next."""
        if not self.cluster.cli_json("rollout", "show", rollout)["finishedAt"]:
            self.cluster.cli("rollout", "abort", rollout, "--reason", "the test is over")
            self.finish(rollout)

    def finish(self, rollout, seconds=120):
        """Waits until a rollout is over; the whole of it."""
        def look():
            found = self.cluster.cli_json("rollout", "show", rollout)
            return found if found["finishedAt"] else None
        return wait_until(look, seconds, f"{rollout} to be over")

    def assertHeld(self, rollout, *guests):
        """Exactly these were held, each once, and run the new software now."""
        holds = [hold for step in rollout["steps"] for hold in step["holds"]]
        self.assertEqual([(h["guest"], h["outcome"]) for h in holds],
                         [(guest, "succeeded") for guest in guests], rollout)

    def assertSeen(self, documents, *resources):
        """A guest has read of one event from its notice to its removal, in this order."""
        def statuses(document):
            return [event["EventStatus"] for event in document["Events"]]
        incarnations = [document["DocumentIncarnation"] for document in documents]
        self.assertEqual(incarnations, sorted(set(incarnations)), "incarnations of documents")
        self.assertEqual([statuses(document) for document in documents],
                         [[], ["Scheduled"], ["Started"], []], documents)
        events = [event for document in documents for event in document["Events"]]
        for event in events:
            self.assertEqual((event["EventType"], event["Resources"]), ("Freeze", list(resources)))
        self.assertEqual(len({event["EventId"] for event in events}), 1, events)
        self.assertEqual(events[-1]["NotBefore"], "")
        return events[0]["EventId"]

    # ---- Debian's resource agents ----

    def assertLine(self, log, *words):
        """There is a line with all of these; its number."""
        for number, line in enumerate(log):
            if all(word in line for word in words):
                return number
        self.fail(f"no line says {words}:\n" + "\n".join(log))

    def through(self, agent):
        """A rollout over host a, with this agent in the guests; the event and what both logs say of it."""
        p = pacemaker()
        p.configure(agent)
        p.move("db-0")
        for guest, name in [("db-0", "db-0"), ("db-1", "db-1")]:
            # By what the service says of who asks; it is set before anything else.
            self.assertEqual(p.attribute(guest, "azName"), name)
        wait_until(p.settled, 60, f"nothing to be under way\n{p.state()}", 0.3)
        before = {guest: len(p.log(guest)) for guest in p.members}
        with Reader(self.cluster, "in-db-1") as reader:
            wait_until(lambda: reader.documents, 30, "a first document")
            rollout = self.start("a")
            found = self.finish(rollout)
            wait_until(lambda: reader.documents[-1]["Events"] == [], 30, "the removal")
        self.assertHeld(found, "db-0")
        event = self.assertSeen(reader.documents, "db-0")
        # The agents have seen the removal, and the guest takes part again.
        state = f"{agent}_curNodeState"
        wait_until(lambda: p.attribute("db-0", state) == "AVAILABLE", 60,
                   f"{agent} to be at ease again\n{p.state()}", 0.3)
        wait_until(p.runs_everywhere, 60, f"{agent} to run on both again\n{p.state()}", 0.3)
        # Drained it was before it was held, as the logs say; whether the database stays where it went or
        # comes back is Pacemaker's choice.
        wait_until(lambda: p.place() in p.members, 60, f"the database to run\n{p.state()}", 0.3)
        return event, {guest: p.log(guest)[before[guest]:] for guest in p.members}

    def test_azure_events_drains_its_guest_and_a_neighbour_says_that_it_may_start(self):
        event, logs = self.through("azure-events")
        stopping = self.assertLine(logs["db-0"], "can handle local events", event, "STOPPING")
        standby = self.assertLine(logs["db-0"], "put node standby")
        # Whoever looks first after the removal brings it back: a neighbour that does says so, and the guest
        # itself still ends its event. A neighbour that looks second finds nothing to do, and says nothing.
        over = self.assertLine(logs["db-0"], "all local events finished", "AVAILABLE")
        self.assertLess(stopping, standby)
        self.assertLess(standby, over)
        self.assertLine(logs["db-1"], "forceEvents: postData", event)
        self.assertNotIn("forceEvents", "\n".join(logs["db-0"]))

    def test_azure_events_az_drains_its_guest_and_says_itself_that_it_may_start(self):
        event, logs = self.through("azure-events-az")
        self.assertLine(logs["db-0"], "can handle local events", event, "STOPPING")
        forced = self.assertLine(logs["db-0"], "forceEvents: postData", event)
        over = self.assertLine(logs["db-0"], "all local events finished", "AVAILABLE")
        self.assertLess(forced, over)
        # The neighbour has seen the event, and that it is not its own.
        self.assertNotIn(event, "\n".join(logs["db-1"]))

    # ---- others ----

    def curl(self, inside, *arguments):
        done = subprocess.run(
            self.cluster.inside(inside) + ["curl", "-sS", "--max-time", "10", "--fail-with-body",
                                           "-H", "Metadata:true", *arguments,
                                           f"http://{METADATA}{EVENTS}"],
            capture_output=True, text=True, check=False, env=self.cluster.environment)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        return done.stdout

    def test_curl_reads_and_acknowledges(self):
        with Reader(self.cluster, "in-db-0") as reader:
            wait_until(lambda: reader.documents, 30, "a first document")
            rollout = self.start("b")
            (event,) = wait_until(lambda: json.loads(self.curl("in-db-1"))["Events"], 30, "a notice")
            self.assertGreater(
                calendar.timegm(time.strptime(event["NotBefore"], "%a, %d %b %Y %H:%M:%S GMT"))
                - time.time(), NOTICE_SECONDS / 2)
            body = json.dumps({"StartRequests": [{"EventId": event["EventId"]}]})
            wait_until(lambda: reader.documents[-1]["Events"], 30, "the notice at db-0")
            self.assertIn(self.curl("in-db-1", "-d", body)[:1], ("", "{"))
            self.assertHeld(self.finish(rollout), "db-1")
            wait_until(lambda: reader.documents[-1]["Events"] == [], 30, "the removal")
        self.assertEqual(self.assertSeen(reader.documents, "db-1"), event["EventId"])

    def test_a_guest_acknowledges_from_inside(self):
        """web-0 is of no set: what it reads is its own event alone, and nobody else reads that."""
        rollout = self.start("c")
        (step,) = self.finish(rollout)["steps"]
        self.assertEqual([h["guest"] for h in step["holds"]], ["web-0"])
        for inside in ("in-db-0", "in-db-1"):
            self.assertEqual(self.cluster.document(inside)["Events"], [])

    # ---- the plumbing ----

    def rules(self, host):
        return self.cluster.run("nft", "list", "ruleset", namespace=host)

    def addresses(self, host):
        return self.cluster.run("ip", "-4", "-o", "address", "show", "dev", "br0", namespace=host)

    def test_plumbing_is_repeatable_and_leaves_nothing(self):
        c = self.cluster
        before = self.rules("b"), self.addresses("b")
        c.plumb("b", "br0")
        self.assertEqual((self.rules("b"), self.addresses("b")), before)
        self.assertEqual(c.document("in-db-1")["Events"], [])
        c.plumb("b", "--remove", "br0", "gone-0")
        self.addCleanup(c.plumb, "b", "br0")
        self.assertEqual(self.rules("b").strip(), "")
        self.assertNotIn(METADATA, self.addresses("b"))
        c.plumb("b", "--remove", "br0")
        # Without it nobody answers: neither this host nor, over the uplink, another.
        with self.assertRaises(OSError):
            c.document("in-db-1")
        c.plumb("b", "br0")
        self.assertEqual(c.document("in-db-1")["Events"], [])

    def test_a_guest_cannot_pass_for_the_service(self):
        """A guest says on the wire that it is 169.254.169.254; another host's guest is not told."""
        c = self.cluster
        own = json.loads(c.run("ip", "-j", "link", "show", "br0", namespace="b"))[0]["address"]
        liar = json.loads(c.run("ip", "-j", "link", "show", "eth0", namespace="in-db-0"))[0]["address"]
        hardware = bytes.fromhex(liar.replace(":", ""))
        ip = socket.inet_aton(METADATA)
        c.document("in-db-1")                   # it knows whom to ask, or would not listen to news
        with c.in_namespace("in-db-0"):
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            wire.bind(("eth0", 0))
        with wire:
            for _ in range(20):             # what was just learned is not unlearned for a second
                wire.send(b"\xff" * 6 + hardware + b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02"
                          + hardware + ip + hardware + ip)
                time.sleep(0.1)
        neighbours = c.run("ip", "neigh", "show", METADATA, namespace="in-db-1")
        self.assertIn(own, neighbours)
        self.assertEqual(c.document("in-db-1")["Events"], [])

    def test_another_port_by_redirection_sees_the_same_guest(self):
        c = self.cluster
        notifier = c.notifiers["c"]
        notifier.stop()
        changed = [w if w != f"{METADATA}:80" else "0.0.0.0:8254" for w in notifier.arguments]
        usual, notifier.arguments = notifier.arguments, changed

        def restore():
            notifier.stop()
            notifier.arguments = usual
            c.plumb("c", "br0")
            notifier.start()
        self.addCleanup(restore)
        c.plumb("c", "--to", "8254", "br0")
        notifier.start()
        rollout = self.start("c")
        self.assertHeld(self.finish(rollout), "web-0")


if __name__ == "__main__":
    unittest.main()
