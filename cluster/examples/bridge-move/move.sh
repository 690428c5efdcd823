#!/bin/sh
# Moves everything that hangs on one Linux bridge to another: ports, addresses, routes, MAC address.
#
#   move.sh apply FROM TO    makes TO if it is missing, moves, and takes FROM away
#   move.sh check FROM TO    ends with 0 if TO has ports and a carrier, and FROM is gone
#   move.sh undo  FROM TO    moves back whatever is on TO; harmless if nothing has been moved
#
# Run by Fermata while every guest of the host is held, so a guest misses nothing but time. Each part
# can be repeated, and undo works from wherever apply was killed: state is read from the kernel.
set -eu

[ $# -eq 3 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 64; }
what=$1 from=$2 to=$3

exists() { [ -d "/sys/class/net/$1/bridge" ]; }
ports() { ls "/sys/class/net/$1/brif" 2>/dev/null || true; }

# move A B: B exists afterwards and has all that A had; A is gone.
move() {
    exists "$1" || exists "$2" || { echo "there is neither $1 nor $2" >&2; exit 1; }
    exists "$1" || return 0
    if ! exists "$2"; then
        # Peers know the bridge by this address; a new one would break ARP for seconds.
        ip link add name "$2" address "$(cat "/sys/class/net/$1/address")" type bridge
    fi
    ip link set dev "$2" up
    for port in $(ports "$1"); do
        ip link set dev "$port" master "$2"
        echo "$port: $1 -> $2"
    done
    for address in $(ip -o addr show dev "$1" scope global | awk '{print $4}'); do
        ip addr replace "$address" dev "$2"
    done
    gateway=$(ip route show default dev "$1" | awk '{print $3; exit}')
    ip link del dev "$1"
    [ -z "$gateway" ] || ip route replace default via "$gateway" dev "$2"
}

case $what in
    apply) move "$from" "$to" ;;
    undo) move "$to" "$from" ;;
    check)
        exists "$to" || { echo "$to is missing" >&2; exit 1; }
        ! exists "$from" || { echo "$from is still there" >&2; exit 1; }
        [ -n "$(ports "$to")" ] || { echo "$to has no port" >&2; exit 1; }
        [ "$(cat "/sys/class/net/$to/carrier")" = 1 ] || { echo "$to has no carrier" >&2; exit 1; }
        ;;
    *) echo "unknown: $what" >&2; exit 64 ;;
esac
