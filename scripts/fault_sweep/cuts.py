#!/usr/bin/env python3
"""Connection cuts: runs one job (CSV -> table) whose store, sink, or both are on a database server, through a proxy that cuts one
connection; runs the job again without faults until it completes; compares all results with those of the uninterrupted run.

  cuts.py BINARY [--budget SECONDS] [--least FAULTS] [--full] [--only PATTERN] [--seed N] [--jobs N] [--keep]

A fault is one of these, on a connection to the store's or the sink's server; odd numbers reset the connection, even ones close it:
  sent N      the connection is cut after the N-th byte that the client sent, counted over all connections of the run
  answered N  the connection is cut after the N-th byte that the server sent
  lost K      the server executes the K-th COMMIT, its answer is dropped, and the connection is cut
  early K     the connection is cut before the K-th COMMIT reaches the server
The result is correct if rows, dead letters, skip records and counts of written items equal those of the uninterrupted run, no
execution is left open, a run that reported COMPLETED was already correct, nothing panicked, and no run took longer than a minute.
BATCHWRIGHT_TEST_POSTGRES and BATCHWRIGHT_TEST_MYSQL are URLs of servers on which databases can be created; exit 77 without both.
"""
import argparse, collections, itertools, json, os, random, re, select, shutil, socket, sqlite3, struct, subprocess, sys, tempfile
import threading, time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote, urlparse

ap = argparse.ArgumentParser(); ap.add_argument("binary"); ap.add_argument("--budget", type=float, default=240)
ap.add_argument("--least", type=int, default=60); ap.add_argument("--full", action="store_true"); ap.add_argument("--only", default="")
ap.add_argument("--seed", type=int, default=1); ap.add_argument("--jobs", type=int, default=2); ap.add_argument("--keep", action="store_true")
A = ap.parse_args(); BIN = os.path.abspath(A.binary)
NAMES = {"postgres": "BATCHWRIGHT_TEST_POSTGRES", "mysql": "BATCHWRIGHT_TEST_MYSQL"}
SERVERS = {kind: urlparse(os.environ[name]) for kind, name in NAMES.items() if os.environ.get(name)}
SSL = {"postgres": "sslmode=disable", "mysql": "ssl-mode=DISABLED"}
RUN_MAX, TRIES_MAX = 60, 6   # seconds of one run; runs without faults after the one with the fault
STEP = 37                    # bytes between two possible cuts

# The databases of the store and of the table; None is the store's own database.
WORLDS = {"postgres": ("postgres", None), "sqlite-to-postgres": ("sqlite", "postgres"), "mysql": ("mysql", None),
          "sqlite-to-mysql": ("sqlite", "mysql"), "postgres-to-mysql": ("postgres", "mysql")}
SKIPS = '[steps.skip]\nlimit = 20\non = ["data"]\ndead_letter = "dead.jsonl"\n'
VARIANTS = {"plain": "", "skips": SKIPS, "retries": SKIPS + '[steps.retry]\nmax_attempts = 3\non = ["io"]\n'}
JOB = """name = "cuts"
[[steps]]
name = "table"
type = "sql"
sql = "CREATE TABLE IF NOT EXISTS t (id INTEGER, name VARCHAR(20), amount INTEGER, CHECK (amount <> 70 AND amount <> 220))"
%(url)s
[[steps]]
name = "rows"
chunk = 5
reader = { type = "csv", path = "in.csv", columns = { id = "integer", name = "string", amount = "integer" } }
writer = { type = "sql", table = "t"%(writer)s }
%(policies)s"""
TABLE = "select 'row', id, name, amount from t"
HISTORY = ["select 'skip', s.name, k.phase, k.item, k.kind, k.message, k.content"
           " from bw_skip_record k join bw_step_execution s on s.id = k.step_id",
           "select 'written', name, sum(write_count) from bw_step_execution group by name",
           "select 'open', id, status from bw_job_execution where status in ('STARTING', 'STARTED', 'STOPPING', 'UNKNOWN')",
           "select 'open', name, status from bw_step_execution where status in ('STARTING', 'STARTED', 'STOPPING', 'UNKNOWN')"]

class Proxy:
    """A proxy to one server that counts the bytes and commits, and injects one fault."""
    COMMITS = (b"Q\0\0\0\x0bCOMMIT\0", b"\7\0\0\0\x03COMMIT")   # a simple query of PostgreSQL, a COM_QUERY of MariaDB

    def __init__(self, server):
        self.server, self.lock, self.seen, self.fault = (server.hostname, server.port), threading.Lock(), collections.Counter(), None
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try: threading.Thread(target=self.carry, args=(self.listener.accept()[0],), daemon=True).start()
            except OSError: return

    def carry(self, client):
        """Forwards one connection, on one thread: a socket that another thread reads is not closed at once."""
        pair, lost = [client], False
        try:
            pair.append(socket.create_connection(self.server))
            for one in pair: one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                for source in select.select(pair, [], [])[0]:
                    data = source.recv(65536)
                    if not data: return
                    if lost and source is not client: return self.cut(pair)
                    passed, what = self.judge("sent" if source is client else "answered", data)
                    pair[source is client].sendall(data[:passed])
                    if what == "cut": return self.cut(pair)
                    lost = lost or what == "lost"
        except OSError: pass
        finally:
            for one in pair: one.close()

    def judge(self, way, data):
        """Returns how many bytes of data are forwarded, and what happens then."""
        with self.lock:
            before = self.seen[way]; self.seen[way] += len(data)
            commit = way == "sent" and data.endswith(self.COMMITS); self.seen["commits"] += commit
            kind, n = self.fault or (None, 0)
            here = before < n <= self.seen[way] if kind == way else kind in ("lost", "early") and commit and self.seen["commits"] == n
            if here: self.seen["faults"] += 1; self.reset = n % 2
        if not here: return len(data), None
        return {"early": (0, "cut"), "lost": (len(data), "lost")}.get(kind, (n - before, "cut"))

    def cut(self, pair):
        for one in pair:
            if self.reset: one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()

def client(kind, sql, database=None):
    """Runs statements with the server's own client, without the proxy, and returns the lines that it prints."""
    u = SERVERS[kind]; user, secret = unquote(u.username), unquote(u.password or "")
    argv = {"postgres": ["psql", "-h", u.hostname, "-p", str(u.port), "-U", user, "-qtA", "-v", "ON_ERROR_STOP=1", "-d"],
            "mysql": ["mariadb", "-h", u.hostname, "-P", str(u.port), "-u", user, "--protocol=tcp", "-NB", "-D"]}[kind]
    p = subprocess.run([*argv, database or u.path[1:]], input=sql, capture_output=True, text=True, timeout=RUN_MAX,
                       env={**os.environ, "PGPASSWORD": secret, "MYSQL_PWD": secret})
    if p.returncode: raise RuntimeError(p.stderr)
    return p.stdout.splitlines()

class World:
    """A folder with the job, empty databases, and a proxy for each server."""
    numbers, free, made = itertools.count(1), collections.deque(), set()

    def __init__(self, root, name, variant):
        number = next(self.numbers); self.dir = f"{root}/{number}"; os.makedirs(self.dir)
        try: self.base = self.free.popleft()
        except IndexError: self.base = f"bwcut_{os.getpid()}_{number}"
        store, self.sink = WORLDS[name]
        self.kinds = {role: kind for role, kind in (("store", store), ("sink", self.sink)) if kind in SERVERS}
        self.proxies = {role: Proxy(SERVERS[kind]) for role, kind in self.kinds.items()}
        for kind in self.kinds.values():
            # PostgreSQL creates a schema much faster than a database.
            if kind == "mysql": client(kind, f"create or replace database {self.base}")
            elif (kind, self.base) in self.made: client(kind, "drop schema public cascade; create schema public", self.base)
            else: client(kind, f"create database {self.base}")
            self.made.add((kind, self.base))
        amount = lambda i: i * 10 + 1 if variant == "plain" else "x" if i in (13, 14, 31) else i * 10
        with open(f"{self.dir}/in.csv", "w") as f: f.write("id,name,amount\n" + "".join(f"{i},n{i:02},{amount(i)}\n" for i in range(1, 41)))
        url = 'url = "${env.SINK}"' if self.sink else ""
        with open(f"{self.dir}/job.toml", "w") as f: f.write(JOB % {"url": url, "writer": url and f", {url}", "policies": VARIANTS[variant]})

    def url(self, role):
        if role not in self.kinds: return "sqlite://s.db"
        kind = self.kinds[role]; user = SERVERS[kind].netloc.rpartition("@")[0]
        return f"{kind}://{user}@127.0.0.1:{self.proxies[role].listener.getsockname()[1]}/{self.base}?{SSL[kind]}"

    def run(self):
        env = {**os.environ, "SINK": self.url("sink")}
        p = subprocess.Popen([BIN, "--store", self.url("store"), "run", "job.toml"], cwd=self.dir, env=env, text=True, errors="replace",
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try: return p.communicate(timeout=RUN_MAX)[0], p.returncode
        except subprocess.TimeoutExpired: p.kill(); return p.communicate()[0], "timeout"

    def query(self, role, statements):
        if role in self.kinds: return client(self.kinds[role], ";\n".join(statements), self.base)
        with sqlite3.connect(f"{self.dir}/s.db", timeout=20) as db: return ["|".join(map(str, row)) for s in statements for row in db.execute(s)]

    def state(self):
        """Returns all lines that the job left, with the count of each."""
        lines = self.query("store", HISTORY) + self.query("sink" if self.sink else "store", [TABLE])
        if os.path.exists(f"{self.dir}/dead.jsonl"):
            with open(f"{self.dir}/dead.jsonl", encoding="utf-8") as f:
                lines += [f"dead {n} " + json.dumps({**json.loads(line), "execution": 0}) for n, line in enumerate(f, 1)]
        return collections.Counter(re.sub(r"127\.0\.0\.1:\d+", "server", line).replace(self.base, "base") for line in lines)

    def close(self):
        for proxy in self.proxies.values(): proxy.listener.shutdown(socket.SHUT_RDWR); proxy.listener.close()
        if not A.keep: shutil.rmtree(self.dir, ignore_errors=True); self.free.append(self.base)

def verdict(world, want, codes):
    """Runs with the chosen fault, then without faults, and appends the exit codes; returns what is wrong."""
    while not codes or codes[-1] not in (0, 3):
        if len(codes) > TRIES_MAX: return f"does not complete: {output[-400:]}"
        output, code = world.run(); codes.append(code)
        for proxy in world.proxies.values(): proxy.fault = None
        if "panicked" in output: return f"a panic: {output[-400:]}"
        if code == "timeout" or code < 0: return f"ended by {code}: {output[-400:]}"
    try: state = world.state()
    except (RuntimeError, sqlite3.Error, OSError, ValueError) as error: return f"the state cannot be read: {error}"
    more, less = sorted((state - want).elements()), sorted((want - state).elements())
    return f"{len(more)} lines too many {more[:3]}, {len(less)} missing {less[:3]}" if more or less else None

def main(root):
    rnd, wants, groups = random.Random(A.seed), {}, []
    for name, variant in itertools.product(WORLDS, VARIANTS):
        if any(kind not in (*SERVERS, "sqlite", None) for kind in WORLDS[name]): continue
        world = World(root, name, variant); output, code = world.run()
        if code != 0: print(f"the uninterrupted run of {name} {variant} failed:", output); return 2
        wants[name, variant] = world.state(); world.close()
        for role, proxy in world.proxies.items():
            print(f"{name} {variant}, {role}:", ", ".join(f"{n} {what}" for what, n in sorted(proxy.seen.items()) if n))
            for kind, what, step in ("sent", "sent", STEP), ("answered", "answered", STEP), ("lost", "commits", 1), ("early", "commits", 1):
                faults = [(name, variant, role, kind, n) for n in range(1, proxy.seen[what] + 1, step)]
                groups.append([fault for fault in faults if re.search(A.only, " ".join(map(str, fault)))])
    # One fault of each group in turn until the time is used up; the time limit applies only after the minimum number of faults.
    for group in (*groups, groups): rnd.shuffle(group)
    order = [fault for turn in itertools.zip_longest(*groups) for fault in turn if fault]
    print(f"{len(order)} faults are possible", flush=True)
    start, begun = time.monotonic(), itertools.count(1)

    def one(fault):
        if next(begun) > A.least and not A.full and time.monotonic() > start + A.budget: return None
        name, variant, role, kind, n = fault; world = World(root, name, variant); codes = []; begin = time.monotonic()
        try:
            world.proxies[role].fault = (kind, n); wrong = verdict(world, wants[name, variant], codes)
            return fault, codes, wrong, world.proxies[role].seen["faults"], time.monotonic() - begin, world.dir
        finally: world.close()

    kinds = collections.Counter(); injected = runs = broken = 0; slowest = (0, ())
    with ThreadPoolExecutor(A.jobs) as pool:
        for fault, codes, wrong, reached, took, where in filter(None, pool.map(one, order)):
            injected += reached; runs += len(codes); slowest = max(slowest, (took, fault)); name, _, role, kind, _ = fault
            kinds[f"{name} {role} {kind} -> {codes[0] if reached else 'not reached'}"] += 1
            if wrong: broken += 1; print(f"BROKEN {' '.join(map(str, fault))}: {wrong}; exits {codes}  {where if A.keep else ''}", flush=True)
    for kind in sorted(kinds): print(f"  {kinds[kind]:4} {kind}")
    print(f"the slowest fault took {slowest[0]:.1f} s with all its runs: {' '.join(map(str, slowest[1]))}")
    print(f"{injected} faults injected, {runs} runs, {broken} broken, {time.monotonic() - start:.0f} s")
    return 1 if broken else 0

if __name__ == "__main__":
    if not SERVERS: print("neither BATCHWRIGHT_TEST_POSTGRES nor BATCHWRIGHT_TEST_MYSQL is set"); sys.exit(77)
    root = tempfile.mkdtemp(prefix="bw-cuts-")
    try: sys.exit(main(root))
    finally:
        for kind, base in () if A.keep else World.made:
            client(kind, f"drop database if exists {base}" + (" with (force)" if kind == "postgres" else ""))
        if not A.keep: shutil.rmtree(root, ignore_errors=True)
