#!/bin/sh
# Reads proto-spec/vectors/ with the independent Python reader. The Swift side is `swift test`.
#
# Needs a Python with google.protobuf (Debian: python3-protobuf) and protoc (protobuf-compiler).
# Set PYTHON to use a certain one.
set -eu
cd "$(dirname "$0")/.."

for python in ${PYTHON:-} /usr/bin/python3 python3; do
    if "$python" -c 'import google.protobuf' 2>/dev/null; then
        PYTHONDONTWRITEBYTECODE=1 exec "$python" proto-spec/python/check_vectors.py
    fi
done
echo "check-vectors: no Python with google.protobuf: run apt-get install python3-protobuf" >&2
exit 69
