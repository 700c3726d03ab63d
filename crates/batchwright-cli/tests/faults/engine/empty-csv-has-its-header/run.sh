#!/usr/bin/env bash
# A CSV output without items has no header, although its columns are named; the next step cannot read it.
# Expected: the file holds the header line, and a day without records runs through
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
run run chain.toml >out.json; code=$?
cmp -s large.csv expected.csv || wrong "large.csv holds '$(cat large.csv)'"
[ $code = 0 ] || wrong "exit code $code"
