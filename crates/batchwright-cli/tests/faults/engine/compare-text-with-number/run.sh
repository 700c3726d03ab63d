#!/usr/bin/env bash
# A condition that compares a text which is no number with a number is silently false.
# Expected: a record whose field is no number is an error of kind data (documented: types that do not fit), so neither kept nor dropped in silence
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
run run check.toml >out.json
cmp -s accepted.jsonl expected-accepted.jsonl || wrong "records without a number passed the check: $(tr '\n' ' ' <accepted.jsonl)"
cmp -s large.jsonl expected-large.jsonl || wrong "the filter kept: $(tr '\n' ' ' <large.jsonl)"
[ "$(wc -l <rejected.jsonl)" = 3 ] || wrong "rejected: $(wc -l <rejected.jsonl) of 3"
[ "$(wc -l <unreadable.jsonl)" = 2 ] || wrong "the filter dropped records that are no numbers in silence"
