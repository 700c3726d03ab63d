#!/usr/bin/env bash
# Installs (from Debian's packages) and starts what the tests need beyond a Rust toolchain, when it is not
# there: a C compiler, a PostgreSQL server and a MariaDB server, each with a user and a database for tests,
# a RabbitMQ server, Chromium with its driver, and schemathesis (from PyPI, in a folder of its own).
#
#   scripts/services.sh                      make everything ready
#   scripts/services.sh restart postgres     end the server as a crash would and start it again
#   scripts/services.sh restart mariadb
#   scripts/services.sh restart rabbitmq
#
# Servers that listen elsewhere: BATCHWRIGHT_TEST_POSTGRES, BATCHWRIGHT_TEST_MYSQL and BATCHWRIGHT_TEST_RABBITMQ
# hold their URLs.
set -euo pipefail

NAME=batchwright
sudo=$([ "$(id -u)" = 0 ] || echo sudo)

packages() {
    echo "services: installing $* from Debian's packages"
    export DEBIAN_FRONTEND=noninteractive
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

as() { # as USER COMMAND…
    local user=$1
    shift
    if [ "$(id -u)" = 0 ]; then runuser -u "$user" -- "$@"; else sudo -u "$user" -- "$@"; fi
}

wait_for() { # wait_for NAME COMMAND…
    local name=$1
    shift
    for _ in $(seq 1 300); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    echo "services: $name does not answer" >&2
    return 1
}

postgres_answers() { PGPASSWORD=$NAME psql -h localhost -U $NAME -d $NAME -qtAc 'SELECT 1'; }
postgres_cluster() { pg_lsclusters -h | head -1 | cut -d' ' -f1,2; }

start_postgres() {
    command -v pg_ctlcluster >/dev/null 2>&1 || packages postgresql
    local version cluster
    if [ -z "$(pg_lsclusters -h)" ]; then
        $sudo pg_createcluster "$(ls /usr/lib/postgresql | sort -n | tail -1)" main
    fi
    read -r version cluster < <(postgres_cluster)
    pg_lsclusters -h | head -1 | grep -q online || $sudo pg_ctlcluster "$version" "$cluster" start
    wait_for PostgreSQL as postgres psql -qtAc 'SELECT 1'
    as postgres psql -qtAc "SELECT 1 FROM pg_roles WHERE rolname = '$NAME'" | grep -q 1 ||
        as postgres psql -qc "CREATE ROLE $NAME LOGIN CREATEDB PASSWORD '$NAME'"
    as postgres psql -qtAc "SELECT 1 FROM pg_database WHERE datname = '$NAME'" | grep -q 1 ||
        as postgres psql -qc "CREATE DATABASE $NAME OWNER $NAME"
    wait_for PostgreSQL postgres_answers
}

restart_postgres() {
    local version cluster
    read -r version cluster < <(postgres_cluster)
    $sudo pg_ctlcluster -m immediate "$version" "$cluster" stop || true
    $sudo pg_ctlcluster "$version" "$cluster" start
    wait_for PostgreSQL postgres_answers
}

mariadb_answers() { mariadb -h 127.0.0.1 -u $NAME -p$NAME $NAME -e 'SELECT 1'; }

launch_mariadb() {
    $sudo install -d -o mysql -g mysql /run/mysqld
    # Detached: it outlives the shell that started it.
    $sudo setsid --fork mariadbd-safe --user=mysql </dev/null >/dev/null 2>&1
    wait_for MariaDB $sudo mariadb -e 'SELECT 1'
}

start_mariadb() {
    command -v mariadbd >/dev/null 2>&1 || packages mariadb-server
    $sudo mariadb -e 'SELECT 1' >/dev/null 2>&1 || launch_mariadb
    $sudo mariadb -e "CREATE DATABASE IF NOT EXISTS $NAME CHARACTER SET utf8mb4;
        CREATE USER IF NOT EXISTS '$NAME'@'%' IDENTIFIED BY '$NAME';
        CREATE USER IF NOT EXISTS '$NAME'@'localhost' IDENTIFIED BY '$NAME';
        GRANT ALL ON *.* TO '$NAME'@'%'; GRANT ALL ON *.* TO '$NAME'@'localhost';"
    wait_for MariaDB mariadb_answers
}

restart_mariadb() {
    # mariadbd-safe starts the server again.
    $sudo pkill -KILL -x mariadbd || true
    wait_for MariaDB mariadb_answers
}

# Its own tool talks to it over the name of this host, which may not be known here.
rabbitmq_answers() { (exec 3<>/dev/tcp/127.0.0.1/5672 && printf 'AMQP\0\0\11\1' >&3 && head -c 1 <&3 | grep -q .); }

launch_rabbitmq() {
    $sudo install -d -o rabbitmq -g rabbitmq /var/lib/rabbitmq /var/log/rabbitmq
    # Only this host may reach it: its guest has a password that everybody knows.
    $sudo setsid --fork runuser -u rabbitmq -- env HOME=/var/lib/rabbitmq RABBITMQ_NODENAME=$NAME@localhost \
        RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 ERL_EPMD_ADDRESS=127.0.0.1 \
        /usr/lib/rabbitmq/bin/rabbitmq-server </dev/null >/dev/null 2>&1
    wait_for RabbitMQ rabbitmq_answers
}

start_rabbitmq() {
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || packages rabbitmq-server
    rabbitmq_answers >/dev/null 2>&1 || launch_rabbitmq
}

restart_rabbitmq() {
    $sudo pkill -KILL -u rabbitmq -x beam.smp || true
    while $sudo pgrep -u rabbitmq -x beam.smp >/dev/null; do sleep 0.1; done
    launch_rabbitmq
}

if [ "${1:-}" = restart ]; then
    "restart_$2"
    exit
fi

command -v cc >/dev/null 2>&1 || packages gcc libc6-dev
if [ -z "${BATCHWRIGHT_TEST_POSTGRES:-}" ]; then
    postgres_answers >/dev/null 2>&1 || start_postgres
fi
if [ -z "${BATCHWRIGHT_TEST_MYSQL:-}" ]; then
    mariadb_answers >/dev/null 2>&1 || start_mariadb
fi
if [ -z "${BATCHWRIGHT_TEST_RABBITMQ:-}" ]; then
    rabbitmq_answers >/dev/null 2>&1 || start_rabbitmq
fi
if ! command -v chromium >/dev/null 2>&1 || ! command -v chromedriver >/dev/null 2>&1; then
    packages chromium chromium-driver
fi
# Checks the REST API against its own document. Beside the build, where cleaning finds it.
TOOLS=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/tools
if [ ! -x "$TOOLS/schemathesis/bin/schemathesis" ]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages python3-venv
    python3 -m venv "$TOOLS/schemathesis"
    "$TOOLS/schemathesis/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5
fi
