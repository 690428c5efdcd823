"""Syslog daemons over UDP and TCP: Debian's own, one that reads RFC 5424 and octet counting strictly, and
what happens to them."""
import os
import socket
import time
import unittest

from support import wait_until  # first: it sets the path for the others

from sink_case import Rsyslog, StrictSyslog, parse_syslog, with_mount
from test_sinks import SinkCase, free_port


class Syslog(SinkCase):
    def syslog(self, **options):
        receiver = StrictSyslog(**options)
        self.addCleanup(receiver.close)
        return receiver

    def test_rsyslog_dies_and_comes_back_and_another_reads_nothing(self):
        rsyslog = Rsyslog(self.directory, free_port()).start()
        self.addCleanup(rsyslog.kill)
        deaf = self.syslog(reads=False)
        # A name with two addresses, and nobody at the first.
        hosts = self.write("hosts", "::1 logs.example\n127.0.0.1 logs.example\n")
        self.start_notifier(f"""
sinks:
  - name: by-udp
    syslog: {{udp: "127.0.0.1:{rsyslog.port}", facility: 16}}
    retry: {{first: 50ms, longest: 200ms}}
  - name: by-tcp
    syslog: {{tcp: "logs.example:{rsyslog.port}"}}
    retry: {{first: 50ms, longest: 200ms}}
  - name: deaf
    syslog: {{tcp: "127.0.0.1:{deaf.port}"}}
    retry: {{first: 50ms, longest: 200ms}}
""", inside=with_mount(hosts, "/etc/hosts"))
        guests = [f"db-{number}" for number in range(16)]
        self.hold(guests, "2")
        first = sorted(a["annotationId"] for a in self.annotations(16))
        for way in ("imudp", "imtcp"):
            wait_until(lambda w=way: sorted(rsyslog.received(w)) == first, 60, f"all to come by {way}")
        rsyslog.kill()
        self.hold(["db-0", "db-1"], "3")
        wait_until(lambda: "sink by-tcp does not take" in self.log(), 60, "by-tcp to be told of")
        wait_until(lambda: self.pending().get("by-tcp") == 2, 60, "both to wait")
        rsyslog.start()
        ids = sorted(a["annotationId"] for a in self.annotations(18))
        wait_until(lambda: sorted(rsyslog.received("imtcp")) == ids, 60, "what came meanwhile by TCP")
        # What was sent by UDP while nobody listened may be lost; what comes now is not.
        self.hold(["db-2"], "4")
        ids = [a["annotationId"] for a in self.annotations(19)]
        wait_until(lambda: ids[-1] in rsyslog.received("imudp"), 60, "the next one by UDP")
        wait_until(lambda: "sink deaf does not take what is due to it: 127.0.0.1:"
                   f"{deaf.port} has not acknowledged" in self.log(), 60, "the deaf one to be told of")
        # Its kernel takes a few more at each try.
        self.assertGreater(self.pending().get("deaf", 0), 0)
        deaf.reads.set()
        wait_until(lambda: set(deaf.ids) == set(ids), 60, "the deaf one to have all")

    def test_dead_ones_delay_nobody_and_get_all_when_they_live(self):
        port = free_port()
        # Its queue is full: whoever connects waits.
        hung = socket.socket()
        hung.bind(("127.0.0.1", 0))
        hung.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(hung.getsockname())
        for each in (hung, *waiting):
            self.addCleanup(each.close)
        good, resets = self.syslog(), self.syslog(reads=False)
        self.start_notifier("sinks:\n" + "".join(f"""
  - name: {name}
    syslog: {{tcp: "127.0.0.1:{place}"}}
    retry: {{first: 50ms, longest: 200ms}}
""" for name, place in (("good", good.port), ("dead", port), ("hung", hung.getsockname()[1]),
                        ("resets", resets.port))))
        self.hold([f"db-{number}" for number in range(16)], "2")
        ids = {a["annotationId"] for a in self.annotations(16)}
        wait_until(lambda: set(good.ids) == ids, 60, "the good one to have all")
        self.assertEqual(len(good.ids), 16)
        waits = self.pending()
        self.assertEqual((waits["dead"], waits["hung"]), (16, 16))
        told = good.messages[0]
        self.assertEqual((told["app"], told["kind"], told["facility"], told["severity"]),
                         ("fermata", "succeeded", 3, 5))
        self.assertIn("was paused", told["text"])
        self.assertIn(told["data"]["fermata@32473"]["guest"], told["text"])
        dead = self.syslog(port=port)
        wait_until(lambda: set(dead.ids) == ids, 60, "the dead one to have all")
        # What its kernel had and it did not read is lost with it; what had not come so far is not.
        resets.close()
        again = self.syslog(port=resets.port)
        wait_until(lambda: "resets" not in self.pending(), 60, "the one that was reset to have the rest")
        wait_until(lambda: again.ids, 60, "some to come again")

    @unittest.skipUnless(os.geteuid() == 0, "a name server's port is for root alone")
    def test_a_name_server_that_never_answers_delays_no_other_sink(self):
        name_server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        name_server.bind(("127.77.5.3", 53))
        self.addCleanup(name_server.close)
        resolver = self.write("resolv.conf", "nameserver 127.77.5.3\noptions timeout:10 attempts:3\n")
        hosts = self.write("hosts", "127.0.0.1 logs.example\n")
        by_udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        by_udp.bind(("127.0.0.1", 0))
        self.addCleanup(by_udp.close)
        by_tcp = self.syslog()
        hanging = {f"udp-{n}": f'syslog: {{udp: "hangs-{n}.example:514"}}' for n in range(4)}
        hanging |= {f"tcp-{n}": f'syslog: {{tcp: "hangs-{n}.example:514"}}' for n in range(4)}
        hanging["hook"] = "webhook: {url: http://hangs.example/hook, timeout: 2s}"
        hanging["mail"] = 'mail: {server: "hangs.example:25", security: none, from: f@a.org, to: [o@a.org]}'
        self.start_notifier("sinks:\n" + "".join(
            f"  - name: {name}\n    {kind}\n" for name, kind in hanging.items()) + f"""
  - name: by-udp
    syslog: {{udp: "logs.example:{by_udp.getsockname()[1]}"}}
  - name: by-tcp
    syslog: {{tcp: "logs.example:{by_tcp.port}"}}
""", inside=[*with_mount(resolver, "/etc/resolv.conf"), *with_mount(hosts, "/etc/hosts")])
        self.hold([f"db-{number}" for number in range(8)], "2")
        ids = {a["annotationId"] for a in self.annotations(8)}
        began, found = time.monotonic(), set()
        by_udp.settimeout(20)
        while found != ids:
            found.add(parse_syslog(by_udp.recv(65536))["data"]["fermata@32473"]["id"])
        wait_until(lambda: set(by_tcp.ids) == ids, 20, "the one by TCP to have all")
        # A question takes 30 s to fail.
        self.assertLess(time.monotonic() - began, 20)
        waits = self.pending()
        self.assertEqual({name: waits.get(name) for name in hanging}, {name: 8 for name in hanging})


del SinkCase
