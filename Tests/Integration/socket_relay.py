#!/usr/bin/python3
"""Stands between the agent and sockets of one QEMU, and does wrong what a file tells it to.

    socket_relay.py PID CONTROL PATH…

For each PATH it listens there and passes everything on to PATH.real, until process PID ends.
CONTROL holds JSON, looked at with every command: {"socket": "qmp", "command": "cont", "act": ACT}.
The first such command is passed on, and then, at its reply:
    drop      the reply is kept back
    flood     `count` events come before the reply
    garbage   `text` comes instead of the reply, over and over for 1 MiB if `isEndless`
    mute      from the command on nothing comes back on this connection, neither events nor replies
    late      the reply comes only when the next command has come, before that one's
    stale     `text` comes before the reply
Without "act" it only passes on. With `after` such a command must have come before on this
connection, and with `forGood` a mute relay is so on later connections too. `silences` is a part of
the PATHs whose later connections get no answer. `stripsIDs`: replies have no ids, as those of guest
agents before QEMU 4.0. What it has done it appends to CONTROL.done, a line for each.
"""
import contextlib
import json
import os
import pathlib
import select
import socket
import sys
import threading
import time


def watch(pid):
    """Ends this process with that one."""
    with contextlib.suppress(OSError):
        select.select([os.pidfd_open(pid)], [], [])
    os._exit(0)


class Relay:
    """One client, and the QEMU behind it."""

    def __init__(self, control, path, client, server):
        self.control, self.client, self.server = control, client, server
        self.path, self.name = path, os.path.basename(path)
        self.lock = threading.Lock()             # whole lines, one at a time, to the client
        self.fault, self.fault_id, self.is_mute = {}, None, self.stays_mute()
        self.seen, self.late = set(), None

    def stays_mute(self):
        fault = self.settings()
        if fault.get("silences"):
            return fault["silences"] in self.path
        return bool(fault.get("forGood")) and self.is_done() and fault["socket"] == self.name

    def settings(self):
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self.control.read_text())
        return {}

    def done(self, what):
        with open(f"{self.control}.done", "a") as file:
            file.write(f"{what}\n")

    def is_done(self):
        return os.path.exists(f"{self.control}.done")

    def run(self):
        replies = threading.Thread(target=self.pump, daemon=True, args=(
            self.server, self.client, self.on_reply))
        replies.start()
        self.pump(self.client, self.server, self.on_command)
        replies.join()

    def pump(self, source, target, on_line):
        with contextlib.suppress(OSError):
            for line in source.makefile("rb"):
                on_line(line)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def on_command(self, line):
        with contextlib.suppress(ValueError, AttributeError):
            message = json.loads(line.lstrip(b"\xff"))
            fault = self.settings()
            if fault.get("act") and not self.is_done() and fault["socket"] == self.name \
                    and fault["command"] == message.get("execute") \
                    and fault.get("after") in self.seen | {None}:
                self.fault, self.fault_id = fault, message["id"]
                self.done(fault["act"])
                self.is_mute = fault["act"] == "mute"
            self.seen.add(message.get("execute"))
        if self.late:
            self.done("sent late")
            self.send(self.late)
            self.late = None
        self.server.sendall(line)

    def send(self, data):
        with self.lock:
            self.client.sendall(data)

    def on_reply(self, line):
        if self.is_mute:
            return
        body = line.lstrip(b"\xff")
        mark = line[:len(line) - len(body)]
        message = {}
        with contextlib.suppress(ValueError):
            message = json.loads(body)
        is_it = self.fault_id is not None and message.get("id") == self.fault_id
        now = self.settings()
        if now.get("stripsIDs") and now["socket"] == self.name and "id" in message:
            del message["id"]
            line = mark + json.dumps(message).encode() + b"\n"
        if not is_it:
            return self.send(line)
        self.fault_id = None
        fault, text = self.fault, self.fault.get("text", "").encode("latin-1")
        if fault["act"] == "flood":
            events = [json.dumps({"timestamp": {"seconds": 1, "microseconds": n}, "data": {},
                                  "event": fault["event"]}) for n in range(1000)]
            for _ in range(fault["count"] // 1000):
                self.send("\r\n".join(events).encode() + b"\r\n")
            self.send(line)
        elif fault["act"] == "garbage":
            for _ in range((1 << 20) // len(text) if fault.get("isEndless") else 1):
                self.send(text)
        elif fault["act"] == "late":
            self.late = line
        elif fault["act"] == "stale":
            self.send(text + line)
        return None


def serve(control, path):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    while True:
        client, _ = listener.accept()
        server = socket.socket(socket.AF_UNIX)
        while server.connect_ex(f"{path}.real") != 0:
            time.sleep(0.01)
        with client, server:
            Relay(control, path, client, server).run()


def main():
    pid, control, *paths = sys.argv[1:]
    for path in paths:
        threading.Thread(target=serve, args=(pathlib.Path(control), path), daemon=True).start()
    watch(int(pid))


if __name__ == "__main__":
    main()
