"""The notifier's sinks on real receivers, with holds of scripted agents."""
import email
import hashlib
import hmac
import http.server
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

from support import (  # first: it sets the path for the others
    BAD_INPUT, FERMATA, Scratch, UNAVAILABLE, USAGE, fermata, make_pki, wait_until)

from guest_service import Host
from scripted_agent import ScriptedAgent, wait_finished
from test_python_client import ServerCase

SECRET = b"the key"


class Hook(http.server.ThreadingHTTPServer):
    """Takes webhooks; `script` says what it does to the next ones, then all is well."""
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *script):
        self.script, self.requests = list(script), []
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = "http://127.0.0.1:%d" % self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        pass

    def taken(self):
        """The ids of those that were answered well."""
        return [headers["Idempotency-Key"] for headers, _, what in list(self.requests) if what == "ok"]

    def close(self):
        self.shutdown()
        self.server_close()


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        script = self.server.script
        what = script.pop(0) if script else "ok"
        self.server.requests.append((self.headers, body, what))
        if what == "stall":
            time.sleep(3)
        if what in ("stall", "reset"):
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        status = what if isinstance(what, int) else 200
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "1")
        # One that lies says 200 and breaks off.
        self.send_header("Content-Length", "100" if what == "lie" else "2")
        self.end_headers()
        self.wfile.write(b"ok")
        self.close_connection = what == "lie"

    def log_message(self, *_):
        pass


class SinkCase(ServerCase):
    def setUp(self):
        super().setUp()
        self.database = self.directory / "notifier.db"
        self.key = self.write("key", SECRET.decode() + "\n")
        self.notifier = None

    def hook(self, *script):
        hook = Hook(*script)
        self.addCleanup(hook.close)
        return hook

    def start_notifier(self, sinks=None, *options, environment=None, inside=()):
        """`inside`: what runs it, such as `unshare`."""
        if sinks is not None:
            self.sinks = self.write("sinks.yaml", sinks)
        with open(self.directory / "notifier.log", "ab") as log:
            self.notifier = subprocess.Popen(
                [*map(str, inside), FERMATA, "notifier", "--server", self.address, "--credentials",
                 self.pki / "notifier-n", "--database", self.database, "--quiet", "--sinks",
                 self.sinks, *options], stdout=subprocess.PIPE, stderr=log, text=True,
                env=dict(os.environ, **(environment or {})))
        self.addCleanup(self.end_server, self.notifier)
        self.assertIn("fermata notifier ready", self.notifier.stdout.readline())

    def hold(self, guests, version):
        """A rollout that holds each of them once; the annotations' ids."""
        self.add_release("r" + version, version)
        with ScriptedAgent(self.address, self.pki / "agent-a", guests):
            started = self.fermata_json("rollout", "start", "--release", "r" + version)
            wait_finished(self.fermata_json, started["rollout"])

    def log(self):
        return (self.directory / "notifier.log").read_text()

    def pending(self):
        """How many bulletins wait, by sink; those that have none are not there."""
        database = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30)
        try:
            return dict(database.execute(
                "SELECT sink, count(*) FROM outbox WHERE deliveredAtMicroseconds IS NULL "
                "AND deadAtMicroseconds IS NULL GROUP BY sink"))
        finally:
            database.close()

    def dead_letters(self):
        return fermata("notifier", "dead-letters", "list", "--database", self.database, "--output",
                       "json").json

    def wait_dead(self, **sinks):
        """Waits until each of these sinks has as many dead letters; the reasons, by sink."""
        reasons = {}

        def look():
            reasons.clear()
            for letter in self.dead_letters():
                reasons.setdefault(letter["sink"], []).append(letter["reason"])
            return {name: len(found) for name, found in reasons.items()} == sinks
        try:
            wait_until(look, 60, f"dead letters of {sinks}", interval=0.3)
        except AssertionError as error:
            raise AssertionError(f"{error}: {reasons}") from None
        return reasons

    def annotations(self, count):
        def look():
            done = fermata("annotations", "--database", self.database, "--output", "json")
            return done.code == 0 and len(done.json) == count and done.json
        return wait_until(look, what=f"{count} annotations in the record")


class Webhooks(SinkCase):
    def test_fails_stalls_resets_and_lies(self):
        good, bad = self.hook(), self.hook(500, "reset", "lie", 503, "stall")
        self.start_notifier(f"""
sinks:
  - name: good
    webhook: {{url: {good.url}, secretFile: {self.key}, headers: {{X-Team: db}}}}
  - name: bad
    webhook: {{url: {bad.url}, timeout: 1s}}
    retry: {{first: 50ms, longest: 200ms}}
  - name: lines
    file: {{path: {self.directory}/lines.jsonl}}
  - name: command
    command: {{path: /bin/sh, arguments: [-c, "cat >> {self.directory}/commanded"]}}
""")
        guests = [f"db-{number}" for number in range(4)]
        self.hold(guests, "2")
        ids = sorted(a["annotationId"] for a in self.annotations(4))
        wait_until(lambda: sorted(good.taken()) == ids, what="the good one to have all")
        wait_until(lambda: set(bad.taken()) == set(ids), what="the bad one to have all")
        self.assertGreaterEqual(len(bad.requests), 9)
        for headers, body, _ in good.requests:
            self.assertEqual(headers["X-Team"], "db")
            told = json.loads(body)
            self.assertEqual(told["id"], headers["Idempotency-Key"])
            stamp, code = headers["Fermata-Signature"].split(",")
            signed = stamp[2:].encode() + b"." + body
            self.assertEqual(code, "v1=" + hmac.new(SECRET, signed, hashlib.sha256).hexdigest())
            self.assertLess(abs(int(stamp[2:]) - time.time()), 60)
        path = self.directory / "lines.jsonl"
        wait_until(lambda: path.exists() and len(path.read_text().splitlines()) == 4)
        self.assertEqual(sorted(json.loads(line)["id"] for line in path.read_text().splitlines()), ids)
        wait_until(lambda: (self.directory / "commanded").exists()
                   and (self.directory / "commanded").read_text().count('"annotationId"') == 4)

    def test_dead_letters_are_listed_replayed_and_dropped(self):
        hook = self.hook(*[404] * 6)
        self.start_notifier(f"""
sinks:
  - name: ops
    webhook: {{url: {hook.url}}}
    retry: {{first: 20ms, longest: 50ms}}
    inFlight: 1
""")
        self.hold(["db-0", "db-1"], "2")
        first, second = wait_until(lambda: (lambda l: len(l) == 2 and l)(self.dead_letters()))
        self.assertIn("it answered 404", first["reason"] + second["reason"])
        done = fermata("notifier", "dead-letters", "replay", "--database", self.database, "--id",
                       first["id"])
        self.assertEqual(done.out, "1 will be sent again\n", str(done))
        began = time.monotonic()
        wait_until(lambda: hook.taken() == [first["id"]])
        self.assertLess(time.monotonic() - began, 30)
        done = fermata("notifier", "dead-letters", "drop", "--database", self.database)
        self.assertEqual(done.out, "1 dropped\n", str(done))
        self.assertEqual(self.dead_letters(), [])
        done = fermata("annotations", "replay", "--database", self.database, "--to", "ops",
                       "--guest", "db-1")
        self.assertEqual(done.out, "1 will be sent again\n", str(done))
        wait_until(lambda: len(hook.taken()) == 2)
        replay = ("annotations", "replay", "--database", self.database, "--to", "nope")
        self.assertFails(fermata(*replay), BAD_INPUT, "ever due to a sink nope", "--new")
        self.assertEqual(fermata(*replay, "--new").out, "2 will be sent again\n")
        drop = ("notifier", "dead-letters", "drop", "--database", self.database, "--sink", "nope")
        self.assertEqual(fermata(*drop).out, "0 dropped\n")
        self.assertEqual(fermata(*drop, "--pending").out, "2 dropped\n")

    def test_killed_again_and_again(self):
        """Whenever it dies, the record has each hold once, and each sink gets it."""
        hook = self.hook()
        sinks = f"""
sinks:
  - name: ops
    webhook: {{url: {hook.url}}}
  - name: lines
    file: {{path: {self.directory}/lines.jsonl}}
"""
        self.start_notifier(sinks)
        for number in range(4):
            guests = [f"g{number}-{index}" for index in range(6)]
            killer = threading.Timer(0.1 + number * 0.25, self.notifier.send_signal, [signal.SIGKILL])
            killer.start()
            self.hold(guests, str(number + 2))
            killer.join()
            self.notifier.wait()
            self.start_notifier()
            fermata("hosts")
        held = self.fermata_json("rollout", "list")
        self.assertEqual(len(held), 4)
        ids = sorted(a["annotationId"] for a in self.annotations(24))
        wait_until(lambda: set(hook.taken()) == set(ids), what="the webhook to have all")
        path = self.directory / "lines.jsonl"
        wait_until(lambda: sorted(json.loads(line)["id"] for line in path.read_text().splitlines())
                   == ids, what="the file to have each once")


class Texts(SinkCase):
    def test_a_second_guest_is_advised_only_where_there_is_none(self):
        hook = self.hook()
        self.add_release("two", "2")
        guests = {"db-0": ("db", 0, "127.9.3.1"), "db-1": ("db", 1, "127.9.3.2"),
                  "close-0": ("close", 2, "127.9.3.3"), "close-1": ("close", 2, "127.9.3.4"),
                  "alone": ("solo", 0, "127.9.3.5"), "free": ("", 0, "127.9.3.6")}
        with Host(self.address, self.pki / "agent-a", guests) as host:
            host.go.clear()
            self.start_notifier(f"""
sinks:
  - name: hook
    webhook: {{url: {hook.url}}}
""")
            rollout = self.fermata_json("rollout", "start", "--release", "two")["rollout"]
            # It asks for the sets before it acknowledges that a step has begun.
            wait_until(lambda: [n["eventsBehind"] for n in self.fermata_json("status")["notifiers"]
                                if n["name"] == "n"] == [0], 60, "the notifier to know the sets")
            host.go.set()
            wait_finished(self.fermata_json, rollout, 60)
        annotations = self.annotations(6)
        wait_until(lambda: len(hook.taken()) == 6, 60, "the webhook to have all")
        texts = {told["guest"]: told["text"] for told in (json.loads(b) for _, b, _ in hook.requests)}
        for guest, words in (
                ("alone", "It is the only guest of availability set solo: put two or more guests"),
                ("free", "It belongs to no availability set: put two or more guests"),
                ("close-0", "All 2 guests of availability set close are in update domain 2"),
                ("db-0", "Availability set db is updated one update domain at a time"),
                ("db-1", "Availability set db is updated one update domain at a time")):
            self.assertIn(words, texts[guest])
        for guest in ("db-0", "db-1", "close-0", "close-1"):
            self.assertNotIn("put two or more guests", texts[guest])
        # What is shown later says the same.
        for annotation in annotations:
            shown = fermata("annotations", "show", annotation["annotationId"], "--database",
                            self.database)
            self.assertEqual(" ".join(shown.out.split()), texts[annotation["guest"]], str(shown))
        # Of a step the newest that was told of each guest.
        step = next(a["step"] for a in annotations if a["guest"] == "alone")
        shown = fermata("annotations", "show", step, "--database", self.database)
        self.assertEqual(" ".join(shown.out.split()), texts["alone"], str(shown))


class Receivers(SinkCase):
    def test_alertmanager(self):
        port = free_port()
        config = self.write("am.yml", "route: {receiver: none}\nreceivers: [{name: none}]\n")
        process = subprocess.Popen(
            ["prometheus-alertmanager", f"--config.file={config}",
             f"--storage.path={self.directory}/am", f"--web.listen-address=127.0.0.1:{port}",
             "--cluster.listen-address="], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        url = f"http://127.0.0.1:{port}"

        def silences():
            with urllib.request.urlopen(f"{url}/api/v2/silences", timeout=10) as answer:
                return json.load(answer)

        def is_up():
            try:
                return silences() == []
            except OSError:
                return False
        wait_until(is_up, what="Alertmanager")
        # A trial makes one, and ends it: that it may read the list proves little.
        trial = self.write("trial.yaml", f'sinks: [{{name: am, alertmanager: {{url: "{url}"}}}}]\n')
        done = fermata("notifier", "test-sink", "am", "--sinks", trial)
        self.assertEqual((done.code, done.out), (0, "sink am has taken it\n"), str(done))
        (tried,) = silences()
        self.assertEqual((tried["status"]["state"], tried["matchers"][0]["value"]),
                         ("expired", "test-guest"))

        def silences_of_holds():
            return [s for s in silences() if s["id"] != tried["id"]]
        self.start_notifier(f"""
sinks:
  - name: silences
    alertmanager: {{url: {url}, matchers: [{{name: instance, value: "{{guest}}:9100"}}]}}
""")
        self.hold(["db-0", "db-1"], "2")
        wait_until(lambda: len(silences_of_holds()) == 2
                   and all(s["status"]["state"] == "expired" for s in silences()),
                   what="both silences to have been made and ended")
        self.assertEqual({s["comment"].split()[1] for s in silences_of_holds()}, {"test"})
        values = sorted(s["matchers"][0]["value"] for s in silences_of_holds())
        self.assertEqual(values, ["db-0:9100", "db-1:9100"])

    def test_journal_syslog_and_grafana(self):
        journal = self.datagrams("journal")
        syslog = self.datagrams("syslog")
        grafana = self.hook()
        self.start_notifier(f"""
sinks:
  - name: journal
    journald: {{socket: {self.directory}/journal}}
  - name: syslog
    syslog: {{unix: {self.directory}/syslog}}
  - name: grafana
    grafana: {{url: {grafana.url}, tokenFile: {self.key}, tags: [prod]}}
""")
        self.hold(["db-0"], "2")
        fields = dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines())
        self.assertEqual(fields["SYSLOG_IDENTIFIER"], "fermata")
        self.assertEqual(fields["FERMATA_GUEST"], "db-0")
        self.assertIn("was paused", fields["MESSAGE"])
        message = syslog.recv(65536).decode()
        self.assertRegex(message, r'^<29>1 \S+ \S+ fermata - succeeded \[fermata@32473 id="rollout-1')
        wait_until(lambda: grafana.requests)
        headers, body, _ = grafana.requests[0]
        told = json.loads(body)
        self.assertEqual(headers["Authorization"], "Bearer " + SECRET.decode())
        self.assertEqual(told["timeEnd"] - told["time"], 13)
        self.assertIn("prod", told["tags"])
        self.assertIn("guest:db-0", told["tags"])

    def test_mail(self):
        from aiosmtpd.controller import Controller
        mails = []

        class Handler:
            async def handle_DATA(self, server, session, envelope):
                first = not mails
                mails.append(envelope)
                return "451 not yet" if first else "250 taken"
        controller = Controller(Handler(), hostname="127.0.0.1", port=free_port(), ready_timeout=60)
        controller.start()
        self.addCleanup(controller.stop)
        self.start_notifier(f"""
sinks:
  - name: mail
    mail: {{server: "127.0.0.1:{controller.port}", security: none, from: f@example.org, to: [o@example.org, p@example.org]}}
    retry: {{first: 50ms}}
""")
        self.hold(["db-0"], "2")
        wait_until(lambda: len(mails) == 2)
        envelope = mails[1]
        self.assertEqual(envelope.mail_from, "f@example.org")
        self.assertEqual(envelope.rcpt_tos, ["o@example.org", "p@example.org"])
        message = email.message_from_bytes(envelope.content)
        plain, html = message.get_payload()
        self.assertIn(b"was paused", plain.get_payload(decode=True))
        self.assertEqual(html.get_content_type(), "text/html")
        self.assertIn("rollout-1.1-t", message["Message-ID"])

    def datagrams(self, name):
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind(str(self.directory / name))
        receiver.settimeout(30)
        self.addCleanup(receiver.close)
        return receiver


class SinksFile(Scratch):
    def test_all_that_is_wrong_is_said_with_its_line(self):
        path = self.write("sinks.yaml", """sinks:
  - name: a
    webhook: {url: ftp://x}
  - name: a
    webhok: {}
  - name: b
    alertmanager: {url: "http://x", matchers: [{name: i, value: "{gest}"}]}
    only: {sets: db}
""")
        done = fermata("notifier", "check-sinks", path)
        self.assertFails(done, BAD_INPUT, "sinks.yaml:3:", "sinks.yaml:5:", "webhook",
                         "sinks.yaml:7:", "{gest}", "sinks.yaml:8:")

    def test_the_readme_names_every_key(self):
        readme = (Path(__file__).parents[2] / "README.md").read_text()
        rows = dict(re.findall(r"^\| (?:`(\w+)`|each|HTTP) \| (.*) \|$", readme, re.M))
        rows |= {name: re.search(rf"^\| {name} \| (.*) \|$", readme, re.M)[1] for name in ("each", "HTTP")}
        asked = {"each": "{name: a, zzzzzz: 1, journald: {}}"}
        asked |= {"only": "{name: a, only: {zzzzzz: 1}, file: {path: /a}}",
                  "each ": "{name: a, retry: {zzzzzz: 1}, journald: {}}",
                  "alertmanager ": "{name: a, alertmanager: {url: 'http://a', matchers: [{zzzzzz: 1}]}}"}
        kinds = ("webhook", "grafana", "alertmanager", "journald", "syslog", "file", "mail", "command")
        asked |= {kind: f"{{name: a, {kind}: {{zzzzzz: 1}}}}" for kind in kinds}
        for kind, sink in asked.items():
            done = fermata("notifier", "check-sinks", self.write("sinks.yaml", f"sinks: [{sink}]\n"))
            found = re.search(r"zzzzzz.* is not known .*?use one of ([\w, ]+)", done.err, re.S)
            self.assertTrue(found, str(done))
            keys = set(found[1].replace(",", " ").split()) - (set(kinds) if kind == "each" else set())
            row = rows[kind.strip()]
            if "those of HTTP" in row:
                row += rows["HTTP"]
            self.assertLessEqual(keys, set(re.findall(r"`(\w+)`", row)), kind)

    def test_what_a_notifier_refuses_is_found_before(self):
        path = self.write("sinks.yaml", """sinks:
  - name: hook
    webhook: {url: "http://a", secretFile: /none/key, headerFiles: {X: /none/header}}
  - name: graphs
    grafana: {url: "https://a", tokenFile: /none/token, caFile: /none/ca}
  - name: post
    mail: {server: "a:25", from: a@b, to: [a@b], user: u, passwordFile: /none/word}
  - name: lines
    file: {path: /none/lines}
  - name: directory
    file: {path: /etc}
  - name: script
    command: {path: /none/script}
  - name: journal
    journald: {}
""")
        done = fermata("notifier", "check-sinks", path)
        named = ["hook: open /none/header", "/none/key", "graphs", "/none/token", "/none/ca", "/none/word",
                 "there is no directory /none/", "/etc is a directory", "script: /none/script"]
        self.assertFails(done, BAD_INPUT, *named)
        self.assertNotIn("journal", done.err)
        pki = make_pki(self.directory / "pki", certificates=("notifier-n",))
        run = ("notifier", "--server", "127.0.0.1:9", "--credentials", pki / "notifier-n",
               "--database", self.directory / "trial.db")
        for days in (("--keep", "200000000"), ("--keep-annotations", "200000000"), ("--keep", "0")):
            self.assertFails(fermata(*run, *days), USAGE, "--keep is 1 to 36500 days")
        self.assertFails(fermata(*run, "--append", "/none/lines"), BAD_INPUT, "/none", "--append")
        self.assertFails(fermata(*run, "--sinks", path), BAD_INPUT, "sink hook", "check-sinks FILE")

    def test_a_sink_is_tried(self):
        path = self.write("sinks.yaml", f"""sinks:
  - name: away
    webhook: {{url: "http://127.0.0.1:{free_port()}"}}
  - name: lines
    file: {{path: {self.directory}/lines}}
""")
        self.assertEqual(fermata("notifier", "check-sinks", path).code, 0)
        self.assertFails(fermata("notifier", "test-sink", "away", "--sinks", path), UNAVAILABLE)
        done = fermata("notifier", "test-sink", "lines", "--sinks", path)
        self.assertEqual(done.code, 0, str(done))
        self.assertIn("test-guest", (self.directory / "lines").read_text())


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
