#!/usr/bin/python3
"""`make soak-host`: holds of a whole host in a row, half with a random fault at a random time.

    soak_host.py --fermata BIN --cache DIR [--count 1000] [--seconds N] [--seed S]

One host with two guests; every rollout pauses both while a release's commands change a file, the
"host", through a half-changed state. Besides what soak.py asks after each: the file is as the
outcome says, and so is what the leader knows of the host; it is never left half changed.

Faults, drawn with --seed (printed), up to a second after the rollout was started or apply began:
the agent killed or stopped, the guard killed or stopped, both killed, the guard stopped and the
agent killed, the command killed.
"""
import contextlib
import os
import signal
import time

from soak import ALONE_DEADLINE_MILLISECONDS, Soak, Violation, kill, main
from lab import Guest, LabError, wait_until

HOST, COMPONENT = "a", "software"
FAULTS = ("agent killed", "agent stopped", "guard killed", "guard stopped", "both killed",
          "guard stopped, agent killed", "command killed")
# Of a command, several times what it takes: only a fault may fail a step, not a busy computer.
LIMIT_SECONDS = 3
DEADLINE_MILLISECONDS = 15_000


class HostSoak(Soak):
    UNIT = "host holds"

    @staticmethod
    def guests():
        return [Guest(name, HOST, memory=128, pattern=16, tick=10_000)
                for name in ("left", "right")]

    def add_releases(self):
        self.state = self.cluster.directory / "state"
        self.pids = self.cluster.directory / "pids"
        self.state.write_text("one\n")
        for version, other in (("one", "two"), ("two", "one")):
            text = f'version: "{version}"\nholdsGuests: true\n'
            for kind, script in (
                    ("apply", f"echo half > {self.state}; sleep 0.4\n"
                              f"echo {version} > {self.state}"),
                    ("check", f"grep -qx {version} {self.state} && sleep 0.2"),
                    ("undo", f"sleep 0.1; echo {other} > {self.state}")):
                path = self.cluster.directory / f"{version}-{kind}"
                path.write_text(f"#!/bin/sh\necho {kind} $$ >> {self.pids}\n{script}\n")
                path.chmod(0o755)
                text += f"{kind}:\n  path: {path}\n  limit: {LIMIT_SECONDS}s\n"
            file = self.cluster.directory / f"{version}.yaml"
            file.write_text(text)
            self.cluster.cli_json("release", "add", version, "--component", COMPONENT,
                                  "--file", file)

    def one(self, number):
        fault = self.random.choice(FAULTS) if number % 2 else "none"
        point = self.random.choice(("start", "apply"))
        delay = self.random.uniform(0, 1)
        try:
            self.carry_out(fault, point, delay)
            for guest in sorted(self.cluster.guests):
                self.check(guest)
        except (LabError, Violation, OSError) as error:
            raise Violation(f"after {number}: {fault} {delay:.3f} s after {point}: {error}") \
                from error
        self.counts[fault] += 1

    def carry_out(self, fault, point, delay):
        c, agent = self.cluster, self.cluster.agents[HOST]
        before = self.state.read_text().strip()
        wanted = "two" if before == "one" else "one"
        self.pids.unlink(missing_ok=True)
        rollout = c.cli_json("rollout", "start", "--release", wanted, "--host", HOST,
                             "--deadline", f"{self.deadline(fault)}ms")["rollout"]
        if fault != "none":
            if point == "apply":
                wait_until(self.command, 30, "apply to begin", 0.005)
            time.sleep(delay)
            self.strike(agent, fault)
        over = wait_until(lambda: self.over(rollout), 60, f"{rollout} to be over", 0.1)
        self.check_rollout(over, self.deadline(fault), is_good=fault == "none")
        self.check_host(wanted if over["state"] == "succeeded" else before)

    @staticmethod
    def deadline(fault):
        """In milliseconds."""
        return ALONE_DEADLINE_MILLISECONDS \
            if fault in ("both killed", "guard stopped, agent killed") else DEADLINE_MILLISECONDS

    def command(self):
        """The pid of the command that began last; None if none has."""
        with contextlib.suppress(OSError, IndexError):
            return int(self.pids.read_text().split("\n")[-2].split()[1])
        return None

    def strike(self, agent, fault):
        """The fault; afterwards the agent runs."""
        c, guards = self.cluster, self.cluster.guards()
        if fault == "command killed":
            with contextlib.suppress(ProcessLookupError, TypeError):
                os.killpg(os.getpgid(self.command()), signal.SIGKILL)
        if "guard stopped" in fault:
            for pid in guards:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
        if fault in ("agent stopped", "both killed"):
            agent.signal(signal.SIGSTOP)        # so that neither sees the other's end
        if fault in ("guard killed", "both killed"):
            for pid in guards:
                kill(pid)
        if fault == "agent stopped":
            # The guard kills it before the deadline; outside of a hold nobody does.
            end = time.monotonic() + self.deadline(fault) / 1000
            while agent.is_running and c.guards() and time.monotonic() < end:
                time.sleep(0.02)
            if agent.is_running:
                agent.signal(signal.SIGCONT)
        elif "agent killed" in fault or fault == "both killed":
            agent.kill()
        if not agent.is_running:
            agent.start()

    def check_host(self, wanted):
        found = self.state.read_text().strip()
        if found != wanted:
            raise Violation(f"the host is {found}, not {wanted}")
        wait_until(lambda: self.known() in (wanted, None), 20, f"the leader to know of {wanted}")

    def known(self):
        (host,) = self.cluster.cli_json("hosts")
        return {s["component"]: s["version"] for s in host["software"]}.get(COMPONENT)


if __name__ == "__main__":
    main(HostSoak, __doc__)
