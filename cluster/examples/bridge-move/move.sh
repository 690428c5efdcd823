#!/bin/sh
# Moves everything that hangs on one Linux bridge to another: ports, addresses, routes, MAC address.
#
#   move.sh apply FROM TO    makes TO if it is missing, moves, and takes FROM away
#   move.sh check FROM TO    ends with 0 if TO has ports and a carrier, and FROM is gone
#   move.sh undo  FROM TO    moves back whatever is on TO; harmless if nothing has been moved
#
# Run by Fermata while every guest of the host is held, so a guest misses nothing but time. Each part
# can be repeated, and undo works from wherever apply was killed: state is read from the kernel.
#
# Routes of every table and both families move, but those that the kernel makes by itself from an address.
# Not what names FROM elsewhere: rules (ip rule, nft, plumb-metadata.sh), sysctls, and what makes FROM at boot.
set -eu

[ $# -eq 3 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 64; }
what=$1 from=$2 to=$3

exists() { [ -d "/sys/class/net/$1/bridge" ]; }
ports() { ls "/sys/class/net/$1/brif" 2>/dev/null || true; }

# addresses FAMILY A: those that the kernel has not made, as arguments of `ip addr`; first ones first.
addresses() {
    # Of IPv6 addresses the newest comes first.
    [ "$1" = -4 ] && order=cat || order=tac
    ip -o "$1" addr show dev "$2" | awk '! / scope link / || $3 == "inet" {
        line = ""
        for (i = 4; i <= NF && $i != "scope"; i++) line = line " " $i
        print line " scope " $(i + 1) (/ noprefixroute/ ? " noprefixroute" : "")
    }' | $order
}

# routes FAMILY A B: those by A that the kernel has not made, as arguments of `ip route` with B for A.
routes() {
    # By a gateway last: it may have to be found by another of them.
    ip -o "$1" route show table all | awk -v a="$2" -v b="$3" '/ proto kernel/ || / table local / { next } {
        line = ""; mine = 0; gateway = 0
        for (i = 1; i <= NF; i++) {
            if ($i ~ /^(linkdown|dead|offload|trap|rt_offload|rt_trap|\\)$/) continue   # not to be set
            if ($i == "nhid") { i++; continue }
            if ($i == "via" || $i == "nexthop") gateway = 1
            if ($(i - 1) == "expires") sub(/sec$/, "", $i)
            if ($(i - 1) == "dev" && $i == a) { mine = 1; $i = b }
            line = line " " $i
        }
        if (mine) print gateway line
    }' | sort -s -k 1,1 | cut -c 3-
}

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
    # The link is the same one: nobody else has come to have these addresses.
    for family in -4 -6; do
        [ $family = -4 ] && nodad='' || nodad=nodad
        addresses $family "$1" | while read -r address; do
            # shellcheck disable=SC2086
            ip $family addr replace $address dev "$2" $nodad
        done
        # Before the link goes, and each route with it. An equal one of the old bridge is replaced.
        routes $family "$1" "$2" | while read -r route; do
            # shellcheck disable=SC2086
            ip $family route replace $route
            echo "route: $route"
        done
    done
    ip link del dev "$1"
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
