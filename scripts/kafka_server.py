"""A cluster that speaks the protocol of Kafka, of librdkafka. Usage: kafka_server.py FILE, which gets the addresses of its brokers."""

import os
import sys

from confluent_kafka import Producer

cluster = Producer({"bootstrap.servers": "imitated", "test.mock.num.brokers": 3, "log_level": 3})
brokers = cluster.list_topics(timeout=30).brokers.values()
with open(sys.argv[1] + ".new", "w") as file:
    file.write(",".join(f"{broker.host}:{broker.port}" for broker in brokers))
os.rename(sys.argv[1] + ".new", sys.argv[1])
while True:
    cluster.poll(1)
