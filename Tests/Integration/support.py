"""What the integration tests share: the binary under test, the lab, one PKI, waiting.

Environment: FERMATA (the binary; default .build/debug/fermata), FERMATA_CACHE (what `make lab` made;
default .cache), FERMATA_KEEP_LOGS=1 (leaves the directories of clusters for reading).

unittest runs no cleanup of any kind after a KeyboardInterrupt. So what would outlive an interrupted test
is ended when its process ends: clusters by themselves (lab.py), other processes and directories here.
"""
import atexit
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "cluster"), str(ROOT / "proto-spec" / "python")]

from lab import free_port, wait_until  # the tests import it from here

FERMATA = str((ROOT / os.environ.get("FERMATA", ".build/debug/fermata")).resolve())
CACHE = (ROOT / os.environ.get("FERMATA_CACHE", ".cache")).resolve()

# The exit codes that `fermata --help` documents.
FAILED, USAGE, BAD_INPUT, UNAVAILABLE, CANNOT_CREATE, PROTOCOL, NOT_PERMITTED = \
    1, 64, 65, 69, 73, 76, 77


INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_directories, _owner = [], os.getpid()


def interrupt(*_):
    """SIGTERM does what Ctrl-C does; whatever comes afterwards, as the second of a Ctrl-C that the
    terminal and run_side_by_side.py both have sent, must not interrupt the cleaning up."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


for _number in INTERRUPTS:
    if signal.getsignal(_number) is not signal.SIG_IGN:
        signal.signal(_number, interrupt)


def new_directory(prefix):
    """A directory that is gone when this process is, if not before."""
    _directories.append(pathlib.Path(tempfile.mkdtemp(prefix=prefix)))
    return _directories[-1]


@atexit.register
def leave_nothing():
    """Kills the children that are left and removes the directories. Registered first, so run last."""
    if os.getpid() != _owner:
        return
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    for thread in pathlib.Path("/proc/self/task").iterdir():
        # Either may be gone already; who is not waited for keeps its number.
        with contextlib.suppress(OSError):
            for pid in map(int, (thread / "children").read_text().split()):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
    for directory in _directories:
        shutil.rmtree(directory, ignore_errors=True)


class Result:
    """What a command did."""

    def __init__(self, arguments, completed):
        self.arguments, self.code = arguments, completed.returncode
        self.out, self.err = completed.stdout, completed.stderr

    @property
    def json(self):
        return json.loads(self.out)

    def __str__(self):
        return (f"fermata {' '.join(self.arguments)}\nexit code {self.code}\n"
                f"stdout: {self.out}\nstderr: {self.err}")


def fermata(*arguments, timeout=180, environment=None, **options):
    """Runs one command of the binary to its end."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FERMATA_")}
    completed = subprocess.run(
        [FERMATA, *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
        stdin=subprocess.DEVNULL, env=clean | (environment or {}), check=False, **options)
    return Result([str(a) for a in arguments], completed)


class Scratch(unittest.TestCase):
    """A test case with a directory of its own."""

    def setUp(self):
        self.directory = new_directory("fm-it-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def write(self, name, text):
        path = self.directory / name
        path.write_text(text)
        return path

    def assertFails(self, result, code, *words):
        """The exit code is the documented one, and stderr says all of `words` and is no crash."""
        self.assertEqual(result.code, code, str(result))
        for word in words:
            self.assertIn(word.lower(), result.err.lower(), str(result))
        self.assertNotIn("Fatal error", result.err, str(result))


def start_etcd(case, directory):
    """The URL of a real etcd of one member, which ends with the test."""
    url, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    process = subprocess.Popen(
        ["etcd", "--name", "e", "--data-dir", directory, "--listen-client-urls", url,
         "--advertise-client-urls", url, "--listen-peer-urls", peers,
         "--initial-advertise-peer-urls", peers, "--initial-cluster", f"e={peers}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    case.addCleanup(process.wait)
    case.addCleanup(process.kill)
    return url


def make_pki(directory, cluster="test", certificates=("server-s", "operator-alice", "agent-a",
                                                      "agent-b", "agent-c", "notifier-n")):
    """One authority with certificates `ROLE-NAME` in `directory`."""
    done = fermata("pki", "init", "--directory", directory, "--cluster", cluster)
    assert done.code == 0, str(done)
    for name in certificates:
        role, _, who = name.partition("-")
        done = fermata("pki", "issue", role, who, "--directory", directory)
        assert done.code == 0, str(done)
    return pathlib.Path(directory)
