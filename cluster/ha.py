#!/usr/bin/python3
"""Three servers, three etcd members, three hosts with real guests, on this computer, to break and to heal.

    ha.py up                       starts it (needs root) and leaves it running
    ha.py status                   who leads, what runs, what is cut
    ha.py run status               a fermata command as operator alice, in the middle of the network
    ha.py kill s1                  kill -9 (the leader: `ha.py kill leader`)
    ha.py stop s1, ha.py cont s1   SIGSTOP and SIGCONT: it hangs, and wakes up
    ha.py restart s1               starts it again, whether it was killed or runs
    ha.py cut s1 e1                they hear nothing of each other; `cut s1 e1 --one-way`: e1 hears
                                   nothing of s1; `cut s1`: s1 and all others
    ha.py heal, ha.py heal s1      every cut, those of one part, those between two
    ha.py slow e1 500, fast e1     starts an etcd member again: each fsync takes 500 ms longer, no more
    ha.py down                     ends and removes everything

Parts: servers s1 s2 s3, etcd members e1 e2 e3, hosts a b c (their agents for kill, stop, cont and
restart; their whole network for cut and heal), notifier, middle; `leader` and `standby` stand for
the server that is it.

Each part has a network namespace of its own, called like the directory and the part, so that
`ip netns exec fm-XXXXXXXX-s1 ss -tn` shows what s1 is connected to. Everything lives in one directory
below /tmp, which `up` prints and remembers in /run; --directory names another cluster.

A first thing to try: `ha.py run release list`, then a rollout (`up` prints one), `ha.py kill leader`
while guests are held, and `ha.py run rollout list`: it goes on, and no guest notices.
"""
import argparse
import fcntl
import os
import pathlib
import signal
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import lab  # noqa: E402
from ha_lab import HACluster  # noqa: E402
from lab import Guest, LabError  # noqa: E402

REMEMBERED = pathlib.Path("/run/fermata-ha")
CLAIM = pathlib.Path("/run/fermata-ha.lock")


def guests():
    """Small ones, since three servers and three members want the processor as well."""
    return [Guest(name, host, "db", domain, memory=128, pattern=16, tick=20_000)
            for name, host, domain in (("db-0", "a", 0), ("db-1", "b", 1), ("db-2", "c", 2))]


def say(text=""):
    print(text, flush=True)


def me(options):
    return f"{sys.executable} {pathlib.Path(__file__).resolve()}" + (
        f" --directory {options.directory}" if options.directory else "")


# ---- commands ----


def up(options):
    lock = claim()
    remembered = known()
    if remembered:
        raise LabError(f"one runs already, in {remembered}; `ha.py down` ends it")
    if not options.fermata or not options.cache:
        raise LabError("up needs --fermata and --cache; `make ha` gives them")
    cluster = HACluster(options.fermata, options.cache, guests(), update_domains={"db": 3},
                        small_disks=("e3",), cluster="ha")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    stays = False
    try:
        say(f"making the network, keys and disks in {cluster.directory}")
        cluster.prepare()
        say("starting three etcd members and three servers")
        cluster.start_server()
        cluster.start_notifier()
        say("starting three agents; each boots a guest (emulated: some 10 s)")
        cluster.start_agents()
        cluster.start_watcher()
        cluster.wait_guests()
        for name, installed in (("to-new", cluster.new), ("to-old", cluster.old)):
            cluster.add_release(name, installed)
        cluster.save()
        REMEMBERED.write_text(f"{cluster.directory}\n")
        cluster.leave()
        stays = True
    finally:
        if not stays:
            cluster.close()
        lock.close()
    status(cluster)
    say(f"""
It stays, in {cluster.directory} (logs in log/). A rollout over all guests, and back:

    {me(options)} run rollout start --release to-new --watch
    {me(options)} run rollout start --release to-old --watch

Break something meanwhile (`{me(options)} --help` has it all):

    {me(options)} kill leader
    {me(options)} restart s1

To end it and remove everything:

    {me(options)} down""")


def claim():
    """The right to start one: of two at once, the second would take the first one's place in memory."""
    try:
        lock = open(CLAIM, "w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LabError("another `ha.py up` is at work; wait for it, or end it") from None
    except PermissionError:
        raise LabError("up needs root: each part has a network namespace of its own") from None
    return lock


def known():
    """The directory of the cluster that runs; None if there is none."""
    try:
        directory = pathlib.Path(REMEMBERED.read_text().strip())
    except OSError:
        return None
    return directory if (directory / "lab.json").exists() else None


def down(options):
    directory = pathlib.Path(options.directory) if options.directory else known()
    if directory is None:
        say("none is running")
        return
    lab.end(directory)
    if not options.directory:
        REMEMBERED.unlink(missing_ok=True)


def running(options):
    directory = options.directory or known()
    if directory is None:
        raise LabError("none is running; `make ha` starts one")
    return HACluster.load(directory)


def status(cluster):
    states = {"T": "stopped", "t": "traced"}
    for name, part in cluster.parts().items():
        if not part.process:
            continue
        state = states.get(lab.state_of(part.pid), "runs") if part.is_running else "is dead"
        more = ""
        if name in cluster.servers and part.is_running:
            more = "leader" if part.says_it_leads() else "standby"
        elif name in cluster.members and state == "runs":
            more = "leads the members" if part.leads() else "" if part.is_healthy() \
                else "does not answer or has an alarm"
        say(f"{name:10} {state:8} pid {part.pid:<8} {more}".rstrip())
    for sender, receiver in sorted(cluster.cuts):
        say(f"cut: {receiver} hears nothing of {sender}")


def named(cluster, name):
    """What `leader` and `standby` stand for."""
    if name == "leader":
        return cluster.leader(5)
    if name == "standby":
        standbys = cluster.standbys()
        if not standbys:
            raise LabError("no standby runs")
        return standbys[0]
    return name


def act(cluster, options):
    names = [named(cluster, name) for name in options.part]
    if options.command in ("cut", "heal"):
        if len(names) > 2:
            raise LabError(f"{options.command} takes two parts at most")
        if options.command == "heal":
            cluster.heal(*names)
        elif not names:
            raise LabError("cut what? Name a part, or two")
        else:
            cluster.cut(*names, both=not options.one_way)
        return
    for name in names:
        part = cluster.part(name)
        if options.command != "restart" and not part.is_running:
            raise LabError(f"{name} does not run")
        if options.command == "kill":
            part.kill()
        elif options.command == "stop":
            part.signal(signal.SIGSTOP)
        elif options.command == "cont":
            part.signal(signal.SIGCONT)
        else:
            part.signal(signal.SIGCONT) if part.is_running else None
            part.stop()
            part.start()
            cluster.save()


def member(cluster, name):
    if name not in cluster.members:
        raise LabError(f"{name} is no etcd member; these are: {', '.join(cluster.members)}")
    return cluster.members[name]


def run(cluster, words):
    environment = cluster.environment | cluster.client_environment()
    done = subprocess.run(cluster.inside("middle") + [cluster.fermata, *words], env=environment,
                          check=False)
    sys.exit(done.returncode)


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", help="of the cluster, if it is not the remembered one")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = commands.add_parser("up", help="start everything and leave it running")
    one.add_argument("--fermata", default=os.environ.get("FERMATA"), help="the executable")
    one.add_argument("--cache", default=os.environ.get("FERMATA_CACHE"),
                     help="where `make lab` has put guest/ and qemu/")
    commands.add_parser("down", help="end and remove everything")
    commands.add_parser("status", help="who leads, what runs, what is cut")
    for name, text in (("kill", "kill -9"), ("stop", "SIGSTOP: it hangs"),
                       ("cont", "SIGCONT: it wakes up"), ("restart", "start again"),
                       ("cut", "no word gets through"), ("heal", "undo cuts")):
        one = commands.add_parser(name, help=text)
        one.add_argument("part", nargs="*" if name == "heal" else "+")
        if name == "cut":
            one.add_argument("--one-way", action="store_true",
                             help="only the second hears nothing of the first")
    one = commands.add_parser("slow", help="make the fsync of an etcd member slow")
    one.add_argument("part")
    one.add_argument("milliseconds", type=int)
    commands.add_parser("fast", help="the opposite").add_argument("part")
    one = commands.add_parser("run", help="a fermata command as operator")
    one.add_argument("words", nargs=argparse.REMAINDER)
    return parser.parse_args()


def main():
    options = parsed()
    try:
        if options.command == "up":
            up(options)
        elif options.command == "down":
            down(options)
        else:
            cluster = running(options)
            if options.command == "status":
                status(cluster)
            elif options.command == "slow":
                member(cluster, options.part).slow_disk(options.milliseconds)
                cluster.save()
            elif options.command == "fast":
                member(cluster, options.part).fast_disk()
                cluster.save()
            elif options.command == "run":
                run(cluster, options.words)
            else:
                act(cluster, options)
    except LabError as error:
        sys.exit(f"ha: {error}")


if __name__ == "__main__":
    main()
