#!/bin/sh
# Lays out two QEMU installations side by side, for the demo, the integration tests and bench-hold.
#
#   cluster/qemu/install.sh OUTDIR
#
# OUTDIR/new is a copy of the Debian QEMU that is installed; OUTDIR/old is another build that apt
# offers (downloaded and unpacked, never installed). Each holds
#   bin/qemu-system-x86_64   the executable
#   modules/                 its own loadable modules (TCG is one; they refuse any other build)
#   VERSION                  the number that `--version` prints (with a suffix, see below)
#   env.json                 {path, version, package, moduleDirectory, dataDirectories, sha256}
# If apt has only one version, OUTDIR/old is a copy of the same build and the labels are
# VERSION-a (old) and VERSION-b (new); a line on stderr says so.
#
# Needs no root. Does nothing if OUTDIR is up to date; FERMATA_QEMU_FORCE=1 lays it out again.
set -eu

fail() { echo "install.sh: $1" >&2; [ $# -lt 2 ] || echo "  $2" >&2; exit 1; }

[ $# -eq 1 ] || fail "usage: install.sh OUTDIR"
mkdir -p "$1" || fail "cannot create $1"
out=$(cd "$1" && pwd)

installed=/usr/bin/qemu-system-x86_64
library=/usr/lib/x86_64-linux-gnu/qemu
packages="qemu-system-x86 qemu-system-common qemu-system-data seabios"

missing=""
for command in dpkg-deb dpkg-query apt-get apt-cache python3 sha256sum; do
    command -v "$command" >/dev/null 2>&1 || missing="$missing $command"
done
[ -z "$missing" ] || fail "missing commands:$missing" \
    "install them first: apt-get install apt dpkg python3 coreutils"
for package in $packages; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed \
        || missing="$missing $package"
done
[ -z "$missing" ] || fail "missing packages:$missing" "install them: apt-get install$missing"

package_new=$(dpkg-query -W -f '${Version}' qemu-system-x86)

# Up to date means: both are there, at this path, and "new" is still the build that is installed.
if [ -z "${FERMATA_QEMU_FORCE:-}" ] && [ -f "$out/old/env.json" ] && [ -f "$out/new/env.json" ] \
    && [ "$(cat "$out/.installed" 2>/dev/null)" = "$package_new" ] \
    && grep -qF "\"$out/new/bin/" "$out/new/env.json" \
    && cmp -s "$installed" "$out/new/bin/qemu-system-x86_64"; then
    exit 0
fi

work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# number FILE MODULES: the version that the executable itself states, which also shows it starts.
number() {
    QEMU_MODULE_DIR=$2 "$1" --version | sed -n 's/^QEMU emulator version \([^ ]*\).*/\1/p'
}

# lay NAME BINARY MODULES PACKAGE: puts one installation under $work/NAME.
lay() {
    mkdir -p "$work/$1/bin" "$work/$1/modules"
    cp "$2" "$work/$1/bin/qemu-system-x86_64"
    chmod 755 "$work/$1/bin/qemu-system-x86_64"
    # Only what a guest here can load: the accelerators and devices, not audio and screens.
    for module in "$3"/accel-*.so "$3"/hw-*.so; do
        [ -e "$module" ] || continue
        cp "$module" "$work/$1/modules/"
    done
    echo "$4" >"$work/$1/package"
}

lay new "$installed" "$library" "$package_new"

# Not every version that apt lists can still be fetched, so each is tried.
package_old=""
for version in $(apt-cache madison qemu-system-x86 | awk -F'|' '{gsub(/ /, "", $2); print $2}'); do
    [ "$version" != "$package_new" ] || continue
    mkdir -p "$work/debs" "$work/root"
    if (cd "$work/debs" && apt-get download -qq "qemu-system-x86=$version" \
        "qemu-system-common=$version") >"$work/apt.log" 2>&1; then
        for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
        lay old "$work/root$installed" "$work/root$library" "$version"
        package_old=$version
        break
    fi
    echo "install.sh: apt lists qemu-system-x86 $version but cannot fetch it" >&2
    rm -rf "$work/debs"
done
if [ -z "$package_old" ]; then
    lay old "$installed" "$library" "$package_new"
fi

number_new=$(number "$work/new/bin/qemu-system-x86_64" "$work/new/modules")
number_old=$(number "$work/old/bin/qemu-system-x86_64" "$work/old/modules")
[ -n "$number_new" ] && [ -n "$number_old" ] || fail "a QEMU does not tell its version" \
    "run $installed --version to see why"
if [ "$number_new" = "$number_old" ]; then
    echo "install.sh: apt offers only QEMU $number_new; the two installations are" \
        "labelled $number_old-a and $number_new-b" >&2
    number_old=$number_old-a
    number_new=$number_new-b
fi

for name in old new; do
    [ "$name" = old ] && label=$number_old || label=$number_new
    echo "$label" >"$work/$name/VERSION"
    # The monitor answers only if this build's own TCG module loads and the firmware is found.
    printf '%s\n' '{"execute":"qmp_capabilities"}' '{"execute":"quit"}' \
        | QEMU_MODULE_DIR=$work/$name/modules timeout 30 "$work/$name/bin/qemu-system-x86_64" \
            -nodefaults -display none -M q35 -accel tcg -m 64 -S \
            -L /usr/share/seabios -L /usr/share/qemu -qmp stdio >"$work/start.log" 2>&1 \
        && grep -q '"return": {}' "$work/start.log" \
        || fail "QEMU $label does not start: $(tail -n 1 "$work/start.log")"
    directory=$out/$name label=$label digest=$(sha256sum "$work/$name/bin/qemu-system-x86_64" \
        | cut -d' ' -f1) package=$(cat "$work/$name/package") python3 - >"$work/$name/env.json" <<'PY'
import json, os
e = os.environ
print(json.dumps({
    "path": e["directory"] + "/bin/qemu-system-x86_64",
    "version": e["label"],
    "package": e["package"],
    "moduleDirectory": e["directory"] + "/modules",
    "dataDirectories": [d for d in ("/usr/share/seabios", "/usr/share/qemu",
                                    "/usr/lib/ipxe/qemu") if os.path.isdir(d)],
    "sha256": e["digest"],
}, indent=2))
PY
done

rm -rf "$out/old" "$out/new"
mv "$work/old" "$out/old"
mv "$work/new" "$out/new"
echo "$package_new" >"$out/.installed"
echo "install.sh: old $number_old ($(cat "$out/old/package")), new $number_new ($package_new)" >&2
