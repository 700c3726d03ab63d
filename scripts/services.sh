#!/usr/bin/env bash
# Private servers for the tests, with their own data, ports and users; servers of the machine are not touched.
#
#   scripts/services.sh run COMMAND…     start the servers, run COMMAND with their URLs in its environment, stop the servers
#   scripts/services.sh up DIR           start the servers; then: set -a; . DIR/env; set +a
#   scripts/services.sh down DIR         stop the servers of `up`
#   scripts/services.sh restart NAME     crash a server of $BATCHWRIGHT_TEST_SERVICES, such as postgres, and start it again
#   scripts/services.sh install          only install the packages
#
# `run` and `up` install missing programs from Debian's packages: PostgreSQL, MariaDB, RabbitMQ, Redis, NATS, PgBouncer, OpenSSH, nginx,
# Chromium with its driver, Prometheus for promtool, libfaketime, strace; and from PyPI, in their own folders, schemathesis, the servers of object stores and FTP, Node for one of these (from npm), and DuckDB. Installed programs are not changed. The servers of
# the packages are not started. Works as root or as an ordinary user (who needs sudo only for a missing package).
set -euo pipefail

SELF=$(realpath "$0")
ROOT=$(dirname "$SELF")/..
NAME=batchwright
SCHEMATHESIS=4.32.5
TOOLS=$(realpath -m "${CARGO_TARGET_DIR:-$ROOT/target}/tools")

say() { echo "services: $*" >&2; }
die() { say "$*"; exit 1; }

# ---- packages

packages_missing() {
    while read -r there package; do
        compgen -G "$there" >/dev/null || command -v "$there" >/dev/null 2>&1 || echo "$package"
    done <<'LIST'
cc gcc
cc libc6-dev
/usr/lib/postgresql/*/bin/postgres postgresql
mariadbd mariadb-server
/usr/lib/rabbitmq/bin/rabbitmq-server rabbitmq-server
/usr/sbin/pgbouncer pgbouncer
/usr/sbin/sshd openssh-server
/usr/sbin/nginx nginx-light
chromium chromium
chromedriver chromium-driver
faketime faketime
promtool prometheus
zstd zstd
lz4 lz4
strace strace
/usr/bin/redis-server redis-server
/usr/bin/redis-cli redis-tools
/usr/sbin/nats-server nats-server
/usr/lib/python3*/ensurepip/__init__.py python3-venv
LIST
}

install() {
    local missing sudo=""
    mapfile -t missing < <(packages_missing)
    if [ ${#missing[@]} -gt 0 ]; then
        [ "$(id -u)" = 0 ] || sudo="sudo -n"
        say "installing from Debian's packages: ${missing[*]}"
        # The servers of the packages are not started, unless the machine has its own policy.
        local off=""
        if [ ! -e /usr/sbin/policy-rc.d ]; then
            off=yes
            # The policy is always removed at exit; otherwise no package could start its service any more.
            trap "$sudo rm -f /usr/sbin/policy-rc.d" EXIT
            printf '#!/bin/sh\nexit 101\n' | $sudo tee /usr/sbin/policy-rc.d >/dev/null && $sudo chmod +x /usr/sbin/policy-rc.d
        fi
        $sudo apt-get update -qq &&
            $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
            say "some packages could not be installed; tests that need them are skipped"
        [ -z "$off" ] || $sudo rm -f /usr/sbin/policy-rc.d
    fi
    install_places
    if [ ! -x "$TOOLS/schemathesis/bin/schemathesis" ]; then
        python3 -m venv "$TOOLS/schemathesis" &&
            "$TOOLS/schemathesis/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$SCHEMATHESIS" ||
            { rm -rf "$TOOLS/schemathesis"; say "schemathesis could not be installed; its tests are skipped"; }
    fi
}

# ---- processes

# Prints the start time of process $1, which distinguishes it from a later process with the same number.
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# Whether the session of process $1 has a process that is not a zombie.
runs() {
    { cat /proc/[0-9]*/stat 2>/dev/null || true; } | sed 's/\(^[0-9]*\) .*) /\1 /' |
        awk -v s="$1" '($1 == s || $5 == s) && $2 != "Z" { found = 1 } END { exit !found }'
}

# launch NAME USER COMMAND…: starts COMMAND in its own session, as USER if this script runs as root.
launch() {
    local name=$1 user=$2
    shift 2
    [ "$(id -u)" != 0 ] || set -- setpriv --reuid="$user" --regid="$user" --init-groups -- "$@"
    (cd / && exec setsid "$@" </dev/null >>"$HOME_DIR/$name.log" 2>&1) &
    echo "$! $(started $!)" >"$DIR/$name.pid"
    disown # The shell does not report its end.
}

# end NAME SIGNAL: ends the process that `launch` started with its whole session, and waits for the end.
end() {
    local pid start
    read -r pid start 2>/dev/null <"$DIR/$1.pid" || return 0
    rm -f "$DIR/$1.pid"
    # A process with this number but another start time is a different process. (The number is not reused while a process of the
    # session lives.)
    [[ $(started "$pid") =~ ^("$start")?$ ]] || return 0
    kill -"$2" -- "-$pid" 2>/dev/null || kill -"$2" "$pid" 2>/dev/null || true
    for _ in $(seq 1 200); do
        runs "$pid" || return 0
        sleep 0.05
    done
    kill -KILL -- "-$pid" 2>/dev/null || true
}

# wait_for NAME COMMAND…: waits until COMMAND succeeds; fails when the process of NAME ends.
wait_for() {
    local name=$1 pid
    shift
    read -r pid _ <"$DIR/$name.pid"
    for _ in $(seq 1 600); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        runs "$pid" || break
        sleep 0.1
    done
    tail -n 20 "$HOME_DIR/$name.log" >&2 || true
    say "$name does not answer; its log is above"
    return 1
}

# Prints a free port below the system's ports for clients, so that no client takes it while a server restarts.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        grep -qx "$port" "$DIR/ports" 2>/dev/null && continue
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port" >>"$DIR/ports"
    echo "$port"
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# own USER FOLDER
own() { mkdir -m 700 "$2" && { [ "$(id -u)" != 0 ] || chown "$1:" "$2"; }; }
as() { # as USER COMMAND…
    local user=$1
    shift
    [ "$(id -u)" != 0 ] || set -- setpriv --reuid="$user" --regid="$user" --init-groups -- "$@"
    (cd / && "$@")
}
publish() { echo "$1=$2" >>"$DIR/env"; }

# ---- the servers: `make_X` once, `start_X` at every start

PG=$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -1 || true)
psql_() { "$PG/psql" -h "$HOME_DIR/postgres" -p "$(cat "$DIR/postgres.port")" -U postgres -d postgres -qtAX "$@"; }

make_postgres() {
    local data=$HOME_DIR/postgres/data
    own postgres "$HOME_DIR/postgres"
    as postgres "$PG/initdb" -D "$data" -U postgres --auth-local=trust --auth-host=scram-sha-256 -E UTF8 --locale=C.UTF-8 -N >/dev/null
    # Without fsync, only a crash of the machine loses data.
    as postgres tee -a "$data/postgresql.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
port = $(free_port | tee "$DIR/postgres.port")
unix_socket_directories = '$HOME_DIR/postgres'
fsync = off
max_connections = 200
max_prepared_transactions = 20
CONF
}
start_postgres() {
    launch postgres postgres "$PG/postgres" -D "$HOME_DIR/postgres/data"
    wait_for postgres psql_ -c 'SELECT 1'
}
fill_postgres() {
    psql_ -c "CREATE ROLE $NAME LOGIN CREATEDB PASSWORD '$NAME'" -c "CREATE DATABASE $NAME OWNER $NAME"
    publish BATCHWRIGHT_TEST_POSTGRES "postgres://$NAME:$NAME@127.0.0.1:$(cat "$DIR/postgres.port")/$NAME"
}
# SIGQUIT is an immediate shutdown: all processes end without a checkpoint.
CRASH_postgres=QUIT

make_pgbouncer() {
    own postgres "$HOME_DIR/pgbouncer"
    as postgres tee "$HOME_DIR/pgbouncer/users" >/dev/null <<<"\"$NAME\" \"$NAME\""
    as postgres tee "$HOME_DIR/pgbouncer/pgbouncer.ini" >/dev/null <<CONF
[databases]
* = host=127.0.0.1 port=$(cat "$DIR/postgres.port")
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $(free_port | tee "$DIR/pgbouncer.port")
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $HOME_DIR/pgbouncer/users
pool_mode = transaction
max_client_conn = 500
default_pool_size = 10
ignore_startup_parameters = extra_float_digits
CONF
}
start_pgbouncer() {
    launch pgbouncer postgres /usr/sbin/pgbouncer "$HOME_DIR/pgbouncer/pgbouncer.ini"
    wait_for pgbouncer env PGPASSWORD=$NAME "$PG/psql" -h 127.0.0.1 -p "$(cat "$DIR/pgbouncer.port")" -U $NAME -d $NAME -qtAXc 'SELECT 1'
}
fill_pgbouncer() {
    publish BATCHWRIGHT_TEST_PGBOUNCER "postgres://$NAME:$NAME@127.0.0.1:$(cat "$DIR/pgbouncer.port")/$NAME"
}
CRASH_pgbouncer=KILL

mariadb_() { mariadb --no-defaults --socket="$HOME_DIR/mariadb/socket" --user=root "$@"; }
make_mariadb() {
    own mysql "$HOME_DIR/mariadb"
    free_port >"$DIR/mariadb.port"
    as mysql mariadb-install-db --no-defaults --datadir="$HOME_DIR/mariadb/data" --auth-root-authentication-method=normal \
        --skip-test-db --skip-name-resolve >/dev/null
}
start_mariadb() {
    launch mariadb mysql /usr/sbin/mariadbd --no-defaults --datadir="$HOME_DIR/mariadb/data" --socket="$HOME_DIR/mariadb/socket" \
        --pid-file="$HOME_DIR/mariadb/pid" --bind-address=127.0.0.1 --port="$(cat "$DIR/mariadb.port")" --skip-name-resolve \
        --character-set-server=utf8mb4 --collation-server=utf8mb4_general_ci --max-connections=300 \
        --innodb-flush-log-at-trx-commit=2 --innodb-buffer-pool-size=64M
    wait_for mariadb mariadb_ -e 'SELECT 1'
}
fill_mariadb() {
    mariadb_ -e "CREATE DATABASE $NAME CHARACTER SET utf8mb4; CREATE USER '$NAME'@'%' IDENTIFIED BY '$NAME';
        GRANT ALL ON *.* TO '$NAME'@'%';"
    publish BATCHWRIGHT_TEST_MYSQL "mysql://$NAME:$NAME@127.0.0.1:$(cat "$DIR/mariadb.port")/$NAME"
}
CRASH_mariadb=KILL

make_rabbitmq() {
    own rabbitmq "$HOME_DIR/rabbitmq"
    for port in rabbitmq rabbitmq-dist epmd; do free_port >"$DIR/$port.port"; done
    as rabbitmq tee "$HOME_DIR/rabbitmq/rabbitmq.conf" >/dev/null <<CONF
listeners.tcp.1 = 127.0.0.1:$(cat "$DIR/rabbitmq.port")
disk_free_limit.absolute = 50MB
CONF
    as rabbitmq tee "$HOME_DIR/rabbitmq/plugins" >/dev/null <<<'[].'
    # The environment that a node and its tools share.
    cat >"$DIR/rabbitmq.env" <<CONF
HOME=$HOME_DIR/rabbitmq
RABBITMQ_NODENAME=$NAME-$(cat "$DIR/rabbitmq.port")@localhost
RABBITMQ_DIST_PORT=$(cat "$DIR/rabbitmq-dist.port")
ERL_EPMD_PORT=$(cat "$DIR/epmd.port")
ERL_EPMD_ADDRESS=127.0.0.1
RABBITMQ_CONFIG_FILE=$HOME_DIR/rabbitmq/rabbitmq.conf
RABBITMQ_CONF_ENV_FILE=/dev/null
RABBITMQ_MNESIA_BASE=$HOME_DIR/rabbitmq/mnesia
RABBITMQ_LOG_BASE=$HOME_DIR/rabbitmq/log
RABBITMQ_ENABLED_PLUGINS_FILE=$HOME_DIR/rabbitmq/plugins
RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2 +sbwt none
CONF
}
rabbitmq_answers() {
    (exec 3<>"/dev/tcp/127.0.0.1/$(cat "$DIR/rabbitmq.port")" && printf 'AMQP\0\0\11\1' >&3 && timeout 5 head -c 1 <&3 | grep -q .)
}
start_rabbitmq() {
    local set
    mapfile -t set <"$DIR/rabbitmq.env"
    # Its own port mapper (epmd): the node would start one that outlives it.
    if [ ! -e "$DIR/epmd.pid" ]; then
        launch epmd rabbitmq env "${set[@]}" epmd -port "$(cat "$DIR/epmd.port")" -address 127.0.0.1
        wait_for epmd listens "$(cat "$DIR/epmd.port")"
    fi
    launch rabbitmq rabbitmq env "${set[@]}" /usr/lib/rabbitmq/bin/rabbitmq-server
    wait_for rabbitmq rabbitmq_answers
}
fill_rabbitmq() {
    publish BATCHWRIGHT_TEST_RABBITMQ "amqp://guest:guest@127.0.0.1:$(cat "$DIR/rabbitmq.port")/%2f"
}
CRASH_rabbitmq=KILL

# shellcheck source=places.sh
. "$(dirname "$SELF")/places.sh"
# shellcheck source=queues.sh
. "$(dirname "$SELF")/queues.sh"

# Prints the servers whose programs are installed; PgBouncer needs PostgreSQL.
available() {
    [ -z "$PG" ] || echo postgres
    [ -z "$PG" ] || [ ! -x /usr/sbin/pgbouncer ] || echo pgbouncer
    [ ! -x /usr/sbin/mariadbd ] || echo mariadb
    [ ! -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || echo rabbitmq
    available_queues
    available_places
}

# ---- verbs

use() { # use DIR
    DIR=$(realpath -m "$1")
    HOME_DIR=$(cat "$DIR/home" 2>/dev/null || true)
}

up() {
    use "$1"
    down "$1"
    mkdir -p "$DIR"
    # A folder that every user can read, with a short path: a socket's name has at most 107 bytes.
    HOME_DIR=$(mktemp -d "${TMPDIR:-/tmp}/bw-services.XXXXXX")
    chmod 755 "$HOME_DIR"
    echo "$HOME_DIR" >"$DIR/home"
    publish BATCHWRIGHT_TEST_SERVICES "$DIR"
    if [ -x "$TOOLS/schemathesis/bin/schemathesis" ]; then
        publish BATCHWRIGHT_TEST_SCHEMATHESIS "$TOOLS/schemathesis/bin/schemathesis"
    fi
    [ ! -x "$PLACES/python" ] || publish BATCHWRIGHT_TEST_TOOLS "$PLACES/python"
    [ ! -e "$AXE_SCRIPT" ] || publish BATCHWRIGHT_TEST_AXE "$AXE_SCRIPT"
    local name
    for name in $(available); do
        "make_$name"
        "start_$name"
        "fill_$name"
        say "$name is ready"
    done
}

down() {
    use "$1"
    local name
    for name in pgbouncer postgres mariadb rabbitmq epmd redis nats kafka s3 gcs azure ftp sftp web webdav api smtp; do
        case $name in epmd) end epmd TERM ;; *) crash=CRASH_$name; end "$name" "${!crash}" ;; esac
    done
    [[ $HOME_DIR != */bw-services.* ]] || rm -rf "$HOME_DIR"
    rm -f "$DIR"/{home,env,ports,rabbitmq.env,*.port,*.pid}
    rmdir "$DIR" 2>/dev/null || true
}

restart() {
    use "${BATCHWRIGHT_TEST_SERVICES:?restart: the servers are not running}"
    local crash=CRASH_$1
    [ -e "$DIR/$1.pid" ] || die "restart: there is no $1 in $DIR"
    end "$1" "${!crash}"
    "start_$1"
}

run() {
    local dir status=0
    dir=$(mktemp -d)
    # Filled in now: a failure of a function leaves no local variable.
    # shellcheck disable=SC2064
    trap "down '$dir'" EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    install
    up "$dir"
    set -a
    # shellcheck disable=SC1091
    . "$dir/env"
    set +a
    "$@" || status=$?
    exit "$status"
}

verb=${1:-}
shift || true
case $verb in
up)
    install
    # shellcheck disable=SC2064
    trap "[ \$? = 0 ] || down '$1'" EXIT
    up "${1:?up DIR}"
    ;;
down | restart) "$verb" "${1:?$verb needs an argument}" ;;
run) run "$@" ;;
install) install ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "$SELF" >&2 && exit 2 ;;
esac
