#!/usr/bin/env bash
# Brings the reference page up to date with the table of settings, then checks what the documents say.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-deps.sh
UPDATE_REFERENCE=1 swift test --scratch-path .build-debug --filter committedReferencePageIsTheGeneratedOne
exec python3 scripts/check-docs.py
