#!/usr/bin/env bash
# Builds the release and leaves it in bin/.
#
# The Swift runtime is linked in, so that the two files can be copied to a machine without Swift. Exclusivity is
# checked in debug builds only; together these save a tenth to a quarter of the server's CPU time.
set -euo pipefail
cd "$(dirname "$0")/.."

options=(
    --configuration release --scratch-path .build-release
    --static-swift-stdlib -Xswiftc -enforce-exclusivity=unchecked
)
for product in moonraft moonctl; do
    swift build "${options[@]}" --product "$product"
done
products="$(swift build "${options[@]}" --show-bin-path)"
mkdir -p bin
# Replaced by name, so that a running node keeps the file it was started from.
for product in moonraft moonctl; do
    cp "$products/$product" "bin/.$product.new"
    mv -f "bin/.$product.new" "bin/$product"
done
ls -l bin/moonraft bin/moonctl
