#!/usr/bin/python3
"""`make soak`: hand-overs in a row on a real cluster, half of them with a random fault.

    soak.py --fermata BIN --cache DIR [--count 1000] [--seconds N] [--seed S]

Two hosts with a guest each; every rollout hands over one of them, or tries to. After each, the
invariants: the guest was not rebooted, goes on, its memory and disk tell the truth, its TCP connection
is the first one, it has exactly one QEMU, which is the one the record names; no hold was longer than
its deadline; and, at the end, every hold has exactly one annotation.

Faults, drawn with --seed (printed): the agent killed or stopped at any phase, the guard killed, both
killed, the new QEMU killed before the commit, a QEMU that refuses the state, one that cannot start.
What is left out is what must lose a guest: its only QEMU killed. soak_host.py is the same for holds
of a whole host.
The last line is JSON; exits 1 on a violation, at which it stops.
"""
import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import signal
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from lab import Cluster, Guest, LabError, is_gone, refusing_qemu, state_of, wait_until  # noqa: E402

PHASES = ("accepted", "prepared", "armed", "holding", "stopped", "moved", "committing", "killed",
          "continued", "confirming", "confirmed", "finished")
# In these phases the guard of the step is there.
GUARDED = ("armed", "holding", "stopped", "moved", "committing", "killed")
BEFORE_COMMIT = ("armed", "holding", "stopped", "moved")
FAULTS = ("agent killed", "agent stopped", "guard killed", "both killed", "new QEMU killed",
          "state refused", "cannot start")
DEADLINE_MILLISECONDS = 10_000
SHORT_DEADLINE_MILLISECONDS = 2_000
# Where nobody acts until an agent has been started, which takes as long as the computer is busy.
ALONE_DEADLINE_MILLISECONDS = 30_000
# What may be left of a guest's clock error on a computer where its agent answers slowly.
CLOCK_ERROR_MILLISECONDS_MAX = 500


class Violation(Exception):
    """An invariant does not hold; says which, and after what."""


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Soak:
    UNIT = "hand-overs"

    @staticmethod
    def guests():
        return [Guest("left", "a", memory=128, pattern=16, tick=10_000),
                Guest("right", "b", memory=128, pattern=16, tick=10_000)]

    def __init__(self, cluster, seed):
        self.cluster, self.random = cluster, random.Random(seed)
        self.first = {name: cluster.ask(name, "report") for name in cluster.guests}
        self.counts, self.outcomes = collections.Counter(), collections.Counter()
        self.resumed_by, self.holds = collections.Counter(), []
        self.longest_share = 0                  # of its deadline
        self.lost = 0                           # guests, or started anew
        self.add_releases()

    def add_releases(self):
        old = self.cluster.old
        self.cluster.add_release("to-new", self.cluster.new)
        self.cluster.add_release("to-old", old)
        scripts = {
            "refusing": refusing_qemu(old["path"]),
            "broken": "#!/bin/sh\necho 'no such luck' >&2\nexit 3\n"}
        for name, text in scripts.items():
            path = self.cluster.directory / name
            path.write_text(text)
            path.chmod(0o755)
            self.cluster.add_release(name, old, version=f"0-{name}", path=str(path),
                                     sha256=self.cluster.run("sha256sum", path).split()[0])

    # ---- one hand-over ----

    def one(self, number):
        guest = self.random.choice(sorted(self.cluster.guests))
        fault = self.random.choice(FAULTS) if number % 2 else "none"
        host = self.cluster.guests[guest].host
        phase = self.random.choice({"guard killed": GUARDED, "both killed": GUARDED,
                                    "new QEMU killed": BEFORE_COMMIT}.get(fault, PHASES))
        what = f"{number}: {guest}, {fault}" + (f" at {phase}" if fault in FAULTS[:5] else "")
        try:
            self.carry_out(guest, host, fault, phase)
            self.check(guest)
        except (LabError, Violation, OSError) as error:
            raise Violation(f"after {what}: {error}") from error
        self.counts[fault] += 1

    def carry_out(self, guest, host, fault, phase):
        c = self.cluster
        version = {g["id"]: g["hypervisorVersion"] for g in c.cli_json("guests")}[guest]
        release = {"state refused": "refusing", "cannot start": "broken"}.get(
            fault, "to-old" if version == c.new["version"] else "to-new")
        deadline = {"agent stopped": SHORT_DEADLINE_MILLISECONDS,
                    "both killed": ALONE_DEADLINE_MILLISECONDS}.get(fault, DEADLINE_MILLISECONDS)
        agent = c.agents[host]
        if fault in FAULTS[:5]:
            agent.stop()
            pause = phase if fault == "agent killed" else f"{phase}:stop"
            agent.start(environment={"FERMATA_TEST_PAUSE_AT": pause})
            wait_until(lambda: self.is_connected(host), 30, f"{host} to be connected")
        rollout = c.cli_json("rollout", "start", "--release", release, "--host", host,
                             "--deadline", f"{deadline}ms")["rollout"]
        if fault in FAULTS[:5]:
            self.strike(agent, guest, fault, phase)
        over = wait_until(lambda: self.over(rollout), 150, f"{rollout} to be over", 0.1)
        self.check_rollout(over, deadline, is_good=fault == "none")
        if fault in FAULTS[:5]:
            # Without the setting: the next step must not meet this one's fault.
            agent.stop()
            agent.start()

    def strike(self, agent, guest, fault, phase):
        """The fault, at its phase; afterwards the agent runs."""
        if fault == "agent killed":
            wait_until(lambda: not agent.is_running, 90, f"the agent to die at {phase}", 0.01)
            return agent.start()
        wait_until(lambda: not agent.is_running or state_of(agent.pid) == "T", 90,
                   f"the agent to stop at {phase}", 0.01)
        if fault in ("guard killed", "both killed"):
            for pid in self.cluster.guards():
                kill(pid)
        if fault == "new QEMU killed":
            new = max(self.cluster.qemus(guest), key=lambda q: int(q[1]["FERMATA_GENERATION"]))[0]
            kill(new)
            wait_until(lambda: is_gone(new), 20, "the new QEMU's end", 0.005)
        if fault == "both killed":
            agent.kill()
        elif fault == "agent stopped" and phase in GUARDED and phase != "armed":
            # The guard kills it before the deadline.
            wait_until(lambda: not agent.is_running, 20, "the guard to kill the hung agent", 0.01)
        else:
            agent.signal(signal.SIGCONT)
        return None if agent.is_running else agent.start()

    def is_connected(self, host):
        return any(h["id"] == host and h["connected"] for h in self.cluster.cli_json("hosts"))

    def over(self, rollout):
        found = self.cluster.cli_json("rollout", "show", rollout)
        return found if found["finishedAt"] else None

    # ---- the invariants ----

    def check_rollout(self, rollout, deadline, is_good):
        self.outcomes[rollout["state"]] += 1
        if is_good and rollout["state"] != "succeeded":
            raise Violation(f"without a fault it is {rollout['state']}: {rollout['reason']}")
        for hold in (h for s in rollout["steps"] for h in s["holds"]):
            self.lost += hold["outcome"] == "lost"
            if hold["outcome"] not in ("succeeded", "failed"):
                raise Violation(f"a hold is {hold['outcome']}: {hold}")
            length = hold["holdMilliseconds"]
            if length is None or length > deadline:
                raise Violation(f"a hold of {length} ms, the deadline being {deadline}")
            left = hold["clockErrorMillisecondsAfter"]
            if left is not None and abs(left) > CLOCK_ERROR_MILLISECONDS_MAX and not hold["clockNote"]:
                raise Violation(f"the clock of {hold['guest']} is off by {left} ms: {hold}")
            self.holds.append(length)
            self.longest_share = max(self.longest_share, length / deadline)
            self.resumed_by[hold["resumedBy"]] += 1

    def check(self, guest):
        c, first = self.cluster, self.first[guest]
        wait_until(lambda: c.try_ask(guest, "report"), 30, f"{guest} to answer")
        now = c.ask(guest, "report")
        if now["bootId"] != first["bootId"]:
            self.lost += 1
            raise Violation(f"{guest} was rebooted")
        if not now["memoryIntact"] or not now["diskOk"]:
            raise Violation(f"memory or disk of {guest}: {now}")
        wait_until(lambda: c.ask(guest, "report")["counter"] > now["counter"], 10,
                   f"{guest} to go on")
        wait_until(lambda: len(c.qemus(guest)) == 1, 20, f"one QEMU of {guest}")
        version = c.qemus(guest)[0][1]["FERMATA_HYPERVISOR_VERSION"]
        wait_until(lambda: self.is_settled(guest, version), 60, f"{guest} to be known on {version}")
        watched = c.watch_status()[guest]
        if c.net == "tap" and watched["connections"] != 1:
            raise Violation(f"the TCP connection into {guest}: {watched}")

    def is_settled(self, guest, version):
        (found,) = [g for g in self.cluster.cli_json("guests") if g["id"] == guest]
        status = self.cluster.cli_json("status")
        return found["hypervisorVersion"] == version and not status["activeRollouts"] \
            and status["runningGuestCount"] == len(self.cluster.guests)

    def check_annotations(self):
        c = self.cluster
        holds = sum(len(s["holds"]) for r in c.cli_json("rollout", "list")
                    for s in c.cli_json("rollout", "show", r["id"])["steps"])
        wait_until(lambda: len(c.annotations()) >= holds, 30, "the annotations")
        count = len(c.annotations())
        if count != holds:
            raise Violation(f"{count} annotations for {holds} holds")
        return count

    def summary(self, seed, began, annotations, violation):
        lengths = sorted(self.holds) or [0]
        return {
            "seed": seed, "unit": self.UNIT, "count": self.counts.total(),
            "withFault": self.counts.total() - self.counts["none"],
            "faults": dict(sorted(self.counts.items())), "rollouts": dict(self.outcomes),
            "holds": len(self.holds), "resumedBy": dict(self.resumed_by),
            "annotations": annotations, "guestsLost": self.lost,
            "holdMillisecondsMedian": lengths[len(lengths) // 2],
            "holdMillisecondsMax": lengths[-1],
            "longestShareOfDeadline": round(self.longest_share, 3),
            "seconds": round(time.monotonic() - began), "violation": violation}


def soak(kind, options, seed):
    with Cluster(options.fermata, options.cache, kind.guests(),
                 keep_directory=options.keep) as cluster:
        cluster.start()
        run = kind(cluster, seed)
        began = said = time.monotonic()
        annotations = violation = None
        try:
            for number in range(options.count):
                if options.seconds and time.monotonic() - began > options.seconds:
                    break
                run.one(number)
                if time.monotonic() - said > 5:
                    said = time.monotonic()
                    print(f"{run.counts.total():5} {kind.UNIT}, {len(run.holds)} holds, "
                          f"{said - began:.0f} s", flush=True)
            annotations = run.check_annotations()
        except Violation as error:
            violation = str(error)
        return run.summary(seed, began, annotations, violation)


def main(kind, description):
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--fermata", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--count", type=int, default=1000, help="how many")
    parser.add_argument("--seconds", type=int, help="end earlier, after so long")
    parser.add_argument("--seed", type=int, help="of the faults; drawn and printed if not given")
    parser.add_argument("--keep", action="store_true", help="leave the logs")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
    print(f"soak: seed {seed}", flush=True)
    try:
        found = soak(kind, options, seed)
    except LabError as error:
        sys.exit(f"soak: {error}")
    if found["violation"]:
        print(f"soak: FAILED: {found['violation']}", file=sys.stderr)
    else:
        print(f"soak: ok: {found['count']} {kind.UNIT}, {found['withFault']} with a fault")
    print(json.dumps(found))
    return sys.exit(1 if found["violation"] else 0)


if __name__ == "__main__":
    main(Soak, __doc__)
