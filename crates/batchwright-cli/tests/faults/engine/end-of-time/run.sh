#!/usr/bin/env bash
# The last second of the year 9999, which many systems use for `never`, is called no timestamp.
# Expected: accepted, or refused for what it is: out of range
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
run run job.toml until:timestamp=9999-12-31T23:59:59Z >out.json && exit 0
grep -q 'is not a timestamp' out.json && wrong "$(cat out.json)"
exit 0
