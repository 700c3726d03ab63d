#!/usr/bin/env bash
# Two columns of one name become one JSON object with the key twice: whoever reads it loses one.
# Expected: refused with the name of the column, or both values kept under different names
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
check() {
    run run "$1" >out.json || return 0
    python3 - "$2" <<'EOF' || wrong "$1: $(cat out.jsonl)"
import json, sys
pairs = []
json.loads(open("out.jsonl").read(), object_pairs_hook=lambda p: pairs.extend(p))
names = [name for name, _ in pairs]
raise SystemExit(0 if len(names) == len(set(names)) and len(names) == int(sys.argv[1]) else 1)
EOF
}
check csv.toml 3
check sql.toml 2
