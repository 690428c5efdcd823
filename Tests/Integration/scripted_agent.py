"""An agent that only says it has guests: for tests that need events, but no QEMU.

It speaks the real protocol to a real server, with proto-spec/python. Each directive is accepted, and
reported as a hold of 12.5 ms for each guest, with the steps of a real one as progress.
"""
import contextlib
import socket
import threading

from support import wait_until  # first: it sets the path for the others

import fermata_wire as wire

pb = wire.pb


class Listening:
    """A session with a server, whose messages come to `on_message` in a thread, until the `with` ends."""

    def __init__(self, address, credentials, key_log=None):
        self.host, _, self.port = address.rpartition(":")
        self.credentials, self.key_log = str(credentials), key_log
        self.session = None
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.ends = False

    def __enter__(self):
        self.session = wire.connect(self.host, int(self.port), self.credentials,
                                    key_log=self.key_log)
        self.session.hello()
        self.begin()
        self.thread.start()
        return self

    def begin(self):
        """What is said first."""

    def on_message(self, received):
        raise NotImplementedError

    def __exit__(self, *_):
        self.ends = True
        self.thread.join(10)
        with contextlib.suppress(OSError):
            self.session.close()
        if self.error:
            raise self.error

    def _run(self):
        try:
            while not self.ends:
                try:
                    received = self.session.receive(0.1)
                except socket.timeout:
                    continue
                self.on_message(received)
        except BaseException as error:  # raised again at the end of the `with`
            self.error = error


class ScriptedAgent(Listening):
    """Host `a` (the name in its credentials) with the given guests, until the `with` ends. `version`: their
    QEMU; `problem`: why they cannot be handed over; `more`: other fields of a guest's report, by guest."""

    def __init__(self, address, credentials, guests, version="1", key_log=None, problem="",
                 more=None):
        super().__init__(address, credentials, key_log)
        self.versions = dict.fromkeys(sorted(guests), version)
        self.problem, self.more = problem, more or {}

    def begin(self):
        answer = self.session.request(self.report())
        assert answer.kind == "HostReportCommitted", answer

    def report(self):
        return pb.HostReport(
            host=self.session.own.name, agent_version="scripted", boot_id="b", guests=[
                pb.GuestReport(id=guest, state=pb.GUEST_STATE_RUNNING, memory_bytes=2**28,
                               vcpu_count=1, hypervisor_version=version, has_guest_agent=True,
                               **{"hand_over_problem": self.problem} | self.more.get(guest, {}))
                for guest, version in self.versions.items()])

    def on_message(self, received):
        if received.kind == "Directive":
            self._on_directive(received.message, received.correlation)

    def times(self):
        """When a hold began and how long it was, in microseconds."""
        return 1, 12_500

    def _on_directive(self, directive, correlation):
        names = dict(step=directive.step, token=directive.token)
        self.session.send(pb.DirectiveAnswer(accepted=pb.Empty(), **names), correlation)
        for phase in (pb.STEP_PHASE_PREPARING, pb.STEP_PHASE_HELD, pb.STEP_PHASE_RESUMED):
            self.session.send(pb.StepProgress(phase=phase, at_microseconds=1, **names))
        version = directive.release.hypervisor.version
        held_at, hold = self.times()
        self.session.send(pb.StepReport(
            outcome=pb.STEP_OUTCOME_SUCCEEDED, holds=[
                pb.HoldRecord(
                    guest=guest, outcome=pb.STEP_OUTCOME_SUCCEEDED, held_at_microseconds=held_at,
                    hold_microseconds=hold, resumed_by=pb.RESUMER_AGENT,
                    clock_error_before_microseconds=-7, clock_error_after_microseconds=3,
                    hypervisor_before=self.versions[guest], hypervisor_after=version)
                for guest in directive.guests], **names), self.session.next_correlation())
        self.versions.update(dict.fromkeys(directive.guests, version))
        self.session.send(self.report(), self.session.next_correlation())


def wait_finished(fermata_json, rollout, seconds=90):
    """Waits until a rollout is over; the whole of it. `fermata_json` runs a command."""
    return wait_until(
        lambda: (lambda r: r if r["finishedAt"] else None)(fermata_json("rollout", "show", rollout)),
        seconds, f"{rollout} to be over")
