"""Releases that are commands: the network moves under paused guests, and everything that can go wrong
with a command does. The commands are real programs, the guests real ones; most tests use host b
(guest db-1), which is held alone."""
import os
import pathlib
import signal
import tempfile
import time
import unittest

from cluster_case import ClusterCase  # first: it sets the path for the others

import demo_report

from lab import HERE as CLUSTER, is_gone

DEADLINE = "15s"
DEADLINE_MILLISECONDS = 15_000


class HostComponents(ClusterCase):
    def setUp(self):
        super().setUp()
        if self.cluster.net != "tap":
            self.fail("needs namespaces: run the tests as root")
        self.directory = self.cluster.directory / "releases"
        self.directory.mkdir(exist_ok=True)

    # ---- releases ----

    def script(self, name, text):
        path = self.directory / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return path

    def release(self, name, *, component="software", holds=True, limits=("5s", "2s", "3s"),
                more="", **commands):
        """`release add` of a file; a command is a script's text, or (path, arguments)."""
        lines = [f'version: "{name}"', f"holdsGuests: {str(holds).lower()}"]
        defaults = dict(zip(("apply", "check", "undo"), limits), prepare="20s")
        for kind, what in commands.items():
            path, arguments = what if isinstance(what, tuple) else (
                self.script(f"{name}-{kind}", what), [])
            lines += [f"{kind}:", f"  path: {path}", f"  limit: {defaults[kind]}",
                      "  arguments: [" + ", ".join(f'"{a}"' for a in arguments) + "]"]
        file = self.directory / f"{name}.yaml"
        file.write_text("\n".join(lines) + "\n" + more)
        self.cluster.cli_json("release", "add", name, "--component", component, "--file", file)
        return name

    def unique(self, name):
        return f"{name}-{int(time.monotonic() * 1e6)}"

    def marks(self, name):
        path = self.directory / name
        return path.read_text().split() if path.exists() else []

    def step(self, rollout):
        (step,) = self.finish(rollout)["steps"]
        for hold in step["holds"]:
            self.assertLessEqual(hold["holdMilliseconds"], DEADLINE_MILLISECONDS, hold)
        return step

    def run_on_b(self, release, **options):
        return self.step(self.start(release, "b", **{"deadline": DEADLINE} | options))

    def assertHealed(self):
        self.wait(lambda: self.cluster.cli_json("locks") == [], 20, "the locks to be released")

    def installed(self, host, component):
        (found,) = [h for h in self.cluster.cli_json("hosts") if h["id"] == host]
        return {s["component"]: s["version"] for s in found["software"]}.get(component)

    def wait_installed(self, host, component, version):
        """It is told a moment after the step."""
        self.wait(lambda: self.installed(host, component) == version, 10, f"{version} on {host}")

    # ---- the main thing ----

    def bridges(self, host):
        """Bridge → its ports, as the kernel of that host's namespace has it."""
        listed = self.cluster.run("ip", "-o", "link", "show", namespace=host)
        found = {}
        for line in listed.splitlines():
            words = line.split()
            if "master" in words:
                bridge = words[words.index("master") + 1]
                found.setdefault(bridge, []).append(words[1].split("@")[0].rstrip(":"))
        return found

    def test_guests_move_to_another_bridge_and_back(self):
        move = CLUSTER / "examples" / "bridge-move" / "move.sh"
        for old, new in (("br0", "br1"), ("br1", "br0")):
            name = self.unique(f"to-{new}")
            self.release(name, component="network", apply=(move, ["apply", old, new]),
                         check=(move, ["check", old, new]), undo=(move, ["undo", old, new]))
            plan = self.cluster.cli_json("plan", "--release", name)
            self.assertEqual(len(plan["steps"]), 3, plan)
            rollout = self.roll(name, deadline="15s")
            self.assertEqual(rollout["state"], "succeeded", rollout)
            self.assertEqual(sorted(h["guest"] for h in self.holds(rollout)),
                             sorted(self.cluster.guests))
            rows = []
            for step in rollout["steps"]:
                confirmed = [p["at"] for p in step["phases"] if p["phase"] == "confirmed"]
                pairs = {p["set"]: p["updateDomain"] for p in step["pairs"]}
                for hold in step["holds"]:
                    self.assertEqual(hold["outcome"], "succeeded", hold)
                    self.assertEqual(hold["hypervisorBefore"], hold["hypervisorAfter"])
                    if hold["guest"] != "mute":
                        rows.append(hold | {"availabilitySet": "db", "updateDomain": pairs["db"],
                                            "confirmedAt": confirmed[-1]})
            self.assertEqual(demo_report.overlaps(rows), [])
            for host in self.cluster.hosts:
                self.assertNotIn(old, self.bridges(host))
                self.assertIn("uplink", self.bridges(host)[new])
                self.wait_installed(host, "network", name)
            # Who has it already is left alone.
            self.assertEqual(self.cluster.cli_json("plan", "--release", name)["steps"], [])

    # ---- what a command may do ----

    def test_apply_fails_and_is_undone(self):
        name = self.unique("bad-apply")
        log = self.directory / name
        self.release(name, apply=f"echo apply >> {log}; echo no such luck >&2; exit 3",
                     check=f"echo check >> {log}", undo=f"echo undo >> {log}")
        step = self.run_on_b(name)
        self.assertEqual(step["outcome"], "failed", step)
        self.assertIn("no such luck", step["reason"])
        self.assertEqual(self.marks(name), ["apply", "undo"])
        self.assertEqual([h["outcome"] for h in step["holds"]], ["failed"])
        self.assertNotEqual(self.installed("b", "software"), name)
        self.assertHealed()

    def test_check_fails_and_is_undone(self):
        name = self.unique("bad-check")
        log = self.directory / name
        self.release(name, apply=f"echo apply >> {log}", check="exit 1", undo=f"echo undo >> {log}")
        step = self.run_on_b(name)
        self.assertEqual(step["outcome"], "failed", step)
        self.assertIn("check", step["reason"])
        self.assertEqual(self.marks(name), ["apply", "undo"])

    def test_undo_fails_and_the_set_stays_closed(self):
        name = self.unique("bad-undo")
        self.release(name, apply="exit 1", undo="exit 1")
        step = self.run_on_b(name)
        self.assertEqual(step["outcome"], "unhealthy", step)
        self.assertIn("then undo", step["reason"])
        self.assertRuns("db-1")
        self.assertTrue(any(lock["stuck"] for lock in self.cluster.cli_json("locks")))

    def test_apply_hangs_with_children_and_all_of_them_are_killed(self):
        name = self.unique("hangs")
        pids = self.directory / f"{name}.pids"
        # One child in the group, one that has left the session.
        self.release(name, limits=("1s", "1s", "2s"),
                     apply=f"sleep 1000 & echo $! >> {pids}\n"
                           f"setsid sh -c 'echo $$ >> {pids}; exec sleep 1000' &\n"
                           f"echo $$ >> {pids}\nexec sleep 1000",
                     undo="true")
        step = self.run_on_b(name)
        self.assertEqual(step["outcome"], "failed", step)
        self.assertIn("longer than 1000 ms", step["reason"])
        for pid in self.marks(f"{name}.pids"):
            self.assertTrue(is_gone(pid), f"{pid} lives")
        (hold,) = step["holds"]
        self.assertGreater(hold["holdMilliseconds"], 1000)
        # At its own limit, not at what the deadline leaves it: 12 s.
        self.assertLess(hold["holdMilliseconds"], 10_000)

    def test_a_daemon_that_apply_starts_stays(self):
        name = self.unique("daemon")
        pids = self.directory / f"{name}.pids"
        policy = self.directory / f"{name}.policy"
        self.release(name, apply=f"chrt -p $$ > {policy}; "
                                 f"setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! > {pids}",
                     check=f"kill -0 $(cat {pids})")
        step = self.run_on_b(name)
        (pid,) = self.marks(f"{name}.pids")
        self.addCleanup(os.kill, int(pid), signal.SIGKILL)
        self.assertEqual(step["outcome"], "succeeded", step)
        self.assertFalse(is_gone(pid))
        # The agent goes before others in a hold; what it starts does not, then or later.
        self.assertIn("SCHED_OTHER", policy.read_text())
        self.assertEqual(os.sched_getscheduler(int(pid)), os.SCHED_OTHER)

    def test_prepare_fails_and_nobody_is_held(self):
        name = self.unique("bad-prepare")
        self.release(name, prepare="echo the mirror is away; exit 1", apply="true", undo="true")
        step = self.run_on_b(name)
        self.assertEqual((step["outcome"], step["holds"]), ("failed", []), step)
        self.assertIn("the mirror is away", step["reason"])

    def test_a_program_that_was_changed_is_not_run(self):
        name = self.unique("changed")
        log = self.directory / name
        self.release(name, apply=f"echo apply >> {log}", undo="true")
        with open(self.directory / f"{name}-apply", "a") as file:
            file.write("# changed\n")
        step = self.run_on_b(name)
        self.assertEqual((step["outcome"], step["holds"], self.marks(name)), ("failed", [], []))
        self.assertIn("SHA-256", step["reason"])

    def test_a_user_or_a_directory_that_is_not_there_holds_nobody(self):
        for more, words in (("user: nosuchuser", "there is no user nosuchuser on this host"),
                            ("workingDirectory: /no/such", "/no/such does not exist"),
                            ("workingDirectory: /etc/passwd", "/etc/passwd is not a directory")):
            with self.subTest(more):
                name = self.unique("nowhere")
                log = self.directory / name
                self.release(name, apply=f"echo apply >> {log}", undo=f"echo undo >> {log}",
                             more=more + "\n")
                step = self.run_on_b(name)
                self.assertEqual((step["outcome"], step["holds"], self.marks(name)),
                                 ("failed", [], []), step)
                self.assertIn(words, step["reason"])
                self.assertHealed()

    def test_what_does_not_fit_into_the_deadline_is_refused_with_the_numbers(self):
        name = self.unique("long")
        self.release(name, limits=("8s", "2s", "8s"), apply="true", check="true", undo="true")
        refused = self.cluster.cli("rollout", "start", "--release", name, "--host", "b",
                                   "--deadline", "10s")
        self.assertNotEqual(refused.returncode, 0)
        for number in ("apply 8000 ms", "check 2000 ms", "undo 8000 ms", "20000 ms"):
            self.assertIn(number, refused.stderr)

    def test_commands_get_their_environment_and_nothing_of_the_agents(self):
        # Where nobody may look, too.
        place = tempfile.TemporaryDirectory(prefix="fm-public-")
        self.addCleanup(place.cleanup)
        self.directory = pathlib.Path(place.name)
        self.directory.chmod(0o755)
        name = self.unique("environment")
        log = self.directory / name
        log.touch(mode=0o666)
        log.chmod(0o666)
        self.release(name, apply=f"env >> {log}; id -un >> {log}; pwd >> {log}",
                     more='environment: {COLOUR: "dark blue"}\nuser: nobody\nworkingDirectory: /usr\n')
        self.assertEqual(self.run_on_b(name)["outcome"], "succeeded")
        text = log.read_text()
        for line in ("COLOUR=dark blue", f"FERMATA_VERSION={name}", "FERMATA_COMMAND=apply",
                     "FERMATA_HOST=b", "nobody", "/usr"):
            self.assertIn(line, text.splitlines())
        self.assertNotIn("FERMATA_LAB", text)

    def test_a_release_that_holds_nobody(self):
        name = self.unique("no-hold")
        log = self.directory / name
        self.release(name, component="host-tool", holds=False,
                     apply=f"echo $FERMATA_HOST >> {log}")
        rollout = self.roll(name)
        self.assertEqual(rollout["state"], "succeeded", rollout)
        self.assertEqual(self.holds(rollout), [])
        self.assertEqual(sorted(self.marks(name)), ["a", "b", "c"])
        self.wait_installed("a", "host-tool", name)

    # ---- the agent dies ----

    def die_in(self, kind, name, signal_name=""):
        log = self.directory / name
        self.release(name, limits=("3s", "1s", "2s"),
                     apply=f"echo apply >> {log}; sleep {2 if kind == 'apply' else 0}; "
                           f"echo applied >> {log}",
                     check="sleep 0.5" if kind == "check" else "true", undo=f"echo undo >> {log}")
        # One that only stops is ended by the guard, shortly before the deadline.
        return self.die_at(f"running-{kind}{signal_name}", name, "12s" if signal_name else DEADLINE)

    def die_at(self, point, name, deadline=DEADLINE):
        """The step of a release in which the agent of host b dies there, and is started again."""
        self.restart_agent("b", FERMATA_TEST_PAUSE_AT=point)
        rollout = self.start(name, "b", deadline=deadline)
        agent = self.cluster.agents["b"]
        self.wait(lambda: not agent.is_running, 60, "the agent to die")
        self.assertRuns("db-1")          # nobody has started the agent again
        agent.start()
        return self.step(rollout)

    def test_the_agent_dies_while_apply_runs(self):
        name = self.unique("dies-in-apply")
        step = self.die_in("apply", name)
        self.assertEqual(step["outcome"], "failed", step)
        (hold,) = step["holds"]
        self.assertEqual(hold["resumedBy"], "guard", hold)
        self.assertLess(hold["holdMilliseconds"], 12_000, "the guard waited for the deadline")
        # Apply was killed, not left to finish under running guests, and then undone.
        self.assertNotIn("applied", self.marks(name))
        self.assertIn("undo", self.marks(name))
        self.assertHealed()

    def test_a_guest_is_taken_out_of_the_file_while_the_agent_is_dead(self):
        name = self.unique("unnamed")
        log = self.directory / name
        self.release(name, limits=("3s", "1s", "2s"), apply=f"echo apply >> {log}; sleep 2",
                     undo=f"echo undo >> {log}")
        self.restart_agent("c", FERMATA_TEST_PAUSE_AT="running-apply")
        rollout = self.start(name, "c", deadline="12s")
        agent, file = self.cluster.agents["c"], self.cluster.host_file("c")
        self.wait(lambda: not agent.is_running, 60, "the agent to die")
        whole = file.read_text()
        mute = self.cluster.guest_text(self.cluster.guests["mute"])
        self.assertIn(mute, whole)
        file.write_text(whole.replace(mute, ""))

        def put_back():
            file.write_text(whole)
            self.restart_agent("c")
            self.wait(lambda: self.states().get("mute") == "running", 60, "mute to be known again")

        self.addCleanup(put_back)
        agent.start()
        step = self.step(rollout)
        self.assertEqual(step["outcome"], "failed", step)
        # The guard has continued both, and what was half applied is undone.
        self.assertEqual({h["guest"]: h["resumedBy"] for h in step["holds"]},
                         {"db-2": "guard", "mute": "guard"})
        self.assertIn("does not name it", step["reason"])
        self.assertIn("undo", self.marks(name))
        self.assertHealed()
        # Neither was ended, and the one that is named is not taken for stopped.
        self.wait(lambda: self.states().get("db-2") == "running", 30, "db-2 to be found running")
        self.assertNotIn("mute", self.states())
        self.assertRuns("db-2")
        self.assertRuns("mute")

    def states(self):
        return {g["id"]: g["state"] for g in self.cluster.cli_json("guests")}

    def test_the_agent_dies_while_check_runs(self):
        name = self.unique("dies-in-check")
        step = self.die_in("check", name)
        self.assertEqual(step["outcome"], "failed", step)
        self.assertEqual(self.marks(name), ["apply", "applied", "undo"])

    def test_the_agent_dies_while_prepare_runs(self):
        name = self.unique("dies-in-prepare")
        log = self.directory / name
        self.release(name, prepare=f"echo prepare >> {log}; sleep 5; echo prepared >> {log}",
                     apply=f"echo apply >> {log}", undo=f"echo undo >> {log}")
        step = self.die_at("running-prepare", name)
        self.assertEqual((step["outcome"], step["holds"]), ("failed", []), step)
        # It is not left to go on under the next one's eyes.
        self.assertNotIn("prepared", self.marks(name))
        self.assertNotIn("apply", self.marks(name))
        self.assertHealed()

    def test_the_agent_dies_while_undo_runs(self):
        name = self.unique("dies-in-undo")
        log = self.directory / name
        self.release(name, limits=("3s", "1s", "3s"), apply=f"echo apply >> {log}; exit 1",
                     undo=f"echo undo >> {log}; sleep 0.5; echo undone >> {log}")
        step = self.die_at("running-undo", name)
        self.assertEqual(step["outcome"], "failed", step)
        (hold,) = step["holds"]
        self.assertEqual(hold["resumedBy"], "guard", hold)
        # Undone to its end by somebody, and that last.
        self.assertEqual(self.marks(name)[-1], "undone")
        self.assertHealed()

    def test_a_hung_agent_is_overtaken_by_the_guard(self):
        name = self.unique("hangs-in-apply")
        step = self.die_in("apply", name, ":stop")
        self.assertEqual(step["outcome"], "failed", step)
        (hold,) = step["holds"]
        self.assertEqual(hold["resumedBy"], "guard", hold)
        self.assertLessEqual(hold["holdMilliseconds"], 12_000, hold)
        self.assertIn("undo", self.marks(name))

    def test_agent_and_guard_die_while_apply_runs(self):
        name = self.unique("both-die")
        log = self.directory / name
        self.release(name, limits=("3s", "1s", "2s"),
                     apply=f"echo apply >> {log}; sleep 2; echo applied >> {log}",
                     undo=f"echo undo >> {log}")
        agent = self.cluster.agents["b"]
        rollout = self.start(name, "b", deadline="12s")
        self.wait(lambda: "apply" in self.marks(name), 60, "apply to run")
        (guard,) = self.cluster.guards()
        agent.signal(signal.SIGSTOP)     # so that neither sees the other's end
        os.kill(guard, signal.SIGKILL)
        agent.kill()
        agent.start()
        step = self.step(rollout)
        self.assertEqual(step["outcome"], "failed", step)
        (hold,) = step["holds"]
        self.assertEqual(hold["resumedBy"], "restartedAgent", hold)
        self.assertIn("undo", self.marks(name))
        self.assertRuns("db-1")


if __name__ == "__main__":
    unittest.main()
