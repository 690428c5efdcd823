#!/bin/sh
# Installs the Debian packages that Fermata needs and that are missing; nothing else.
#
#   scripts/install-dependencies.sh build|test|compose
#       what to be ready for: "test" includes "build" and all that the demo needs, "compose" adds what
#       builds and runs the containers here (podman in Docker's place, no images from a registry)
#   scripts/install-dependencies.sh --print test   only prints the names
#
# Works as root or with sudo. The Swift 6 toolchain itself is expected on PATH.
set -eu

build="pkg-config gcc libc6-dev libuv1-dev libssl-dev libcurl4-openssl-dev libsqlite3-dev"
# openvswitch-switch also starts Open vSwitch where services are started; without a bridge it does nothing.
# etcd-server likewise starts a member of its own, and corosync a cluster of one; the tests start theirs
# in network namespaces, and rsyslog a daemon of its own. Pacemaker and the resource agents are clients of ours, in test_metadata_clients.
test="$build protobuf-compiler python3 python3-protobuf qemu-system-x86 qemu-utils \
    busybox-static corosync cpio curl dnsmasq-base docker-compose e2fsprogs etcd-client etcd-server iproute2 \
    iptables nftables openssl openvswitch-switch make pacemaker pacemaker-cli-utils prometheus-alertmanager \
    python3-aiosmtpd resource-agents rsyslog spin strace systemd tshark util-linux"
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
echo "installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
$as_root apt-get update -qq >&2
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $missing >&2
