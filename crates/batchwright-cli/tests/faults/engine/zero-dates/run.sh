#!/usr/bin/env bash
# A MySQL date 0000-00-00 is read as null.
# Expected: text, as the database writes it (documented), or an error of kind data
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
url=${BATCHWRIGHT_TEST_MYSQL:-mysql://batchwright:batchwright@127.0.0.1/batchwright}
command -v mariadb >/dev/null || exit 77
rest=${url#*://}; user=${rest%%:*}; rest=${rest#*:}; pass=${rest%%@*}; rest=${rest#*@}; host=${rest%%/*}; base=${rest#*/}
sql() { mariadb -h "${host%%:*}" -u "$user" "-p$pass" --default-character-set=utf8mb4 -N -B "$base" -e "$1" 2>>err.txt; }
sql 'SELECT 1' >/dev/null || exit 77
export SINK=$url
sql "SET sql_mode=''; DROP TABLE IF EXISTS report_zero; CREATE TABLE report_zero (id int, d date, t datetime); INSERT INTO report_zero VALUES (1, '0000-00-00', '0000-00-00 00:00:00')" || exit 77
run run copy.toml >out.json; code=$?
sql 'DROP TABLE report_zero'
[ $code = 1 ] && exit 0
grep -q null out.jsonl && wrong "$(cat out.jsonl)"
exit 0
