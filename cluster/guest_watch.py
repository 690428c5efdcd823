#!/usr/bin/python3
"""Watches guests from outside: one TCP connection each, a ping each few milliseconds.

    guest_watch.py OUT NAME=ADDRESS:PORT…

Run it in the network namespace that reaches the guests. It keeps OUT/status.json up to date (written
anew four times a second, by rename) and appends every gap to OUT/gaps.jsonl:
    status: {"at": µs, "guests": {NAME: {"connected", "connections", "answers", "lastAnswerAt"}}}
    gaps:   {"guest", "from": µs, "milliseconds"}   no answer for longer than GAP_MILLISECONDS
Times are µs since 1970. `connections` counts how often it had to connect: 1 means that the first
connection was kept. A connection is given up only when the kernel says so, or after 20 s of silence.
Ends on SIGTERM, and by itself when its parent is gone (unless --stay is the first argument).
"""
import json
import os
import selectors
import signal
import socket
import sys
import time

PING_SECONDS = 0.008
GAP_MILLISECONDS = 30
SILENCE_SECONDS = 20
STATUS_SECONDS = 0.25


class Watched:
    """One guest and the connection to it."""

    def __init__(self, name, address, selector, gaps):
        host, _, port = address.rpartition(":")
        self.name, self.address = name, (host, int(port))
        self.selector, self.gaps = selector, gaps
        self.socket, self.is_open = None, False
        self.connections = self.answers = self.sent = 0
        self.last_answer = None                  # monotonic seconds; None before the first
        self.last_answer_wall = None
        self.began = self.next_ping = 0.0
        self.buffer = b""

    def connect(self, now):
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(self.address)
        self.began, self.is_open, self.buffer = now, False, b""
        self.selector.register(self.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def close(self, now):
        self.selector.unregister(self.socket)
        self.socket.close()
        self.socket, self.is_open, self.next_ping = None, False, now + 0.1

    def on_event(self, mask, now):
        if not self.is_open:
            if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return self.close(now)
            if not mask & selectors.EVENT_WRITE:
                return None
            self.is_open, self.next_ping = True, now
            self.selector.modify(self.socket, selectors.EVENT_READ, self)
            return None
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            return self.close(now)
        self.buffer += data
        lines = self.buffer.split(b"\n")
        self.buffer = lines.pop()
        if not lines:
            return None
        if self.answers == 0 or not self.last_on_this:
            # With user-mode networking a connection opens before the guest is there.
            self.connections += 1
            self.last_on_this = True
        wall = time.time()
        if self.last_answer is not None:
            gap = (now - self.last_answer) * 1000
            if gap > GAP_MILLISECONDS:
                self.gaps.write(json.dumps({
                    "guest": self.name, "from": int(self.last_answer_wall * 1e6),
                    "milliseconds": round(gap, 3)}) + "\n")
                self.gaps.flush()
        self.answers += len(lines)
        self.last_answer, self.last_answer_wall = now, wall
        return None

    last_on_this = False
    silence = SILENCE_SECONDS

    def tick(self, now):
        if now < self.next_ping:
            return
        if self.socket is None:
            self.last_on_this = False
            return self.connect(now)
        heard = max(self.began, self.last_answer or 0)
        if now - heard > self.silence:
            return self.close(now)
        if self.is_open:
            self.next_ping = now + PING_SECONDS
            self.sent += 1
            try:
                self.socket.send(b"ping %d\n" % self.sent)
            except BlockingIOError:
                pass
            except OSError:
                self.close(now)

    def status(self):
        wall = self.last_answer_wall
        return {"connected": self.is_open and self.last_on_this, "connections": self.connections,
                "answers": self.answers, "lastAnswerAt": int(wall * 1e6) if wall else None}


def write_status(out, guests):
    path = f"{out}/status.json"
    with open(f"{path}.new", "w") as file:
        json.dump({"at": int(time.time() * 1e6),
                   "guests": {g.name: g.status() for g in guests}}, file)
    os.replace(f"{path}.new", path)


def main():
    arguments = sys.argv[1:]
    if arguments[0] == "--silence":
        Watched.silence = float(arguments[1])
        del arguments[:2]
    stay = arguments[0] == "--stay"
    out, *targets = arguments[stay:]
    parent = os.getppid()
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    selector = selectors.DefaultSelector()
    with open(f"{out}/gaps.jsonl", "a") as gaps:
        guests = [Watched(*target.split("=", 1), selector, gaps) for target in targets]
        next_status = 0.0
        while not ended and (stay or os.getppid() == parent):
            now = time.monotonic()
            for guest in guests:
                guest.tick(now)
            if now >= next_status:
                write_status(out, guests)
                next_status = now + STATUS_SECONDS
            for key, mask in selector.select(PING_SECONDS / 4):
                if key.data.socket is key.fileobj:
                    key.data.on_event(mask, time.monotonic())
        write_status(out, guests)


if __name__ == "__main__":
    main()
