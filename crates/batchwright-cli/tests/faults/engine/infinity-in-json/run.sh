#!/usr/bin/env bash
# An infinite number becomes null in JSON lines.
# Expected: JSON has no infinity: the record is a data error, or the value is kept as text; null is another value
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
run run copy.toml >out.json; code=$?
[ $code = 1 ] && exit 0
grep -q '"v":null' out.jsonl && wrong "$(cat out.jsonl)"
exit 0
