#!/usr/bin/env bash
# A field that begins with a lone quote swallows the records up to the next quote; the job completes without a word.
# Expected: text after a closing quote is no CSV (RFC 4180): the record is a data error; records are not lost in silence
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
run run load.toml >out.json; code=$?
[ $code = 1 ] && exit 0
python3 - <<'EOF' || wrong "completed, nothing skipped: $(tr '\n' ' ' <out.jsonl)"
import json
step = json.load(open("out.json"))["steps"][0]
ids = [json.loads(line)["id"] for line in open("out.jsonl")]
raise SystemExit(0 if step["read_skip"] > 0 or ids == ["1", "2", "3", "4"] else 1)
EOF
