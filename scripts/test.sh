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

# The simulator is built optimised: 200 seeds of the debug build would take many minutes. The same seeds in two
# processes, whose hash tables differ, must be the same runs.
simulate() {
    local first second
    scripts/sim.sh || return 1
    bin/moonraft-sim --seeds 200 --operations 250 || return 1
    first="$(bin/moonraft-sim --seeds 3 --operations 100 --trace | sed '$d' | sha256sum)"
    second="$(bin/moonraft-sim --seeds 3 --operations 100 --trace | sed '$d' | sha256sum)"
    [ "$first" = "$second" ] || { echo "the same seeds gave other traces in another process"; return 1; }
}
simulate || failed+=(simulation)

# Said before the last stage, so that the output ends with the test runner's own line.
[ ${#failed[@]} -gt 0 ] && echo "failed so far: ${failed[*]}"

scripts/venv.sh >/dev/null && Tests/e2e/run.sh || failed+=(end-to-end)

[ ${#failed[@]} -eq 0 ]
