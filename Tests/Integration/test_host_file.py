"""Bad host files: `fermata agent --check` names every problem with its line, and starts nothing."""
import os
import re
import textwrap

from support import BAD_INPUT, Scratch, fermata

GOOD = """\
host: a
runDirectory: {directory}/run
stateDirectory: {directory}/state
memoryDirectory: {directory}/memory
accelerator: tcg
hypervisor:
  path: {directory}/qemu
  version: "7.2.18"
availabilitySets:
  db: {{updateDomains: 3}}
guests:
  - id: db-0
    set: db
    updateDomain: 0
    memory: 256MiB
    disks:
      - {{path: {directory}/disk.qcow2, format: qcow2}}
    nics:
      - user: {{forwards: ["127.0.0.1:17000-:7000"]}}
"""


class HostFile(Scratch):
    def setUp(self):
        super().setUp()
        qemu = self.write("qemu", "#!/bin/sh\nexit 1\n")
        qemu.chmod(0o755)
        self.write("disk.qcow2", "")
        self.good = GOOD.format(directory=self.directory)

    def check(self, text):
        return self.check_file(self.write("host.yaml", text))

    def check_file(self, path):
        return fermata("agent", "--check", "--host-file", path)

    def replaced(self, old, new):
        self.assertIn(old, self.good)
        return self.good.replace(old, new)

    def problems(self, result):
        """(line, text) of every problem told, which begins with FILE:LINE:COLUMN."""
        found = re.findall(r"host\.yaml:(\d+):(\d+): (.*)", result.err)
        return [(int(line), text) for line, _, text in found]

    def assertProblem(self, text, line, *words):
        result = self.check(text)
        self.assertFails(result, BAD_INPUT)
        matching = [t for at, t in self.problems(result) if at == line]
        self.assertTrue(matching, f"nothing is said of line {line}\n{result}")
        for word in words:
            self.assertIn(word, " ".join(matching), str(result))
        return result

    def test_a_good_file_passes(self):
        result = self.check(self.good)
        self.assertEqual(result.code, 0, str(result))

    def test_a_missing_file(self):
        self.assertFails(self.check_file(self.directory / "none.yaml"), BAD_INPUT, "none.yaml")

    def test_an_empty_file(self):
        self.assertFails(self.check(""), BAD_INPUT, "empty", "host:")

    def test_a_directory(self):
        self.assertFails(self.check_file(self.directory), BAD_INPUT, "directory")

    def test_a_file_that_is_no_text(self):
        path = self.directory / "host.yaml"
        path.write_bytes(b"\xff\xfe\x00host")
        self.assertFails(self.check_file(path), BAD_INPUT)

    def test_an_unknown_key(self):
        self.assertProblem(self.replaced("    updateDomain: 0", "    updateDomian: 0"), 14,
                           "updateDomian")

    def test_a_repeated_key(self):
        self.assertProblem(self.good.replace("accelerator: tcg", "accelerator: tcg\nhost: b"), 6,
                           "host")

    def test_wrong_types(self):
        self.assertProblem(self.replaced("memory: 256MiB", "memory: [256MiB]"), 15, "memory")
        self.assertProblem(self.replaced("updateDomain: 0", "updateDomain: first"), 14,
                           "updateDomain")
        self.assertProblem(self.replaced("memory: 256MiB", "memory: 256M"), 15, "256MiB")

    def test_a_missing_key(self):
        result = self.check(self.replaced("    memory: 256MiB\n", ""))
        self.assertFails(result, BAD_INPUT, "memory")
        self.assertTrue(self.problems(result), str(result))

    def test_two_guests_of_one_id(self):
        twice = self.good + textwrap.indent("- id: db-0\n  set: db\n  memory: 256MiB\n", "  ")
        self.assertProblem(twice, 20, "db-0")

    def test_an_update_domain_out_of_range(self):
        self.assertProblem(self.replaced("updateDomain: 0", "updateDomain: 3"), 14, "3")

    def test_a_missing_disk(self):
        os.unlink(self.directory / "disk.qcow2")
        self.assertProblem(self.good, 17, "disk.qcow2")

    def test_a_run_directory_that_cannot_be_written(self):
        # Below a file: nobody can make it, root neither.
        self.assertProblem(self.replaced(f"{self.directory}/run", f"{self.directory}/qemu/run"), 2,
                           "run")

    def test_more_memory_than_the_host_has(self):
        self.assertProblem(self.replaced("memory: 256MiB", "memory: 64TiB"), 15)

    def test_a_missing_hypervisor(self):
        os.unlink(self.directory / "qemu")
        self.assertProblem(self.good, 7, "qemu")

    def test_a_socket_path_that_is_too_long(self):
        long = "/".join(["a" * 40] * 3)
        result = self.check(self.replaced(f"{self.directory}/run", f"{self.directory}/{long}"))
        self.assertFails(result, BAD_INPUT, "107")

    def test_all_problems_are_told_at_once(self):
        text = self.good.replace("updateDomain: 0", "updateDomain: 7") \
            .replace("memory: 256MiB", "memory: lots") \
            .replace("accelerator: tcg", "accelerator: fast") + "surprise: 1\n"
        result = self.check(text)
        self.assertFails(result, BAD_INPUT)
        lines = [line for line, _ in self.problems(result)]
        self.assertEqual(lines, sorted(lines), str(result))
        self.assertLessEqual({5, 14, 15, 20}, set(lines), str(result))

    def test_nothing_is_started_or_made(self):
        self.check(self.replaced("memory: 256MiB", "memory: lots"))
        self.check(self.good)
        for name in ("run", "state", "memory"):
            self.assertFalse(os.listdir(self.directory / name)
                             if os.path.isdir(self.directory / name) else [], name)

    def test_an_agent_does_not_start_on_a_bad_file_either(self):
        path = self.write("host.yaml", self.replaced("memory: 256MiB", "memory: lots"))
        result = fermata("agent", "--host-file", path, "--credentials", self.directory / "none",
                         "--server", "127.0.0.1:1")
        self.assertFails(result, BAD_INPUT, "host.yaml:15")
