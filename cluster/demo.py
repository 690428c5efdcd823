#!/usr/bin/python3
"""`make demo`: three hosts, six real guests, one rollout from one QEMU to another, under your eyes.

    demo.py --fermata BIN --cache DIR [--report FILE] [--keep]
    demo.py --end DIRECTORY         ends what --keep left running

Starts a server, a notifier and three agents, each host in a network namespace of its own; adds a
release, shows the plan, starts the rollout, shows what happens live; then asks every guest itself what
it noticed, and checks every promise. Exits 0 only if none was broken; cleans up in any case.
Without root there are neither namespaces nor taps: user-mode networking takes their place.
"""
import argparse
import json
import os
import pathlib
import platform
import shlex
import signal
import subprocess
import sys
import time

import demo_report
from lab import Cluster, Guest, LabError, end, may_use_taps, wait_until

DEADLINE_MILLISECONDS = 10_000
DEADLINE = "10s"
# All hosts of the demo share one machine: two holds at once on two cores only make both longer.
PARALLELISM = str(max(1, (os.cpu_count() or 1) // 2))
VERIFY_SECONDS = 120


def guests():
    """Two sets of three update domains, one guest of each on every host.

    Those of host c name no update domain: the leader places them. One guest has eight times the RAM
    of the others, to show that it is held no longer.
    """
    return [
        Guest("db-0", "a", "db", 0), Guest("db-1", "b", "db", 1), Guest("db-2", "c", "db"),
        Guest("web-0", "a", "web", 0, memory=2048, pattern=128), Guest("web-1", "b", "web", 1),
        Guest("web-2", "c", "web"),
    ]


def start_agents(cluster):
    """All at once, but the last one connects when the leader knows the others' guests.

    So it is the same in every run where the leader places the guests of the last.
    """
    *first, last = cluster.hosts
    for host in first:
        cluster.agents[host] = cluster.make_agent(host).start(wait=False)
    known = len([g for g in cluster.guests.values() if g.host in first])
    wait_until(lambda: cluster.cli_json("status")["guestCount"] == known, 60,
               "the leader to know the guests of the first hosts")
    cluster.agents[last] = cluster.make_agent(last).start(wait=False)
    for agent in cluster.agents.values():
        agent.wait_ready()


STARTED = time.monotonic()


def say(text=""):
    """A line of the story, with the time since the start."""
    if text:
        print(f"[{time.monotonic() - STARTED:5.1f} s] {text}", flush=True)
    else:
        print(flush=True)


def explain_network():
    if may_use_taps():
        return "tap"
    why = "this is not root" if os.geteuid() else "/dev/net/tun or ip(8) is missing"
    print(f"""demo: {why}, so the guests get QEMU's user-mode networking instead of taps.
  Root is needed for network namespaces, bridges and tap interfaces (CAP_NET_ADMIN), and for nothing
  else here. Without them all hosts share one network, and TCP connections into a guest end with its
  old QEMU, which is their other end; memory, clock, disk and locks are shown all the same.
  `sudo env "PATH=$PATH" make demo` shows the whole (sudo alone would not find swift).
""", flush=True)
    return "user"


# ---- the story ----


def show(cluster, *arguments):
    """Shows a command as a person would type it, and what it prints."""
    say(f"$ fermata {' '.join(map(str, arguments))}")
    done = cluster.cli(*arguments)
    print("".join(f"    {line}\n" for line in (done.stdout + done.stderr).splitlines()), flush=True)
    if done.returncode != 0:
        raise LabError(f"fermata {arguments[0]} ended with {done.returncode}")


def add_release(cluster, release):
    """The release of the new QEMU, typed as a person would."""
    new = cluster.new
    show(cluster, "release", "add", release, "--component", "hypervisor", "--version",
         new["version"], "--path", new["path"], "--module-directory", new["moduleDirectory"],
         *[word for d in new["dataDirectories"] for word in ("--data-directory", d)])


def roll_out(cluster, release):
    """Starts the rollout and shows it until it is over; returns the rollout."""
    arguments = ["rollout", "start", "--release", release, "--deadline", DEADLINE,
                 "--parallelism", PARALLELISM, "--watch"]
    say(f"$ fermata {' '.join(arguments)}")
    process = subprocess.Popen(
        cluster.inside("middle") + [cluster.fermata, *arguments], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
        env=cluster.environment | cluster.client_environment())
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            print(f"    {line}", end="", flush=True)
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    say()
    rollouts = cluster.cli_json("rollout", "list")
    if not rollouts:
        raise LabError("the rollout did not start")
    return cluster.cli_json("rollout", "show", rollouts[-1]["id"])


def observe(cluster):
    """What every guest says of itself."""
    return {name: cluster.ask(name, "report") for name in cluster.guests}


def clock_error(cluster, guest):
    """How far a guest's clock is off, in ms, by the quickest of a few questions."""
    best = None
    for _ in range(15):
        before = time.time()
        answer = cluster.ask(guest, "report")
        after = time.time()
        error = answer["wallMicroseconds"] / 1e3 - (before + after) / 2 * 1e3
        if best is None or after - before < best[0]:
            best = (after - before, error)
    return round(best[1], 3)


def collect(cluster, rollout, before, since):
    """One dict for each hold; see demo_report."""
    after = observe(cluster)
    say("every guest checks its whole memory pattern")
    intact = {name: cluster.ask(name, "verify", VERIFY_SECONDS)["memoryIntact"]
              for name in cluster.guests}
    status, gaps = cluster.watch_status(), cluster.watch_gaps()
    running = running_hypervisors(cluster)
    pairs = {g["id"]: g for g in cluster.cli_json("guests")}
    holds = []
    for step in rollout["steps"]:
        confirmed = [p["at"] for p in step["phases"] if p["phase"] == "confirmed"]
        for record in step["holds"]:
            name = record["guest"]
            outside = max((g["milliseconds"] for g in gaps
                           if g["guest"] == name and g["from"] >= since), default=0.0)
            ticks = after[name]["maxGapMilliseconds"]
            holds.append({
                "guest": name, "host": step["host"],
                "availabilitySet": pairs[name]["set"], "updateDomain": pairs[name]["updateDomain"],
                "heldAt": record["heldAt"], "holdMilliseconds": record["holdMilliseconds"],
                # A guest's clocks stand still in a hold: its ticks alone would flatter us.
                "guestGapMilliseconds": max(ticks, outside),
                "guestTickGapMilliseconds": ticks,
                "outsideGapMilliseconds": outside,
                "clockErrorMillisecondsBefore": record["clockErrorMillisecondsBefore"],
                "clockErrorMillisecondsAfter": record["clockErrorMillisecondsAfter"],
                "clockErrorOutsideMilliseconds": clock_error(cluster, name),
                "memoryIntact": intact[name] and after[name]["memoryIntact"],
                "connectionKept": kept(cluster, status[name]),
                "outcome": record["outcome"], "reason": record["reason"],
                "annotationId": None,
                "confirmedAt": confirmed[-1] if confirmed else None,
                "memoryMebibytes": cluster.guests[name].memory,
                "hypervisorBefore": record["hypervisorBefore"],
                "hypervisorAfter": record["hypervisorAfter"],
                "hypervisorRunning": running.get(name),
                "bootIdKept": after[name]["bootId"] == before[name]["bootId"],
                "counterWentOn": after[name]["counter"] > before[name]["counter"],
                "diskOk": after[name]["diskOk"] is True
                and after[name]["diskWrites"] > before[name]["diskWrites"],
                "resumedBy": record["resumedBy"],
            })
    return holds


def kept(cluster, status):
    """Whether the watcher's first connection is still the one; None where it cannot be."""
    if cluster.net != "tap":
        return None
    return status["connections"] == 1 and status["connected"]


def running_hypervisors(cluster):
    """The version that each guest's own process states: its program is asked, not its label."""
    versions = {}
    for pid, environment in cluster.qemus():
        program = os.readlink(f"/proc/{pid}/exe")
        label = next((q["version"] for q in (cluster.old, cluster.new) if q["path"] == program),
                     program)
        guest = environment["FERMATA_GUEST"]
        versions[guest] = label if guest not in versions else "two processes"
    return versions


def name_annotations(holds, annotations):
    """Fills in annotationId: the record of the same guest and the same start."""
    for hold in holds:
        ids = [a["annotationId"] for a in annotations
               if a["guest"] == hold["guest"] and a["heldAt"] == hold["heldAt"]]
        hold["annotationId"] = ids[0] if ids else None


def wait_annotations(cluster, count):
    """All of them, or what there is after a while: the check says what is missing."""
    try:
        wait_until(lambda: len(cluster.annotations()) >= count, 15, "the annotations")
    except LabError as error:
        say(str(error))
    return cluster.annotations()


# ---- the whole ----


def run(cluster, report_path):
    """The demo; returns the broken promises."""
    old, new = cluster.old, cluster.new
    say(f"QEMU {old['version']} ({old['package']}) is what the guests start on, {new['version']} "
        f"({new['package']}) what they are to get")
    cluster.prepare()
    say("starting server and notifier")
    cluster.start_server()
    cluster.start_notifier()
    say(f"starting {len(cluster.hosts)} agents; they start {len(cluster.guests)} guests "
        "(emulated: about 10 s)")
    start_agents(cluster)
    cluster.start_watcher()
    cluster.wait_guests()
    say("every guest answers")
    show(cluster, "hosts")
    show(cluster, "guests")
    release = f"qemu-{new['version']}"
    add_release(cluster, release)
    show(cluster, "plan", "--release", release, "--deadline", DEADLINE,
         "--parallelism", PARALLELISM)
    before = observe(cluster)
    for name in cluster.guests:
        cluster.ask(name, "reset")
    since = int(time.time() * 1e6)
    rollout = roll_out(cluster, release)
    holds = collect(cluster, rollout, before, since)
    annotations = wait_annotations(cluster, len(holds))
    name_annotations(holds, annotations)
    broken = [] if rollout["state"] == "succeeded" else [
        f"{rollout['id']} is {rollout['state']}: {rollout['reason']}"]
    broken += demo_report.violations(
        holds, list(cluster.guests), annotations, new["version"], DEADLINE_MILLISECONDS)
    show_end(cluster, holds, broken)
    if report_path:
        write_report(report_path, cluster, holds, annotations, broken)
        say(f"report: {report_path}")
    return broken


def show_end(cluster, holds, broken):
    show(cluster, "annotations", "--text")
    print(demo_report.table(holds), flush=True)
    if cluster.net != "tap":
        print("(TCP kept: – with user-mode networking the old QEMU is the other end of a connection)")
    print("(guest gap: the longer of what its own ticks missed, which stand still in a "
          "hold,\n and the silence on its TCP connection; longer than the hold where a guest is "
          "emulated, because\n the new process starts with an empty translation cache)")
    if any(abs(h["clockErrorMillisecondsBefore"] or 0) > 100 for h in holds):
        print("(clock before: far off because the guests booted from a clock that counts in seconds)")
    lengths = [h["holdMilliseconds"] for h in holds if h["holdMilliseconds"] is not None]
    if lengths:
        print(f"\n{len(holds)} holds, longest {max(lengths):.1f} ms; "
              f"longest gap a guest saw {max(h['guestGapMilliseconds'] for h in holds):.1f} ms; "
              f"overlaps of update domains: {len(demo_report.overlaps(holds))}")
    for sentence in broken:
        print(f"BROKEN: {sentence}")
    print("no promise was broken" if not broken else f"{len(broken)} promises were broken",
          flush=True)


def write_report(path, cluster, holds, annotations, broken):
    report = {
        "network": cluster.net, "processors": os.cpu_count(), "kernel": platform.release(),
        "hypervisorBefore": cluster.old["version"], "hypervisorAfter": cluster.new["version"],
        "seconds": round(time.monotonic() - STARTED, 1),
        "holds": sorted(holds, key=lambda h: h["heldAt"]),
        "overlaps": demo_report.overlaps(holds), "violations": broken,
        "annotations": annotations}
    pathlib.Path(path).write_text(json.dumps(report, indent=2) + "\n")


def explain_kept(cluster):
    prefix = shlex.join(cluster.inside("middle"))
    guest = next(iter(cluster.guests.values()))
    settings = " ".join(f"{k}={v}" for k, v in cluster.client_environment().items())
    print(f"""
The cluster runs on, in {cluster.directory} (logs in log/, host files, PKI). To look around:

    export {settings}
    {prefix} {cluster.fermata} status
    {prefix} {cluster.fermata} rollout list
    {prefix} {cluster.fermata} annotations --text
    # ask a guest: report, verify, ping N
    echo report | {prefix} timeout 2 bash -c 'exec 3<>/dev/tcp/{guest.address[0]}/{guest.address[1]}; cat >&3; head -n 1 <&3'
    # a rollout back to the QEMU that the guests came from
    {prefix} {cluster.fermata} release add back --version {cluster.old['version']} \\
        --path {cluster.old['path']} --module-directory {cluster.old['moduleDirectory']} \\
        {' '.join('--data-directory ' + d for d in cluster.old['dataDirectories'])}
    {prefix} {cluster.fermata} rollout start --release back --watch

To end it and remove everything:

    {sys.executable} {pathlib.Path(__file__).resolve()} --end {cluster.directory}
""".replace("    \n", "\n"), flush=True)


def interrupt(number, _frame):
    raise KeyboardInterrupt(signal.Signals(number).name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fermata", help="the executable")
    parser.add_argument("--cache", help="where `make lab` has put guest/ and qemu/")
    parser.add_argument("--report", help="write the result as JSON into this file")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    parser.add_argument("--end", metavar="DIRECTORY", help="end a cluster that was left running")
    options = parser.parse_args()
    if options.end:
        end(options.end)
        return
    if not options.fermata or not options.cache:
        parser.error("--fermata and --cache are needed; `make demo` gives them")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        cluster = Cluster(options.fermata, options.cache, guests(), net=explain_network(),
                          update_domains={"db": 3, "web": 3})
    except OSError as error:
        sys.exit(f"demo: {error}\n  Run `make lab` first.")
    is_kept = False
    try:
        broken = run(cluster, options.report)
        if options.keep:
            is_kept = True
            cluster.leave()
            explain_kept(cluster)
    except LabError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt as error:
        print(f"\ndemo: interrupted {error}; cleaning up", file=sys.stderr)
        sys.exit(130)
    finally:
        if not is_kept:
            cluster.close()
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
