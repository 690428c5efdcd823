"""What the network sees of a hand-over: a packet capture on the host's uplink."""
import collections
import json
import os
import shutil
import socket
import struct
import threading
import time
import unittest

from cluster_case import ClusterCase  # first: it sets the path for the others

from lab import may_use_taps

RARP, ARP, IPV6 = 0x8035, 0x0806, 0x86DD
BROADCAST = b"\xff" * 6
HOST, GUEST = "b", "db-1"


class Capture:
    """Every frame that leaves a host by its uplink: (seconds, bytes)."""

    def __init__(self, cluster, host, interface="uplink"):
        self.frames, self.is_over = [], False
        with cluster.in_namespace(host):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self.socket.bind((interface, 3))
            # What comes while this thread has no processor is kept (SO_RCVBUFFORCE).
            self.socket.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
        self.socket.settimeout(0.1)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.is_over:
            try:
                frame, address = self.socket.recvfrom(65536)
            except TimeoutError:
                continue
            if address[2] == socket.PACKET_OUTGOING:
                self.frames.append((time.monotonic(), frame))

    def close(self):
        self.is_over = True
        self.thread.join()
        self.socket.close()


def announcement(frame):
    """The kind of announcement that a frame is, or None."""
    kind, = struct.unpack_from("!H", frame, 12)
    if kind == RARP:
        # Reverse request (3), asked by and about the sender itself.
        operation, = struct.unpack_from("!H", frame, 20)
        sender, target = frame[22:28], frame[32:38]
        return "rarp" if operation == 3 and sender == target == frame[6:12] else "odd rarp"
    if kind == ARP and frame[:6] == BROADCAST:
        return "gratuitous arp" if frame[28:32] == frame[38:42] else "arp request"
    if kind == IPV6 and frame[20] == 58 and frame[54] == 136:
        return "neighbour advertisement"
    return None


@unittest.skipUnless(may_use_taps(), "needs taps: root and /dev/net/tun")
class Announce(ClusterCase):
    def tap_mac(self):
        """The guest's address, as its own frames show it: the bridge has learned it."""
        c = self.cluster
        entries = c.run("bridge", "fdb", "show", "dev", c.tap(c.guests[GUEST]), namespace=HOST)
        return next(bytes.fromhex(line.split()[0].replace(":", ""))
                    for line in entries.splitlines() if "permanent" not in line)

    def announce_self(self, **pattern):
        """What Generation.announce sends, by the guest's second monitor, which waits for a guard."""
        c = self.cluster
        (_, environment), = c.qemus(GUEST)
        path = (c.run_directory(HOST) / "g" / GUEST / environment["FERMATA_GENERATION"] / "guard")
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(60)
            monitor.connect(str(path))
            with monitor.makefile("rb") as replies:
                replies.readline()
                for command in ({"execute": "qmp_capabilities"},
                                {"execute": "announce-self", "arguments": pattern}):
                    monitor.sendall(json.dumps(command).encode() + b"\n")
                    answer = {}
                    while "return" not in answer and "error" not in answer:
                        answer = json.loads(replies.readline())
                    self.assertEqual(answer, {"return": {}})

    def test_an_announcement_on_demand_is_as_often_as_asked_for(self):
        c = self.cluster
        c.ask(GUEST, "report")
        mac = self.tap_mac()
        capture = Capture(c, HOST)
        try:
            self.announce_self(initial=50, max=550, rounds=3, step=100)
            before = c.watch_status()[GUEST]["answers"]
            self.wait(lambda: len(self.announcements(capture, mac, "rarp")) >= 3, 10,
                      "three announcements")
            self.wait(lambda: c.watch_status()[GUEST]["answers"] > before + 20, 20,
                      "the watcher's connection to go on")
        finally:
            capture.close()
        self.assertEqual(len(self.announcements(capture, mac, "rarp")), 3)
        self.assertLessEqual(len(self.announcements(capture, mac, "gratuitous arp")), 3)

    def announcements(self, capture, mac, kind):
        return [at for at, frame in list(capture.frames)
                if frame[6:12] == mac and announcement(frame) == kind]

    def test_after_a_hold_of_the_whole_host_its_guests_announce_themselves(self):
        """Whatever the component is called: what it replaced may have moved their ports."""
        c = self.cluster
        true = shutil.which("true")
        file = c.directory / "switch.yaml"
        file.write_text(f'version: "1"\napply: {{path: {true}, limit: 5s}}\n'
                        f"undo: {{path: {true}, limit: 1s}}\n")
        c.cli_json("release", "add", "switch", "--component", "openvswitch", "--file", file)
        capture = Capture(c, HOST)
        try:
            rollout = self.roll("switch", HOST, deadline="20s")
            self.assertEqual(rollout["state"], "succeeded", rollout)
            self.wait(lambda: self.announcements(capture, self.tap_mac(), "rarp"), 10,
                      "an announcement")
        finally:
            capture.close()

    def test_a_hand_over_announces_the_guest_a_few_times_and_its_connections_go_on(self):
        c = self.cluster
        c.ask(GUEST, "report")
        mac, before = self.tap_mac(), c.watch_status()[GUEST]
        capture = Capture(c, HOST)
        try:
            rollout = self.roll(self.next_release(GUEST), HOST)
            self.assertEqual(rollout["state"], "succeeded", rollout)
            self.wait(lambda: len(self.announcements(capture, mac, "rarp")) >= 5, 10,
                      "five announcements of QEMU's")
            self.wait(lambda: c.watch_status()[GUEST]["answers"] > before["answers"] + 20, 20,
                      "the watcher's connection to go on")
        finally:
            capture.close()
        seen = [(at, announcement(frame)) for at, frame in capture.frames
                if frame[6:12] == mac and announcement(frame)]
        if os.environ.get("FERMATA_SHOW_ANNOUNCEMENTS"):
            for at, kind in seen:
                print(f"{(at - seen[0][0]) * 1000:8.1f} ms  {kind}")
        counts = collections.Counter(kind for _, kind in seen)
        # QEMU's own after an incoming migration: five within a second, and none after.
        self.assertEqual(counts["rarp"], 5, counts)
        self.assertEqual(counts["odd rarp"], 0, counts)
        # The guest's own driver may do the same with its addresses; never more than as often.
        self.assertLessEqual(counts["gratuitous arp"], 5, counts)
        self.assertLessEqual(counts["neighbour advertisement"], 10, counts)
        # Nobody else in the host is announced, and nothing goes round in circles.
        others = [frame for _, frame in capture.frames
                  if frame[6:12] != mac and announcement(frame) in ("rarp", "odd rarp")]
        self.assertEqual(others, [])
        after = c.watch_status()[GUEST]
        self.assertEqual(after["connections"], before["connections"], after)
