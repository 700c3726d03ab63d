#!/usr/bin/env bash
# A CSV output without items has no header, although its columns are named; the next step cannot read it.
# Expected: the file holds the header line, and a day without records runs through
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
set -u
here=$(cd "$(dirname "$0")" && pwd)
bw=$(realpath "${BW_BIN:?BW_BIN: path of the batchwright binary}")
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cp -R "$here"/. "$dir" && cd "$dir" || exit 77
run() { timeout 60 "$bw" --store sqlite://store.db --format json "$@" 2>>err.txt; }
wrong() { echo "WRONG: $*" >&2; tail -5 err.txt >&2 2>/dev/null; exit 1; }
run run chain.toml >out.json; code=$?
cmp -s large.csv expected.csv || wrong "large.csv holds '$(cat large.csv)'"
[ $code = 0 ] || wrong "exit code $code"
