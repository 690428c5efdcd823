#!/bin/sh
# Upgrades a daemon from a Debian package: unpacked while the guests run, switched while they are held.
#
#   switch.sh prepare    unpacks $FERMATA_ARTIFACT beside the version in use, and tries it out
#   switch.sh apply      makes it the current one, and restarts the daemon
#   switch.sh check      ends with 0 if the daemon that runs is the new one, alone, and answers
#   switch.sh undo       goes back to the version before; harmless if nothing has been switched
#
# The environment comes from release.yaml and from the agent:
#   ROOT      holds a directory for each version, and the link `current` to one of them
#   PROGRAM   the daemon, as a path inside the package
#   CONFIG    its configuration, which both versions understand
#   ASK       a name that it has to resolve
#   FERMATA_ARTIFACT, FERMATA_VERSION   the package, and the version that the release promises
#
# dpkg is not asked to install anything: it would stop the old daemon when it likes, and has no way
# back. What runs is read from /proc, so undo works from wherever apply was killed.
set -eu

fail() { echo "$*" >&2; exit 1; }

[ $# -eq 1 ] || { sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 64; }
: "${ROOT:?}" "${PROGRAM:?}" "${CONFIG:?}" "${ASK:?}" "${FERMATA_VERSION:?}"
ROOT=$(readlink -m "$ROOT")        # as /proc shows it
new=$FERMATA_VERSION
current=$(readlink "$ROOT/current" || true)

# ---- these three are about dnsmasq; with systemd, `start` and `stop` are `systemctl start|stop` ----

start() { "$ROOT/current/$PROGRAM" --conf-file="$CONFIG" --pid-file="$ROOT/pid"; }

try_out() { "$1" --test --conf-file="$CONFIG"; }

answers() {
    server=$(sed -n 's/^listen-address=//p' "$CONFIG")
    busybox nslookup -type=a "$ASK" "$server"
}

# ---- the rest fits any daemon ----

# pids, programs: of those that run, from whichever version; a file that was removed is `… (deleted)`.
running() {
    find /proc -maxdepth 2 -path '/proc/[0-9]*/exe' -lname "$ROOT/*/$PROGRAM*" -printf "$1" \
        2>/dev/null || true
}
pids() { running '%h\n' | sed 's,^/proc/,,'; }
programs() { running '%l\n' | sort -u; }

stop() {
    tries=0
    while pids=$(pids) && [ -n "$pids" ]; do
        # The guests wait: a second to end in good order has to do.
        if [ $tries -lt 50 ]; then signal=TERM; else signal=KILL; fi
        # shellcheck disable=SC2086
        kill -s $signal $pids 2>/dev/null || true
        tries=$((tries + 1))
        [ $tries -lt 100 ] || fail "it does not end: $pids"
        sleep 0.02
    done
}

switch_to() {
    [ "$(programs)" != "$ROOT/$1/$PROGRAM" ] || [ "$current" != "$1" ] || return 0
    stop
    # `ln -sf` alone removes the old link first; a rename is all or nothing.
    ln -sfn "$1" "$ROOT/current.new"
    mv -T "$ROOT/current.new" "$ROOT/current"
    start
    echo "switched from ${current:-nothing} to $1"
}

prepare() {
    # The agent has compared the file's SHA-256 already. Is it the package that the release promises?
    found=$(dpkg-deb -f "$FERMATA_ARTIFACT" Version)
    [ "$found" = "$new" ] || fail "$FERMATA_ARTIFACT is version $found, the release is $new"
    digest=$(sha256sum <"$FERMATA_ARTIFACT")
    if [ "$(cat "$ROOT/$new/.package" 2>/dev/null)" != "$digest" ]; then
        [ "$current" != "$new" ] || fail "$new is in use, but not from this package"
        # Under another name until it is whole, on the disk too: a hold must not wait for that.
        rm -rf "${ROOT:?}/$new" "$ROOT/$new.partial"
        mkdir -p "$ROOT/$new.partial"
        dpkg-deb -x "$FERMATA_ARTIFACT" "$ROOT/$new.partial"
        dpkg-deb -e "$FERMATA_ARTIFACT" "$ROOT/$new.partial/DEBIAN"
        (cd "$ROOT/$new.partial" && md5sum --quiet -c DEBIAN/md5sums)
        echo "$digest" >"$ROOT/$new.partial/.package"
        sync -f "$ROOT"
        mv -T "$ROOT/$new.partial" "$ROOT/$new"
    fi
    # dpkg would have looked for the libraries; here the program does, while it costs nothing.
    try_out "$ROOT/$new/$PROGRAM"
    # Where undo goes back to; empty before the first version, and this one if it is in use already: a
    # step goes back no further than it went.
    echo "$current" >"$ROOT/before"
}

undo() {
    [ -f "$ROOT/before" ] || fail "nothing was prepared, so nobody knows what was before"
    before=$(cat "$ROOT/before")
    if [ "$before" = "$new" ]; then
        echo "$new was in use before: nothing to go back to"
    elif [ -n "$before" ]; then
        switch_to "$before"
    else
        stop
        rm -f "$ROOT/current"
    fi
}

check() {
    found=$(programs)
    [ "$found" = "$ROOT/$new/$PROGRAM" ] || fail "not $new alone runs, but: ${found:-nothing}"
    answers || fail "$new runs, but does not resolve $ASK"
}

case $1 in
    prepare | check | undo) "$1" ;;
    apply) switch_to "$new" ;;
    *) fail "unknown: $1" ;;
esac
