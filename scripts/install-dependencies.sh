#!/bin/sh
# Installs the Debian packages that Fermata needs and that are missing; nothing else, and removes none.
#
#   scripts/install-dependencies.sh build|test|compose
#       what to be ready for: "test" includes "build" and all that the demo needs, "compose" adds what
#       builds and runs the containers here (podman in Docker's place, no images from a registry)
#   scripts/install-dependencies.sh --print test   only prints the names
#
# Works as root or with sudo. The Swift 6 toolchain itself is expected on PATH.
set -eu

build="git pkg-config gcc libc6-dev libuv1-dev libssl-dev libcurl4-openssl-dev libsqlite3-dev"
# openvswitch-switch also starts Open vSwitch where services are started; without a bridge it does nothing.
# The others that would start something (see `services`) are there for their programs: the tests start them in
# network namespaces. Pacemaker and the resource agents are clients of ours, in test_metadata_clients.
test="$build protobuf-compiler python3 python3-protobuf qemu-system-x86 qemu-utils \
    busybox-static corosync cpio curl dnsmasq-base docker-compose e2fsprogs etcd-client etcd-server iproute2 \
    iptables nftables openssl openvswitch-switch make pacemaker pacemaker-cli-utils prometheus-alertmanager \
    python3-aiosmtpd resource-agents rsyslog spin strace systemd tshark util-linux"
# package:service, of which Debian starts the service: an etcd member, a cluster of one, an Alertmanager on all
# interfaces. They are stopped, and not started at boot, if they came with what is installed here.
services="etcd-server:etcd corosync:corosync pacemaker:pacemaker rsyslog:rsyslog
    prometheus-alertmanager:prometheus-alertmanager"
compose="$test podman runc netavark aardvark-dns debootstrap procps"

if [ "${1:-}" = --print ]; then
    print=1
    shift
else
    print=0
fi
case "${1:-}" in
    build) wanted=$build ;;
    test) wanted=$test ;;
    compose) wanted=$compose ;;
    *)
        echo "usage: scripts/install-dependencies.sh [--print] build|test|compose" >&2
        exit 64
        ;;
esac
if [ "$print" = 1 ]; then
    # shellcheck disable=SC2086
    printf '%s\n' $wanted
    exit 0
fi

if ! command -v swift >/dev/null; then
    echo "install-dependencies: swift is not on PATH: install a Swift 6 toolchain for Debian 12" \
        "(swift.org/install/linux) and add its usr/bin to PATH" >&2
    exit 69
fi
missing=
for package in $wanted; do
    # Of these any will do, and Debian's busybox and Docker's containerd.io exclude the packages.
    case $package in busybox-static | runc) ! command -v "${package%-static}" >/dev/null || continue ;; esac
    if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
        missing="$missing $package"
    fi
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=sudo
else
    echo "install-dependencies: these packages are missing and only root can install them:" >&2
    echo "    apt-get install$missing" >&2
    exit 77
fi
# sudo passes no environment on by itself.
apt_get() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get "$@"; }
apt_get update -qq >&2
# shellcheck disable=SC2086
plan=$(apt_get install --simulate --no-install-recommends $missing 2>&1) || {
    printf '%s\n' "$plan" >&2
    echo "install-dependencies: apt-get cannot install$missing: the reason is above; nothing was changed" >&2
    exit 69
}
removed=$(printf '%s\n' "$plan" | sed -n 's/^Remv \([^ ]*\).*/ \1/p' | tr -d '\n')
if [ -n "$removed" ]; then
    echo "install-dependencies: to install$missing, apt-get would have to remove$removed," \
        "which Fermata leaves to you; nothing was changed. Remove them, or use another computer" >&2
    exit 69
fi
echo "installing$missing" >&2
# shellcheck disable=SC2086
apt_get install -y -qq --no-remove --no-install-recommends $missing >&2
for entry in $services; do
    case "$missing " in *" ${entry%:*} "*) ;; *) continue ;; esac
    service=${entry#*:}
    # With systemd and without. Nothing else needs them: they were not there before.
    $as_root service "$service" stop >/dev/null 2>&1 || true
    $as_root update-rc.d "$service" disable >/dev/null 2>&1 || true
done
