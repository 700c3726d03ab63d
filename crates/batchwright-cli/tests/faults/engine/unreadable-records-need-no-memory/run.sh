#!/usr/bin/env bash
# Records that cannot be read fill no chunk, so memory grows with them and nothing is committed.
# Expected: memory stays flat (documented: flat) and progress is committed while hundreds of thousands of bad records are skipped
# Ends with 0 when the behaviour is right, 1 when it is wrong, 77 when it cannot be tried here.
. "$(dirname "$0")/../lib.sh"
python3 - "$bw" <<'EOF' || wrong "memory or commits, see above"
import json, os, subprocess, sys
def peak(records):
    with open(f"{records}.csv", "w") as f:              # one good record in 5,000
        f.write("id,v\n"); f.writelines(f"{i},{i if i % 5000 == 0 else 'x'}\n" for i in range(records))
    p = subprocess.Popen([sys.argv[1], "--store", "sqlite://store.db", "--format", "json", "run", "skip.toml", f"file={records}.csv"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    out = p.stdout.read(); _, status, usage = os.wait4(p.pid, 0)
    step = json.loads(out)["steps"][0]
    assert step["read_skip"] == records - -(-records // 5000), step
    return usage.ru_maxrss // 1024, step["commit"]
small, large = peak(20000), peak(400000)
print("MiB, commits:", small, large, file=sys.stderr)
raise SystemExit(0 if large[0] < 3 * small[0] + 32 and large[1] > 1 else 1)
EOF
