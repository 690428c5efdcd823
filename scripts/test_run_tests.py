"""run-tests.sh counts what its parts print; here a part is a script that prints what is to be counted.

A wrong count fails a run that passed, or passes one that failed.
"""
import os
import pathlib
import subprocess
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().with_name("run-tests.sh")
RERUN = ("Ran 3 tests in 1.0s\n\nFAILED (errors=1)\n---- test_x: again, alone\n"
         "Ran 3 tests in 1.0s\n\nOK\n")
SWIFT = """◇ Test run started.
◇ Test "frames that are skipped" started.
✔ Test "frames that are skipped" passed after 0.001 seconds.
➜ Test "a label needs root" skipped: "Condition was false"
➜ Suite "measured" skipped.
➜ Test label() skipped.
◇ Test "what was skipped. And what not" started.
✔ Test "what was skipped. And what not" passed after 0.001 seconds.
✔ Test run with 2 tests in 1 suite passed after 0.002 seconds.
"""


class Counts(unittest.TestCase):
    def python(self, output, code=0):
        """The last line and the exit code, when a part that is Python tests prints this."""
        with tempfile.TemporaryDirectory() as directory:
            python = pathlib.Path(directory, "python")
            python.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {code}\n")
            python.chmod(0o755)
            done = subprocess.run(["bash", SCRIPT, "compose"], capture_output=True, text=True,
                                  env=os.environ | {"PYTHON": str(python)}, check=False)
        return done.stdout.splitlines()[-1], done.returncode

    def swift(self, output):
        """All of stdout, when the Swift tests print this."""
        with tempfile.TemporaryDirectory() as directory:
            swift = pathlib.Path(directory, "swift")
            swift.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
            swift.chmod(0o755)
            path = f"{directory}:{os.environ['PATH']}"
            done = subprocess.run(["bash", SCRIPT, "swift"], capture_output=True, text=True,
                                  env=os.environ | {"PATH": path}, check=False)
        return done.stdout

    def test_skipped_swift_tests_are_neither_passed_nor_failed_and_are_told(self):
        said = self.swift(SWIFT)
        self.assertIn("run-tests: 2 skipped; each is named above\n", said)
        self.assertEqual(said.splitlines()[-1], "2 passed, 0 failed")

    def test_nothing_is_said_of_skipped_swift_tests_where_none_was(self):
        said = self.swift("".join(l for l in SWIFT.splitlines(True) if "➜" not in l))
        self.assertNotIn("run-tests: ", said)
        self.assertEqual(said.splitlines()[-1], "2 passed, 0 failed")

    def test_all_passed(self):
        self.assertEqual(self.python("Ran 12 tests in 3.4s\n\nOK"), ("12 passed, 0 failed", 0))

    def test_failures_and_errors_and_skipped(self):
        output = "Ran 12 tests in 3.4s\n\nFAILED (failures=1, errors=2, skipped=3)"
        self.assertEqual(self.python(output, 1), ("6 passed, 3 failed", 1))

    def test_what_passed_when_run_again_has_passed(self):
        self.assertEqual(self.python(RERUN + "Ran 12 tests in 9.0s\n\nOK"),
                         ("12 passed, 0 failed", 0))

    def test_what_failed_again_has_failed(self):
        output = RERUN + "Ran 12 tests in 9.0s\n\nFAILED (failures=2)"
        self.assertEqual(self.python(output, 1), ("10 passed, 2 failed", 1))

    def test_an_exit_code_alone_is_a_failure(self):
        self.assertEqual(self.python("Ran 12 tests in 3.4s\n\nOK", 1)[1], 1)

    def test_nothing_at_all_is_a_failure(self):
        self.assertEqual(self.python(""), ("0 passed, 1 failed", 1))

    def test_integration_fails_at_once_without_root(self):
        with tempfile.TemporaryDirectory() as directory:
            whoever = pathlib.Path(directory, "id")
            whoever.write_text("#!/bin/sh\necho 1000\n")
            whoever.chmod(0o755)
            done = subprocess.run(
                ["bash", SCRIPT, "integration"], capture_output=True, text=True, check=False,
                env=os.environ | {"PYTHON": "/bin/true", "PATH": f"{directory}:{os.environ['PATH']}"})
        self.assertEqual((done.stdout.splitlines()[-1], done.returncode), ("0 passed, 1 failed", 1))
        self.assertIn("needs root", done.stdout)


if __name__ == "__main__":
    unittest.main()
