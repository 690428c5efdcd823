#!/bin/sh
# Plumbs 169.254.169.254 into the guests' networks of this host, so that what the guests already run
# finds the notifier there:
#
#   fermata notifier --host NAME --listen 169.254.169.254:80 …
#
#   cluster/plumb-metadata.sh [--to [ADDRESS:]PORT] [--guests NETWORK]… BRIDGE…
#   cluster/plumb-metadata.sh --remove BRIDGE…
#
#   --to [ADDRESS:]PORT   where the notifier listens if not on 169.254.169.254:80. It is handed on
#                         (nft, destination only), so the notifier still sees the guest's own address.
#                         An ADDRESS on another host works if that host's answers come back through
#                         this one.
#   --guests NETWORK      a network of guests that this host has no address and no route in, as
#                         10.77.0.0/16: adds the route by which the answers find back
#   --remove              takes everything away again, but an address that was there before; a bridge that is
#                         gone is fine
#
# Happy path, for each BRIDGE (a Linux bridge that taps hang on; another interface gets the address only):
#   1. bridge table fermata_metadata_BRIDGE: what guests send to the address by way of their default
#      gateway, wherever that is, stays here; questions after the address (ARP) and packets for it do
#      not leave by the uplink, where another host would answer them; and no guest can pass for it;
#   2. with --to, ip table fermata_metadata_BRIDGE: the destination is changed;
#   3. the address 169.254.169.254/32 on BRIDGE, and the routes of --guests; an empty ip table
#      fermata_address_BRIDGE says that the address was not there before.
# The bridge needs a fixed hardware address (ip link set BRIDGE address …): without one it takes that of
# a tap that joins, and step 1 would go astray until the script is run again.
# Nothing touches the source address: by that the notifier knows who asks. That a guest cannot send
# from another's address is up to the network, as for everything else in it.
#
# Again does no harm: each part is replaced as a whole, and connections go on. If a part fails, a bridge
# that was not plumbed before is not afterwards. Nothing of it survives a restart of the host: run it
# where the bridge is made, or as ExecStartPre of the notifier's unit.
# Kernels without nft's bridge meta (CONFIG_NFT_BRIDGE_META; Debian's have it) cannot tell bridges
# apart; there step 1 is for the ports that BRIDGE has now, and the script says so.
#
# Exit codes: 0; 64 wrong arguments; 69 a program is missing; 77 not root; 1 the kernel has refused.
set -eu

metadata=169.254.169.254
protocol=84 # marks our routes (of the numbers that nobody else has, see /etc/iproute2/rt_protos)

fail() { # fail CODE WHAT [WHAT TO DO]
    echo "plumb-metadata: $2" >&2
    [ $# -lt 3 ] || echo "  $3" >&2
    exit "$1"
}

usage() { fail 64 "$1" "see plumb-metadata.sh --help"; }

is_number() { # is_number TEXT MAX
    case $1 in '' | *[!0-9]* | ??????*) return 1 ;; esac
    [ "$1" -le "$2" ]
}

is_address() ( # is_address TEXT: four numbers up to 255 (in a subshell, since it changes IFS)
    case $1 in *.*.*.*.* | *. | *[!0-9.]*) exit 1 ;; *.*.*.*) ;; *) exit 1 ;; esac
    IFS=.
    for part in $1; do is_number "$part" 255 || exit 1; done
)

has_address() { # has_address BRIDGE
    ip -4 -o address show dev "$1" 2>/dev/null | grep -q " $metadata/32 "
}

# An empty table says that the address of a bridge is ours: it may have been there before, and then stays.
ours() { nft list table ip "fermata_address_$1" >/dev/null 2>&1; }

is_plumbed() { # is_plumbed BRIDGE
    ours "$1" || nft list table bridge "fermata_metadata_$1" >/dev/null 2>&1 \
        || nft list table ip "fermata_metadata_$1" >/dev/null 2>&1
}

# The other way round than `plumb`: without the rules nobody else may be taken for us.
remove() { # remove BRIDGE
    if [ -e "/sys/class/net/$1" ]; then
        if has_address "$1"; then
            if ours "$1"; then
                ip address delete "$metadata/32" dev "$1"
            else
                echo "plumb-metadata: $1 keeps the address $metadata: it was there before" >&2
            fi
        fi
        ip -4 route flush dev "$1" proto "$protocol"
    fi
    for table in "ip fermata_metadata_$1" "bridge fermata_metadata_$1" "ip fermata_address_$1"; do
        # An empty table first, so that there is always one to delete.
        printf 'table %s {}\ndelete table %s\n' "$table" "$table" | nft -f - \
            || fail 1 "nft cannot remove the rules of $1"
    done
}

# Prints what step 1 matches the frames of a bridge by.
frames_of() { # frames_of BRIDGE
    if printf 'table bridge fermata_probe { chain c { meta ibrname "%s" accept; }; }\n' "$1" \
        | nft --check -f - 2>/dev/null; then
        echo "meta ibrname \"$1\""
        return
    fi
    ports=
    for port in "/sys/class/net/$1/brif/"*; do
        [ -e "$port" ] && ports="$ports${ports:+, }\"${port##*/}\""
    done
    echo "plumb-metadata: this kernel cannot match frames by bridge (CONFIG_NFT_BRIDGE_META):" \
        "run this again whenever a guest's tap has joined $1; its ports now: ${ports:-none}" >&2
    [ -z "$ports" ] || echo "iifname { $ports }"
}

guard_bridge() { # guard_bridge BRIDGE: step 1
    name=fermata_metadata_$1
    match=$(frames_of "$1")
    hardware=$(cat "/sys/class/net/$1/address")
    {
        printf 'table bridge %s {}\ndelete table bridge %s\ntable bridge %s {\n' \
            "$name" "$name" "$name"
        if [ -n "$match" ]; then
            cat <<RULES
    chain prerouting {
        type filter hook prerouting priority dstnat; policy accept;
        $match arp saddr ip $metadata drop
        $match ip saddr $metadata drop
        $match ip daddr $metadata meta pkttype set host ether daddr set $hardware
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
        $match arp daddr ip $metadata drop
        $match ip daddr $metadata drop
    }
RULES
        fi
        echo "}"
    } | nft -f - || fail 1 "nft refuses the rules for $1" "is the kernel's nf_tables there?"
}

hand_on() { # hand_on BRIDGE: step 2, or nothing of it
    name=fermata_metadata_$1
    {
        printf 'table ip %s {}\ndelete table ip %s\n' "$name" "$name"
        if [ -n "$to" ]; then
            case $to in
                *:*) target="dnat to $to" ;;
                *) target="redirect to :$to" ;;
            esac
            cat <<RULES
table ip $name {
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        iifname "$1" ip daddr $metadata tcp dport 80 $target
    }
}
RULES
        fi
    } | nft -f - || fail 1 "nft refuses to hand on from $1 to ${to:-nobody}"
}

plumb() { # plumb BRIDGE
    if ! has_address "$1"; then
        printf 'table ip fermata_address_%s {}\n' "$1" | nft -f - || fail 1 "nft makes no table for $1"
    fi
    # The rules first: with the address alone, a guest could ask another host or pass for this one.
    if [ -d "/sys/class/net/$1/bridge" ]; then
        guard_bridge "$1"
    else
        echo "plumb-metadata: $1 is no Linux bridge: it gets the address, but nothing keeps" \
            "questions after $metadata from leaving by its other ports" >&2
    fi
    hand_on "$1"
    if ! has_address "$1"; then
        ip address add "$metadata/32" dev "$1" scope link \
            || fail 1 "cannot give $1 the address $metadata"
    fi
    ip -4 route flush dev "$1" proto "$protocol"
    for network in $guests; do
        ip -4 route replace "$network" dev "$1" proto "$protocol" src "$metadata" \
            || fail 1 "cannot add the route to $network by $1"
    done
    [ -n "$(ip -4 route show dev "$1")" ] \
        || echo "plumb-metadata: this host has no address and no route in the network of $1:" \
            "its answers would not find back; name the guests' network with --guests" >&2
}

# On failure: what this run has plumbed anew goes; what was there before stays, changed or not.
new=''
at_end() {
    code=$?
    trap "" EXIT HUP INT TERM
    [ $code -ne 0 ] || new=''
    for bridge in $new; do
        echo "plumb-metadata: taking away again what $bridge has got" >&2
        remove "$bridge"
    done
    exit $code
}

removing=0 to='' guests='' bridges=''
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"; exit 0 ;;
        --remove) removing=1 ;;
        --to | --guests)
            [ $# -ge 2 ] || usage "$1 needs a value"
            if [ "$1" = --to ]; then to=$2; else guests="$guests $2"; fi
            shift
            ;;
        -*) usage "there is no option $1" ;;
        # nft's names allow no more, and neither do scripts that name interfaces sensibly.
        *[!A-Za-z0-9_.-]* | ????????????????*) usage "'$1' cannot be a bridge's name" ;;
        *) bridges="$bridges $1" ;;
    esac
    shift
done
[ -n "$bridges" ] || usage "name the bridges that the guests' taps hang on"
if [ -n "$to" ]; then
    port=${to##*:}
    { is_number "$port" 65535 && [ "$port" -gt 0 ]; } || usage "--to $to: no port"
    case $to in *:*) is_address "${to%:*}" || usage "--to $to: no IPv4 address" ;; esac
fi
for network in $guests; do
    { is_address "${network%/*}" && is_number "${network#*/}" 32; } \
        || usage "--guests $network: no network, as 10.77.0.0/16 is one"
done
for pair in ip:iproute2 nft:nftables; do
    command -v "${pair%:*}" >/dev/null || fail 69 "${pair%:*} is missing" \
        "install it: apt-get install ${pair#*:}"
done
[ "$(id -u)" = 0 ] || fail 77 "only root can change this host's network"
if [ "$removing" = 0 ]; then
    # All or nothing: a name that is wrong is found before anything is done.
    for bridge in $bridges; do
        [ -e "/sys/class/net/$bridge" ] || fail 1 "there is no interface $bridge" \
            "make the bridge first, then run this"
    done
fi
trap 'exit 130' HUP INT TERM
trap at_end EXIT
for bridge in $bridges; do
    if [ "$removing" = 1 ]; then
        remove "$bridge"
    else
        is_plumbed "$bridge" || new="$new $bridge"
        plumb "$bridge"
    fi
done
