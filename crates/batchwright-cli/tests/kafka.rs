//! Topics of Kafka: what librdkafka sends is read, each message once, and what is sent here is read by it.
#![cfg(feature = "full")]

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use batchwright_testkit::{Service, needs};
use common::{Place, SimRng, run_with_kills};
use serde_json::Value;

/// The cluster of the tests, and its own client.
struct Kafka {
    brokers: String,
    python: String,
}

impl Kafka {
    fn there() -> Option<Self> {
        Some(Self { brokers: needs(Service::Kafka)?, python: needs(Service::Tools)? })
    }

    /// The keys of a reader or a writer.
    fn keys(&self, topic: &str) -> String {
        let (first, more) = self.brokers.split_once(',').unwrap();
        let more: Vec<String> = more.split(',').map(|server| format!("{server:?}")).collect();
        format!(
            "type = \"kafka\"\nserver = \"kafka://{first}\"\nmore_servers = [{}]\ntopic = \"{topic}\"",
            more.join(", ")
        )
    }

    /// Runs a program of Python, which has the client's `brokers`, and returns what it prints.
    fn python(&self, program: &str) -> String {
        let brokers = &self.brokers;
        let head = format!("import confluent_kafka as kafka, json\nbrokers = '{brokers}'\n");
        let mut command = Command::new(&self.python);
        let output = command.args(["-c", &(head + program)]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Sends the messages `first` to `last`, with keys.
    fn fill(&self, topic: &str, first: u64, last: u64, compression: &str) {
        self.python(&format!(
            r#"
producer = kafka.Producer({{"bootstrap.servers": brokers, "compression.type": "{compression}", "linger.ms": 5, "partitioner": "murmur2_random"}})
for n in range({first}, {last} + 1):
    producer.produce("{topic}", json.dumps({{"n": n, "pad": "x" * 50}}), key=f"k{{n % 7}}")
assert producer.flush(30) == 0
"#
        ));
    }

    /// Returns key, partition, number and id of all messages.
    fn take(&self, topic: &str) -> Vec<(String, i64, u64, String)> {
        let printed = self.python(&format!(
            r#"
consumer = kafka.Consumer({{"bootstrap.servers": brokers, "group.id": "g", "enable.partition.eof": True}})
partitions = consumer.list_topics("{topic}").topics["{topic}"].partitions
consumer.assign([kafka.TopicPartition("{topic}", n, 0) for n in partitions])
left = len(partitions)
while left:
    message = consumer.poll(10)
    if message.error():
        left -= 1
        continue
    headers = dict(message.headers() or [])
    key = message.key().decode() if message.key() else ""
    id = headers.get("batchwright-id", b"").decode()
    print(json.dumps([key, message.partition(), json.loads(message.value())["n"], id]))
"#
        ));
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The topic of a test; each process has its own.
fn topic(test: &str) -> String {
    format!("bw-{test}-{}", std::process::id())
}

/// A folder with the job that writes the messages of the topic to `out.jsonl`.
fn place(kafka: &Kafka, topic: &str, keys: &str) -> Place {
    let place = Place::new();
    place.write(
        "job.toml",
        format!(
            "name = \"drain\"\n[[steps]]\nname = \"drain\"\nchunk = 3\n\
             writer = {{ type = \"jsonl\", path = \"out.jsonl\" }}\n\
             [steps.reader]\n{}\n{keys}\n",
            kafka.keys(topic)
        ),
    );
    place
}

fn records(place: &Place) -> Vec<Value> {
    place.read("out.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(place: &Place) -> Vec<u64> {
    let mut numbers: Vec<u64> =
        records(place).iter().map(|record| record["n"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

fn up_to(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

#[test]
fn each_message_is_there_once_in_the_order_of_its_partition_whatever_commit_the_process_dies_at() {
    let Some(kafka) = Kafka::there() else { return };
    let topic = topic("once");
    kafka.fill(&topic, 1, 10, "none");
    let keys = "id_field = \"id\"\nkey_field = \"key\"\ntime_field = \"time\"";
    let mut whole = None;
    for commit in 1..=4 {
        for point in ["before_commit", "after_commit"] {
            let place = place(&kafka, &topic, keys);
            let plan = format!(r#"{{"step":"drain","kill":{{"{point}":{commit}}}}}"#);
            let killed = place.run(&["run", "job.toml", "--inject", &plan]);
            assert_eq!(killed.code, -9, "{point} {commit}: {}", killed.err);
            place.run(&["recover"]).expect(0);
            place.run(&["restart", "1"]).expect(0);
            assert_eq!(numbers(&place), up_to(10), "{point} {commit}");
            let text = place.read("out.jsonl");
            assert_eq!(*whole.get_or_insert(text.clone()), text, "{point} {commit}");
        }
    }
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for line in whole.unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let n = record["n"].as_u64().unwrap();
        assert_eq!(record["key"], format!("k{}", n % 7));
        assert!(record["time"].as_str().unwrap().starts_with("20"), "{record}");
        let (partition, offset) = record["id"].as_str().unwrap().split_once('/').unwrap();
        let offset: u64 = offset.parse().unwrap();
        let before = last.insert(partition.to_owned(), offset);
        assert_eq!(before.map_or(0, |before| before + 1), offset, "{record}");
    }
}

#[test]
fn each_message_is_there_once_although_the_process_is_killed_at_random() {
    let Some(kafka) = Kafka::there() else { return };
    let mut rng = SimRng(7);
    for compression in ["gzip", "snappy", "lz4", "zstd"] {
        let topic = topic(&format!("random-{compression}"));
        kafka.fill(&topic, 1, 2_000, compression);
        let place = place(&kafka, &topic, "");
        run_with_kills(&place, |number| rng.below(100 + 30 * number));
        assert_eq!(numbers(&place), up_to(2_000), "{compression}");
    }
}

#[test]
fn an_instance_reads_what_was_there_when_it_began() {
    let Some(kafka) = Kafka::there() else { return };
    let topic = topic("end");
    kafka.fill(&topic, 1, 10, "none");
    let place = place(&kafka, &topic, "");
    let plan = r#"{"step":"drain","kill":{"after_commit":1}}"#;
    assert_eq!(place.run(&["run", "job.toml", "--inject", plan]).code, -9);
    kafka.fill(&topic, 11, 15, "none");
    place.run(&["recover"]).expect(0);
    place.run(&["restart", "1"]).expect(0);
    assert_eq!(numbers(&place), up_to(10));
}

#[test]
fn partitions_are_chosen_and_formats_too() {
    let Some(kafka) = Kafka::there() else { return };
    let topic = topic("chosen");
    kafka.fill(&topic, 1, 20, "none");
    let all: Vec<String> = (0..4)
        .map(|partition| {
            let keys = format!("partitions = [{partition}]\nformat = \"text\"\nid_field = \"id\"");
            let place = place(&kafka, &topic, &keys);
            place.run(&["run", "job.toml"]).expect(0);
            for record in records(&place) {
                assert!(record["id"].as_str().unwrap().starts_with(&format!("{partition}/")));
                assert!(record["body"].as_str().unwrap().starts_with("{\"n\""), "{record}");
            }
            place.read("out.jsonl")
        })
        .collect();
    assert_eq!(all.concat().lines().count(), 20);
}

#[test]
fn what_a_writer_sends_is_in_the_partition_of_its_key_and_has_an_id_that_stays_the_same() {
    let Some(kafka) = Kafka::there() else { return };
    let topic = topic("sent");
    // The topic is made by the other client, whose partitions are those of the keys.
    kafka.fill(&topic, 1, 14, "none");
    let place = Place::new();
    place.write(
        "job.toml",
        format!(
            "name = \"send\"\n[[steps]]\nname = \"send\"\nchunk = 4\n\
             reader = {{ type = \"sequence\", count = 14 }}\n\
             processors = [{{ type = \"map\", set = {{ key = \"'k' + (item.n % 7)\" }} }}]\n\
             [steps.writer]\n{}\nkey_field = \"key\"\n",
            kafka.keys(&topic)
        ),
    );
    let plan = r#"{"step":"send","kill":{"before_commit":2}}"#;
    let killed = place.run(&["run", "job.toml", "--inject", plan]);
    assert_eq!(killed.code, -9, "{}{}", killed.out, killed.err);
    place.run(&["recover"]).expect(0);
    place.run(&["restart", "1"]).expect(0);
    let all = kafka.take(&topic);
    let (other, ours): (Vec<_>, Vec<_>) = all.into_iter().partition(|(.., id)| id.is_empty());
    assert_eq!((other.len(), ours.len()), (14, 18), "the second chunk was sent twice");
    let mut of_keys: BTreeMap<&str, i64> = BTreeMap::new();
    for (key, partition, ..) in &other {
        of_keys.insert(key, *partition);
    }
    let mut ids: BTreeMap<u64, &str> = BTreeMap::new();
    for (key, partition, n, id) in &ours {
        assert_eq!(key, &format!("k{}", n % 7));
        assert_eq!(*ids.entry(*n).or_insert(id), id, "{n}");
        assert_eq!(of_keys[&**key], *partition, "{key}");
    }
    assert_eq!(ids.keys().copied().collect::<Vec<_>>(), up_to(14));
    assert_eq!(ids.values().collect::<std::collections::BTreeSet<_>>().len(), 14);
}

#[test]
fn what_cannot_be_read_fails_the_step_with_its_place() {
    let Some(kafka) = Kafka::there() else { return };
    let topic = topic("wrong");
    kafka.fill(&topic, 1, 3, "none");
    let good = kafka.keys(&topic);
    let (first, _) = kafka.brokers.split_once(',').unwrap();
    let alone = format!("type = \"kafka\"\nserver = \"kafka://{first}\"\ntopic = \"{topic}\"");
    for (reader, code, expected) in [
        (good.replace("bw-", "missing-"), 1, "topic `missing-wrong"),
        (format!("{good}\npartitions = [77]"), 1, "no partition 77"),
        (format!("{good}\nfrom = \"yesterday\""), 1, "`from` is `yesterday`"),
        (alone.replace(first, "127.0.0.1:9"), 1, "cannot connect at 127.0.0.1:9"),
        (
            alone.replace("kafka://", "kafka://u:secret@").replace(first, "127.0.0.1:9"),
            1,
            "cannot connect at",
        ),
        (format!("{good}\npartitions = [0, 1, 0]"), 2, "each once"),
        (format!("{good}\npartitions = []"), 2, "at least one partition"),
        (alone.replace("kafka://", "kafka://:secret@"), 1, "it has no user"),
        (alone.replace(first, &format!("{first}?sasl=plain")), 1, "it has no user"),
        (alone.replace(first, &format!("{first}/orders")), 1, "a topic is not a part of it"),
        (format!("{alone}\nmore_servers = [\"u:secret@h:1\"]"), 1, "is not HOST:PORT"),
        (alone.replace("kafka://", "http://"), 2, "its scheme is another one"),
        (alone.replace(first, &format!("{first}?sasl=none")), 1, "`sasl` is one of plain"),
        (alone.replace(first, &format!("{first}?tls=on")), 1, "`tls` is no option"),
        (alone.replace("kafka://", "kafkas://"), 1, first),
    ] {
        let place = Place::new();
        place.write(
            "job.toml",
            format!(
                "name = \"lost\"\n[[steps]]\nname = \"lost\"\nwriter = {{ type = \"none\" }}\n\
                 [steps.reader]\n{reader}\ntimeout = \"5s\"\n"
            ),
        );
        let failed = place.run(&["run", "job.toml"]).expect(code);
        let text = failed.out + &failed.err;
        assert!(text.contains(expected), "{reader}: {text}");
        assert!(!text.contains("secret"), "{text}");
    }
    // The first server is down, and another one is not.
    let other = kafka.keys(&topic).replace(first, "127.0.0.1:9");
    let place = Place::new();
    place.write(
        "job.toml",
        format!(
            "name = \"more\"\n[[steps]]\nname = \"more\"\n\
             writer = {{ type = \"jsonl\", path = \"out.jsonl\" }}\n[steps.reader]\n{other}\n"
        ),
    );
    place.run(&["run", "job.toml"]).expect(0);
    assert_eq!(numbers(&place), up_to(3));
}

#[test]
fn a_message_that_is_no_json_or_has_no_body_is_a_dead_letter() {
    let Some(kafka) = Kafka::there() else { return };
    let topic = topic("dead");
    kafka.fill(&topic, 1, 3, "none");
    kafka.python(&format!(
        r#"
producer = kafka.Producer({{"bootstrap.servers": brokers}})
producer.produce("{topic}", b"\xff\xfe", partition=0)
producer.produce("{topic}", None, key="k", partition=0)
assert producer.flush(30) == 0
"#
    ));
    let place = place(&kafka, &topic, "");
    let failed = place.run(&["run", "job.toml"]).expect(1);
    assert!(failed.out.contains("message 0/"), "{}", failed.out);
    let job = place.read("job.toml");
    place.write(
        "job.toml",
        job.replace("chunk = 3", "chunk = 3\nskip = { limit = 9, dead_letter = \"bad.jsonl\" }"),
    );
    place.run(&["restart", "1", "--accept-changed-definition"]).expect(0);
    assert_eq!(numbers(&place), up_to(3));
    let bad = place.read("bad.jsonl");
    assert!(bad.lines().count() == 2 && bad.contains("no body"), "{bad}");
}
