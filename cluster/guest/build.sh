#!/bin/sh
# Builds the test guest from Debian packages only.
#
#   cluster/guest/build.sh OUTDIR
#
# makes OUTDIR/vmlinuz   Debian's cloud kernel
#       OUTDIR/initrd    busybox, the real qemu-guest-agent with its libraries, and probe.c
#       OUTDIR/cmdline   the kernel command line that every test guest wants (add fermata.… to it)
# Needs no root: the packages are downloaded (apt-get download) and unpacked, not installed.
# Does nothing if OUTDIR is newer than this directory; FERMATA_GUEST_FORCE=1 builds anew.
set -eu

fail() { echo "build.sh: $1" >&2; [ $# -lt 2 ] || echo "  $2" >&2; exit 1; }

[ $# -eq 1 ] || fail "usage: build.sh OUTDIR"
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" || fail "cannot create $1"
out=$(cd "$1" && pwd)

# Up to date: all three there and nothing here changed since.
if [ -z "${FERMATA_GUEST_FORCE:-}" ] && [ -f "$out/vmlinuz" ] && [ -f "$out/cmdline" ] \
    && [ -f "$out/initrd" ] && [ -z "$(find "$here" -type f -newer "$out/initrd")" ]; then
    exit 0
fi

missing=""
for pair in apt-get:apt apt-cache:apt dpkg-deb:dpkg cc:gcc cpio:cpio gzip:gzip; do
    command -v "${pair%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || echo 'int main(void){return 0;}' \
    | cc -static -pthread -x c - -o /dev/null 2>/dev/null || missing="$missing libc6-dev"
[ -z "$missing" ] || fail "missing packages:$missing" "install them: apt-get install$missing"

work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null \
    | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -n 1)
[ -n "$kernel" ] || fail "apt knows no linux-image-cloud-amd64" "run apt-get update"

mkdir "$work/debs" "$work/packages" "$work/root"
# shellcheck disable=SC2086
(cd "$work/debs" && apt-get download -qq $kernel busybox-static qemu-guest-agent libc6 \
    libglib2.0-0 libnuma1 libudev1 liburing2 libpcre2-8-0) >"$work/apt.log" 2>&1 \
    || { cat "$work/apt.log" >&2; fail "cannot download the packages" "run apt-get update"; }
for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/packages"; done

# ---- the tree of the initramfs ----
root=$work/root
packages=$work/packages
mkdir -p "$root/bin" "$root/sbin" "$root/lib64" "$root/lib" "$root/modules" "$root/proc" \
    "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/etc" "$root/var/log"
cp "$packages/bin/busybox" "$root/bin/busybox"
for name in sh mount mkdir cat ln ip insmod sed sleep tail tr wget dmesg ps top free poweroff reboot; do
    ln -s busybox "$root/bin/$name"
done
# guest-set-time runs /sbin/hwclock to pass the time on to the RTC.
ln -s ../bin/busybox "$root/sbin/hwclock"

# The guest agent, with exactly the libraries that its own loader asks for.
cp "$packages/usr/sbin/qemu-ga" "$root/bin/qemu-ga"
loader=$packages/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2
[ -e "$loader" ] || loader=$packages/lib64/ld-linux-x86-64.so.2
cp -L "$loader" "$root/lib64/ld-linux-x86-64.so.2"
path=$packages/lib/x86_64-linux-gnu:$packages/usr/lib/x86_64-linux-gnu
libraries=$("$loader" --library-path "$path" --list "$root/bin/qemu-ga") \
    || fail "qemu-ga needs a library that is not among the packages"
echo "$libraries" | sed -n "s|.* => \($packages/[^ ]*\) .*|\1|p" | while read -r library; do
    case $library in */ld-linux-*) ;; *) cp -L "$library" "$root/lib/" ;; esac
done

# In this order, each finds what it needs loaded (there is no modprobe here).
for module in virtio_ring virtio virtio_mmio virtio_pci_modern_dev virtio_pci_legacy_dev \
    virtio_pci virtio_console virtio-rng failover net_failover virtio_net virtio_blk; do
    file=$(find "$packages/lib/modules" -name "$module.ko" | head -n 1)
    [ -n "$file" ] || fail "the kernel package has no module $module"
    cp "$file" "$root/modules/"
    echo "$module" >>"$root/modules/order"
done

cc -std=gnu11 -O2 -Wall -Wextra -Werror -static -pthread -o "$root/bin/probe" "$here/probe.c"
cp "$here/init" "$root/init"
chmod 755 "$root/init" "$root/bin/probe"

(cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -n -3) \
    >"$work/initrd"
cp "$packages"/boot/vmlinuz-* "$work/vmlinuz"
# hpet: a calibrated TSC is unreliable when several emulated guests boot at once.
echo "console=ttyS0 quiet loglevel=3 clocksource=hpet mitigations=off random.trust_cpu=on" \
    "ipv6.disable=1 panic=5" >"$work/cmdline"
mv "$work/vmlinuz" "$work/cmdline" "$out/"
mv "$work/initrd" "$out/"
echo "build.sh: $kernel, initrd $(du -k "$out/initrd" | cut -f1) KiB" >&2
