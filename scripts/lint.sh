#!/usr/bin/env bash
# Checks form: the formatter's rules (generated files opt out by themselves), and a few rules it does not know.
set -uo pipefail
cd "$(dirname "$0")/.."
status=0

swift format lint --strict --parallel --recursive Sources Tests Package.swift || status=1

# $1: what is wrong, $2: pattern, the rest: where to look.
forbid() {
    local reason="$1" pattern="$2"
    shift 2
    local hits
    hits="$(git grep -nE "$pattern" -- "$@" ':!Sources/Wire/*.pb.swift')" || return 0
    printf '%s:\n%s\n' "$reason" "$hits"
    status=1
}
forbid "unfinished work belongs in an issue" '\b(TODO|FIXME|XXX)\b' Sources Tests plugins
forbid "a failed cast or call must not stop the node" '\b(try!|as!)' Sources
forbid "targets share by package access" '^ *public ' Sources
forbid "spaces at the end of a line" '[[:blank:]]+$' '*.swift' '*.lua' '*.py' '*.sh' '*.md' '*.toml' Makefile

for script in scripts/*.sh .ci/run Tests/e2e/*.sh; do
    if [ -e "$script" ]; then bash -n "$script" || status=1; fi
done

[ $status -eq 0 ] && echo "lint: no complaint"
exit $status
