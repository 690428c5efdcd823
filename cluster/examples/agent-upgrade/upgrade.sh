#!/bin/sh
# Upgrades the agents of some hosts: on the first host alone, then, if that went well, on the others.
#
#   upgrade.sh VERSION PROGRAM FIRST [HOST…]
#
# Run it where you are an operator: FERMATA_SERVER and FERMATA_CREDENTIALS as for every command.
#   FERMATA     the command to use; default: fermata
#   COPY        copies as `COPY PROGRAM HOST:FILE`; default: scp -q
#   DIRECTORY   where the program is put on each host, beside the one that runs; has to exist there;
#               default: /usr/local/lib/fermata
#
# No guest is held, and no set locked. A new agent that does not come up is taken back by its host by
# itself, provided that somebody starts an agent again that has ended (../systemd/fermata-agent.service does);
# then this script ends with 1, and the hosts after it are as they were. To go back later, upgrade to
# the program before.
set -eu

[ $# -ge 3 ] || { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 64; }
version=$1 program=$2 first=$3
shift 3
fermata=${FERMATA:-fermata}
file=${DIRECTORY:-/usr/local/lib/fermata}/fermata-$version

# Staged first and everywhere: a host that cannot be reached stops it before anything has changed.
for host in "$first" "$@"; do
    ${COPY:-scp -q} "$program" "$host:$file"
done
# The file here has the digest that every host's agent compares its own copy with.
"$fermata" release add "agent-$version" --component agent --version "$version" --path "$file" \
    --sha256 "$(sha256sum <"$program" | cut -d' ' -f1)"

"$fermata" rollout start --release "agent-$version" --host "$first" --watch || {
    echo "upgrade.sh: $first keeps the agent it had; the others were not touched" >&2
    exit 1
}
[ $# -gt 0 ] || exit 0
# One after another, and no further one after the first that fails.
"$fermata" rollout start --release "agent-$version" --host "$(echo "$*" | tr ' ' ,)" \
    --parallelism 1 --watch
