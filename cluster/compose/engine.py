"""A container engine of one's own, without a registry and without leaving anything behind: podman with
private settings in private namespaces, and stand-ins for the images that the files name.

Happy path: `with Engine(cache) as e: e.make_bases(); e.build(…); e.enter_network(); e.serve()`, then
docker-compose with `e.environment`. Everything but the images lives in a temporary directory; those
stay in CACHE/compose for the next time.

What stands in for what, under the very names of the Dockerfile and the compose files:

    debian:bookworm…-slim     debootstrap, less what Debian's slim image leaves out
    swift:…-bookworm          that, a C compiler, and the toolchain of this computer, mounted
    quay.io/coreos/etcd       that, and Debian's etcd-server

Runs as root, inside namespaces that `isolated` has made: processes, mounts, /run and, from
`enter_network` on, the network are this run's alone, so that its end is theirs, however it comes.
"""
import ctypes
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLONE_NEWNET = 0x40000000
CGROUPS = pathlib.Path("/sys/fs/cgroup")
# What Debian's slim images leave out (debuerreotype, .slimify-excludes).
SLIM = ["usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian",
        "usr/share/linda", "usr/share/groff", "var/cache/apt/archives", "var/lib/apt/lists",
        "var/cache/man"]


class EngineError(Exception):
    """Something could not be made or does not do what it should; says what."""


# ---- namespaces --------------------------------------------------------------------------------


def isolated(function, arguments=()):
    """Runs function(directory, *arguments) in a process and namespaces of its own; its exit code.

    This process stays outside, passes SIGINT and SIGTERM on, and removes what may be left of the
    inside: the directory, cgroups.
    """
    before = set(cgroups())
    directory = tempfile.mkdtemp(prefix="fm-compose-", dir="/tmp")
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _inside(function, directory, arguments)
        finally:
            os._exit(code)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda n, _frame: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    for path in cgroups():
        if path not in before:
            try:
                path.rmdir()
            except OSError as error:
                print(f"engine: {path} is left: {error}", file=sys.stderr)
    shutil.rmtree(directory, ignore_errors=True)
    return os.waitstatus_to_exitcode(status)


def cgroups():
    """The directories that podman makes for containers, the innermost first."""
    return [pathlib.Path(path) for parent in sorted(CGROUPS.glob("**/libpod_parent"))
            for path, _, _ in os.walk(parent, topdown=False)]


def _inside(function, directory, arguments):
    """The child: makes the namespaces; the first process of the new ones only waits for orphans."""
    libc = ctypes.CDLL(None, use_errno=True)
    # CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWIPC
    if libc.unshare(0x00020000 | 0x20000000 | 0x08000000) != 0:
        raise EngineError(f"no namespaces: {os.strerror(ctypes.get_errno())}")
    first = os.fork()
    if first != 0:
        # The end of this process is the end of `first`, and that of all others in there.
        signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGTERM))
        return max(0, os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]))
    libc.prctl(1, signal.SIGKILL)               # PR_SET_PDEATHSIG
    for arguments_of_mount in (["--make-rprivate", "/"], ["-t", "proc", "proc", "/proc"],
                               ["-t", "tmpfs", "tmpfs", "/run"]):
        subprocess.run(["mount", *arguments_of_mount], check=True)
    main = os.fork()
    if main == 0:
        code = 70
        try:
            code = function(pathlib.Path(directory), *arguments)
        except KeyboardInterrupt as error:
            print(f"interrupted {error}", file=sys.stderr)
            code = 130
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code or 0)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(main, signal.SIGTERM))
    while True:
        pid, status = os.wait()
        if pid == main:
            os._exit(max(0, os.waitstatus_to_exitcode(status)))


# ---- the engine --------------------------------------------------------------------------------


class Engine:
    """podman, its images, its service and the health checks that nobody else would run."""

    def __init__(self, directory, cache, say=print):
        self.directory, self.cache, self.say = directory, pathlib.Path(cache).resolve(), say
        self.socket = directory / "podman.sock"
        self.storage = self.cache / "compose" / "storage"
        self.storage.mkdir(parents=True, exist_ok=True)
        # One at a time: what a killed run has left there is removed by the next.
        self.lock = open(self.cache / "compose" / "lock", "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise EngineError(f"{self.lock.name} is in use: another run is at work") from None
        self.service = None
        self.stopping = threading.Event()
        self.write_settings()
        self.environment = os.environ | {
            "CONTAINERS_CONF": str(directory / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(directory / "registries.conf"),
            "DOCKER_HOST": f"unix://{self.socket}",
            # No systemd times the health checks: check_health does.
            "DISABLE_HC_SYSTEMD": "true",
            # Where podman keeps what `RUN --mount=type=cache` names.
            "TMPDIR": str(self.cache / "compose" / "tmp"),
        }
        (self.cache / "compose" / "tmp").mkdir(exist_ok=True)

    def write_settings(self):
        """Nothing in /etc is changed, and nothing there changes what happens here."""
        d = self.directory
        for name in ("run", "volumes", "networks", "tmp"):
            (d / name).mkdir()
        # podman's record of containers, not of images. It would be of other directories.
        shutil.rmtree(self.storage / "libpod", ignore_errors=True)
        (d / "containers.conf").write_text(f"""\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
tmp_dir = "{d}/tmp"
volume_path = "{d}/volumes"
[network]
network_backend = "netavark"
network_config_dir = "{d}/networks"
""")
        (d / "storage.conf").write_text(f"""\
[storage]
driver = "overlay"
graphroot = "{self.storage}"
runroot = "{d}/run"
""")
        (d / "registries.conf").write_text("unqualified-search-registries = []\n")

    # ---- running ----

    def run(self, *command, quiet=True, timeout=3600, check=True, **changes):
        """A command that has to succeed; its output."""
        done = subprocess.run([str(word) for word in command], text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE if quiet else None,
                              stderr=subprocess.PIPE if quiet else None, check=False,
                              timeout=timeout, env=self.environment, **changes)
        if check and done.returncode != 0:
            raise EngineError(f"{' '.join(map(str, command))}\n  ended with {done.returncode}: "
                              f"{(done.stderr or '').strip()}")
        return done.stdout

    def podman(self, *arguments, **options):
        return self.run("podman", *arguments, **options)

    def has_image(self, name):
        return subprocess.run(["podman", "image", "exists", name], env=self.environment,
                              check=False).returncode == 0

    # ---- images ----

    def make_bases(self, debian, swift, etcd):
        """The stand-ins under these names, unless they are there."""
        # What a run that was killed has left in the storage.
        self.podman("system", "prune", "--external", "--force", check=False)
        if not self.has_image(debian):
            self.make_debian(debian)
        if not self.has_image(swift):
            self.make_swift(debian, swift)
        if not self.has_image(etcd):
            self.make_etcd(debian, etcd)

    def make_debian(self, name):
        self.say(f"debootstrap makes a stand-in for {name}")
        tree = self.directory / "rootfs"
        packages = self.cache / "compose" / "debs"
        packages.mkdir(exist_ok=True)
        self.run("debootstrap", "--variant=minbase", f"--cache-dir={packages}", "bookworm", tree,
                 next(site for site, suite in debian_sources() if suite == "bookworm"))
        (tree / "etc/apt/sources.list").write_text("".join(
            f"deb {site} {suite} main\n" for site, suite in debian_sources()))
        for path in SLIM:
            # Debian's slim images keep copyrights, and so do we.
            self.run("find", tree / path, "-mindepth", "1", "!", "-type", "d", "!", "-name", "copyright",
                     "-delete", check=False)
        for path in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
            (tree / path).mkdir(parents=True, exist_ok=True)
        # As in Debian's own images: packages bring no documents, apt keeps no archives.
        (tree / "etc/dpkg/dpkg.cfg.d/docker").write_text("".join(
            f"path-exclude /{path}/*\n" for path in SLIM if path.startswith("usr/share"))
            + "path-include /usr/share/doc/*/copyright\n")
        (tree / "etc/apt/apt.conf.d/docker-clean").write_text(
            'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };\n'
            'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\n')
        self.run("sh", "-c", 'tar -C "$0" -c . | podman import --change "CMD [\\"bash\\"]" - "$1"',
                 tree, name)
        shutil.rmtree(tree)

    def make_swift(self, debian, name):
        self.say(f"a stand-in for {name}: the toolchain of this computer, mounted")
        self.build_text(name, f"""\
FROM {debian}
RUN apt-get update && apt-get install -y --no-install-recommends binutils-gold ca-certificates \\
    gcc git libc6-dev libcurl4 libedit2 libncurses6 libpython3.11 libsqlite3-0 libstdc++-12-dev \\
    libxml2 pkg-config tzdata zlib1g-dev && rm -rf /var/lib/apt/lists/*
ENV PATH={swift_toolchain()}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
""")

    def make_etcd(self, debian, name):
        self.say(f"a stand-in for {name}: Debian's etcd")
        self.build_text(name, f"""\
FROM {debian}
RUN apt-get update && apt-get install -y --no-install-recommends etcd-server etcd-client \\
    && rm -rf /var/lib/apt/lists/* && ln -s /usr/bin/etcd /usr/bin/etcdctl /usr/local/bin/
EXPOSE 2379 2380
CMD ["/usr/local/bin/etcd"]
""")

    def build_text(self, name, text):
        directory = self.directory / "context"
        directory.mkdir(exist_ok=True)
        (directory / "Dockerfile").write_text(text)
        self.podman("build", *BUILD, "--tag", name, directory)

    def build(self, name, target):
        """One target of the Dockerfile of this project."""
        toolchain = swift_toolchain()
        mounts = [f"{toolchain.parent}:{toolchain.parent}:ro"]
        mounts += self.git_mirrors()
        self.podman("build", *BUILD, *[w for m in mounts for w in ("--volume", m)],
                    "--target", target, "--tag", name, "--file", ROOT / "Dockerfile", ROOT,
                    quiet=False)

    def git_mirrors(self):
        """Where git is told to find packages in a directory, the build is told the same."""
        done = subprocess.run(["git", "config", "--get-regexp", r"^url\..*\.insteadof$"],
                              capture_output=True, text=True, check=False)
        mirrors = [re.fullmatch(r"url\.(/.*)\.insteadof (.*)", line, re.IGNORECASE)
                   for line in done.stdout.splitlines()]
        mirrors = [m.groups() for m in mirrors if m]
        if not mirrors:
            return []
        (self.directory / "gitconfig").write_text("[safe]\n\tdirectory = *\n" + "".join(
            f'[url "{path}"]\n\tinsteadOf = {url}\n' for path, url in mirrors))
        paths = sorted({path.rstrip("/") for path, _ in mirrors})
        return [f"{self.directory}/gitconfig:/etc/gitconfig:ro"] + [f"{p}:{p}:ro" for p in paths]

    def image_megabytes(self, name):
        return int(json.loads(self.podman("image", "inspect", name))[0]["Size"]) / 1e6

    # ---- service ----

    def enter_network(self):
        """From here on: a network of our own. Images cannot be built in it."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise EngineError(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        self.run("ip", "link", "set", "lo", "up")
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1")

    def serve(self):
        """The API that docker-compose speaks, and the health checks."""
        with open(self.directory / "service.log", "ab") as log:
            self.service = subprocess.Popen(
                ["podman", "system", "service", "--time", "0", f"unix://{self.socket}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment)
        end = time.monotonic() + 30
        while not self.socket.exists():
            if self.service.poll() is not None or time.monotonic() > end:
                raise EngineError("podman's service does not start:\n"
                                  + (self.directory / "service.log").read_text())
            time.sleep(0.1)
        threading.Thread(target=self.check_health, daemon=True).start()

    def check_health(self):
        """What systemd's timers do elsewhere: runs every container's health check again and again."""
        while not self.stopping.wait(4):
            done = subprocess.run(
                ["podman", "ps", "--format", "{{.ID}}", "--filter", "status=running"],
                capture_output=True, text=True, env=self.environment, check=False)
            for container in done.stdout.split():
                subprocess.run(["podman", "healthcheck", "run", container], check=False,
                               capture_output=True, env=self.environment)

    def close(self):
        """Ends containers and service. What is left of them ends with the namespaces."""
        self.stopping.set()
        for arguments in (["rm", "--all", "--force", "--time", "0"], ["volume", "rm", "--all", "--force"],
                          ["network", "prune", "--force"]):
            subprocess.run(["podman", *arguments], capture_output=True, check=False, timeout=120,
                           env=self.environment)
        if self.service:
            self.service.terminate()
            self.service.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# docker's format keeps HEALTHCHECK; nothing is to be had from a registry.
BUILD = ["--format", "docker", "--pull=never", "--network", "host", "--layers"]


def swift_toolchain():
    """The usr directory of the toolchain on PATH."""
    program = shutil.which("swift")
    if not program:
        raise EngineError("swift is not on PATH")
    return pathlib.Path(program).resolve().parent.parent


def debian_sources():
    """(site, suite) of every list of Debian packages that apt of this computer uses."""
    done = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)"],
                          capture_output=True, text=True, check=False)
    pairs = sorted({tuple(line.split()) for line in done.stdout.splitlines()
                    if " bookworm" in line})
    return pairs or [("http://deb.debian.org/debian", "bookworm"),
                     ("http://deb.debian.org/debian-security", "bookworm-security")]
