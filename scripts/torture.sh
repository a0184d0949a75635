#!/usr/bin/env bash
# Runs Tests/torture/NAME.py with the tests' python: torture.sh torture --seconds 600 --seed 7, torture.sh failover.
#
# The server is bin/moonraft or a debug build, $MOONRAFT_BIN, or with E2E_TARGET=etcd etcd 3.5.1.
set -euo pipefail
cd "$(dirname "$0")/.."
python="$(scripts/venv.sh)"
name="$1"
shift
PYTHONDONTWRITEBYTECODE=1 exec "$python" "Tests/torture/$name.py" "$@"
