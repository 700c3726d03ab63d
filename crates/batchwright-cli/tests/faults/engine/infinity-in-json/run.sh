#!/usr/bin/env bash
# An infinite number becomes null in JSON lines.
# Expected: JSON has no infinity: the record is a data error, or the value is kept as text; null is another value
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
set -u
here=$(cd "$(dirname "$0")" && pwd)
bw=$(realpath "${BW_BIN:?BW_BIN: path of the batchwright binary}")
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cp -R "$here"/. "$dir" && cd "$dir" || exit 77
run() { timeout 60 "$bw" --store sqlite://store.db --format json "$@" 2>>err.txt; }
wrong() { echo "WRONG: $*" >&2; tail -5 err.txt >&2 2>/dev/null; exit 1; }
run run copy.toml >out.json; code=$?
[ $code = 1 ] && exit 0
grep -q '"v":null' out.jsonl && wrong "$(cat out.jsonl)"
exit 0
