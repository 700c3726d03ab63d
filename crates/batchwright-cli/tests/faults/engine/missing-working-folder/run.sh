#!/usr/bin/env bash
# A command step whose working folder is missing blames the program.
# Expected: the failure names the folder
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
run run job.toml >out.json
grep -q 'no-such-folder' out.json || wrong "$(grep -o '"message":"[^"]*' out.json | head -1)"
