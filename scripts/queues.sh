# The servers of queues beside RabbitMQ, sourced by services.sh: Redis, NATS and a cluster that speaks the protocol of Kafka.

redis_() { redis-cli -h 127.0.0.1 -p "$(cat "$DIR/redis.port")" --no-auth-warning -a "$NAME" "$@"; }
make_redis() {
    own "$(id -un)" "$HOME_DIR/redis"
    free_port >"$DIR/redis.port"
}
start_redis() {
    launch redis "$(id -un)" /usr/bin/redis-server --bind 127.0.0.1 --port "$(cat "$DIR/redis.port")" --dir "$HOME_DIR/redis" \
        --requirepass "$NAME" --appendonly yes --appendfsync always --save ''
    wait_for redis redis_ ping
}
fill_redis() {
    publish BATCHWRIGHT_TEST_REDIS "redis://default:$NAME@127.0.0.1:$(cat "$DIR/redis.port")/0"
}
CRASH_redis=KILL

make_nats() {
    own "$(id -un)" "$HOME_DIR/nats"
    free_port >"$DIR/nats.port"
}
start_nats() {
    launch nats "$(id -un)" /usr/sbin/nats-server --addr 127.0.0.1 --port "$(cat "$DIR/nats.port")" --user "$NAME" --pass "$NAME" \
        --jetstream --store_dir "$HOME_DIR/nats"
    wait_for nats listens "$(cat "$DIR/nats.port")"
}
fill_nats() {
    publish BATCHWRIGHT_TEST_NATS "nats://$NAME:$NAME@127.0.0.1:$(cat "$DIR/nats.port")"
}
CRASH_nats=KILL

make_kafka() { own "$(id -un)" "$HOME_DIR/kafka"; }
start_kafka() {
    rm -f "$HOME_DIR/kafka/brokers"
    launch kafka "$(id -un)" "$PLACES/python" "$(dirname "$SELF")/kafka_server.py" "$HOME_DIR/kafka/brokers"
    wait_for kafka test -s "$HOME_DIR/kafka/brokers"
}
fill_kafka() {
    publish BATCHWRIGHT_TEST_KAFKA "$(cat "$HOME_DIR/kafka/brokers")"
}
CRASH_kafka=KILL

available_queues() {
    [ ! -x /usr/bin/redis-server ] || echo redis
    [ ! -x /usr/sbin/nats-server ] || echo nats
    [ ! -x "$PLACES/python" ] || echo kafka
}
