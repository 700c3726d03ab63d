# Sourced by every run.sh: $bw is the binary, and the work is done in a copy of the script's folder.
set -u
here=$(cd "$(dirname "$0")" && pwd)
bw=$(realpath "${BW_BIN:?BW_BIN: path of the batchwright binary}")
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cp -R "$here"/. "$dir" && cd "$dir" || exit 77
run() { timeout 60 "$bw" --store sqlite://store.db --format json "$@" 2>>err.txt; }
wrong() { echo "WRONG: $*" >&2; tail -5 err.txt >&2 2>/dev/null; exit 1; }
