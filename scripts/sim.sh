#!/usr/bin/env bash
# Builds the simulator, optimised and in a directory of its own, and leaves it in bin/.
#
#   scripts/sim.sh               bin/moonraft-sim
#   scripts/sim.sh --mutations   builds it with the planted bugs, runs their list, and puts nothing into bin/
set -euo pipefail
cd "$(dirname "$0")/.."

options=(--configuration release -Xswiftc -enforce-exclusivity=unchecked --product moonraft-sim)
if [ "${1:-}" = --mutations ]; then
    options+=(--scratch-path .build-sim-mutations -Xswiftc -DMOONRAFT_MUTATIONS)
    swift build "${options[@]}"
    exec "$(swift build "${options[@]}" --show-bin-path)/moonraft-sim" --mutations
fi
options+=(--scratch-path .build-sim)
swift build "${options[@]}"
mkdir -p bin
cp "$(swift build "${options[@]}" --show-bin-path)/moonraft-sim" bin/.moonraft-sim.new
mv -f bin/.moonraft-sim.new bin/moonraft-sim
