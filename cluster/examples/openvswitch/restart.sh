#!/bin/sh
# Restarts Open vSwitch's ovs-vswitchd as another program while the guests are held, with its flows kept.
#
#   restart.sh prepare    tries the new program out, and notes how the old one was started
#   restart.sh apply      saves the flows, ends the old one, starts the new one, restores the flows
#   restart.sh check      ends with 0 if the new one runs and has the ports and the flows of the old one
#   restart.sh undo       the same back; harmless if the old one runs and has its flows
#
# The environment comes from release.yaml and from the agent:
#   VSWITCHD     the new ovs-vswitchd, unpacked beside the old one
#   STATE        a directory of its own for what has to be remembered
#   OVS_RUNDIR   where ovsdb-server listens, if not where Debian has it
#   FERMATA_VERSION   the version that the release promises
#
# ovsdb-server is left alone: it keeps the ports, and may be upgraded with nobody held.
#
# Not for an ovs-vswitchd of a systemd unit, as Debian's own is: when the old one ends, systemd runs the
# unit's ExecStop, which may end the new one. `prepare` refuses it. There, take the refusal out, make
# `stop` a `systemctl stop ovs-vswitchd`, and let `start` choose the program before a `systemctl start
# ovs-vswitchd`; on Debian: update-alternatives --install /usr/sbin/ovs-vswitchd ovs-vswitchd "$1" 1, then
# --set ovs-vswitchd "$1". Try it on a host without guests.
set -eu

fail() { echo "$*" >&2; exit 1; }

[ $# -eq 1 ] || { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 64; }
: "${VSWITCHD:?}" "${STATE:?}" "${FERMATA_VERSION:?}"
export OVS_RUNDIR="${OVS_RUNDIR:-/var/run/openvswitch}"
ovs_save=/usr/share/openvswitch/scripts/ovs-save
saved=$STATE/saved

# The pid of the ovs-vswitchd that runs, and its program; nothing if none does.
pid() {
    pid=$(cat "$OVS_RUNDIR/ovs-vswitchd.pid" 2>/dev/null) || return 0
    # The file may be older than the process that has the pid now.
    case $(readlink "/proc/$pid/exe") in */ovs-vswitchd*) echo "$pid" ;; esac
}
program() { pid=$(pid) && [ -z "$pid" ] || readlink "/proc/$pid/exe"; }

# unit PID: the systemd service of Open vSwitch that a process belongs to; nothing if it is of none, or of
# another's, as one that an earlier step has started is of the agent's.
unit() {
    unit=$(grep -o '[^/]*\.service' "/proc/$1/cgroup" | head -n 1)
    case $unit in
        '') ;;
        ovs* | openvswitch*) echo "$unit" ;;
        *) ! systemctl cat "$unit" 2>/dev/null | grep -q '^Exec.*\(ovs-\|openvswitch\)' || echo "$unit" ;;
    esac
}

# The ports that work, with the numbers by which flows know them.
ports() {
    ovs-vsctl --format=csv --data=bare --no-headings --columns=name,ofport list interface \
        | grep ',[0-9]' | sort
}

# With a controller that writes flows by itself these need not be the same before and after.
flows() {
    for bridge in $(ovs-vsctl list-br); do
        dump=$(ovs-ofctl -O OpenFlow14 dump-flows --no-names --no-stats "$bridge")
        echo "$dump" | sed "/^OFPST_FLOW/d; s/^/$bridge/" | sort
    done
}

save() {
    [ ! -d "$saved" ] || return 0
    # Under another name until it is whole.
    rm -rf "$saved.partial"
    mkdir -p "$saved.partial"
    # Open vSwitch's own way: a script with flows, groups and tunnel metadata. It ends by removing
    # them, but undo may need them again.
    # shellcheck disable=SC2046
    TMPDIR=$saved.partial $ovs_save save-flows $(ovs-vsctl list-br) \
        | sed "/^rm -rf/d; s,$saved.partial,$saved,g" >"$saved.partial/restore"
    ports >"$saved.partial/ports"
    flows >"$saved.partial/flows"
    # ovs-save does not say when it has failed.
    [ "$(cat "$saved.partial"/*/*.flows.dump | wc -l)" = "$(wc -l <"$saved.partial/flows")" ] \
        || fail "ovs-save has not saved the flows"
    mv -T "$saved.partial" "$saved"
}

stop() {
    pid=$(pid)
    [ -n "$pid" ] || return 0
    ovs-appctl -T 1 exit || kill -s KILL "$pid"
    tries=0
    while [ "$(pid)" = "$pid" ]; do
        tries=$((tries + 1))
        [ $tries -ne 50 ] || kill -s KILL "$pid" 2>/dev/null || true
        [ $tries -lt 100 ] || fail "ovs-vswitchd does not end: $pid"
        sleep 0.02
    done
}

# start PROGRAM: as the old one was started; comes back once it has set up the bridges.
start() {
    program=$1
    set --
    while IFS= read -r word; do set -- "$@" "$word"; done <"$STATE/arguments"
    "$program" "$@"
}

# Until the flows are back, nobody else's packets may meet an empty table.
switch_to() {
    ovs-vsctl --no-wait set Open_vSwitch . other_config:flow-restore-wait=true
    stop
    start "$1"
    sh -eu "$saved/restore"
    ovs-vsctl --if-exists remove Open_vSwitch . other_config flow-restore-wait=true
    echo "now runs $1"
}

prepare() {
    "$VSWITCHD" --version | grep -qwF -e "$FERMATA_VERSION" \
        || fail "$VSWITCHD is not $FERMATA_VERSION: $("$VSWITCHD" --version | head -n 1)"
    old=$(program)
    [ -n "$old" ] || fail "no ovs-vswitchd runs, by $OVS_RUNDIR/ovs-vswitchd.pid"
    unit=$(unit "$(pid)")
    [ -z "$unit" ] || fail "ovs-vswitchd belongs to $unit, and systemd would end the new one:" \
        "the top of $0 says what to change"
    [ "$old" != "$(readlink -f "$VSWITCHD")" ] || fail "$VSWITCHD runs already"
    [ -x "$old" ] || fail "there is no way back: $old"
    [ -x $ovs_save ] || fail "$ovs_save is missing: install openvswitch-switch"
    rm -rf "$STATE"
    mkdir -p "$STATE"
    echo "$old" >"$STATE/old"
    tr '\0' '\n' <"/proc/$(pid)/cmdline" | tail -n +2 >"$STATE/arguments"
}

check() {
    [ "$(program)" = "$(readlink -f "$VSWITCHD")" ] || fail "not $VSWITCHD runs, but: $(program)"
    ovs-appctl -T 1 version
    missing=$(ports | comm -13 - "$saved/ports")
    [ -z "$missing" ] || fail "ports are missing: $missing"
    flows | cmp - "$saved/flows" || fail "the flows are not those of before, in $saved/flows"
}

undo() {
    [ -d "$saved" ] || { echo "nothing has been touched"; return 0; }
    if [ "$(program)" = "$(cat "$STATE/old")" ] \
        && ! ovs-vsctl get Open_vSwitch . other_config | grep -q flow-restore-wait; then
        echo "it is undone already"
    else
        switch_to "$(cat "$STATE/old")"
    fi
}

case $1 in
    prepare | check | undo) "$1" ;;
    apply)
        save
        switch_to "$(readlink -f "$VSWITCHD")"
        ;;
    *) fail "unknown: $1" ;;
esac
