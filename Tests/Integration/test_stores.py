"""A cluster that moves between the stores, and what is refused on the way: real servers, a real etcd, and
commands with the options that people give."""
import re
import subprocess

from support import (  # first: it sets the path for the others
    BAD_INPUT, FAILED, FERMATA, Scratch, UNAVAILABLE, fermata, make_pki, start_etcd, wait_until)

from lab import free_port


class Stores(Scratch):
    def setUp(self):
        super().setUp()
        self.pki = make_pki(self.directory / "pki", "test", ("server-s", "operator-alice"))
        self.file = self.directory / "file"
        self.etcd = start_etcd(self, self.directory / "etcd")

    def start_server(self, name, store):
        """Its address, and what ends it."""
        address = f"127.0.0.1:{free_port()}"
        options = ("--advertise", address) if store.startswith("etcd") else ()
        with open(self.directory / f"{name}.out", "ab") as out, \
                open(self.directory / f"{name}.err", "ab") as err:
            process = subprocess.Popen(
                [FERMATA, "server", "--credentials", self.pki / "server-s", "--data",
                 self.directory / name, "--listen", address, "--store", store, *options],
                stdout=out, stderr=err)

        def end():
            process.kill()
            process.wait()
        self.addCleanup(end)
        wait_until(lambda: "term " in (self.directory / f"{name}.out").read_text(), 60,
                   "the server to lead")
        return address, end

    def ask(self, address, *arguments):
        result = fermata(*arguments, "--credentials", self.pki / "operator-alice", "--server",
                         address, "--output", "json")
        self.assertEqual(result.code, 0, str(result))
        return result.json

    def releases(self, address):
        return [release["id"] for release in self.ask(address, "release", "list")]

    def done(self, *arguments):
        result = fermata(*arguments, "--output", "json")
        self.assertEqual(result.code, 0, str(result))
        return result.json

    def test_from_sqlite_to_etcd_and_back(self):
        shared = ("--store", f"etcd:{self.etcd}", "--cluster", "test")
        address, end = self.start_server("one", f"sqlite:{self.directory}/one")
        for number in range(3):
            self.ask(address, "release", "add", f"r{number}", "--version", str(number), "--path",
                     "/bin/true")
        end()
        made = self.done("backup", "--store", self.directory / "one", "--file", self.file)
        there = self.done("restore", "--file", self.file, *shared)
        self.assertEqual(there["digest"], made["digest"])
        self.assertIn(self.etcd, there["restoredInto"])

        # A server goes on with it, and is not pushed aside, nor is its back-up in its way.
        address, end = self.start_server("two", f"etcd:{self.etcd}")
        self.assertEqual(self.releases(address), ["r0", "r1", "r2"])
        self.ask(address, "release", "add", "live", "--version", "9", "--path", "/bin/true")
        term = self.ask(address, "status")["term"]
        beside = self.done("backup", *shared, "--file", self.directory / "beside")
        refused = fermata("restore", "--file", self.file, *shared)
        self.assertFails(refused, FAILED, "has a log already")
        refused = fermata("restore", "--file", self.file, *shared, "--replace")
        self.assertFails(refused, UNAVAILABLE, "in use: server s writes it", "stop all servers")
        self.assertIn("live", self.releases(address))
        self.assertEqual(self.ask(address, "status")["term"], term)
        end()

        back = self.done("restore", "--file", self.directory / "beside", "--store",
                         self.directory / "three")
        self.assertEqual(back["digest"], beside["digest"])
        address, end = self.start_server("three", f"sqlite:{self.directory}/three")
        self.assertEqual(self.releases(address), ["live", "r0", "r1", "r2"])
        end()
        # With nobody on it, it can be replaced.
        again = self.done("restore", "--file", self.file, *shared, "--replace")
        self.assertEqual(again["digest"], made["digest"])
        address, _ = self.start_server("four", f"etcd:{self.etcd}")
        self.assertEqual(self.releases(address), ["r0", "r1", "r2"])

    def test_a_cluster_of_another_name_has_no_log(self):
        refused = fermata("backup", "--store", f"etcd:{self.etcd}", "--cluster", "tset", "--file",
                          self.file)
        self.assertFails(refused, BAD_INPUT, "there is no log", "--cluster")

    def test_step_down_by_its_own_options(self):
        address, _ = self.start_server("one", f"etcd:{self.etcd}")
        options = ("--credentials", self.pki / "operator-alice", "--server", address)
        for arguments in (("server", "step-down", *options),
                          ("server", "step-down", *reversed_pairs(options))):
            result = fermata(*arguments)
            self.assertNotIn("credentials", result.err, str(result))
            self.assertNotEqual(result.code, 64, str(result))
            self.assertTrue(result.code == 0 or re.search("leads|leader", result.err), str(result))


def reversed_pairs(options):
    """The same options, the last one first."""
    pairs = [options[i:i + 2] for i in range(0, len(options), 2)]
    return [word for pair in reversed(pairs) for word in pair]
