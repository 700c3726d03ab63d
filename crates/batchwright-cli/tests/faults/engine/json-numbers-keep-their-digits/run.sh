#!/usr/bin/env bash
# Copying JSON lines changes numbers.
# Expected: numbers that nobody touched come out as they came in (or the record is refused), also in nested objects
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
run run copy.toml >out.json; code=$?
[ $code = 1 ] && exit 0                                  # refused: nothing was changed in silence
[ $code = 0 ] || wrong "exit code $code"
python3 - <<'EOF' || wrong "$(cat out.jsonl)"
import json
from decimal import Decimal
read = lambda name: json.loads(open(name).read(), parse_float=Decimal, parse_int=int)
a, b = read("in.jsonl"), read("out.jsonl")
raise SystemExit(0 if a == b and all(Decimal(str(a[k])) == Decimal(str(b[k])) for k in ("id", "price", "count")) else 1)
EOF
