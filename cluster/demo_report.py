"""What a rollout's holds show: overlaps, broken invariants, the table and the JSON report. Pure.

A *hold* here is one dict, as `make demo REPORT=…` writes it under `holds`:
    guest, host, availabilitySet, updateDomain, heldAt (RFC 3339), holdMilliseconds,
    guestGapMilliseconds (the longer of the next two), guestTickGapMilliseconds (by the guest's own
    clock), outsideGapMilliseconds (silence on its TCP connection), clockErrorMillisecondsBefore,
    clockErrorMillisecondsAfter, clockErrorOutsideMilliseconds, memoryIntact, connectionKept,
    outcome, annotationId, confirmedAt, memoryMebibytes, hypervisorBefore, hypervisorAfter,
    hypervisorRunning (what the process that executes the guest is), bootIdKept, counterWentOn,
    diskOk
`connectionKept` is None where it cannot be had (user-mode networking).
"""
import datetime
import itertools

DEADLINE_MILLISECONDS_MAX = 30_000
# After a hold the clock is set twice, the second time compensated; the rest is scheduling noise of
# an emulated guest on a busy host.
CLOCK_ERROR_MILLISECONDS_MAX = 100


def microseconds(text):
    """RFC 3339 in UTC, with any number of digits of the second, as microseconds since 1970."""
    main, _, fraction = text.rstrip("Z").partition(".")
    moment = datetime.datetime.fromisoformat(main).replace(tzinfo=datetime.timezone.utc)
    return int(moment.timestamp()) * 1_000_000 + int((fraction + "000000")[:6])


def rfc3339(us):
    """The other way round."""
    moment = datetime.datetime.fromtimestamp(us // 1_000_000, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{us % 1_000_000:06d}Z"


def out_from_to(hold):
    """From when to when a guest was out: from heldAt until it ran again and was confirmed."""
    begin = microseconds(hold["heldAt"])
    end = begin + int((hold["holdMilliseconds"] or 0) * 1000)
    if hold.get("confirmedAt"):
        end = max(end, microseconds(hold["confirmedAt"]))
    return begin, end


def overlaps(holds):
    """Pairs of update domains of one set that were out at once: must be empty."""
    found = []
    in_sets = [h for h in holds if h["availabilitySet"] is not None]
    for first, second in itertools.combinations(in_sets, 2):
        if first["availabilitySet"] != second["availabilitySet"] \
                or first["updateDomain"] == second["updateDomain"]:
            continue
        (begin, end), (other_begin, other_end) = out_from_to(first), out_from_to(second)
        together = min(end, other_end) - max(begin, other_begin)
        if together > 0:
            found.append({
                "availabilitySet": first["availabilitySet"],
                "updateDomains": [first["updateDomain"], second["updateDomain"]],
                "guests": [first["guest"], second["guest"]],
                "overlapMilliseconds": together / 1000})
    return found


def violations(holds, guests, annotations, version, deadline_milliseconds):
    """Every promise that was broken, each as a sentence; empty if all is well.

    guests: the ids that must have been held exactly once. annotations: the notifier's records.
    version: what every guest must run now.
    """
    found = []
    for guest in guests:
        count = sum(h["guest"] == guest for h in holds)
        if count != 1:
            found.append(f"{guest}: {count} holds instead of 1")
        count = sum(a["guest"] == guest for a in annotations)
        if count != 1:
            found.append(f"{guest}: {count} annotations instead of 1")
    ids = [a["annotationId"] for a in annotations]
    for hold in holds:
        if ids.count(hold["annotationId"]) != 1:
            found.append(f"{hold['guest']}: {ids.count(hold['annotationId'])} annotations "
                         f"{hold['annotationId']} instead of 1")
    for overlap in overlaps(holds):
        found.append(
            "two update domains of set {availabilitySet} were out at once for "
            "{overlapMilliseconds:.1f} ms: {guests[0]} and {guests[1]}".format(**overlap))
    for hold in holds:
        found += [f"{hold['guest']}: {what}" for what in
                  _broken(hold, version, deadline_milliseconds)]
    return found


def _broken(hold, version, deadline_milliseconds):
    """What is wrong with one hold."""
    length, after = hold["holdMilliseconds"], hold["clockErrorMillisecondsAfter"]
    outside = hold.get("clockErrorOutsideMilliseconds")
    wrong = []
    if hold["outcome"] != "succeeded":
        wrong.append(f"the outcome is {hold['outcome']}: {hold.get('reason')}")
    if length is None:
        wrong.append("it has no length")
    elif not 0 < length <= min(deadline_milliseconds, DEADLINE_MILLISECONDS_MAX):
        wrong.append(f"held for {length} ms, the deadline being {deadline_milliseconds} ms")
    if not hold["memoryIntact"]:
        wrong.append("its memory is not what it was")
    if not hold["bootIdKept"]:
        wrong.append("it was rebooted")
    if not hold["counterWentOn"]:
        wrong.append("its counter did not go on")
    if not hold["diskOk"]:
        wrong.append("its disk does not hold what was written")
    if hold["connectionKept"] is False:
        wrong.append("its TCP connection broke")
    if after is None:
        wrong.append("its clock was not checked after the hold")
    elif abs(after) > CLOCK_ERROR_MILLISECONDS_MAX:
        wrong.append(f"its clock is {after} ms off after the correction")
    if outside is not None and abs(outside) > 2 * CLOCK_ERROR_MILLISECONDS_MAX:
        wrong.append(f"its clock is {outside} ms off, seen from outside")
    for key in ("hypervisorAfter", "hypervisorRunning"):
        if hold[key] != version:
            wrong.append(f"{key} is {hold[key]} instead of {version}")
    if hold["hypervisorBefore"] == version:
        wrong.append("it ran on the new QEMU before")
    return wrong


def yes(value):
    return {True: "yes", False: "NO", None: "–"}[value]


def number(value, digits=1):
    return "–" if value is None else f"{value:.{digits}f}"


COLUMNS = [
    ("guest", lambda h: h["guest"]),
    ("host", lambda h: h["host"]),
    ("set", lambda h: h["availabilitySet"] or "–"),
    ("UD", lambda h: "–" if h["updateDomain"] is None else str(h["updateDomain"])),
    ("RAM MiB", lambda h: str(h["memoryMebibytes"])),
    ("hold ms", lambda h: number(h["holdMilliseconds"])),
    ("guest gap ms", lambda h: number(h["guestGapMilliseconds"])),
    ("by its ticks", lambda h: number(h["guestTickGapMilliseconds"])),
    ("clock before ms", lambda h: number(h["clockErrorMillisecondsBefore"])),
    ("after ms", lambda h: number(h["clockErrorMillisecondsAfter"])),
    ("memory intact", lambda h: yes(h["memoryIntact"])),
    ("TCP kept", lambda h: yes(h["connectionKept"])),
    ("QEMU", lambda h: f"{h['hypervisorBefore']} → {h['hypervisorAfter']}"),
]
NUMERIC = {"UD", "RAM MiB", "hold ms", "guest gap ms", "by its ticks", "clock before ms",
           "after ms"}


def table(holds):
    """The table that ends the demo, in the order of the holds."""
    rows = [[title for title, _ in COLUMNS]]
    rows += [[cell(hold) for _, cell in COLUMNS]
             for hold in sorted(holds, key=lambda h: h["heldAt"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = []
    for row in rows:
        cells = [text.rjust(width) if title in NUMERIC else text.ljust(width)
                 for text, width, (title, _) in zip(row, widths, COLUMNS)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)
