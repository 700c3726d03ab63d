#!/usr/bin/env python3
"""Fault sweep: runs one job (CSV -> CSV with dead letters, CSV -> store table, store -> another SQLite) under strace, makes the
N-th system call of a kind fail (or kills the process there), restarts until it completes, compares all results with those of the
uninterrupted run. Needs no root.

  sweep.py BINARY [--budget SECONDS] [--least FAULTS] [--full] [--job FILE] [--only PATTERN] [--seed N] [--list]

The result is correct if, after every single fault and a restart without faults, outputs, dead letters, rows and skip records equal
those of the uninterrupted run, a run that reported COMPLETED was already correct, nothing panicked or hung, and no database is corrupt.
"""
import argparse, json, os, random, re, shutil, signal, sqlite3, subprocess, sys, tempfile, time, collections
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
ap = argparse.ArgumentParser(); ap.add_argument("binary"); ap.add_argument("--budget", type=float, default=300)
ap.add_argument("--least", type=int, default=150); ap.add_argument("--full", action="store_true"); ap.add_argument("--only"); ap.add_argument("--seed", type=int, default=1)
ap.add_argument("--list", action="store_true"); ap.add_argument("--jobs", type=int, default=2); ap.add_argument("--keep", action="store_true")
ap.add_argument("--sync", default="full"); ap.add_argument("--job", default=os.path.join(HERE, "job.toml"))
A = ap.parse_args(); BIN = os.path.abspath(A.binary)
ROOT = tempfile.mkdtemp(prefix="bw-sweep-")

def world():
    d = tempfile.mkdtemp(dir=ROOT)
    random.seed(4)
    with open(f"{d}/in.csv", "w") as f:
        f.write("id,name,amount\n")
        for i in range(1, 101):
            f.write(f"{i},n{i:04d}\u00e9,{'x' if i in (13, 14, 50) else i * 10}\n")
    shutil.copy(A.job, f"{d}/job.toml")
    return d

STORE = f"sqlite://s.db?synchronous={A.sync}"
def run(d, strace=None, log=None):
    cmd = [BIN, "--store", STORE, "run", "job.toml"]
    if strace: cmd = ["strace", "-f", "-o", log or "/dev/null", *strace, "--", *cmd]
    p = subprocess.Popen(cmd, cwd=d, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
    try: out, err = p.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL); out, err = p.communicate()
        return "timeout", out[-500:] + err[-500:]
    return p.returncode, out + err

def rows(db, sql):
    c = sqlite3.connect(f"file:{db}?mode=rw", uri=True, timeout=20)
    try: return c.execute(sql).fetchall()
    finally: c.close()

def state(d):
    out = {}
    for name in sorted(os.listdir(f"{d}/out")) if os.path.isdir(f"{d}/out") else []:
        try: text = open(f"{d}/out/{name}", encoding="utf-8").read()
        except OSError as e: text = f"<{e.strerror}>"
        out["out/" + name] = re.sub(r'"execution":\d+,', "", text)
    out["t"] = rows(f"{d}/s.db", "select * from t order by id")
    out["u"] = rows(f"{d}/other.db", "select * from u order by id, rowid")
    out["skips"] = rows(f"{d}/s.db", "select s.name, k.phase, k.item, k.kind, k.message, k.content from bw_skip_record k join bw_step_execution s on s.id = k.step_id order by s.name, k.item")
    out["written"] = rows(f"{d}/s.db", "select name, sum(write_count) from bw_step_execution s where not exists (select 1 from bw_step_execution p where p.name like s.name || ':%') group by name order by name")
    out["open"] = rows(f"{d}/s.db", "select id, status from bw_job_execution where status in ('STARTING','STARTED','STOPPING','UNKNOWN')")
    out["open steps"] = rows(f"{d}/s.db", "select s.execution_id, s.name, s.status, e.status from bw_step_execution s join bw_job_execution e on e.id = s.execution_id where s.status in ('STARTING','STARTED','STOPPING') and e.status not in ('STARTING','STARTED','STOPPING')")
    for db in ("s.db", "other.db"): out[f"integrity {db}"] = rows(f"{d}/{db}", "pragma integrity_check")
    return out

def difference(a, b):
    return [k for k in {**a, **b} if a.get(k) != b.get(k)]

def main():
    d = world(); rc, output = run(d)
    if rc != 0: print("the uninterrupted run failed:", output); return 2
    want = state(d)
    d = world(); run(d, ["-qq"], "log")
    per = collections.Counter(); thread = collections.Counter()
    for line in open(f"{d}/log", errors="replace"):
        m = re.match(r"(\d+) +(\w+)\(", line)
        if m: thread[m[1], m[2]] += 1
    for (_, call), n in thread.items(): per[call] = max(per[call], n)
    plan = []
    def add(call, what, when="{n}", every=1):
        for n in range(1, per.get(call, 0) + 1, every): plan.append((call, f"{what}:when={when.format(n=n)}"))
    for call in ("write", "pwrite64"):
        for e in ("EIO", "ENOSPC"): add(call, f"error={e}"); add(call, f"error={e}", "{n}+", 3)
    for call in ("fsync", "fdatasync"): add(call, "error=EIO"); add(call, "error=EIO", "{n}+", 3)
    for e in ("EIO", "ENOSPC", "EMFILE", "EACCES"): add("openat", f"error={e}"); add("openat", f"error={e}", "{n}+", 3)
    for call in ("ftruncate", "lseek", "rename", "unlink", "mkdir", "read", "pread64", "statx", "newfstatat", "getdents64", "link", "fallocate"):
        add(call, "error=EIO")
    add("rename", "error=ENOSPC"); add("fcntl", "error=EIO", every=4); add("fcntl", "error=ENOLCK", every=7)
    add("mmap", "error=ENOMEM"); add("clone3", "error=EAGAIN"); add("getrandom", "error=EIO")
    for call in ("write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "ftruncate", "openat", "lseek", "fcntl", "mkdir", "close"):
        add(call, "signal=SIGKILL", every=1 if call != "fcntl" else 5)
    for call in ("write", "pwrite64", "fsync", "fdatasync", "rename", "openat", "futex"):
        add(call, "signal=SIGTERM", every=5 if per.get(call, 0) > 20 else 1)
    if A.only: plan = [p for p in plan if re.search(A.only, f"{p[0]}:{p[1]}")]
    print(f"{len(plan)} faults are possible; system calls of the uninterrupted run, most in one thread:",
          ", ".join(f"{c} {per[c]}" for c in sorted(per) if any(p[0] == c for p in plan)))
    if A.list: return 0
    # One fault of each kind in turn, so that rare kinds are complete first, until the time is used up.
    by = collections.defaultdict(list)
    for p in plan: by[p[0], p[1].split(":")[0], "+" in p[1]].append(p)
    order = []; rnd = random.Random(A.seed)
    for group in by.values(): rnd.shuffle(group)
    while any(by.values()):
        for key in list(by):
            if by[key]: order.append(by[key].pop())
    end = time.monotonic() + A.budget; kinds = collections.Counter(); bad = []; ran = 0; runs = 0
    begun = iter(range(1, len(order) + 1))
    def one(fault):
        # The time limit applies only after the minimum number of faults, so that a slow machine also tries enough of them.
        if next(begun) > A.least and not A.full and time.monotonic() > end: return None
        call, what = fault; d = world()
        codes = []; verdict = None
        rc, output = run(d, ["-qq", "-e", f"trace={call}", "-e", f"inject={call}:{what}"])
        codes.append(rc)
        # strace itself ends with the tracee's signal: -9
        runtime = call in ("mmap", "getrandom")   # the language's runtime aborts on these faults, which is like a kill
        if "panicked" in output and not runtime: verdict = "a panic: " + output[-300:]
        elif rc == "timeout": verdict = "hung under the fault"
        elif rc in (101, 134, 139, -6, -11) and not runtime: verdict = f"crashed with {rc}: {output[-300:]}"
        first = None
        if rc == 0 and not verdict:
            first = difference(want, state(d))
            if first: verdict = f"reported COMPLETED, but {first} differ"
        tries = 0
        while not verdict and rc not in (0, 3) and tries < 8:
            rc, output = run(d); codes.append(rc); tries += 1
            if rc == "timeout": verdict = "hung at the restart"
            if "panicked" in output: verdict = "a panic at the restart: " + output[-300:]
        if not verdict and rc not in (0, 3): verdict = f"does not complete: {codes}: {output[-400:]}"
        if not verdict:
            diff = difference(want, state(d))
            if diff: verdict = f"{diff} differ after {codes}"
        if not verdict or not A.keep: shutil.rmtree(d, ignore_errors=True)
        return fault, codes, verdict, d
    with ThreadPoolExecutor(A.jobs) as pool:
        for got in pool.map(one, order):
            if got is None: continue
            (call, what), codes, verdict, where = got; ran += 1; runs += len(codes)
            kinds[f"{call} {what.split(':')[0]}{'+' if what.endswith('+') else ''} -> {codes[0]}"] += 1
            if verdict: bad.append((call, what, verdict)); print(f"BROKEN {call}:{what}: {verdict}  {where if A.keep else ''}", flush=True)
    for k in sorted(kinds): print(f"  {kinds[k]:4} {k}")
    print(f"{ran} faults injected, {runs} runs, {len(bad)} broken")
    if not A.keep: shutil.rmtree(ROOT, ignore_errors=True)
    return 1 if bad else 0
sys.exit(main())
