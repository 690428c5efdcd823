#!/bin/sh
# Generates Sources/Wire/Generated/*.pb.swift from every proto-spec/*.proto.
#
#   scripts/generate-proto.sh            writes the files
#   scripts/generate-proto.sh --check    writes nothing; exits 1 if a committed file is not what
#                                        the schema gives
#
# Needs protoc (Debian: protobuf-compiler) and Swift. The plug-in is the one of the swift-protobuf
# version that Package.swift pins, built once into .build-protoc. To use one that exists already, set
# PROTOC_GEN_SWIFT to its path.
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

# Builds the plug-in from the checkout that the package uses. Its own manifest also builds a whole
# protoc in C++, which takes many minutes and which Debian has; this one names only what is needed.
build_plugin() {
    swift package resolve >&2
    mkdir -p .build-protoc
    ln -sfn ../.build/checkouts/swift-protobuf/Sources .build-protoc/Sources
    cat >.build-protoc/Package.swift <<'MANIFEST'
// swift-tools-version: 6.1
import PackageDescription
let package = Package(
    name: "plugin",
    targets: [
        .target(name: "SwiftProtobuf", exclude: ["CMakeLists.txt"]),
        .target(
            name: "SwiftProtobufPluginLibrary", dependencies: ["SwiftProtobuf"],
            exclude: ["CMakeLists.txt"]),
        .executableTarget(
            name: "protoc-gen-swift", dependencies: ["SwiftProtobufPluginLibrary"],
            exclude: ["CMakeLists.txt"]),
    ])
MANIFEST
    swift build --package-path .build-protoc --product protoc-gen-swift >&2
}

plugin=${PROTOC_GEN_SWIFT:-}
if [ -z "$plugin" ]; then
    build_plugin
    plugin="$(swift build --package-path .build-protoc --show-bin-path)/protoc-gen-swift"
fi
if [ ! -x "$plugin" ]; then
    echo "generate-proto: $plugin is not executable: remove .build-protoc and run this again, or" \
        "set PROTOC_GEN_SWIFT" >&2
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
