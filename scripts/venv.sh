#!/usr/bin/env bash
# Makes .build-venv hold what Tests/e2e/requirements.txt asks for, and prints its python.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.build-venv
requirements=Tests/e2e/requirements.txt
stamp="$venv/requirements.installed"
if ! cmp -s "$requirements" "$stamp"; then
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" >&2
    cp "$requirements" "$stamp"
fi
echo "$PWD/$venv/bin/python"
