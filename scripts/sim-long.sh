#!/usr/bin/env bash
# Runs many seeds of the simulator, one process for each core: SEEDS of them (1000), from FROM on (1).
set -uo pipefail
cd "$(dirname "$0")/.."
seeds="${SEEDS:-1000}"
from="${FROM:-1}"
cores="$(nproc)"
share=$(((seeds + cores - 1) / cores))

pids=()
for ((first = from; first < from + seeds; first += share)); do
    last=$((first + share - 1))
    [ "$last" -ge $((from + seeds)) ] && last=$((from + seeds - 1))
    bin/moonraft-sim --seeds "$first..$last" &
    pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=1; done
exit $status
