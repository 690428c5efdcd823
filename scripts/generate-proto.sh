#!/bin/sh
# Generates Sources/Wire/Generated/*.pb.swift from every proto-spec/*.proto.
#
#   scripts/generate-proto.sh            writes the files
#   scripts/generate-proto.sh --check    writes nothing; exits 1 if a committed file is not what
#                                        the schema gives
#
# Needs protoc (Debian: protobuf-compiler) and Swift. The plug-in is the one of the swift-protobuf
# version that Package.swift pins, built in debug beside everything else. To use one that exists
# already, set PROTOC_GEN_SWIFT to its path.
set -eu
cd "$(dirname "$0")/.."

check=0
case "${1:-}" in
    '') ;;
    --check) check=1 ;;
    *)
        echo "usage: scripts/generate-proto.sh [--check]" >&2
        exit 64
        ;;
esac

if ! command -v protoc >/dev/null; then
    echo "generate-proto: protoc is not installed: run apt-get install protobuf-compiler" >&2
    exit 69
fi

plugin=${PROTOC_GEN_SWIFT:-}
if [ -z "$plugin" ]; then
    swift build --product protoc-gen-swift >&2
    plugin="$(swift build --show-bin-path)/protoc-gen-swift"
fi
if [ ! -x "$plugin" ]; then
    echo "generate-proto: $plugin is not executable: build it with" \
        "swift build --product protoc-gen-swift, or set PROTOC_GEN_SWIFT" >&2
    exit 69
fi

committed=Sources/Wire/Generated
output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT INT TERM

protoc --plugin=protoc-gen-swift="$plugin" --proto_path=proto-spec \
    --swift_opt=Visibility=Public,UseAccessLevelOnImports=true \
    --swift_out="$output" proto-spec/*.proto

if [ "$check" = 0 ]; then
    mkdir -p "$committed"
    rm -f "$committed"/*.pb.swift
    cp "$output"/*.pb.swift "$committed"/
    exit 0
fi

if ! diff -r "$committed" "$output" >/dev/null; then
    diff -rq "$committed" "$output" >&2 || true
    echo "generate-proto: $committed does not match proto-spec/*.proto:" \
        "run scripts/generate-proto.sh and commit the result" >&2
    exit 1
fi
