#!/usr/bin/env bash
# Installs and starts what the tests need beyond a Rust toolchain, when it is not there.
#
# Today that is a C compiler (SQLite is built from source). Servers join this list with the tests that
# need them.
set -euo pipefail

if ! command -v cc >/dev/null 2>&1; then
    echo "services: no C compiler; installing gcc from Debian's packages"
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq gcc libc6-dev
fi
