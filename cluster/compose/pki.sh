#!/bin/sh
# Certificates for a compose cluster: makes the authority once, and puts the certificate of each
# ROLE/NAME that is an argument into the volume of its process, mounted as /volumes/ROLE-NAME. The
# authority's key stays in /authority, a volume that no other service mounts.
#
#   pki.sh server/s1 notifier/n1 agent/a operator/alice
#
# Again does no harm: what is newer in a volume stays, as renewed credentials; what was renewed in /authority goes
# out, and the list of what was revoked always.
set -eu

user=7450                       # the images' own user; agents are root
[ -e /authority/ca.pem ] || fermata pki init --directory /authority --cluster "${CLUSTER:-demo}"
for peer in "$@"; do
    name=${peer%%/*}-${peer#*/}
    [ -e "/authority/$name.pem" ] \
        || fermata pki issue "${peer%%/*}" "${peer#*/}" --directory /authority
    to=/volumes/$name/credentials
    mkdir -p "$to"
    cp -u /authority/"$name".pem /authority/"$name".key /authority/ca.pem "$to/"
    cp /authority/crl.pem "$to/"
    case $peer in agent/*) ;; *) chown -R "$user:$user" "/volumes/$name" ;; esac
done
