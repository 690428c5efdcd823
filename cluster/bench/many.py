#!/usr/bin/python3
"""`make bench-many`: many guests of one host are handed over, one by one and together.

    many.py --fermata BIN --cache DIR [--guests 32] [--memory 96] [--deadline 30]

A real agent, guard and guests; the leader is played by this script over the real protocol, because a
real one holds one guest of a host at a time. Each guest has a disk, a NIC (user mode) and no guest agent.
First each guest is handed over in a step of its own, then all of them in one step and back.
The last line is JSON: for each way the longest and the median hold, and how long all of it took, in ms.
Exits 1 if a guest did not survive intact, or a hold was over the deadline.
"""
import argparse
import json
import pathlib
import signal
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "proto-spec" / "python")]
import fermata_wire as wire  # noqa: E402
from lab import Cluster, Guest, LabError, free_port, wait_until  # noqa: E402


class Leader:
    """Says hello to the agent, takes its reports, and gives directives."""

    def __init__(self, cluster):
        address, _, port = cluster.server_address.rpartition(":")
        self.listener = wire.Listener(str(cluster.credentials("server-s1")), address, int(port))
        self.session = None
        self.count = 0

    def accept(self):
        self.session = self.listener.accept(timeout=600)
        self.session.receive_hello()
        self.session.accept_hello()

    def receive(self, kind):
        """The next message of a kind; host reports are taken as they come."""
        while True:
            received = self.session.receive(timeout=300)
            if received.kind == "HostReport":
                self.session.send(wire.pb.HostReportCommitted(index=1), received.correlation)
            elif received.kind == "StepReport":
                self.session.send(wire.pb.StepReportCommitted(
                    step=received.message.step, token=received.message.token),
                    received.correlation)
            if received.kind == kind:
                return received.message

    def hand_over(self, guests, target, deadline):
        """One step; its report, and how long it took in ms."""
        self.count += 1
        began = time.monotonic()
        self.session.send(wire.pb.Directive(
            step=wire.pb.StepRef(rollout=1, number=self.count), token=self.count, host="a",
            guests=guests, deadline_milliseconds=deadline * 1000,
            release=wire.pb.Release(
                id="bench", component="hypervisor", sha256=bytes.fromhex(target["sha256"]),
                hypervisor=wire.pb.Hypervisor(
                    version=target["version"], path=target["path"],
                    module_directory=target["moduleDirectory"],
                    data_directories=target["dataDirectories"]))), self.session.next_correlation())
        answer = self.receive("DirectiveAnswer")
        if answer.WhichOneof("answer") != "accepted":
            raise LabError(f"the agent says {answer}")
        report = self.receive("StepReport")
        if len(report.holds) != len(guests):
            raise LabError(f"{len(report.holds)} holds: {report.reason}")
        return report, (time.monotonic() - began) * 1000


def figures(holds, milliseconds):
    """What is reported of one way."""
    lengths = [h.hold_microseconds / 1000 for h in holds]
    return {"holds": len(lengths), "longestHoldMilliseconds": round(max(lengths), 1),
            "medianHoldMilliseconds": round(statistics.median(lengths), 1),
            "wholeMilliseconds": round(milliseconds)}


def bench(options):
    names = [f"g{number:02}" for number in range(options.guests)]
    guests = [Guest(name, "a", memory=options.memory, pattern=8, agent=False, probe=False,
                    tick=50_000) for name in names]
    with Cluster(options.fermata, options.cache, guests, net="user") as cluster:
        cluster.prepare()
        cluster.server_address = f"127.0.0.1:{free_port()}"
        cluster.agents["a"] = cluster.make_agent("a").start(wait=False)
        print(f"{len(names)} guests boot", flush=True)
        for name in names:
            wait_until(lambda n=name: cluster.try_ask(n, "report"), 600, f"{name} to answer")
        first = {name: cluster.ask(name, "report") for name in names}
        # Only now, since a session that nobody reads is taken for dead.
        leader = Leader(cluster)
        leader.accept()
        found = {}
        holds, whole = [], 0
        for number, name in enumerate(names):
            report, milliseconds = leader.hand_over([name], cluster.new, options.deadline)
            holds += report.holds
            whole += milliseconds
            print(f"one by one {number + 1:3} of {len(names)}: "
                  f"{report.holds[0].hold_microseconds / 1000:.1f} ms", flush=True)
        found["oneByOne"] = figures(holds, whole)
        for target in (cluster.old, cluster.new):
            report, milliseconds = leader.hand_over(names, target, options.deadline)
            found.setdefault("together", []).append(figures(report.holds, milliseconds))
            print(f"together: {json.dumps(found['together'][-1])}", flush=True)
            holds += report.holds
        bad = [h.guest for h in holds if h.outcome != wire.pb.STEP_OUTCOME_SUCCEEDED]
        for name in names:
            now = cluster.ask(name, "report")
            if not now["memoryIntact"] or not now["diskOk"] \
                    or now["bootId"] != first[name]["bootId"]:
                bad.append(name)
        longest = max(h.hold_microseconds for h in holds) / 1000
        return found, bad, longest


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fermata", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--guests", type=int, default=32)
    parser.add_argument("--memory", type=int, default=96, help="MiB of each")
    parser.add_argument("--deadline", type=int, default=30, help="seconds")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        found, bad, longest = bench(options)
    except LabError as error:
        sys.exit(f"bench-many: {error}")
    if bad:
        print(f"bench-many: not intact: {', '.join(bad)}", file=sys.stderr)
    print(json.dumps(found | {"guests": options.guests, "memoryMebibytes": options.memory,
                              "intact": not bad}))
    return sys.exit(0 if not bad and longest <= options.deadline * 1000 else 1)


if __name__ == "__main__":
    main()
