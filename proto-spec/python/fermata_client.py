#!/usr/bin/env python3
"""A client of Fermata in Python: asks a server for its lists and follows its events.

Written from proto-spec/README.md alone, as proof that it suffices and as an example to start from.
Happy path: TLS with an operator's certificate, hello, one Query and its QueryResult as a table or
JSON, Close NORMAL; or FollowEvents, then every EventBatch, and after a lost connection a new session
that goes on behind the last event seen. Failure modes: see EXIT_CODES and `--help`.

`fermata_wire` is frames, messages, TLS and session; here is what a client does with them.
"""

import argparse
import datetime
import json
import os
import socket
import ssl
import sys
import time

import fermata_wire as wire

pb = wire.pb

DONE, FAILED, USAGE, UNAVAILABLE, PROTOCOL, NOT_PERMITTED, INTERRUPTED = 0, 1, 64, 69, 76, 77, 130

# The table of close codes in README.md, section 5: where a client should stop, and with what. After
# any other code it connects again.
STOPS = {
    "VERSION_MISMATCH": (PROTOCOL, "Use a client and a server of the same release."),
    "WRONG_CLUSTER": (NOT_PERMITTED, "Use credentials of this server's cluster."),
    "WRONG_IDENTITY": (NOT_PERMITTED, "Look at both certificates: `fermata pki show FILE`."),
    "NOT_PERMITTED": (NOT_PERMITTED, "Use an operator's credentials."),
    "REPLACED": (NOT_PERMITTED, "Another process uses the same credentials: stop one of them."),
}

DESCRIPTION = """\
Asks a Fermata server over mutual TLS, with an operator's certificate.

  hello       who the server is, which version is spoken, who leads
  status      the fleet in numbers
  hosts, guests, sets, locks, releases, rollouts
              one list each
  follow      every event after --after, then what happens, until Ctrl-C or --count events
"""

EPILOG = """\
examples:
  fermata_client.py --server 10.0.0.1:7450 --credentials pki/operator-alice guests
  fermata_client.py … follow --after 120 --progress
  fermata_client.py … --json follow --count 10 | jq .hold_finished.record

--json writes one document (`follow`: one line for each event, and {"progress": …} for progress). Fields
have the names of fermata.proto, enums the last part of theirs in lower case, bytes are hexadecimal.
`follow` connects again by itself and repeats no event; what it sees missing it says on stderr.

exit codes:
  0    done
  1    refused, or events were missing
  64   wrong use
  69   no server can be reached
  76   the two sides speak different versions of the protocol
  77   wrong certificate, identity or cluster, or not permitted
  130  interrupted by Ctrl-C

FERMATA_SERVER and FERMATA_CREDENTIALS are the defaults, SSLKEYLOGFILE is the default of --key-log.
"""


class Failure(Exception):
    """Why there is no result, what to do next, and the exit code."""

    def __init__(self, code, text, advice=""):
        super().__init__(text)
        self.code, self.advice = code, advice


class OutputClosed(Exception):
    """Whoever reads our output wants no more of it. Not an OSError: those are the network's."""


class LostServer(Exception):
    """No session for now, but another attempt may give one."""


# ---- Connecting -------------------------------------------------------------------------------


def parse_address(text):
    """(host, port) of `host:port` or `[address]:port`. ValueError if it is neither."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not colon or not port.isascii() or not port.isdecimal() \
            or not 0 < int(port) < 65536:
        raise ValueError(f"'{text}' is not the address of a server: write host:port, such as "
                         "127.0.0.1:7450 or [::1]:7450")
    return host, int(port)


def check_credentials(prefix):
    """Refuses files that are missing or too open, and identities that would do harm."""
    directory = os.path.dirname(prefix) or "."
    for path in (prefix + ".pem", prefix + ".key", os.path.join(directory, "ca.pem")):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise Failure(NOT_PERMITTED, f"cannot read {path}: {error.strerror}",
                          "Check --credentials, or make them with `fermata pki`.") from None
    mode = os.stat(prefix + ".key").st_mode & 0o777
    if mode & 0o077:
        raise Failure(NOT_PERMITTED, f"{prefix}.key has mode {mode:04o}: others could use it",
                      f"Run chmod 600 {prefix}.key")
    try:
        identity = wire.identity_of(prefix)
        wire.tls_context(prefix, False)
    except (ValueError, ssl.SSLError) as error:
        raise Failure(NOT_PERMITTED, f"the credentials {prefix} cannot be used: {error}",
                      "Make others with `fermata pki issue operator NAME`.") from None
    if identity.role != "operator":
        # An agent's or notifier's would throw the real one out (REPLACED).
        raise Failure(NOT_PERMITTED, f"{prefix}.pem is of role {identity.role}, not operator",
                      "Use an operator's credentials.")


class Connector:
    """Opens sessions with whichever of the servers leads."""

    def __init__(self, addresses, credentials, key_log=None, verbose=False):
        self.addresses = list(addresses)  # as given; tried in this order
        self.credentials, self.key_log, self.verbose = credentials, key_log, verbose

    def open(self):
        """A ready session with a leader, and its HelloAccepted. Each server is asked once; then
        LostServer says why it was none. Failure if another attempt would not help."""
        ahead, asked, why = list(self.addresses), set(), []
        while ahead:
            text = ahead.pop(0)
            if text in asked:
                continue
            asked.add(text)
            try:
                session, accepted = self._try(text)
            except LostServer as error:
                why.append(str(error))
                continue
            if accepted.is_leader:
                return session, accepted
            why.append(f"{text} is a standby")
            close_quietly(session, "NOT_LEADER")
            # Others first: the standby knows better than the command line who leads. What it calls
            # an address may be none.
            ahead = [each for each in accepted.servers if is_address(each)] + ahead
        raise LostServer("; ".join(why))

    def _try(self, text):
        host, port = parse_address(text)
        try:
            session = wire.connect(host, port, self.credentials, key_log=self.key_log)
        except wire.SessionClosed as closed:
            raise stop_or_lost(closed, text) from None
        except ValueError as error:
            raise Failure(NOT_PERMITTED, f"server {text}: {error}", STOPS["WRONG_IDENTITY"][1]) \
                from None
        except ssl.SSLError as error:
            raise tls_failure(text, error) from None
        except OSError as error:
            raise LostServer(f"{text}: {error.strerror or error}") from None
        try:
            accepted = session.hello()
        except wire.SessionClosed as closed:
            session.close_connection()
            raise stop_or_lost(closed, text) from None
        except ssl.SSLError as error:
            # Only now does a client hear what the server says of its certificate.
            session.close_connection()
            raise tls_failure(text, error) from None
        except OSError as error:
            session.close_connection()
            raise LostServer(f"{text}: {error.strerror or error}") from None
        if self.verbose:
            complain(f"session with {accepted.server} at {text}, version {accepted.version}, "
                     f"{wire.for_people(accepted.software)}")
        return session, accepted


def is_address(text):
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


def stop_or_lost(closed, where):
    """What the end of a session means: Failure where the specification says stop."""
    who = "server" if closed.by_peer else "client"
    text = f"{where}: the {who} has closed with {closed.code}: {closed.reason}"
    if closed.code == "END_OF_FILE":
        text = f"{where}: {closed.reason}"
    if closed.code in STOPS:
        return Failure(STOPS[closed.code][0], text, STOPS[closed.code][1])
    return LostServer(text)


def tls_failure(where, error):
    """What a failed handshake means."""
    reason = (error.reason or str(error)).lower().replace("_", " ")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure(NOT_PERMITTED, f"{where}: the server's certificate: {error.verify_message}",
                       "Is the ca.pem beside the credentials that of this cluster?")
    if "application protocol" in reason:
        return Failure(PROTOCOL, f"{where}: the server does not speak {wire.ALPN}",
                       STOPS["VERSION_MISMATCH"][1])
    if "alert" in reason and ("certificate" in reason or "unknown ca" in reason):
        return Failure(NOT_PERMITTED, f"{where}: the server refuses our certificate: {reason}",
                       "Look at it with `fermata pki show FILE`; it must be of the server's "
                       "authority and not expired.")
    return LostServer(f"{where}: TLS: {reason}")


def close_quietly(session, code="NORMAL"):
    """Close, as far as the connection still carries one."""
    try:
        session.close(code)
    except (OSError, ValueError):
        session.close_connection()


# ---- Writing ----------------------------------------------------------------------------------


def complain(text):
    print(f"fermata_client: {text}", file=sys.stderr, flush=True)


def write(text):
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise OutputClosed from None


def plain(message):
    """A message as JSON's own types: all fields but absent optional ones and other cases."""
    found = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        found[field.name] = [_plain(field, each) for each in value] \
            if wire.is_repeated(field) else _plain(field, value)
    return found


def _plain(field, value):
    if field.type == field.TYPE_MESSAGE:
        return plain(value)
    if field.type == field.TYPE_ENUM:
        return enum_word(field.enum_type, value)
    return value.hex() if isinstance(value, bytes) else value


def enum_word(descriptor, number):
    """`running` for GUEST_STATE_RUNNING."""
    names = [value.name for value in descriptor.values]
    prefix = os.path.commonprefix(names)
    return descriptor.values_by_number[number].name[len(prefix):].lower()


def word(message, field):
    descriptor = message.DESCRIPTOR.fields_by_name[field]
    return enum_word(descriptor.enum_type, getattr(message, field))


def when(microseconds):
    """A time on somebody's wall clock, in UTC; empty for none."""
    if microseconds == 0:
        return ""
    try:
        time_of_day = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=microseconds)
    except OverflowError:
        return f"{microseconds} us"
    return time_of_day.isoformat(timespec="milliseconds") + "Z"


def optional(message, field):
    return getattr(message, field) if message.HasField(field) else ""


def step_name(step):
    return f"{step.rollout}/{step.number}"


def yes(value):
    return "yes" if value else "no"


def some(names, count_max=6):
    """The first names of a list and how many are not shown."""
    rest = len(names) - count_max
    return ",".join(names[:count_max]) + (f" and {rest} more" if rest > 0 else "")


def gibibytes(count):
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def main_file(release):
    """Path and digest of the file that tells a release from another."""
    if release.HasField("hypervisor"):
        return release.hypervisor.path, release.sha256
    if release.HasField("agent_program"):
        file = release.agent_program.program
    else:
        work = release.host_work
        file = work.artifact if work.HasField("artifact") else work.apply
    return file.path, file.sha256


# What a column shows, for each list.
COLUMNS = {
    "hosts": [
        ("HOST", lambda h: h.id), ("CONNECTED", lambda h: yes(h.connected)),
        ("GUESTS", lambda h: h.guest_count), ("RUNNING", lambda h: h.running_guest_count),
        ("TOKEN", lambda h: h.accepted_token),
        ("STEP", lambda h: step_name(h.step) if h.HasField("step") else ""),
        ("LAST REPORT", lambda h: when(h.last_report_at_microseconds)),
        ("AGENT", lambda h: h.agent_version),
        ("SOFTWARE", lambda h: ", ".join(f"{s.component} {s.version}" for s in h.software)),
        ("WARNINGS", lambda h: "; ".join(h.warnings))],
    "guests": [
        ("GUEST", lambda g: g.report.id), ("HOST", lambda g: g.host),
        ("SET", lambda g: optional(g.report, "set")), ("UD", lambda g: optional(g, "update_domain")),
        ("STATE", lambda g: word(g.report, "state") + ("" if g.host_connected else " (as last heard)")),
        ("QEMU", lambda g: g.report.hypervisor_version),
        ("MEMORY", lambda g: gibibytes(g.report.memory_bytes)),
        ("VCPUS", lambda g: g.report.vcpu_count),
        ("PROBLEM", lambda g: g.report.hand_over_problem)],
    "sets": [
        ("SET", lambda s: s.id), ("UDS", lambda s: s.update_domain_count),
        ("LOCKED", lambda s: optional(s, "locked_update_domain")),
        ("GUESTS", lambda s: "  ".join(
            f"{d.update_domain}: {some(d.guests)}" for d in s.domains if d.guests)),
        ("WARNINGS", lambda s: "; ".join(s.warnings))],
    "locks": [
        ("SET", lambda l: l.set), ("UD", lambda l: l.update_domain),
        ("STEP", lambda l: step_name(l.step)), ("TOKEN", lambda l: l.token),
        ("HOST", lambda l: l.host), ("GUESTS", lambda l: some(l.guests)),
        ("SINCE", lambda l: when(l.granted_at_microseconds)), ("STUCK", lambda l: yes(l.stuck)),
        ("REASON", lambda l: l.reason)],
    "releases": [
        ("RELEASE", lambda r: r.release.id), ("COMPONENT", lambda r: r.release.component),
        ("VERSION", lambda r: getattr(r.release, r.release.WhichOneof("work")).version),
        ("PATH", lambda r: main_file(r.release)[0]),
        ("SHA-256", lambda r: main_file(r.release)[1].hex()[:12]),
        ("ADDED", lambda r: when(r.added_at_microseconds)), ("BY", lambda r: r.added_by)],
    "rollouts": [
        ("ROLLOUT", lambda r: r.id), ("RELEASE", lambda r: r.release),
        ("VERSION", lambda r: r.version), ("STATE", lambda r: word(r, "state")),
        ("STARTED", lambda r: when(r.started_at_microseconds)), ("BY", lambda r: r.started_by),
        ("FINISHED", lambda r: when(optional(r, "finished_at_microseconds") or 0)),
        ("REASON", lambda r: r.reason)],
}


def table(columns, rows):
    """Lines of text: titles, and under them the columns as wide as they need."""
    cells = [[title for title, _ in columns]]
    cells += [[wire.for_people(str(show(row)), 4096) for _, show in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
            for line in cells]


def status_lines(status):
    lines = [
        f"cluster   {status.cluster}",
        f"server    {status.server}, term {status.term}, index {status.index}, "
        f"software {status.software_version}",
        f"hosts     {status.connected_host_count} of {status.host_count} connected",
        f"guests    {status.running_guest_count} of {status.guest_count} running",
        f"sets      {status.set_count}, {status.locked_set_count} locked, "
        f"{status.stuck_set_count} stuck",
        "rollouts  " + (", ".join(map(str, status.active_rollouts)) or "none") + " active"]
    lines += [f"notifier  {each.name} has {each.acknowledged_sequence} of {each.last_sequence} events"
              + (", not connected" if optional(each, "connected") is False else "")
              for each in status.notifiers]
    lines += [f"warning: {warning}" for warning in status.warnings]
    return [wire.for_people(line, 4096) for line in lines]


def hello_lines(accepted):
    lines = [f"server    {accepted.server}, {'leader' if accepted.is_leader else 'standby'}, "
             f"term {accepted.term}, software {accepted.software}",
             f"version   {accepted.version}",
             f"silence   {accepted.silence_milliseconds} ms, keepalive "
             f"{accepted.keepalive_milliseconds} ms",
             f"servers   {', '.join(accepted.servers) or 'none named'}"]
    return [wire.for_people(line, 4096) for line in lines]


def because(reason):
    return f": {reason}" if reason else ""


def event_words(event):
    """An event in words, on one line."""
    case = event.WhichOneof("body")
    body = getattr(event, case)
    if case == "rollout_started":
        return f"rollout {body.rollout} started: release {body.release}, {body.step_count} steps"
    if case == "rollout_changed":
        return f"rollout {body.rollout} is {word(body, 'state')}{because(body.reason)}"
    if case == "step_granted":
        pairs = ", ".join(f"{pair.set} UD {pair.update_domain}" for pair in body.pairs)
        return f"step {step_name(body.step)} granted to host {body.host}: {some(body.guests)}" \
            + (f" ({pairs})" if pairs else "")
    if case == "step_ended_without_hold":
        return f"step {step_name(body.step)} on host {body.host} held nothing{because(body.reason)}"
    if case == "step_noticed":
        return f"step {step_name(body.step)} noticed to {some(body.guests)}, not before " \
            f"{when(body.not_before_microseconds)}"
    if case == "notice_acknowledged":
        return f"step {step_name(body.step)} acknowledged by {body.guest}"
    if case == "notice_withdrawn":
        return f"step {step_name(body.step)} is not noticed any more{because(body.reason)}"
    if case == "step_ended":
        outcome = word(body, "outcome") if body.HasField("outcome") else "cancelled"
        return f"step {step_name(body.step)} on host {body.host} is over, {outcome}" \
            f"{because(body.reason)}"
    if case == "hold_finished":
        record = body.record
        held = f"held for {record.hold_microseconds / 1000:.1f} ms" \
            if record.HasField("hold_microseconds") else "never went on"
        return f"guest {record.guest} on host {body.host} {held}, {word(record, 'outcome')}, " \
            f"step {step_name(body.step)}, {record.hypervisor_before} to " \
            f"{record.hypervisor_after}{because(record.reason)}"
    return f"lock of set {body.set} released by {body.by}{because(body.reason)}"


def event_line(event):
    return wire.for_people(
        f"{event.sequence:>6}  {when(event.at_microseconds)}  {event_words(event)}", 4096)


def progress_line(progress):
    return f"     -  {when(progress.at_microseconds)}  step {step_name(progress.step)} is " \
        f"{word(progress, 'phase')}"


# ---- Asking -----------------------------------------------------------------------------------


def until(deadline, attempt):
    """Tries until it works: at once again is `attempt`'s matter, here are the pauses between."""
    for pause in wire.pauses():
        try:
            return attempt()
        except LostServer as lost:
            if time.monotonic() + pause > deadline:
                raise Failure(
                    UNAVAILABLE, f"no server can be reached: {lost}",
                    "Check --server, and that `fermata server` runs there.") from None
        time.sleep(pause)


def say_hello(connector, options):
    session, accepted = until(options.deadline, connector.open)
    close_quietly(session)
    return plain(accepted), hello_lines(accepted)


def ask(connector, options):
    """One query; what JSON and what lines to write. A query may be repeated: it changes nothing."""
    name = options.what

    def attempt():
        session, _ = connector.open()
        try:
            left = max(0.1, options.deadline - time.monotonic())
            answer = session.request(pb.Query(**{name: pb.Empty()}), left)
        except wire.SessionClosed as closed:
            raise stop_or_lost(closed, "server") from None
        except OSError as error:
            raise LostServer(f"server: {error}") from None
        finally:
            close_quietly(session)
        return answer

    answer = until(options.deadline, attempt)
    if answer.kind == "Refused":
        refused = answer.message
        raise Failure(FAILED, f"refused: {wire.for_people(refused.message)}",
                      wire.for_people(refused.advice))
    if answer.kind != "QueryResult" or answer.message.WhichOneof("result") != name:
        raise Failure(UNAVAILABLE, f"the server answers a query for {name} with something else")
    if name == "status":
        return plain(answer.message.status), status_lines(answer.message.status)
    rows = getattr(getattr(answer.message, name), name)
    return [plain(row) for row in rows], table(COLUMNS[name], rows)


class Follower:
    """Writes each event once and in order, over as many sessions as it takes."""

    def __init__(self, options, write):
        self.options, self.write = options, write
        self.last = options.after
        self.count = 0
        self.has_gap = False
        self.heard = False      # something has come in this session

    @property
    def is_done(self):
        return self.options.count is not None and self.count >= self.options.count

    def run(self, connector):
        """Until `count` events are written. The first session must come in time; later ones are
        waited for without end."""
        deadline = self.options.deadline
        pauses = wire.pauses()
        session, _ = until(deadline, connector.open)
        while True:
            self.heard = False
            try:
                self._session(session)
                return FAILED if self.has_gap else DONE
            except LostServer as lost:
                why = lost
            if self.heard:
                pauses = wire.pauses()
            while True:
                pause = next(pauses)
                complain(f"{why}; connecting again in {pause:.1f} s, after event {self.last}")
                time.sleep(pause)
                try:
                    session, _ = connector.open()
                    break
                except LostServer as lost:
                    why = lost

    def _session(self, session):
        """Follows in one session, until all is written (returns) or it ends (raises)."""
        try:
            correlation = session.next_correlation()
            session.send(pb.FollowEvents(after_sequence=self.last, progress=self.options.progress),
                         correlation)
            while not self.is_done:
                try:
                    received = session.receive(3600)
                except socket.timeout:
                    continue
                self._on_message(received, correlation)
        except wire.SessionClosed as closed:
            raise stop_or_lost(closed, "server") from None
        except OSError as error:
            raise LostServer(f"server: {error}") from None
        finally:
            close_quietly(session)

    def _on_message(self, received, correlation):
        if received.kind == "StepProgress":
            self.heard = True
            if self.options.progress:
                self.write({"progress": plain(received.message)}, progress_line(received.message))
        elif received.kind == "Refused" and received.correlation == correlation:
            raise Failure(FAILED, f"refused: {wire.for_people(received.message.message)}",
                          wire.for_people(received.message.advice))
        elif received.kind == "EventBatch" and received.correlation == correlation:
            self.heard = True
            if received.message.last_sequence < self.last:
                complain(f"event {self.last} was asked for, but the newest there is has number "
                         f"{received.message.last_sequence}: is this another log?")
                self.has_gap = True
            for event in received.message.events:
                self._on_event(event)

    def _on_event(self, event):
        if event.sequence <= self.last or self.is_done:
            return
        if event.sequence > self.last + 1:
            self.has_gap = True
            complain(f"events {self.last + 1} to {event.sequence - 1} are missing")
        self.last = event.sequence
        self.count += 1
        self.write(plain(event), event_line(event))


# ---- The command ------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Failure(USAGE, message, f"See {self.prog} --help.")


def number(low):
    def read(text):
        value = int(text)
        if not low <= value < 2**64:
            raise ValueError
        return value
    read.__name__ = "number"
    return read


def parse(arguments):
    parser = Parser(
        prog="fermata_client.py", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["hello", "status", *COLUMNS, "follow"],
                        metavar="WHAT", help="what to show, see above")
    parser.add_argument("--server", action="append", metavar="HOST:PORT",
                        help="server to ask; repeat it, or separate several with commas "
                        "(default: 127.0.0.1:7450)")
    parser.add_argument("--credentials", metavar="PREFIX",
                        default=os.environ.get("FERMATA_CREDENTIALS"),
                        help="PREFIX.pem and PREFIX.key, with ca.pem beside them")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=10,
                        help="how long to try to reach a server (default: 10)")
    parser.add_argument("--json", action="store_true", help="JSON instead of text")
    parser.add_argument("--after", metavar="N", type=number(0),
                        help="follow: begin behind event N (default: 0, with the first)")
    parser.add_argument("--count", metavar="N", type=number(1),
                        help="follow: end after N events (default: never)")
    parser.add_argument("--progress", action="store_true",
                        help="follow: also show where steps are")
    parser.add_argument("--key-log", metavar="FILE",
                        default=os.environ.get("SSLKEYLOGFILE"),
                        help="append the TLS secrets to FILE, for Wireshark. Whoever has the file "
                        "can read the session")
    parser.add_argument("--verbose", action="store_true", help="say each session on stderr")
    options = parser.parse_args(arguments)
    for name in ("after", "count", "progress"):
        if options.what != "follow" and getattr(options, name) not in (None, False):
            parser.error(f"--{name} is only for follow")
    options.after = options.after or 0
    if not options.credentials:
        parser.error("--credentials (or FERMATA_CREDENTIALS) is missing: make them with `fermata "
                     "pki issue operator NAME`")
    if not 0 < options.timeout < 1e6:
        parser.error("--timeout is not a number of seconds above 0")
    given = options.server or [os.environ.get("FERMATA_SERVER") or "127.0.0.1:7450"]
    options.server = [each.strip() for text in given for each in text.split(",") if each.strip()]
    try:
        for each in options.server:
            parse_address(each)
    except ValueError as error:
        parser.error(str(error))
    if not options.server:
        parser.error("--server names no server")
    options.deadline = time.monotonic() + options.timeout
    return options


def run(arguments):
    options = parse(arguments)
    if options.key_log:
        try:
            open(options.key_log, "ab").close()
        except OSError as error:
            raise Failure(USAGE, f"cannot write {options.key_log}: {error.strerror}") from None
    check_credentials(options.credentials)
    connector = Connector(options.server, options.credentials, options.key_log, options.verbose)
    if options.what == "follow":
        return Follower(
            options, lambda document, line: write(json.dumps(document) if options.json else line)
        ).run(connector)
    document, lines = (say_hello if options.what == "hello" else ask)(connector, options)
    write(json.dumps(document, indent=2) if options.json else "\n".join(lines))
    return DONE


def main(arguments=None):
    """The exit code; says on stderr why it is not 0."""
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except Failure as failure:
        complain(str(failure))
        if failure.advice:
            print(f"  {failure.advice}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputClosed:
        # Such as head. Nothing may be flushed into it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


if __name__ == "__main__":
    sys.exit(main())
