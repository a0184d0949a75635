#!/usr/bin/env bash
# Installs the Debian packages that are missing, and asks for nothing when none is.
#
#   install-deps.sh             what building and running needs
#   install-deps.sh --test      what the end-to-end tests need besides
#   install-deps.sh PACKAGE...  these packages
set -euo pipefail

build=(liblua5.4-dev liblmdb-dev libnghttp2-dev zlib1g-dev libcrypt-dev g++ pkg-config git ca-certificates)
# etcdctl 3.4; etcd and etcdctl 3.5 come from PyPI. The package etcd-server is left out on purpose: it would start
# a server on port 2379.
test=(etcd-client python3 python3-venv)

case "${1:-}" in
    "") wanted=("${build[@]}") ;;
    --test) wanted=("${test[@]}") ;;
    *) wanted=("$@") ;;
esac

if ! command -v swift >/dev/null; then
    echo "swift is not on the PATH; install Swift 6.3 or later from https://www.swift.org/install/linux" >&2
    exit 1
fi
if ! command -v dpkg-query >/dev/null; then
    echo "not a Debian system; make sure that it has what these packages hold: ${wanted[*]}" >&2
    exit 0
fi

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=()
for package in "${wanted[@]}"; do
    is_installed "$package" && continue
    # Of g++ only the C++ library is needed, which other packages bring too.
    [[ "$package" == g++ ]] && ls /usr/include/c++/*/string >/dev/null 2>&1 && continue
    missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "these packages are missing and there is no sudo to install them with: ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
echo "installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
