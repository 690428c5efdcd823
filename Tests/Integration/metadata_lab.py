"""A cluster whose hosts have a notifier each at 169.254.169.254, and guests that run what asks there.

    middle: server, central notifier, default gateway of the guests 10.77.0.1
       │
    host a: br0 + 169.254.169.254, notifier --host a     host b: the same     host c: the same
       │ QEMU guest db-0 (10.77.1.10)                       │ db-1               │ web-0
       │ namespace in-db-0 (10.77.2.10)                     │ in-db-1

The address is plumbed by cluster/plumb-metadata.sh, as an operator would. web-0 asks from inside the
QEMU guest, over its tap. What Debian's packages bring would need a whole Debian in the test guest, so it
runs in a network namespace on the same bridge whose address the host file gives to the guest as well: in-db-0
is to the notifier what db-0 is. in-db-0 sends by its default gateway, which is not its host; in-db-1
has a route to the link and asks by ARP: the two ways that guests have.
"""
import contextlib
import http.client
import json
import pathlib
import subprocess
import threading
import time

from support import ROOT, wait_until  # first: it sets the path for the others

from lab import Cluster, Daemon, Guest

METADATA = "169.254.169.254"
EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"


class MetadataCluster(Cluster):
    """See the top of this file."""

    def __init__(self, fermata, cache, **options):
        def addresses(*those):
            return f"    addresses: [{', '.join(those)}]\n"
        guests = [Guest("db-0", "a", "db", 0, memory=128, pattern=16, tick=20_000,
                        extra=addresses("10.77.1.10", "10.77.2.10")),
                  Guest("db-1", "b", "db", 1, memory=128, pattern=16, tick=20_000,
                        extra=addresses("10.77.1.11", "10.77.2.11")),
                  Guest("web-0", "c", memory=128, pattern=16, tick=20_000, disk=False,
                        extra=addresses("10.77.1.12"), words="fermata.metadata=acknowledge")]
        super().__init__(fermata, cache, guests, net="tap", update_domains={"db": 2},
                         cluster="test", **options)
        self.notifiers, self.daemons = {}, []

    def make_network(self):
        super().make_network()
        for number, (guest, host, route) in enumerate(
                [("db-0", "a", "default via 10.77.0.1"), ("db-1", "b", f"{METADATA} dev eth0")]):
            inside = f"in-{guest}"
            self.add_namespace(inside)
            self.ip(host, f"link add {inside} type veth peer name eth0 netns {self.tag}-{inside}",
                    f"link set {inside} master br0 up")
            self.ip(inside, f"addr add 10.77.2.{10 + number}/16 dev eth0", "link set eth0 up",
                    f"route add {route}")

    def make_pki(self):
        super().make_pki()
        for host in self.hosts:
            self.run(self.fermata, "pki", "issue", "notifier", f"host-{host}", "--directory",
                     self.directory / "pki")

    def start_agents(self, hosts=None):
        super().start_agents(hosts)
        # The taps are there now; see the script for why that matters to some kernels.
        for host in self.hosts:
            self.plumb(host, "br0")
            self.notifiers[host] = Daemon(
                self, f"notifier-{host}",
                [self.fermata, "notifier", "--host", host, "--listen", f"{METADATA}:80", "--server",
                 self.server_address, "--credentials", self.credentials(f"notifier-host-{host}"),
                 "--database", self.directory / f"notifier-{host}.sqlite"],
                "fermata notifier ready", host).start()

    def plumb(self, host, *arguments):
        self.run(ROOT / "cluster" / "plumb-metadata.sh", *arguments, namespace=host)

    def everybody(self):
        return super().everybody() + list(self.notifiers.values()) + self.daemons

    def document(self, inside):
        """What a guest reads now."""
        with self.in_namespace(inside):
            connection = http.client.HTTPConnection(METADATA, timeout=10)
            connection.connect()
        with contextlib.closing(connection):
            connection.request("GET", EVENTS, headers={"Metadata": "true"})
            answer = connection.getresponse()
            body = answer.read()
        assert answer.status == 200, (answer.status, body)
        return json.loads(body)


class Reader:
    """Reads a guest's document ten times a second while the `with` lasts; `documents`: those that differ
    from the one before."""

    def __init__(self, cluster, inside):
        self.cluster, self.inside = cluster, inside
        self.documents, self.error, self.ends = [], None, False
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends = True
        self.thread.join(30)
        if self.error:
            raise self.error

    def run(self):
        try:
            while not self.ends:
                document = self.cluster.document(self.inside)
                if document not in self.documents[-1:]:
                    self.documents.append(document)
                time.sleep(0.1)
        except (OSError, AssertionError, http.client.HTTPException, ValueError) as error:
            self.error = error


# ---- a real Pacemaker in the guests ------------------------------------------------------------

COROSYNC = """
totem {
  version: 2
  cluster_name: guests
  transport: udpu
  crypto_cipher: none
  crypto_hash: none
  token: 10000
}
nodelist {
  node {
    ring0_addr: 10.77.2.10
    name: db-0
    nodeid: 1
  }
  node {
    ring0_addr: 10.77.2.11
    name: db-1
    nodeid: 2
  }
}
quorum {
  provider: corosync_votequorum
  two_node: 1
  wait_for_all: 0
}
system {
  sched_rr: no
  move_to_root_cgroup: no
}
logging {
  to_stderr: yes
  to_syslog: no
}
"""

# What an administrator sets first; dc-deadtime only saves the 20 s that a first election waits.
CLUSTER = """<cib crm_feature_set="3.0.14" validate-with="pacemaker-3.0" admin_epoch="1" epoch="0"
  num_updates="0"><configuration><crm_config><cluster_property_set id="options">
  <nvpair id="o1" name="stonith-enabled" value="false"/>
  <nvpair id="o2" name="node-health-strategy" value="custom"/>
  <nvpair id="o3" name="dc-deadtime" value="2s"/>
  <nvpair id="o4" name="load-threshold" value="1000%"/>
  </cluster_property_set></crm_config><nodes><node id="1" uname="db-0"/><node id="2" uname="db-1"/>
  </nodes><resources/><constraints/></configuration><status/></cib>
"""

# A stand-in for a database that runs on either guest, and the agent as its documentation has it:
# cloned. Freeze is not among the events that it heeds by default. It looks every 5 s, not more often: a
# look that is under way when its guest goes into standby is killed, and if it had just said that it
# reads, nobody reads again.
RESOURCES = """<resources>
  <primitive id="database" class="ocf" provider="pacemaker" type="Dummy"><operations>
    <op id="database-monitor" name="monitor" interval="10s" timeout="60s"/></operations>
    <meta_attributes id="database-meta">
    <nvpair id="d1" name="resource-stickiness" value="1"/></meta_attributes></primitive>
  <clone id="events-clone"><primitive id="events" class="ocf" provider="heartbeat" type="{agent}">
    <instance_attributes id="events-attributes">
      <nvpair id="e1" name="eventTypes" value="Freeze"/></instance_attributes>
    <operations><op id="events-monitor" name="monitor" interval="5s" timeout="240s"/></operations>
  </primitive><meta_attributes id="events-meta">
    <nvpair id="e2" name="allow-unhealthy-nodes" value="true"/></meta_attributes></clone>
</resources>"""

START = r"""#!/bin/sh
# Pacemaker on one guest, in mount, host name, IPC and PID namespaces of its own: start NAME DIRECTORY
set -e
hostname "$1"
mount --make-rprivate /
for place in /run /var/log /var/lib/pacemaker /var/lib/corosync /dev/shm; do
    mount -t tmpfs tmpfs $place
done
mkdir -p /var/log/corosync /run/lock /run/resource-agents
for place in /var/lib/pacemaker/cib /var/lib/pacemaker/pengine /var/lib/pacemaker/cores \
    /var/lib/pacemaker/blackbox /var/log/pacemaker /run/crm; do
    install -d -o hacluster -g haclient -m 750 $place
done
chown hacluster:haclient /var/lib/pacemaker
install -o hacluster -g haclient -m 600 "$2/cib.xml" /var/lib/pacemaker/cib/cib.xml
corosync -f -c "$2/corosync.conf" >/var/log/corosync/out 2>&1 &
i=0
until corosync-cmapctl runtime.members >/dev/null 2>&1; do
    i=$((i + 1)); [ $i -lt 300 ] || { cat /var/log/corosync/out >&2; exit 1; }
    sleep 0.1
done
# HA_debug, even 0, makes the agents say what they do; it goes to Pacemaker's own log.
export PATH="$2/bin:$PATH" PCMK_logfacility=none HA_debug=0
exec pacemakerd -f
"""


class Pacemaker:
    """Pacemaker and Corosync of Debian, on db-0 and db-1, with one of the agents that look at
    scheduled events, and a database that either guest can run.

    No part of it is changed. One thing is added: Debian 12's crm_simulate (2.1.5) leaves the headings out
    of what it prints with -s, and the agents look for one of them, so a crm_simulate that asks for
    the headings is found first.
    """

    members = ("db-0", "db-1")

    def __init__(self, cluster):
        self.cluster, self.directory = cluster, cluster.directory / "pacemaker"
        (self.directory / "bin").mkdir(parents=True)
        (self.directory / "corosync.conf").write_text(COROSYNC)
        (self.directory / "cib.xml").write_text(CLUSTER)
        for name, text in [("start", START),
                           ("bin/crm_simulate",
                            '#!/bin/sh\nexec /usr/sbin/crm_simulate "$@" --text-fancy\n')]:
            (self.directory / name).write_text(text)
            (self.directory / name).chmod(0o755)
        self.daemons = {}
        for guest in self.members:
            self.daemons[guest] = Daemon(
                cluster, f"pacemaker-{guest}",
                ["unshare", "-m", "-u", "-i", "-p", "--fork", "--kill-child", "--mount-proc",
                 self.directory / "start", guest, self.directory],
                namespace=f"in-{guest}").start(wait=False)
            cluster.daemons.append(self.daemons[guest])
        for guest in self.members:
            wait_until(lambda g=guest: self.run(g, "crm_node", "--list").count(" member") == 2, 60,
                       f"the cluster of {guest} to have both members")
        # Who leads it is settled.
        wait_until(lambda: self.run("db-0", "crm_mon", "-1").count("Online: [ db-0 db-1 ]"), 60,
                   f"both members to be online\n{self.state()}")

    def first(self, guest):
        """The pid of the first process in a guest's namespaces, as seen from here."""
        pid = self.daemons[guest].pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
        # At the very beginning it has not forked yet.
        return int(wait_until(lambda: children.read_text().split(), 30, "a first process")[0])

    def run(self, guest, *command, check=False):
        """A command in a guest; what it printed."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.first(guest)), "-m", "-u", "-i", "-p", "-n", *command],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=90,
            env=self.cluster.environment)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)} in {guest}: {done.stderr}")
        return done.stdout

    def configure(self, agent):
        """The resources, with this agent; until it runs on both guests."""
        self.replace("<resources/>")
        wait_until(lambda: "No active resources" in self.state(), 60, "the agents' end", 0.3)
        self.replace(RESOURCES.format(agent=agent))
        wait_until(self.runs_everywhere, 90, f"{agent} to run on both\n{self.state()}", 0.3)

    def replace(self, resources):
        self.run("db-0", "cibadmin", "--replace", "--scope", "resources", "--xml-text", resources,
                 check=True)

    def runs_everywhere(self):
        text = self.run("db-0", "crm_mon", "-1")
        return "Started: [ db-0 db-1 ]" in text and self.place()

    def settled(self):
        """Nothing is under way, and each agent has looked once: azure-events that finds an operation
        pending on its guest when an event comes never puts it into standby."""
        lines = self.run("db-0", "crm_resource", "--list-operations").splitlines()
        looks = [line for line in lines if "events_monitor_" in line and "events_monitor_0 " not in line]
        return not any(line.endswith("pending") for line in lines) and all(
            any(f"node={guest}," in line for line in looks) for guest in self.members)

    def place(self):
        """The guest that the database runs on; None while it moves."""
        for line in self.run("db-0", "crm_mon", "-1").splitlines():
            words = line.split()
            if "(ocf:pacemaker:Dummy):" in words and "Started" in words:
                return words[-1]
        return None

    def move(self, guest):
        """Sees to it that the database runs there, and may move again."""
        if self.place() != guest:
            self.run("db-0", "crm_resource", "--move", "-r", "database", "-N", guest, check=True)
            wait_until(lambda: self.place() == guest, 60, f"the database to run on {guest}", 0.3)
            self.run("db-0", "crm_resource", "--clear", "-r", "database", check=True)

    def attribute(self, guest, name):
        """An attribute that an agent has set for a guest; empty if there is none."""
        return self.run("db-0", "crm_attribute", "--name", name, "--node", guest, "--query",
                        "--quiet", "--default", "").strip()

    def log(self, guest):
        """What the agents have said on this guest, a list of lines."""
        place = f"/proc/{self.first(guest)}/root/var/log/pacemaker/pacemaker.log"
        return [line for line in pathlib.Path(place).read_text().splitlines()
                if line.startswith("azure-events")]

    def state(self):
        """For messages."""
        return self.run("db-0", "crm_mon", "-1", "-A")
