"""A guest whose QEMU has a relay (socket_relay.py) between the agent and its sockets."""
import json
import os
import pathlib
import sys

from fault_case import GUEST, HOST, FaultCase

COUNT = iter(range(1, 1000))
RELAY = pathlib.Path(__file__).with_name("socket_relay.py")

# Stands where a release has its QEMU; what it is asked for outside of a step is left alone.
WRAPPER = """#!/usr/bin/python3
import os, subprocess, sys
words, paths = sys.argv[1:], []
for i, word in enumerate(words):
    path = word.split("path=")[-1].split(",")[0]
    if word.startswith("socket,") and "FERMATA_GENERATION" in os.environ \\
            and os.path.basename(path) in ("qmp", "ga"):
        words[i] = word.replace(path, path + ".real")
        paths.append(path)
if paths:
    subprocess.Popen([{python!r}, {relay!r}, str(os.getpid()), {control!r}, *paths],
                     env={{"FERMATA_LAB": {tag!r}}}, stdin=subprocess.DEVNULL,
                     stdout=subprocess.DEVNULL, start_new_session=True)
os.execv({qemu!r}, ["qemu"] + words)
"""


class Relayed:
    """A release whose QEMU has relays, and what these are told."""

    def __init__(self, cluster):
        name = f"relayed-{os.getpid()}-{next(COUNT)}"
        path = cluster.directory / name
        self.name, self.version, self.control = name, f"7.2-{name}", path.with_suffix(".control")
        path.write_text(WRAPPER.format(python=sys.executable, relay=str(RELAY), tag=cluster.tag,
                                       control=str(self.control), qemu=cluster.old["path"]))
        path.chmod(0o755)
        cluster.add_release(name, cluster.old, version=self.version, path=str(path),
                            sha256=cluster.run("sha256sum", path).split()[0])

    def will(self, act, **fault):
        """Once, from now on."""
        self.marks_file.unlink(missing_ok=True)
        self.control.write_text(json.dumps({"act": act} | fault))

    def will_not(self):
        self.control.unlink(missing_ok=True)

    @property
    def marks_file(self):
        return pathlib.Path(f"{self.control}.done")

    @property
    def marks(self):
        """What they have done wrong."""
        return self.marks_file.read_text().split("\n")[:-1] if self.marks_file.exists() else []


class RelayCase(FaultCase):
    relayed = {}

    @classmethod
    def tearDownClass(cls):
        """The guest goes on with a QEMU that needs nobody."""
        case = cls("runTest")
        case.behave()
        case.setUp()
        case.finish(case.start(case.next_release(GUEST), HOST))
        case.doCleanups()
        super().tearDownClass()

    def runTest(self):
        """So that there can be a case without a test."""

    def new_relayed(self):
        each = Relayed(self.cluster)
        self.relayed[each.version] = each
        return each

    def on_relayed(self):
        """The guest runs on a QEMU with relays, which behave; they are given."""
        found = self.relayed.get(self.versions()[GUEST])
        if found is None:
            found = self.new_relayed()
            self.ended(self.start(found.name, HOST), "succeeded")
        found.will_not()
        return found

    def behave(self):
        """The relays behave from now on."""
        for each in self.relayed.values():
            each.will_not()

    def assertTold(self, hold):
        """The record names the one QEMU that there is."""
        ((_, environment),) = self.cluster.qemus(GUEST)
        self.assertEqual(hold["hypervisorAfter"], environment["FERMATA_HYPERVISOR_VERSION"], hold)
        self.wait(lambda: self.versions()[GUEST] == hold["hypervisorAfter"], 20, "the version")
