#!/usr/bin/env bash
# Giving a CSV column another name in a `map` changes its decimals.
# Expected: set = { b = 'item.a' } copies the text: 1.10 stays 1.10, no digit is lost
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
run run rename.toml >out.json || wrong "exit code $?"
cmp -s out.csv expected.csv || wrong "got: $(tr '\n' ' ' <out.csv)"
