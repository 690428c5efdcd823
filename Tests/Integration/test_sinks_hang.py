"""Readers and disks that take nothing and refuse nothing: only they wait, and the notifier still ends."""
import fcntl
import os
import signal
import subprocess
import time

from support import FERMATA, wait_until  # first: it sets the path for the others

from test_sinks import SinkCase
from test_sinks_files import ids

F_SETPIPE_SZ = 1031


class Hanging(SinkCase):
    def test_a_stalled_reader_of_its_output_does_not_keep_it_alive(self):
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        fcntl.fcntl(reading, F_SETPIPE_SZ, 4096)
        lines = self.directory / "lines.jsonl"

        def start():
            with open(self.directory / "notifier.log", "ab") as log:
                process = subprocess.Popen(
                    [FERMATA, "notifier", "--server", self.address, "--credentials",
                     self.pki / "notifier-n", "--database", self.database, "--append", lines],
                    stdout=writing, stderr=log)
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            return process

        def end(process):
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(60), 0)
            # What is on its way has 5 s.
            self.assertLess(time.monotonic() - begin, 20)

        process = start()
        self.assertIn(b"fermata notifier ready", os.read(reading, 4096))
        # Nobody reads any more, and the pipe is full.
        os.set_blocking(writing, False)
        try:
            while True:
                os.write(writing, b"." * 512)
        except BlockingIOError:
            os.set_blocking(writing, True)
        self.hold(["db-0", "db-1"], "2")
        wait_until(lambda: len(ids(lines)) == 2, 60, "the file to have both")
        wait_until(lambda: self.pending() == {"stdout": 2}, 60, "only stdout to be behind")
        end(process)
        # The same if it is so from its start.
        process = start()
        self.hold(["db-0", "db-1"], "3")
        wait_until(lambda: len(ids(lines)) == 4, 60, "the file to have all")
        end(process)

    def test_many_files_that_hang_stop_no_other(self):
        # To open a file on which somebody has a lease hangs, for 45 s at most, as to open one on a server
        # that is gone does.
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        leased = [self.directory / f"leased-{number}" for number in range(6)]
        leases = []
        for path in leased:
            path.touch()
            leases.append(os.open(path, os.O_RDWR))
            fcntl.fcntl(leases[-1], fcntl.F_SETLEASE, fcntl.F_WRLCK)
        lines = self.directory / "lines.jsonl"
        self.start_notifier("sinks:\n" + "".join(
            f"  - name: {path.stem}\n    file: {{path: {path}}}\n" for path in [*leased, lines]))
        self.hold(["db-0"], "2")
        wait_until(lambda: len(ids(lines)) == 1, 20, "the last file to have it")
        wait_until(lambda: self.pending() == {path.stem: 1 for path in leased}, 20,
                   "the others to be behind")
        for lease in leases:
            os.close(lease)
        wait_until(lambda: self.pending() == {}, 20, "all to be written")
        for path in leased:
            self.assertEqual(ids(path), ids(lines))


del SinkCase
