# Sourced by every run.sh: $BW_BIN is the binary under attack; everything happens in a scratch folder on loopback.
set -u
HERE=$(cd "$(dirname "$0")" && pwd)
: "${BW_BIN:=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../../.." 2>/dev/null && pwd)/target/release/batchwright}"
[ -x "$BW_BIN" ] || { echo "BW_BIN names no program: $BW_BIN" >&2; exit 2; }
BW_BIN=$(readlink -f "$BW_BIN")
W=$(mktemp -d "${TMPDIR:-/tmp}/bw-attack.XXXXXX")
PIDS=()
cleanup() { for p in "${PIDS[@]:-}"; do [ -n "$p" ] && kill -CONT "$p" 2>/dev/null; [ -n "$p" ] && kill -KILL "$p" 2>/dev/null; done; [ -n "${KEEP:-}" ] || rm -rf "$W"; }
trap cleanup EXIT
cd "$W" || exit 2
free_port() { python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])'; }
bw() { "$BW_BIN" --store "sqlite://$W/s.db" "$@"; }
# serve ARGS…: starts a server; $KCP and $HTTP are its ports, $SERVER its pid
serve() {
    KCP=$(free_port); HTTP=$(free_port)
    "$BW_BIN" --store "${STORE:-sqlite://$W/s.db}" serve --listen 127.0.0.1:$KCP --http 127.0.0.1:$HTTP "$@" >serve.out 2>serve.err &
    SERVER=$!; PIDS+=("$SERVER")
    for _ in $(seq 100); do curl -fs "http://127.0.0.1:$HTTP/healthz" >/dev/null 2>&1 && return 0; kill -0 $SERVER 2>/dev/null || break; sleep 0.1; done
    echo "the server did not start:" >&2; cat serve.err >&2; exit 2
}
ok() { echo "OK: $*"; exit 0; }
broken() { echo "BROKEN: $*"; exit 1; }
