#!/usr/bin/env bash
# Giving a CSV column another name in a `map` changes its decimals.
# Expected: set = { b = 'item.a' } copies the text: 1.10 stays 1.10, no digit is lost
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
set -u
here=$(cd "$(dirname "$0")" && pwd)
bw=$(realpath "${BW_BIN:?BW_BIN: path of the batchwright binary}")
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cp -R "$here"/. "$dir" && cd "$dir" || exit 77
run() { timeout 60 "$bw" --store sqlite://store.db --format json "$@" 2>>err.txt; }
wrong() { echo "WRONG: $*" >&2; tail -5 err.txt >&2 2>/dev/null; exit 1; }
run run rename.toml >out.json || wrong "exit code $?"
cmp -s out.csv expected.csv || wrong "got: $(tr '\n' ' ' <out.csv)"
