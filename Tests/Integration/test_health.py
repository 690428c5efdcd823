"""Probes of a guest, before and after a hold: who is ill already is not held, who is ill afterwards
stops the rollout, keeps its locks, and is not touched again."""
import http.server
import pathlib
import socket
import threading

from cluster_case import ClusterCase  # first: it sets the path for the others

HOST, ADDRESS, GUEST = "c", "10.77.0.13", "db-2"


class Web(http.server.ThreadingHTTPServer):
    """Answers each GET with the next of `statuses`, the last one again and again."""

    def __init__(self, cluster, statuses):
        self.statuses, self.requests = list(statuses), 0
        address = ADDRESS if cluster.net == "tap" else "127.0.0.1"
        with cluster.in_namespace(HOST):
            super().__init__((address, 0), Answer)
        self.url = "http://%s:%d/health" % self.server_address
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        web = self.server
        status = web.statuses[min(web.requests, len(web.statuses) - 1)]
        web.requests += 1
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def runs(pid):
    """Whether a process executes: a zombie that nobody has waited for does not."""
    try:
        stat = pathlib.Path("/proc", pid, "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Health(ClusterCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(self.restore)

    def restore(self):
        """The host file as it was, and no lock left."""
        c = self.cluster
        c.host_file(HOST).write_text(c.host_file_text(HOST))
        self.restart_agent(HOST)
        self.heal()

    def give_probes(self, *probes):
        """The guest's host file names these probes, besides the one it has."""
        c = self.cluster
        text = c.host_file_text(HOST)
        first, mark, rest = text.partition(f"  - id: {GUEST}\n")
        entry, other, tail = rest.partition("  - id: ")
        lines = [line for line in entry.splitlines() if not line.startswith("    probe:")]
        lines += ["    probes:"] + [f"      - {probe}" for probe in probes]
        c.host_file(HOST).write_text(first + mark + "\n".join(lines) + "\n" + other + tail)
        self.restart_agent(HOST)

    def own_probe(self):
        return 'tcp: "%s:%d"' % self.cluster.guests[GUEST].address

    def script(self, name, text):
        path = self.cluster.directory / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return path

    def web(self, *statuses):
        web = Web(self.cluster, statuses)
        self.addCleanup(web.close)
        return web

    def door(self):
        """Address of a listener that is gone after its first connection."""
        with self.cluster.in_namespace(HOST):
            listener = socket.create_server(
                (ADDRESS if self.cluster.net == "tap" else "127.0.0.1", 0))

        def take_one():
            try:
                listener.accept()[0].close()
            except OSError:
                pass
            listener.close()
        threading.Thread(target=take_one, daemon=True).start()
        return "%s:%d" % listener.getsockname()

    def test_every_kind_of_probe_finds_a_guest_unhealthy_after_its_hold(self):
        web, seen = self.web(200, 503), self.cluster.directory / "seen"
        pids = self.cluster.directory / "pids"
        lagging = self.script("lagging", f"""
            [ -e {seen}-lag ] || {{ touch {seen}-lag; exit 0; }}
            echo "checking $1"; echo "replica is 90 s behind" >&2; exit 3""")
        hanging = self.script("hanging", f"""
            [ -e {seen}-hang ] || {{ touch {seen}-hang; exit 0; }}
            sleep 600 &
            echo $$ $! >> {pids}; echo "waiting for quorum"; wait""")
        self.give_probes(
            f"{{name: fine, {self.own_probe()}, timeout: 10s}}",
            f'{{name: door, tcp: "{self.door()}", timeout: 1s}}',
            f"{{name: web, http: \"{web.url}\", timeout: 4s, attempts: 2, interval: 50ms}}",
            f"{{name: lag, command: {lagging}, arguments: [the lag], attempts: 1}}",
            f"{{name: quorum, command: {hanging}, timeout: 3s}}")
        release = self.next_release(GUEST)
        rollout = self.roll(release, HOST)
        self.assertNotIn(rollout["state"], ("succeeded", "running"), rollout)
        (step,) = self.steps(rollout, GUEST)
        (hold,) = step["holds"]
        self.assertEqual(hold["outcome"], "unhealthy", hold)
        reason = hold["reason"]
        self.assertIn("probe door: no connection to", reason)
        self.assertIn("probe web: HTTP status 503, not 200 to 299 (tried 2 times", reason)
        self.assertIn("probe lag: exit code 3: checking the lag; replica is 90 s behind", reason)
        self.assertIn("probe quorum: took longer than 3.0 seconds and was killed: "
                      "waiting for quorum", reason)
        self.assertNotIn("probe fine", reason)
        for pid in pids.read_text().split():
            self.wait(lambda p=pid: not runs(p), 10, f"process {pid} of the probe to be gone")
        # It stays where it is, its lock stays, and it is not asked again.
        self.assertEqual(self.versions()[GUEST], hold["hypervisorAfter"])
        stuck = [lock for lock in self.cluster.cli_json("locks") if lock["stuck"]]
        self.assertEqual([lock["set"] for lock in stuck], ["db"])
        self.assertEqual(web.requests, 3)

    def test_a_guest_that_is_ill_already_is_not_held(self):
        web = self.web(500)
        self.give_probes(f"{{{self.own_probe()}}}",
                         f"{{name: web, http: \"{web.url}\", status: 200-499, timeout: 5s, attempts: 1}}")
        before = self.versions()[GUEST]
        rollout = self.roll(self.next_release(GUEST), HOST)
        self.assertNotIn(rollout["state"], ("succeeded", "running"), rollout)
        (step,) = self.steps(rollout, GUEST)
        self.assertEqual(step["holds"], [], step)
        self.assertIn("nothing was held: db-2: it is unhealthy already before the hold: "
                      "probe web: HTTP status 500, not 200 to 499", step["reason"])
        self.assertEqual(self.versions()[GUEST], before)

    def test_a_probe_that_succeeds_in_a_later_try_is_enough(self):
        web = self.web(200, 503, 503, 204)
        self.give_probes(f"{{http: \"{web.url}\", timeout: 10s, interval: 20ms}}")
        rollout = self.roll(self.next_release(GUEST), HOST)
        (step,) = self.steps(rollout, GUEST)
        self.assertEqual([h["outcome"] for h in step["holds"]], ["succeeded"], step)
        self.assertEqual(web.requests, 4)
