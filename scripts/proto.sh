#!/usr/bin/env bash
# Generates Sources/Wire from proto/ with protoc and the plugin of the swift-protobuf version in Package.swift.
# The result is committed, so that a build needs neither.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v protoc >/dev/null || scripts/install-deps.sh protobuf-compiler
if [ -z "${PROTOC_GEN_SWIFT:-}" ]; then
    swift build -c release --scratch-path .build-tools --product protoc-gen-swift
    PROTOC_GEN_SWIFT="$(swift build -c release --scratch-path .build-tools --show-bin-path)/protoc-gen-swift"
fi

rm -f Sources/Wire/*.pb.swift
protoc --proto_path=proto --plugin=protoc-gen-swift="$PROTOC_GEN_SWIFT" \
    --swift_out=Sources/Wire --swift_opt=Visibility=Package \
    proto/*.proto
git --no-pager diff --stat -- Sources/Wire
