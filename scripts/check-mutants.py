#!/usr/bin/env python3
"""The mutation check of the simulator: does it find every deliberate bug of Sources/Fleet/Mutant.swift?

Builds the simulator with the bugs in it (release, in .build-mutants), switches on one after the other, and runs the
seeds 1 to --seeds of each profile until a promise is broken. A seed that breaks one without the bug, too, does
not count. Prints a table: bug, where, profile, seeds needed, what caught it.

  scripts/check-mutants.py                 all of them; minutes
  scripts/check-mutants.py NAME…           only these
  scripts/check-mutants.py --quick         only the seed that is known to find each (a few hundred, if that one
                                           does not any more: told at the end), with the debug build (or
                                           $FERMATA), and the same seed without the bug: for `make test`
  scripts/check-mutants.py --known         also writes the seeds that --quick uses, and the table of
                                           Sources/Simulation/README.md

Exit status: 0 if every bug was found, 1 if not.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRATCH = ROOT / ".build-mutants"
KNOWN = ROOT / "Tests" / "Simulation" / "mutants.json"
PROFILES = ("small", "takeovers", "crowded", "alone", "mixed")
SOON = 150
# Seeds that the short form tries where the known one finds nothing any more.
NEARBY = 300
README = ROOT / "Sources" / "Simulation" / "README.md"
# Around the table.
MARKS = "<!-- made by scripts/check-mutants.py --known -->", "<!-- to here -->"
ENUM = ROOT / "Sources" / "Fleet" / "Mutant.swift"


class Found:
    """What a run has come to: the first seed that broke something, and what; `seed` None if none did."""

    def __init__(self, seed=None, invariant="", text=""):
        self.seed, self.invariant, self.text = seed, invariant, text


def mutants():
    """(name, what it does) of each, in the order of the file."""
    result, words = [], []
    for line in ENUM.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("///"):
            words.append(line[3:].strip())
        elif match := re.match(r"case (\w+)$", line):
            result.append((match.group(1), " ".join(words)))
            words = []
        else:
            words = []
    return result


def places():
    """For each bug the files it is in, without `.swift`."""
    result = {}
    for file in sorted((ROOT / "Sources").rglob("*.swift")):
        if file == ENUM:
            continue
        for name in re.findall(r"mutated\(\.(\w+)\)", file.read_text(encoding="utf-8")):
            names = result.setdefault(name, [])
            if file.stem not in names:
                names.append(file.stem)
    return result


def build():
    environment = dict(os.environ, FERMATA_MUTANTS="1")
    subprocess.run(
        ["swift", "build", "-c", "release", "--scratch-path", str(SCRATCH), "--product", "Simulator"],
        cwd=ROOT, env=environment, check=True, stdout=sys.stderr)
    return SCRATCH / "release" / "Simulator"


def simulate(fermata, profile, first, last, mutant=None):
    """Runs seeds until the first that breaks something, in a process of its own: it may crash."""
    command = [str(fermata), "simulate", "--seeds", f"{first}..{last}", "--profile", profile,
               "--failures-max", "1"]
    if mutant:
        command += ["--mutant", mutant]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            errors="replace")
    crash = re.search(r"crash in .*?seed=(\d+)", result.stderr)
    if crash:
        fatal = re.search(r"Fatal error: (.*)", result.stderr)
        return Found(int(crash.group(1)), "a precondition of the code",
                     fatal.group(1) if fatal else "it stopped")
    if result.returncode == 0:
        return Found()
    seed = re.search(r"^seed=(\d+)\b", result.stdout, re.M)
    violation = re.search(r"^  (safety|liveness|crash): ([^:]*): (.*)$", result.stdout, re.M)
    if not seed or not violation:
        raise SystemExit(f"{' '.join(command)}: exit code {result.returncode}\n{result.stderr[-2000:]}")
    invariant = violation.group(2)
    # The coordinator's own check has the name behind its own.
    text = violation.group(3)
    if invariant == "coordinator" and (own := re.match(r"(one update domain at a time|fencing|nothing lost): (.*)", text)):
        invariant, text = own.groups()
    return Found(int(seed.group(1)), invariant, text)


class Check:
    def __init__(self, fermata, profiles, seeds, known):
        self.known = {name: entry["profile"] for name, entry in known.items()}
        self.fermata, self.profiles, self.seeds = fermata, profiles, seeds
        # Whether a seed breaks something without any bug.
        self.sound = {}

    def is_sound(self, profile, seed):
        key = profile, seed
        if key not in self.sound:
            self.sound[key] = simulate(self.fermata, profile, seed, seed).seed is None
        return self.sound[key]

    def in_order(self, name):
        """The profile that has found it before comes first."""
        return sorted(self.profiles, key=lambda profile: profile != self.known.get(name))

    def find_in(self, name, profile, first, last):
        while first <= last:
            found = simulate(self.fermata, profile, first, last, name)
            if found.seed is None or self.is_sound(profile, found.seed):
                return found
            first = found.seed + 1
        return Found()

    def find(self, name):
        """The first seed, by profile, that breaks something only because of the bug."""
        # Some profiles find in a moment what others hardly ever do: the first seeds of all come first.
        for first, last in ((1, min(SOON, self.seeds)), (SOON + 1, self.seeds)):
            for profile in self.in_order(name):
                found = self.find_in(name, profile, first, last)
                if found.seed is not None:
                    return profile, found
        return None, Found()


def check_all(options, chosen):
    fermata = options.fermata or build()
    known = json.loads(KNOWN.read_text()) if KNOWN.exists() else {}
    check = Check(fermata, options.profiles, options.seeds, known)
    where = places()
    missing = []
    rows = {}

    def one(mutant):
        began = time.monotonic()
        profile, found = check.find(mutant[0])
        rows[mutant[0]] = profile, found
        took = time.monotonic() - began
        verdict = f"{profile} {found.seed}: {found.invariant}: {found.text}" if profile else "NOT FOUND"
        print(f"{mutant[0]:28}{took:7.1f} s  {verdict[:200]}", file=sys.stderr, flush=True)

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, chosen))
    lines = ["| bug | where | profile | seeds needed | what caught it |", "|---|---|---|---|---|"]
    for name, words in chosen:
        profile, found = rows[name]
        if profile is None:
            missing.append(name)
        else:
            known[name] = {"profile": profile, "seed": found.seed}
        lines.append(
            f"| `{name}`: {words} | {', '.join(where.get(name, []))} | {profile or '–'} | "
            f"{found.seed or 'not found'} | {found.invariant} |")
    print("\n".join(lines))
    if options.known:
        KNOWN.parent.mkdir(parents=True, exist_ok=True)
        order = [name for name, _ in mutants()]
        KNOWN.write_text("{\n" + ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(known[name])}" for name in order if name in known
        ) + "\n}\n")
        if not options.names:
            before, rest = README.read_text(encoding="utf-8").split(MARKS[0])
            after = rest.split(MARKS[1])[1]
            table = "\n".join(lines)
            README.write_text(
                f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}", encoding="utf-8")
    return missing


def check_quick(options, chosen):
    fermata = options.fermata or os.environ.get("FERMATA") or ROOT / ".build/debug/fermata"
    known = json.loads(KNOWN.read_text())
    missing, moved = [], []
    names = [name for name, _ in chosen]
    if forgotten := [name for name in names if name not in known]:
        print(f"check-mutants: no seed is known for {', '.join(forgotten)}", file=sys.stderr)
    names = [name for name in names if name in known]

    def one(name):
        profile, seed = known[name]["profile"], known[name]["seed"]
        found = simulate(fermata, profile, seed, seed, name)
        if found.seed is None:
            # A change elsewhere has moved the seeds: others find it as well.
            found = simulate(fermata, profile, 1, NEARBY, name)
            if found.seed is None:
                return (f"check-mutants: FAILED: {name} is found neither by seed {seed} of {profile} nor by "
                        f"those up to {NEARBY}: run scripts/check-mutants.py --known")
            moved.append(f"check-mutants: {name} ({profile}): table says {seed}, found at {found.seed}")
            seed = found.seed
        if simulate(fermata, profile, seed, seed).seed is not None:
            return f"check-mutants: FAILED: seed {seed} of {profile} fails without {name}, too"
        return f"check-mutants: ok: {name}: {profile} {seed}: {found.invariant}"

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for name, line in zip(names, pool.map(one, names)):
            print(line, flush=True)
            if "FAILED" in line:
                missing.append(name)
    if moved:
        print("\n".join(sorted(moved)), flush=True)
        print("check-mutants: scripts/check-mutants.py --known brings the table up to date", flush=True)
    return missing


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--profiles", type=lambda text: text.split(","), default=PROFILES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--fermata", help="an executable that has the bugs; built if not given")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--known", action="store_true")
    options = parser.parse_args()
    every = mutants()
    names = [name for name, _ in every]
    if unknown := [name for name in options.names if name not in names]:
        parser.error(f"no such bug: {', '.join(unknown)}")
    unused = [name for name in names if name not in places()]
    if unused:
        print(f"check-mutants: nothing in Sources uses {', '.join(unused)}", file=sys.stderr)
        return 1
    chosen = [mutant for mutant in every if not options.names or mutant[0] in options.names]
    missing = (check_quick if options.quick else check_all)(options, chosen)
    if missing:
        print(f"check-mutants: not found: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
