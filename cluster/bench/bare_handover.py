#!/usr/bin/python3
"""A bare QMP script that hands a guest over to another QEMU in place: bench-hold's peer.

It does what Fermata's agent does inside a hold and nothing else: no leader, no locks, no guard, no
journal, no health checks. It is written to be hard to beat: the new QEMU is started, connected and
waiting beforehand; `migrate` goes out without a `stop` before it, so that QEMU does the migration's
setup (4 to 8 ms) while the guest still runs, and stops it by itself; the next step is taken on the
event that allows it, never by polling; the sockets are raw and replies are not awaited where the
order of commands already settles things; garbage collection is off during a hold. (`--variant
pipelined` and `explicit` send a `stop` first: half as fast again, or worse.)

One hand-over (same guest, RAM in a shared file, `x-ignore-shared`):
    before     start the new QEMU (-incoming defer -S), set capabilities, migrate-incoming
    hold       steer the tap to the new queue; old: migrate, which stops it; wait for the new one's
               "completed"; SIGKILL the old through its pidfd; new: cont; wait for RESUME
    after      close what belonged to the old one
The hold is counted twice: from the STOP to the RESUME event by QEMU's own timestamps
(`eventMilliseconds`, wall clock, comparable with Fermata's holdMilliseconds), and by this script's
CLOCK_MONOTONIC from before the first command is written to after RESUME is read
(`localMilliseconds`; with "migrate" it includes the setup, during which the guest runs).

    bare_handover.py --qemu DIR --guest DIR [--count 20] [--net tap|user|none] [--memory 256]
prints one JSON document: {holds: [...], eventMillisecondsMedian, localMillisecondsMedian, ...}.
DIR of --qemu is what cluster/qemu/install.sh made, DIR of --guest what cluster/guest/build.sh made.
--net tap needs root; the tap lives in a network namespace that ends with this process.
With --interactive it prints `{"ready": true, …}` once the guest is up, then makes one hand-over for
each line on stdin and prints its figures as one line of JSON, and ends with stdin: so another program
can alternate its own holds with these.
As a library: `BareGuest` (start, hand_over, close); with net "tap" it moves the calling process into
a network namespace of its own.
"""
import argparse
import ctypes
import fcntl
import gc
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

TUNSETIFF, TUNSETQUEUE, TUNSETSTEERINGEBPF = 0x400454CA, 0x400454D9, 0x800454E0
IFF_TAP, IFF_NO_PI, IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x0100
IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE = 0x0200, 0x0400
SYS_BPF, BPF_PROG_LOAD, BPF_PROG_TYPE_SOCKET_FILTER = 321, 5, 1
CLONE_NEWNET = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)


def interface_request(name, flags):
    """struct ifreq with a name and flags."""
    return struct.pack("16sH22x", name.encode(), flags)


def open_tap_queue(name):
    """Opens one more queue of the multi-queue tap `name` (made if missing); attached at once.

    Without IFF_VNET_HDR: its state would not survive two processes sharing the tap.
    Not close-on-exec, so a QEMU started with pass_fds gets it as `fd=N`.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, interface_request(name, IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE))
    return fd


def attach_queue(fd, attached):
    """Attaches or detaches a queue; a detached one gets nothing, and writing to it fails."""
    flag = IFF_ATTACH_QUEUE if attached else IFF_DETACH_QUEUE
    fcntl.ioctl(fd, TUNSETQUEUE, interface_request("", flag))


def load_steering(queue):
    """Loads the two-instruction BPF program `return queue`; gives its descriptor, or None."""
    code = struct.pack("<BBhi", 0xB7, 0, 0, queue) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    instructions, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    attributes = ctypes.create_string_buffer(struct.pack(
        "<IIQQIIQII", BPF_PROG_TYPE_SOCKET_FILTER, 2, ctypes.addressof(instructions),
        ctypes.addressof(licence), 0, 0, 0, 0, 0).ljust(128, b"\0"))
    fd = libc.syscall(SYS_BPF, BPF_PROG_LOAD, attributes, 128)
    return fd if fd >= 0 else None


def steer(queue_fd, program_fd):
    """All packets for the tap go to the queue that the program returns (modulo their number)."""
    fcntl.ioctl(queue_fd, TUNSETSTEERINGEBPF, struct.pack("i", program_fd))


class Monitor:
    """One QMP connection. Commands are written at once; `wait` reads until something has come."""

    def __init__(self, path, seconds=20):
        end = time.monotonic() + seconds
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(path)
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.002)
        self.socket.settimeout(seconds)
        self.buffer = b""
        self.replies = 0                        # replies read so far
        self.sent = 0                           # commands sent so far
        self.wait(lambda m: "QMP" in m)
        self.call("qmp_capabilities")

    def send(self, *commands):
        """Writes commands ((name, arguments) or name) in one go; their replies are not awaited."""
        out = b""
        for command in commands:
            name, arguments = (command, None) if isinstance(command, str) else command
            message = {"execute": name, "id": self.sent}
            if arguments:
                message["arguments"] = arguments
            # Compact, and no line end: QEMU 7.2 reads its monitor one byte at a time.
            out += json.dumps(message, separators=(",", ":")).encode()
            self.sent += 1
        self.socket.sendall(out)

    def messages(self):
        """Yields messages as they come."""
        while True:
            line, found, rest = self.buffer.partition(b"\n")
            if found:
                self.buffer = rest
                message = json.loads(line)
                if "error" in message:
                    raise RuntimeError(f"QMP: {message['error'].get('desc')}")
                yield message
                continue
            more = self.socket.recv(65536)
            if not more:
                raise RuntimeError("QMP: the monitor hung up")
            self.buffer += more

    def wait(self, matches):
        """Reads until a message matches, and returns it."""
        for message in self.messages():
            if matches(message):
                return message

    def event(self, name, status=None):
        """Waits for an event; returns its time in seconds since 1970, by QEMU."""
        message = self.wait(lambda m: m.get("event") == name and (
            status is None or m["data"].get("status") in (status, "failed")))
        if status and message["data"]["status"] != status:
            raise RuntimeError("the migration failed")
        stamp = message["timestamp"]
        return stamp["seconds"] + stamp["microseconds"] / 1e6

    def call(self, name, **arguments):
        """One command and its reply."""
        number = self.sent
        self.send((name, arguments))
        return self.wait(lambda m: m.get("id") == number)["return"]

    def close(self):
        self.socket.close()


class Generation:
    """One QEMU process of the guest, with its directory, monitors and tap queue."""

    def __init__(self, guest, number, installation, incoming):
        self.directory = f"{guest.directory}/{number}"
        os.mkdir(self.directory)
        self.queue = open_tap_queue(guest.tap) if guest.tap else None
        environment = dict(os.environ, QEMU_MODULE_DIR=installation["moduleDirectory"],
                           **guest.environment)
        self.log = open(f"{self.directory}/log", "wb")
        self.process = subprocess.Popen(
            guest.arguments(self, installation, incoming), env=environment,
            pass_fds=[self.queue] if self.queue is not None else [], stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log, start_new_session=True)
        self.pidfd = os.pidfd_open(self.process.pid)
        try:
            self.monitor = Monitor(f"{self.directory}/qmp")
        except OSError:
            self.process.kill()
            with open(f"{self.directory}/log") as log:
                raise RuntimeError(f"QEMU did not start: {log.read()}") from None

    def close(self):
        """Waits for the process, which must have been killed, and gives everything back."""
        self.process.wait()
        self.monitor.close()
        self.log.close()
        os.close(self.pidfd)
        if self.queue is not None:
            os.close(self.queue)
        shutil.rmtree(self.directory, ignore_errors=True)


class BareGuest:
    """A test guest that can be handed over. `net`: "tap", "user" or "none".

    `disk` False leaves the disk out, `agent` False the guest-agent channel. `steering` chooses how
    the tap is switched: "bpf" (both queues stay attached; nothing is lost in either direction),
    "queue" (TUNSETQUEUE) or None for whichever works.
    """

    def __init__(self, guest_directory, net="tap", memory_mebibytes=256, disk=True, agent=True,
                 port=17100, accelerator="tcg", extra=(), roms=False, steering=None,
                 command_line="", cpu="max", machine="q35", environment=None):
        self.directory = tempfile.mkdtemp(prefix="fm-bare-")
        self.memory_path = f"/dev/shm/{os.path.basename(self.directory)}.ram"
        self.images, self.net, self.memory = guest_directory, net, memory_mebibytes
        self.disk, self.agent, self.port, self.accelerator = disk, agent, port, accelerator
        self.extra, self.roms, self.more, self.cpu = list(extra), roms, command_line, cpu
        self.machine, self.environment = machine, environment or {}
        self.tap = None
        self.address = ("127.0.0.1", port)
        self.current, self.number = None, 0
        if net == "tap":
            self.make_network(steering)
        if disk:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2",
                            f"{self.directory}/disk.qcow2", "64M"], check=True)

    def make_network(self, steering):
        """Moves this process into a network namespace of its own, with a bridge and the tap."""
        if libc.unshare(CLONE_NEWNET) != 0:
            raise PermissionError("a network namespace needs root; use net='user'")
        self.tap, self.address = "fmtap0", ("10.77.1.10", 7000)
        anchor = open_tap_queue(self.tap)      # its name: kept by making it persistent
        fcntl.ioctl(anchor, 0x400454CB, 1)     # TUNSETPERSIST
        os.close(anchor)
        for command in ("link set lo up", "link add br0 type bridge",
                        "link set br0 address 02:fe:00:00:00:01 up",
                        "addr add 10.77.0.1/16 dev br0",
                        f"link set {self.tap} master br0 up"):
            subprocess.run(["ip", *command.split()], check=True)
        self.programs = [load_steering(0), load_steering(1)] if steering != "queue" else [None]
        self.steering = "bpf" if None not in self.programs else "queue"

    def arguments(self, generation, installation, incoming):
        """The command line: that of the agent's qemu driver."""
        d, rom = generation.directory, [] if self.roms else ["romfile="]
        address = {"tap": "10.77.1.10/16", "user": "dhcp", "none": "none"}[self.net]
        with open(f"{self.images}/cmdline") as file:
            command_line = f"{file.read().strip()} fermata.ip={address} {self.more}"
        a = [installation["path"], "-nodefaults", "-no-user-config", "-display", "none",
             "-vga", "none", "-name", "guest=bare"]
        for directory in installation["dataDirectories"]:
            a += ["-L", directory]
        a += ["-M", f"{self.machine},memory-backend=ram0", "-cpu", self.cpu,
              "-accel", self.accelerator, "-smp", "1", "-m", f"{self.memory}M",
              "-object", f"memory-backend-file,id=ram0,size={self.memory}M,"
              f"mem-path={self.memory_path},share=on",
              "-rtc", "base=utc,clock=host",
              "-kernel", f"{self.images}/vmlinuz", "-initrd", f"{self.images}/initrd",
              "-append", command_line,
              "-qmp", f"unix:{d}/qmp,server=on,wait=off",
              "-qmp", f"unix:{d}/guard,server=on,wait=off",
              "-chardev", f"file,id=console,path={self.directory}/console,append=on",
              "-serial", "chardev:console"]
        if self.disk:
            a += ["-blockdev", f"driver=file,filename={self.directory}/disk.qcow2,node-name=disk0f",
                  "-blockdev", "driver=qcow2,file=disk0f,node-name=disk0",
                  "-device", "virtio-blk-pci,drive=disk0,id=blk0"]
        if self.net == "tap":
            a += ["-netdev", f"tap,id=net0,fd={generation.queue}"]
        elif self.net == "user":
            # Only one process can listen on a port: the forward is given to the one that runs.
            forward = "" if incoming else f",hostfwd=tcp:127.0.0.1:{self.port}-:7000"
            a += ["-netdev", f"user,id=net0{forward}"]
        if self.net != "none":
            a += ["-device", ",".join(["virtio-net-pci,netdev=net0,id=nic0,"
                                       "mac=52:54:00:fe:00:01"] + rom)]
        if self.agent:
            a += ["-device", "virtio-serial-pci,id=serial0",
                  "-chardev", f"socket,path={d}/ga,server=on,wait=off,id=ga",
                  "-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0"]
        if incoming:
            a += ["-S", "-incoming", "defer"]
        return a + self.extra

    def start(self, installation, seconds=60):
        """Starts generation 1 and waits until the probe answers; returns its report (or None)."""
        self.current = Generation(self, 1, installation, incoming=False)
        self.number = 1
        self.set_capabilities(self.current)
        end = time.monotonic() + seconds
        while self.net != "none":
            try:
                return self.ask("report")
            except (OSError, ValueError):
                if time.monotonic() > end:
                    raise RuntimeError("the guest did not come up") from None
                time.sleep(0.1)
        time.sleep(6)
        return None

    def ask(self, line):
        """One request to the probe; its answer, decoded if it is JSON."""
        with socket.create_connection(self.address, 2) as s:
            s.settimeout(600)
            s.sendall(line.encode() + b"\n")
            answer = s.makefile().readline()
            return json.loads(answer) if answer.startswith("{") else answer.strip()

    @staticmethod
    def set_capabilities(generation):
        generation.monitor.call("migrate-set-capabilities", capabilities=[
            {"capability": "x-ignore-shared", "state": True},
            {"capability": "events", "state": True}])

    def prepare(self, installation):
        """Starts the next generation beside the running one, waiting for the guest."""
        if self.tap and self.steering == "bpf":
            # Until the hold everything goes to queue 0, the old one's, also from the
            # moment the new one's queue appears.
            steer(self.current.queue, self.programs[0])
        new = Generation(self, self.number + 1, installation, incoming=True)
        if self.tap and self.steering == "queue":
            attach_queue(new.queue, False)
        self.set_capabilities(new)
        new.monitor.call("migrate-incoming", uri=f"unix:{new.directory}/in")
        return new

    def switch_network(self, old, new):
        """From now on packets wait in the new one's queue."""
        if self.steering == "bpf":
            steer(new.queue, self.programs[1])
        else:
            attach_queue(new.queue, True)
            attach_queue(old.queue, False)

    def hand_over(self, installation, variant="migrate"):
        """One hand-over; returns the figures in milliseconds.

        variant: "migrate" (migrate stops the guest itself, after its setup), "pipelined" (stop +
        migrate in one write), "explicit" (stop, its event, migrate).
        """
        old, started = self.current, time.monotonic()
        new = self.prepare(installation)
        prepared = time.monotonic()
        migrate = ("migrate", {"uri": f"unix:{new.directory}/in"})
        gc.disable()
        try:
            begin = time.monotonic()
            if self.tap:
                self.switch_network(old, new)
            if variant == "explicit":
                old.monitor.send("stop")
                stopped = old.monitor.event("STOP")
                old.monitor.send(migrate)
            elif variant == "pipelined":
                old.monitor.send("stop", migrate)
                stopped = old.monitor.event("STOP")
            else:
                old.monitor.send(migrate)
                stopped = old.monitor.event("STOP")
            stop_read = time.monotonic()
            completed = new.monitor.event("MIGRATION", "completed")
            # Killed before the other is continued: never two runners. Its exit is not awaited.
            signal.pidfd_send_signal(old.pidfd, signal.SIGKILL)
            new.monitor.send("cont")
            resumed = new.monitor.event("RESUME")
            end = time.monotonic()
        finally:
            gc.enable()
        self.current, self.number = new, self.number + 1
        old.close()
        if self.net == "user":
            new.monitor.call("human-monitor-command", **{
                "command-line": f"hostfwd_add net0 tcp:127.0.0.1:{self.port}-:7000"})
        return {"eventMilliseconds": (resumed - stopped) * 1e3,
                "localMilliseconds": (end - begin) * 1e3,
                "stopMilliseconds": (stop_read - begin) * 1e3,
                "moveMilliseconds": (completed - stopped) * 1e3,
                "resumeMilliseconds": (resumed - completed) * 1e3,
                "prepareMilliseconds": (prepared - started) * 1e3,
                "version": installation["version"]}

    def close(self):
        """Ends the guest and removes everything it had."""
        if self.current:
            self.current.process.kill()
            self.current.close()
            self.current = None
        shutil.rmtree(self.directory, ignore_errors=True)
        if os.path.exists(self.memory_path):
            os.unlink(self.memory_path)


def installations(directory):
    """The two installations that install.sh made: [old, new]."""
    found = []
    for name in ("old", "new"):
        with open(f"{directory}/{name}/env.json") as file:
            found.append(json.load(file))
    return found


def summary(holds):
    """Medians and extremes of a list of hand_over results."""
    result = {"count": len(holds)}
    for key in ("eventMilliseconds", "localMilliseconds", "prepareMilliseconds"):
        values = [h[key] for h in holds]
        result |= {f"{key}Median": round(statistics.median(values), 3),
                   f"{key}Min": round(min(values), 3), f"{key}Max": round(max(values), 3)}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--qemu", required=True, help="directory made by cluster/qemu/install.sh")
    parser.add_argument("--guest", required=True, help="directory made by cluster/guest/build.sh")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--net", choices=("tap", "user", "none"),
                        default="tap" if os.geteuid() == 0 else "user")
    parser.add_argument("--memory", type=int, default=256, help="MiB")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between hand-overs")
    parser.add_argument("--variant", choices=("pipelined", "explicit", "migrate"),
                        default="migrate")
    parser.add_argument("--accelerator", default="tcg")
    parser.add_argument("--interactive", action="store_true", help="one hand-over a line of stdin")
    options = parser.parse_args()
    both = installations(options.qemu)
    guest = BareGuest(options.guest, options.net, options.memory, accelerator=options.accelerator)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        before = guest.start(both[0])
        holds = []
        if options.interactive:
            print(json.dumps({"ready": True, "report": before}), flush=True)
            for number, _ in enumerate(sys.stdin, start=1):
                print(json.dumps(guest.hand_over(both[number % 2], options.variant)), flush=True)
            return
        for i in range(options.count):
            time.sleep(options.pause)
            holds.append(guest.hand_over(both[(i + 1) % 2], options.variant))
        after = guest.ask("report") if options.net != "none" else None
        print(json.dumps({
            "variant": options.variant, "net": options.net, "memoryMebibytes": options.memory,
            "holds": [{k: round(v, 3) if isinstance(v, float) else v for k, v in h.items()}
                      for h in holds],
            **summary(holds), "reportBefore": before, "reportAfter": after}))
        if after and not (after["memoryIntact"] and after["diskOk"]
                          and after["bootId"] == before["bootId"]):
            sys.exit("the guest did not survive intact")
    finally:
        guest.close()


if __name__ == "__main__":
    main()
