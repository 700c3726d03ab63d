#!/usr/bin/env bash
# A constraint that the database checks at commit cannot be skipped, and is told as another writer's work.
# Expected: kind data.constraint (documented: the database refused it: a constraint): the scan skips the one bad record
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
run run load.toml >out.json; code=$?
grep -q "another writer changed it first" out.json && wrong "a refused foreign key is told as: another writer changed it first"
[ $code = 0 ] || wrong "exit code $code"
rows=$(python3 -c "import sqlite3; print(sqlite3.connect('store.db').execute('select group_concat(id) from (select id from child order by id)').fetchone()[0])")
[ "$rows" = 1,3 ] || wrong "rows $rows"
[ "$(wc -l <rejected.jsonl)" = 1 ] || wrong "rejected $(wc -l <rejected.jsonl)"
