"""`fermata backup` beside a real server, `fermata restore` into another directory, and a server on it."""
import os
import subprocess

from support import (  # first: it sets the path for the others
    BAD_INPUT, FAILED, FERMATA, Scratch, UNAVAILABLE, fermata, make_pki)


class BackupCase(Scratch):
    def setUp(self):
        super().setUp()
        self.pki = make_pki(self.directory / "pki", "test")
        self.file = self.directory / "file"

    def start_server(self, name):
        process = subprocess.Popen(
            [FERMATA, "server", "--credentials", self.pki / "server-s", "--data",
             self.directory / name, "--listen", "127.0.0.1:0", "--log-level", "error"],
            stdout=subprocess.PIPE, text=True)

        def end():
            process.kill()
            process.wait()
            process.stdout.close()
        self.addCleanup(end)
        line = process.stdout.readline()
        self.assertIn(" ready on ", line)
        return line.split(" ready on ")[1].split()[0], end

    def ask(self, address, *arguments):
        result = fermata(*arguments, "--credentials", self.pki / "operator-alice", "--server",
                         address, "--output", "json")
        self.assertEqual(result.code, 0, str(result))
        return result.json

    def done(self, *arguments):
        result = fermata(*arguments, "--output", "json")
        self.assertEqual(result.code, 0, str(result))
        return result.json

    def test_a_server_goes_on_elsewhere_with_what_was_backed_up(self):
        address, end = self.start_server("one")
        for number in range(5):
            self.ask(address, "release", "add", f"r{number}", "--version", str(number), "--path",
                     "/bin/true")
        store = f"sqlite:{self.directory}/one"
        made = self.done("backup", "--store", store, "--file", self.file)
        self.assertEqual(os.stat(self.file).st_mode & 0o777, 0o600)
        # Made again beside the server, from the same log, it is of the same state.
        self.assertEqual(self.done("backup", "--store", store, "--file", self.file)["digest"],
                         made["digest"])
        # The server was not disturbed.
        self.ask(address, "release", "add", "later", "--version", "9", "--path", "/bin/true")
        self.assertFails(
            fermata("restore", "--file", self.file, "--store", store), FAILED, "has a log already",
            "nothing was changed")
        self.assertFails(
            fermata("restore", "--file", self.file, "--store", store, "--replace"), UNAVAILABLE,
            "in use by a server")
        end()

        restored = self.done("restore", "--file", self.file, "--store", self.directory / "two")
        self.assertEqual(restored["digest"], made["digest"])
        self.assertEqual(restored["index"], made["index"])
        address, end = self.start_server("two")
        self.assertEqual([r["id"] for r in self.ask(address, "release", "list")],
                         [f"r{number}" for number in range(5)])
        self.assertGreater(self.ask(address, "status")["term"], made["term"])
        end()

        # The old store can be replaced, and then holds the same.
        back = self.done("restore", "--file", self.file, "--store", store, "--replace")
        self.assertEqual(back["digest"], made["digest"])
        address, _ = self.start_server("one")
        self.assertEqual(len(self.ask(address, "release", "list")), 5)

    def test_a_file_that_was_cut_off_restores_nothing(self):
        _, end = self.start_server("one")
        end()
        self.done("backup", "--store", self.directory / "one", "--file", self.file)
        self.file.write_bytes(self.file.read_bytes()[:-40])
        self.assertFails(
            fermata("restore", "--file", self.file, "--store", self.directory / "two"), BAD_INPUT,
            "is damaged")
        self.assertFalse((self.directory / "two").exists())
