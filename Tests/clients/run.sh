#!/bin/sh
# Runs etcd's own Go client against three members: $MOONRAFT_BIN or bin/moonraft. The client and Go come from Debian's
# packages and are installed when they are missing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
gocode=/usr/share/gocode

"$root/scripts/install-deps.sh" golang-go golang-etcd-server-dev
export MOONRAFT_BIN="${MOONRAFT_BIN:-$root/bin/moonraft}"
cd "$here/go"
GO111MODULE=off GOFLAGS= GOPATH="$gocode" exec go test -count 1 -timeout 120s "$@" clients_test.go
