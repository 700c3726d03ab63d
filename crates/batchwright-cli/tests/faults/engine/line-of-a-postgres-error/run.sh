#!/usr/bin/env bash
# Messages of PostgreSQL end with `at line N`, the line of the server's own source text.
# Expected: no line, or a line of the statement
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
url=${BATCHWRIGHT_TEST_POSTGRES:-postgres://batchwright:batchwright@localhost/batchwright}
command -v psql >/dev/null || exit 77
sql() { psql "$url" -v ON_ERROR_STOP=1 -qtA -c "$1" 2>>err.txt; }
sql 'SELECT 1' >/dev/null || exit 77
export SINK=$url
run run load.toml >out.json
line=$(grep -o 'at line [0-9]*' out.json | head -1)
[ -z "$line" ] || [ "$line" = "at line 1" ] || wrong "one line of SQL, and the message says '$line'"
