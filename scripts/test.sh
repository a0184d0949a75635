#!/usr/bin/env bash
# Runs every test there is: Swift's, the plugins' own, and those that drive the binaries over sockets.
#
# A stage that fails does not keep the later ones from running; the exit code tells whether all passed.
set -uo pipefail
cd "$(dirname "$0")/.."

options=(--scratch-path .build-debug)
swift build "${options[@]}" --build-tests || exit 1
# The test build leaves out executables that no test depends on.
for product in moonraft moonctl; do
    swift build "${options[@]}" --product "$product" || exit 1
done
products="$(swift build "${options[@]}" --show-bin-path)" || exit 1
export MOONRAFT_BIN="$products/moonraft" MOONCTL_BIN="$products/moonctl"

failed=()

swift test "${options[@]}" --skip-build || failed+=(swift)

plugins=()
for manifest in plugins/*/plugin.toml; do
    [ -e "$manifest" ] && plugins+=("$(dirname "$manifest")")
done
if [ ${#plugins[@]} -gt 0 ]; then
    "$MOONRAFT_BIN" plugin test "${plugins[@]}" || failed+=(plugins)
else
    failed+=("plugins: none found")
fi

# Said before the last stage, so that the output ends with the test runner's own line.
[ ${#failed[@]} -gt 0 ] && echo "failed so far: ${failed[*]}"

scripts/venv.sh >/dev/null && Tests/e2e/run.sh || failed+=(end-to-end)

[ ${#failed[@]} -eq 0 ]
