#!/usr/bin/env bash
# The last second of the year 9999, which many systems use for `never`, is called no timestamp.
# Expected: accepted, or refused for what it is: out of range
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
set -u
here=$(cd "$(dirname "$0")" && pwd)
bw=$(realpath "${BW_BIN:?BW_BIN: path of the batchwright binary}")
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cp -R "$here"/. "$dir" && cd "$dir" || exit 77
run() { timeout 60 "$bw" --store sqlite://store.db --format json "$@" 2>>err.txt; }
wrong() { echo "WRONG: $*" >&2; tail -5 err.txt >&2 2>/dev/null; exit 1; }
run run job.toml until:timestamp=9999-12-31T23:59:59Z >out.json && exit 0
grep -q 'is not a timestamp' out.json && wrong "$(cat out.json)"
exit 0
