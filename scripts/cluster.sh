#!/usr/bin/env bash
# Runs every member that a file lists, in the foreground, on this machine. Ctrl-C stops them all; their data stay.
#
#   CONFIG   the file (default config/cluster.toml)
#   DATA     folder for data and logs (default .cluster)
#   SERVER   the program (default bin/moonraft)
#
# Arguments go to every member: scripts/cluster.sh --log-level debug
set -euo pipefail
cd "$(dirname "$0")/.."

config="$(realpath "${CONFIG:-config/cluster.toml}")"
server="$(realpath "${SERVER:-bin/moonraft}")"
data="${DATA:-.cluster}"
mkdir -p "$data"
cd "$data"

# Each line: NAME and its client URLs, joined by commas. The server reads the file; nothing here guesses at TOML.
members="$("$server" config --members --config "$config")"
pids=()
stop() {
    trap - INT TERM EXIT
    # A member that asked to hand over leadership needs its peers for a moment; all of them are told at once all the same.
    ((${#pids[@]})) && kill -TERM "${pids[@]}" 2>/dev/null
    wait
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

endpoints=
while read -r name urls; do
    "$server" --config "$config" --member "$name" "$@" >>"$name.log" 2>&1 &
    pids+=($!)
    endpoints+="${endpoints:+,}$urls"
    echo "$name  clients $urls  log $data/$name.log  process $!"
done <<<"$members"
echo "endpoints: $endpoints"
echo "try: bin/moonctl --endpoints $endpoints endpoint status -w table"
echo "Ctrl-C stops all members."

# The first member that ends by itself is worth a word; the others go on, as a cluster should.
while ((${#pids[@]})); do
    code=0
    wait -n -p ended "${pids[@]}" || code=$?
    rest=()
    for pid in "${pids[@]}"; do [ "$pid" = "$ended" ] || rest+=("$pid"); done
    pids=("${rest[@]}")
    echo "process $ended ended with code $code"
done
