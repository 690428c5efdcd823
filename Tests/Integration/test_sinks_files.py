"""Files of lines: rotated by us and by others, on a full disk, a read-only one, and in no directory at all."""
import json
import os
import subprocess

from support import wait_until  # first: it sets the path for the others

from test_sinks import SinkCase

MEBIBYTE = 1 << 20


def ids(*paths):
    """Of the bulletins in these files, in order. Every line is whole, and ours or one of `old`."""
    lines = [json.loads(line) for path in paths if path.exists() for line in whole(path)]
    return [line["id"] for line in lines if "old" not in line]


def whole(path):
    text = path.read_text()
    assert text.endswith("\n") or not text, f"{path} ends in the middle of a line"
    return text.splitlines()


def old_lines(byte_count):
    """Lines of an earlier time, of as many bytes."""
    line = json.dumps({"old": "." * 990}) + "\n"
    count = byte_count // len(line) - 1
    last = json.dumps({"old": ""}) + "\n"
    rest = byte_count - count * len(line) - len(last)
    return line * count + last.replace('""', f'"{"." * rest}"')


class Files(SinkCase):
    def test_a_size_that_is_crossed_and_a_rotation_by_others(self):
        lines, kept = self.directory / "lines.jsonl", self.directory / "lines.jsonl.1"
        elsewhere = self.directory / "elsewhere.jsonl"
        # Room for a line or two, of about 900 bytes.
        lines.write_text(old_lines(MEBIBYTE - 2_000))
        self.start_notifier(f"""
sinks:
  - name: lines
    file: {{path: {lines}, size: 1MiB, keep: 1}}
  - name: elsewhere
    file: {{path: {elsewhere}}}
""")
        guests = [f"db-{number}" for number in range(6)]
        self.hold(guests, "2")
        first = sorted(a["annotationId"] for a in self.annotations(6))
        wait_until(lambda: sorted(ids(kept, lines)) == first, 60, "all to be in the two files")
        self.assertTrue(ids(lines), "the new file has some")
        for path in (lines, kept):
            self.assertLessEqual(path.stat().st_size, MEBIBYTE)
        wait_until(lambda: sorted(ids(elsewhere)) == first, 60, "all to be elsewhere")
        # What logrotate does, between two holds and under a writer.
        moved = self.directory / "elsewhere.jsonl-20261127"
        elsewhere.rename(moved)
        self.hold(guests, "3")
        second = sorted(a["annotationId"] for a in self.annotations(12))
        wait_until(lambda: sorted(ids(moved, elsewhere)) == second, 60, "all in both")
        self.assertEqual(sorted(ids(moved)), first)
        # Once more: the oldest file falls away, with its lines.
        with open(lines, "a") as file:
            file.write(old_lines(MEBIBYTE - lines.stat().st_size))
        before = ids(lines)
        self.hold(guests, "4")
        third = sorted(a["annotationId"] for a in self.annotations(18))
        new = set(third) - set(second)
        wait_until(lambda: new <= set(ids(kept, lines)), 60, "the third ones")
        self.assertEqual(ids(kept)[:len(before)], before)
        self.assertEqual(len(ids(kept, lines)), len(set(ids(kept, lines))))
        self.assertFalse((self.directory / "lines.jsonl.2").exists())

    def test_a_full_disk_a_read_only_one_and_a_directory_that_is_gone(self):
        full, fixed = self.directory / "full", self.directory / "fixed"
        missing = self.directory / "missing"
        for directory in (full, fixed, missing):
            directory.mkdir()
        names = {"full": full, "fixed": fixed, "missing": missing, "good": self.directory}
        self.start_notifier("sinks:\n" + "".join(f"""
  - name: {name}
    file: {{path: {directory}/{name}.jsonl}}
    retry: {{first: 50ms, longest: 200ms}}
""" for name, directory in names.items()), inside=[
            # The first line of `full` ends 200 bytes before the end of its page: of the next one, that
            # much is written before the disk is full.
            "unshare", "--mount", "sh", "-c", f"""
                mount -t tmpfs -o size=64k tmpfs {full} && mount -t tmpfs -o ro tmpfs {fixed} &&
                printf '{{"old": "%03884d"}}\\n' 0 > {full}/full.jsonl &&
                {{ head -c 1m /dev/zero > {full}/filler 2>/dev/null; exec "$@"; }}""", "sh"])
        inside = type(full)(f"/proc/{self.notifier.pid}/root")
        paths = {name: inside / str(directory / f"{name}.jsonl").lstrip("/")
                 for name, directory in names.items()}
        self.assertEqual(paths["full"].stat().st_size, 3_896)
        missing.rmdir()
        guests = [f"db-{number}" for number in range(4)]
        self.hold(guests, "2")
        first = sorted(a["annotationId"] for a in self.annotations(4))
        wait_until(lambda: sorted(ids(paths["good"])) == first, 60, "the good one")
        for name in ("full", "fixed", "missing"):
            wait_until(lambda n=name: f"sink {n} does not take what is due to it" in self.log(), 60,
                       f"{name} to be told of")
        wait_until(lambda: self.pending() == dict.fromkeys(("full", "fixed", "missing"), 4), 60,
                   "only those to be behind")
        self.assertRegex(self.log(), "full.jsonl: .*ENOSPC")
        self.assertRegex(self.log(), "missing.jsonl: .*ENOENT")
        self.assertRegex(self.log(), "fixed.jsonl: .*EROFS")
        # Before each try it is cut to whole lines.
        wait_until(lambda: paths["full"].stat().st_size % 4_096 == 0, 10,
                   "a part of a line to be written", interval=0.001)
        # Each is mended while the notifier runs.
        (inside / str(full / "filler").lstrip("/")).unlink()
        missing.mkdir()
        subprocess.run(["nsenter", "--target", str(self.notifier.pid), "--mount", "mount", "-o",
                        "remount,rw", fixed], check=True, timeout=60)
        wait_until(lambda: self.pending() == {}, 60, "all to be written")
        self.hold(guests, "3")
        second = sorted(a["annotationId"] for a in self.annotations(8))
        for name in names:
            wait_until(lambda n=name: sorted(ids(paths[n])) == second, 60, f"{name} to have each once")


if os.geteuid() != 0:
    del Files.test_a_full_disk_a_read_only_one_and_a_directory_that_is_gone

del SinkCase
