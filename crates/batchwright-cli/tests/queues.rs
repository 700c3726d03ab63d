//! Queues of real brokers: what is read is acknowledged once it is committed, and is there once, whenever the process dies.
#![cfg(feature = "full")]

mod common;
#[path = "common/queue.rs"]
mod queue;

use batchwright_testkit::{Service, needs};
use common::{Place, SimRng, run_with_kills};
use queue::{Kind, Queue};
use serde_json::{Value, json};

/// A folder with the job that writes the messages of `queue` to `out.jsonl`.
fn place(queue: &Queue, keys: &str) -> Place {
    let place = Place::new();
    let reader = queue.reader();
    place.write(
        "job.toml",
        format!(
            "name = \"drain\"\n[[steps]]\nname = \"drain\"\nchunk = 3\n{keys}\n\
             writer = {{ type = \"jsonl\", path = \"out.jsonl\" }}\n\
             [steps.reader]\n{reader}\n"
        ),
    );
    place
}

/// The numbers in `out.jsonl`, in order.
fn numbers(place: &Place) -> Vec<u64> {
    let text = place.read("out.jsonl");
    let numbers = text.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap();
        // The values of a stream of Redis are texts.
        record["n"].as_u64().unwrap_or_else(|| record["n"].as_str().unwrap().parse().unwrap())
    });
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

fn up_to(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

#[test]
fn each_message_is_there_once_whatever_commit_the_process_dies_at() {
    for kind in Kind::available() {
        for commit in 1..=4 {
            for point in ["before_commit", "after_commit"] {
                let queue = Queue::new(kind, &format!("once-{commit}-{point}"));
                queue.fill(10);
                let place = place(&queue, "");
                let plan = format!(r#"{{"step":"drain","kill":{{"{point}":{commit}}}}}"#);
                let killed = place.run(&["run", "job.toml", "--inject", &plan]);
                assert_eq!(killed.code, -9, "{kind:?} {point} {commit}: {}", killed.err);
                place.run(&["recover"]).expect(0);
                place.run(&["restart", "1"]).expect(0);
                assert_eq!(numbers(&place), up_to(10), "{kind:?} {point} {commit}");
                assert_eq!(queue.left(), 0, "{kind:?} {point} {commit}");
            }
        }
    }
}

#[test]
fn each_message_is_there_once_although_the_process_is_killed_at_random() {
    let seed = std::env::var("SIM_SEED").map_or(7, |seed| seed.parse().unwrap());
    let mut rng = SimRng(seed);
    for kind in Kind::available() {
        let (mut kills, mut round) = (0, 0);
        while kills < 20 {
            round += 1;
            let queue = Queue::new(kind, &format!("random-{round}"));
            queue.fill(2_000);
            let place = place(&queue, "");
            // Lives grow, so that one is long enough.
            kills += run_with_kills(&place, |number| rng.below(400 + 50 * number));
            let found = numbers(&place);
            let twice: Vec<_> = found.windows(2).filter(|two| two[0] == two[1]).collect();
            let missing: Vec<_> = up_to(2_000).into_iter().filter(|n| !found.contains(n)).collect();
            let context = format!("{kind:?} seed {seed} round {round}");
            assert!(
                twice.is_empty() && missing.is_empty(),
                "{context}: {twice:?}, missing {missing:?}"
            );
            assert_eq!(queue.left(), 0, "{kind:?} seed {seed} round {round}");
        }
    }
}

/// A record that cannot be written makes the step write the others one by one, with a commit each.
#[test]
fn a_death_while_a_chunk_is_written_one_by_one_loses_and_repeats_no_message() {
    for kind in Kind::available() {
        for commit in 1..=5 {
            let queue = Queue::new(kind, &format!("scan-{commit}"));
            queue.fill(8);
            let place = place(&queue, "skip = { limit = 9, on = [\"write\"] }");
            let job = place.read("job.toml");
            let job = job.replace("chunk = 3", "chunk = 5").replace(
                "{ type = \"jsonl\", path = \"out.jsonl\" }",
                "{ type = \"sql\", table = \"number\", columns = [\"n\"] }",
            );
            place.write("job.toml", job);
            let store = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
            store.execute_batch("CREATE TABLE number (n INTEGER CHECK (n <> 4))").unwrap();
            drop(store);
            let plan = format!(r#"{{"step":"drain","kill":{{"after_commit":{commit}}}}}"#);
            let killed = place.run(&["run", "job.toml", "--inject", &plan]);
            assert_eq!(killed.code, -9, "{kind:?} {commit}: {}", killed.err);
            place.run(&["recover"]).expect(0);
            place.run(&["restart", "1"]).expect(0);
            let found = place.numbers("batchwright.db", "number");
            assert_eq!(found, [1, 2, 3, 5, 6, 7, 8], "{kind:?} {commit}");
            assert_eq!(queue.left(), 0, "{kind:?} {commit}");
        }
    }
}

#[test]
fn a_message_that_is_no_json_is_a_dead_letter_and_leaves_the_queue() {
    for kind in Kind::available().filter(|kind| *kind != Kind::RedisStream) {
        let queue = Queue::new(kind, "dead");
        queue.fill(4);
        queue.send(b"{\"n\": 5", None);
        queue.send(b"\xff\xfe", None);
        queue.send(b"[5]", None);
        let place = place(&queue, "skip = { limit = 9, dead_letter = \"bad.jsonl\" }");
        place.run(&["run", "job.toml"]).expect(0);
        assert_eq!(numbers(&place), up_to(4), "{kind:?}");
        let bad = place.read("bad.jsonl");
        assert_eq!(bad.lines().count(), 3, "{bad}");
        assert!(
            bad.contains("the message is no JSON object") && bad.contains("message 5"),
            "{bad}"
        );
        assert_eq!(queue.left(), 0, "{kind:?}");
        // Without a policy the step fails, and what was not committed stays in the queue.
        let queue = Queue::new(kind, "failed");
        queue.fill(4);
        queue.send(b"no", None);
        let place = self::place(&queue, "");
        let failed = place.run(&["run", "job.toml"]).expect(1);
        assert!(failed.out.contains("message 5"), "{kind:?}: {}", failed.out);
        if kind != Kind::RedisList {
            assert_eq!(queue.left(), 2, "{kind:?}");
        }
    }
}

#[test]
fn a_limit_leaves_the_others_in_the_queue_for_the_next_instance() {
    for kind in Kind::available() {
        let queue = Queue::new(kind, "limit");
        queue.fill(10);
        let place = place(&queue, "");
        let limited = place.read("job.toml") + "limit = 4\nid_field = \"id\"\n";
        place.write(
            "job.toml",
            limited.replace(
                "name = \"drain\"\n[[",
                "name = \"drain\"\n[parameters.day]\nrequired = true\n[[",
            ),
        );
        place.run(&["run", "job.toml", "day=1"]).expect(0);
        assert_eq!(numbers(&place), up_to(4), "{kind:?}");
        let first: Value =
            serde_json::from_str(place.read("out.jsonl").lines().next().unwrap()).unwrap();
        assert!(first["id"].as_str().is_some_and(|id| !id.is_empty()), "{kind:?}: {first}");
        assert_eq!(queue.left(), 6, "{kind:?}");
        std::fs::remove_file(place.path("out.jsonl")).unwrap();
        place.run(&["run", "job.toml", "day=2"]).expect(0);
        assert_eq!(numbers(&place), [5, 6, 7, 8], "{kind:?}");
    }
}

/// The limit is reached before the process dies, so that the restart has nothing to read.
#[test]
fn a_death_after_the_last_commit_leaves_no_message_that_is_written_again() {
    for kind in Kind::available() {
        let queue = Queue::new(kind, "last");
        queue.fill(6);
        let place = place(&queue, "");
        let limited = place.read("job.toml").replace("chunk = 3", "chunk = 4") + "limit = 4\n";
        place.write("job.toml", limited);
        let plan = r#"{"step":"drain","kill":{"after_commit":1}}"#;
        assert_eq!(place.run(&["run", "job.toml", "--inject", plan]).code, -9);
        place.run(&["recover"]).expect(0);
        place.run(&["restart", "1"]).expect(0);
        assert_eq!(numbers(&place), up_to(4), "{kind:?}");
        assert_eq!(queue.left(), 2, "{kind:?}");
    }
}

/// The queue delivers again what is held for longer than a second.
#[test]
fn a_chunk_that_waits_for_longer_than_the_queue_is_complete_and_once() {
    let Some(kind) = Kind::available().find(|kind| *kind == Kind::Nats) else { return };
    let queue = Queue::new(kind, "waits");
    queue.fill(7);
    let place = place(&queue, "");
    let waiting = place.read("job.toml").replace("chunk = 3", "chunk = 500") + "wait = \"3s\"\n";
    place.write("job.toml", waiting);
    place.run(&["run", "job.toml"]).expect(0);
    assert_eq!((numbers(&place), queue.left()), (up_to(7), 0));
}

/// A consumer delivers no more than a number of messages before the first is acknowledged.
#[test]
fn a_chunk_that_a_consumer_cannot_fill_fails_and_smaller_ones_wait_for_room() {
    let Some(kind) = Kind::available().find(|kind| *kind == Kind::Nats) else { return };
    for (chunk, fails) in [(3, false), (4, false), (5, true)] {
        let queue = Queue::new(kind, &format!("room-{chunk}"));
        queue.limit_unacknowledged(4);
        queue.fill(20);
        let place = place(&queue, "");
        let text = place.read("job.toml").replace("chunk = 3", &format!("chunk = {chunk}"));
        place.write("job.toml", text);
        let ran = place.run(&["run", "job.toml"]);
        if fails {
            assert!(ran.out.contains("no more than 4 messages"), "{}", ran.out);
            assert_eq!(queue.left(), 20);
        } else {
            assert_eq!(ran.code, 0, "{}", ran.out);
            assert_eq!((numbers(&place), queue.left()), (up_to(20), 0));
        }
    }
}

/// The messages of the new stream have the numbers of those that were written.
#[test]
fn the_messages_of_a_stream_that_was_created_anew_are_new() {
    let Some(kind) = Kind::available().find(|kind| *kind == Kind::Nats) else { return };
    let queue = Queue::new(kind, "anew");
    queue.fill(10);
    let place = place(&queue, "");
    let plan = r#"{"step":"drain","kill":{"after_commit":3}}"#;
    assert_eq!(place.run(&["run", "job.toml", "--inject", plan]).code, -9);
    drop(queue);
    let queue = Queue::new(kind, "anew");
    (101..=105).for_each(|n| queue.send(format!("{{\"n\":{n}}}").as_bytes(), None));
    place.run(&["recover"]).expect(0);
    let restarted = place.run(&["restart", "1"]).expect(0);
    assert!(restarted.err.contains("created anew"), "{}", restarted.err);
    let expected: Vec<u64> = (1..=9).chain(101..=105).collect();
    assert_eq!((numbers(&place), queue.left()), (expected, 0));
}

/// Entries can be trimmed from a stream while a consumer holds them.
#[test]
fn entries_that_are_deleted_while_they_are_held_are_left_out() {
    let Some(kind) = Kind::available().find(|kind| *kind == Kind::RedisStream) else { return };
    let queue = Queue::new(kind, "trimmed");
    queue.fill(8);
    let place = place(&queue, "");
    let plan = r#"{"step":"drain","kill":{"after_commit":1}}"#;
    assert_eq!(place.run(&["run", "job.toml", "--inject", plan]).code, -9);
    queue.delete_entries(&[5, 8]);
    place.run(&["recover"]).expect(0);
    let restarted = place.run(&["restart", "1"]).expect(0);
    assert!(restarted.err.contains("deleted before they were acknowledged"), "{}", restarted.err);
    assert_eq!(numbers(&place), [1, 2, 3, 4, 6, 7]);
    assert_eq!(queue.left(), 0);
}

/// A list of Redis is not given back by an execution that has lost it to another one.
#[test]
fn what_a_failed_step_has_read_of_a_list_waits_for_its_restart() {
    let Some(kind) = Kind::available().find(|kind| *kind == Kind::RedisList) else { return };
    let queue = Queue::new(kind, "kept");
    queue.fill(7);
    queue.send(b"no", None);
    queue.fill(2);
    let place = place(&queue, "");
    place.run(&["run", "job.toml"]).expect(1);
    assert_eq!(
        (queue.waiting(), queue.held()),
        (2, 2),
        "6 are committed, 7 and the bad one are read"
    );
    place.run(&["restart", "1"]).expect(1);
    assert_eq!((queue.waiting(), queue.held()), (2, 2));
    let job = place.read("job.toml").replace("chunk = 3", "chunk = 3\nskip = { limit = 1 }");
    place.write("job.toml", job);
    place.run(&["restart", "2", "--accept-changed-definition"]).expect(0);
    let text = place.read("out.jsonl");
    assert_eq!(text.lines().count(), 9, "{text}");
    assert_eq!((queue.waiting(), queue.held()), (0, 0));
}

#[test]
fn what_a_writer_sends_is_there_with_a_key_that_stays_the_same() {
    for kind in Kind::available() {
        let queue = Queue::new(kind, "sent");
        let place = Place::new();
        let writer = queue.writer();
        place.write(
            "job.toml",
            format!(
                "name = \"send\"\n[[steps]]\nname = \"send\"\nchunk = 2\n\
                 reader = {{ type = \"sequence\", count = 5 }}\n[steps.writer]\n{writer}\n"
            ),
        );
        // The second chunk is sent twice.
        let plan = r#"{"step":"send","kill":{"before_commit":2}}"#;
        assert_eq!(place.run(&["run", "job.toml", "--inject", plan]).code, -9);
        place.run(&["recover"]).expect(0);
        place.run(&["restart", "1"]).expect(0);
        let sent = queue.take();
        let mut different: Vec<_> = sent.iter().map(|(id, n)| (id.clone(), *n)).collect();
        different.sort();
        different
            .dedup_by(|one, other| one.1 == other.1 && (one.0 == other.0 || kind.has_no_keys()));
        let mut numbers: Vec<u64> = different.iter().map(|(_, n)| *n).collect();
        numbers.sort_unstable();
        numbers.dedup_by(|one, other| kind.has_no_keys() && one == other);
        assert_eq!(numbers, up_to(5), "{kind:?}: {sent:?}");
        let count = if kind == Kind::Nats { 5 } else { 7 };
        assert_eq!(sent.len(), count, "{kind:?}: {sent:?}");
    }
}

#[test]
fn a_broker_that_cannot_be_used_fails_the_step_with_its_address_and_no_password() {
    for kind in Kind::available() {
        let queue = Queue::new(kind, "lost");
        let good = queue.reader();
        let port = queue.url().rsplit_once(':').unwrap().1.split('/').next().unwrap().to_owned();
        for (what, reader, expected) in [
            ("no server", good.replace(&port, "9"), "cannot connect at "),
            (
                "wrong password",
                good.replace(":guest@", ":other@").replace(":batchwright@", ":other@"),
                "cannot connect at ",
            ),
            ("no queue", good.replace("bw-", "missing-"), "missing-"),
        ] {
            if what == "no queue" && kind == Kind::RedisList {
                continue; // An empty list is no list.
            }
            let place = Place::new();
            place.write(
                "job.toml",
                format!(
                    "name = \"lost\"\n[[steps]]\nname = \"lost\"\nwriter = {{ type = \"none\" }}\n\
                     [steps.reader]\n{reader}\ntimeout = \"5s\"\n"
                ),
            );
            let failed = place.run(&["run", "job.toml"]).expect(1);
            assert!(failed.out.contains(expected), "{kind:?} {what}: {}", failed.out);
            assert!(!failed.out.contains("other"), "{kind:?} {what}: {}", failed.out);
            assert!(!failed.out.contains(":batchwright@"), "{kind:?} {what}: {}", failed.out);
        }
    }
}

/// The sets, hashes and keys of Redis, which a reader leaves as they are.
fn kept_in_redis(redis: &mut redis::Connection, name: &str, count: u64) -> [(String, u64); 4] {
    let mut fill = redis::pipe();
    for n in 1..=count {
        let body = format!("{{\"n\":{n}}}");
        fill.cmd("SADD").arg(format!("{name}-set")).arg(&body).ignore();
        fill.cmd("HSET").arg(format!("{name}-hash")).arg(format!("field-{n}")).arg(&body).ignore();
        fill.cmd("SET").arg(format!("{name}-string:{n}")).arg(&body).ignore();
        fill.cmd("HSET").arg(format!("{name}-row:{n}")).arg("n").arg(n).ignore();
    }
    fill.query::<()>(redis).unwrap();
    [
        (format!("set = \"{name}-set\""), count),
        (format!("hash = \"{name}-hash\"\nid_field = \"field\""), count),
        (format!("keys = \"{name}-string:*\"\nid_field = \"key\""), count),
        (format!("keys = \"{name}-row:*\""), count),
    ]
}

fn redis_place(url: &str, keys: &str) -> Place {
    let place = Place::new();
    place.write(
        "job.toml",
        format!(
            "name = \"kept\"\n[[steps]]\nname = \"kept\"\nchunk = 40\nwriter = {{ type = \"jsonl\", path = \"out.jsonl\" }}\n\
             [steps.reader]\ntype = \"redis\"\nserver = \"{url}\"\n{keys}\n"
        ),
    );
    place
}

#[test]
fn what_stays_in_redis_is_read_once_whatever_commit_the_process_dies_at() {
    let Some(url) = needs(Service::Redis) else { return };
    let mut redis = redis::Client::open(url.as_str()).unwrap().get_connection().unwrap();
    let name = format!("bw-kept-{}", std::process::id());
    for (keys, count) in kept_in_redis(&mut redis, &name, 700) {
        for kill in
            ["before_commit\":1", "after_commit\":3", "before_commit\":7", "after_commit\":9"]
        {
            let place = redis_place(&url, &keys);
            let plan = format!(r#"{{"step":"kept","kill":{{"{kill}}}}}"#);
            assert_eq!(
                place.run(&["run", "job.toml", "--inject", &plan]).code,
                -9,
                "{keys} {kill}"
            );
            place.run(&["recover"]).expect(0);
            place.run(&["restart", "1"]).expect(0);
            assert_eq!(numbers(&place), up_to(count), "{keys} {kill}");
        }
    }
    let place = redis_place(&url, &format!("keys = \"{name}*\""));
    let failed = place.run(&["run", "job.toml"]).expect(1);
    assert!(
        failed.out.contains("it is a set, and strings and hashes can be read"),
        "{}",
        failed.out
    );
    let place = redis_place(&url, &format!("hash = \"{name}-none\""));
    place.run(&["run", "job.toml"]).expect(0);
    assert_eq!(place.read("out.jsonl"), "");
}

/// The others are still there once, although the element that was committed alone is removed before the restart. Of 700 elements,
/// which have several pages in an order of the server, one chunk has all.
#[test]
fn a_death_while_elements_are_written_one_by_one_loses_none_that_stays() {
    let Some(url) = needs(Service::Redis) else { return };
    let mut redis = redis::Client::open(url.as_str()).unwrap().get_connection().unwrap();
    for (commit, count, chunk) in (1..=5).map(|commit| (commit, 8, 5)).chain([(310, 700, 700)]) {
        let name = format!("bw-alone-{commit}-{}", std::process::id());
        kept_in_redis(&mut redis, &name, count);
        let place = redis_place(&url, &format!("hash = \"{name}-hash\""));
        let job = place.read("job.toml").replace(
            "chunk = 40",
            &format!("chunk = {chunk}\nskip = {{ limit = 9, on = [\"write\"] }}"),
        );
        place.write(
            "job.toml",
            job.replace(
                "{ type = \"jsonl\", path = \"out.jsonl\" }",
                "{ type = \"sql\", table = \"number\", columns = [\"n\"] }",
            ),
        );
        let store = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
        store.execute_batch("CREATE TABLE number (n INTEGER CHECK (n <> 4))").unwrap();
        drop(store);
        let plan = format!(r#"{{"step":"kept","kill":{{"after_commit":{commit}}}}}"#);
        assert_eq!(place.run(&["run", "job.toml", "--inject", &plan]).code, -9, "{commit}");
        if let Some(first) = place.numbers("batchwright.db", "number").first() {
            let (hash, field) = (format!("{name}-hash"), format!("field-{first}"));
            redis::cmd("HDEL").arg(hash).arg(field).query::<()>(&mut redis).unwrap();
        }
        place.run(&["recover"]).expect(0);
        place.run(&["restart", "1"]).expect(0);
        let mut found = place.numbers("batchwright.db", "number");
        found.sort_unstable();
        let expected: Vec<i64> = (1..=i64::try_from(count).unwrap()).filter(|n| *n != 4).collect();
        assert_eq!(found, expected, "{commit}");
    }
}

#[test]
fn a_set_is_read_again_when_its_server_was_restarted_meanwhile() {
    let Some(url) = needs(Service::Redis) else { return };
    let mut redis = redis::Client::open(url.as_str()).unwrap().get_connection().unwrap();
    let name = format!("bw-restarted-{}", std::process::id());
    let [(keys, count), ..] = kept_in_redis(&mut redis, &name, 700);
    let place = redis_place(&url, &keys);
    let plan = r#"{"step":"kept","kill":{"after_commit":3}}"#;
    assert_eq!(place.run(&["run", "job.toml", "--inject", plan]).code, -9);
    // As if the checkpoint were of another run of the server.
    let about: String = redis::cmd("INFO").arg("server").query(&mut redis).unwrap();
    let run = about.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap();
    let store = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
    let changed = store
        .execute(
            "UPDATE bw_step_execution SET checkpoint = replace(checkpoint, ?1, 'another')",
            [run],
        )
        .unwrap();
    assert!(changed > 0);
    drop(store);
    place.run(&["recover"]).expect(0);
    let restarted = place.run(&["restart", "1"]).expect(0);
    assert!(restarted.err.contains("is read again from its beginning"), "{}", restarted.err);
    let mut found = numbers(&place);
    assert_eq!(found.len() as u64, count + 3 * 40, "the committed ones came twice");
    found.dedup();
    assert_eq!(found, up_to(count));
}

#[test]
fn keys_that_do_not_fit_are_refused_at_their_place() {
    let cases = json!([
        ["reader", "type = \"redis\"\nserver = \"redis://h\"", "exactly one of `list`"],
        [
            "reader",
            "type = \"redis\"\nserver = \"redis://h\"\nset = \"a\"\nhash = \"b\"",
            "exactly one of `list`"
        ],
        [
            "reader",
            "type = \"redis\"\nserver = \"redis://h\"\nset = \"a\"\nlimit = 3",
            "`limit` needs a list or a stream"
        ],
        [
            "reader",
            "type = \"redis\"\nserver = \"http://h\"\nlist = \"a\"",
            "its scheme is another one"
        ],
        [
            "reader",
            "type = \"redis\"\nserver = \"redis://h\"\nlist = \"a\"\ngroup = \"g\"",
            "`group` needs `stream`"
        ],
        [
            "reader",
            "type = \"redis\"\nserver = \"redis://h\"\nstream = \"a\"\nformat = \"text\"",
            "a stream has no `format`"
        ],
        [
            "reader",
            "type = \"amqp\"\nserver = \"amqp://h\"\nqueue = \"a\"\nformat = \"xml\"",
            "xml"
        ],
        [
            "reader",
            "type = \"amqp\"\nserver = \"amqp://h\"\nqueue = \"a\"\nlimit = 0",
            "at least 1"
        ],
        ["reader", "type = \"nats\"\nserver = \"nats://h\"\nstream = \"a\"", "consumer"],
        [
            "reader",
            "type = \"nats\"\nserver = \"nats://h\"\nstream = \"a\"\nconsumer = \"c\"\ntimeout = \"0s\"",
            "above zero"
        ],
        [
            "writer",
            "type = \"amqp\"\nserver = \"amqp://h\"",
            "either `routing_key` or `routing_field`"
        ],
        [
            "writer",
            "type = \"redis\"\nserver = \"redis://h\"\nhash = \"h\"",
            "`hash` and `field` need each other"
        ],
        ["writer", "type = \"redis\"\nserver = \"redis://h\"", "exactly one of"],
    ]);
    for case in cases.as_array().unwrap() {
        let [part, keys, expected] = [0, 1, 2].map(|index| case[index].as_str().unwrap());
        let place = Place::new();
        let other = match part {
            "reader" => "writer = { type = \"none\" }",
            _ => "reader = { type = \"sequence\", count = 1 }",
        };
        place.write(
            "job.toml",
            format!("name = \"k\"\n[[steps]]\nname = \"k\"\n{other}\n[steps.{part}]\n{keys}\n"),
        );
        let refused = place.run(&["run", "job.toml"]).expect(2);
        assert!(refused.err.contains(expected), "{keys}: {}", refused.err);
        assert!(refused.err.contains("line "), "{keys}: {}", refused.err);
    }
    let place = Place::new();
    place.write(
        "job.toml",
        "name = \"k\"\n[[steps]]\nname = \"k\"\nwriter = { type = \"none\" }\n\
         processors = [{ type = \"split\", field = \"lines\" }]\n\
         [steps.reader]\ntype = \"amqp\"\nserver = \"amqp://h\"\nqueue = \"a\"\n",
    );
    let refused = place.run(&["run", "job.toml"]).expect(2);
    assert!(refused.err.contains("cannot be processed by `aggregate`"), "{}", refused.err);
    place.write(
        "job.toml",
        "name = \"k\"\n[[steps]]\nname = \"k\"\ntype = \"progressive\"\nwriter = { type = \"none\" }\n\
         [steps.reader]\ntype = \"kafka\"\nserver = \"kafka://h\"\ntopic = \"a\"\n",
    );
    let refused = place.run(&["run", "job.toml"]).expect(2);
    assert!(refused.err.contains("cannot read a queue"), "{}", refused.err);
    place.write(
        "job.toml",
        "name = \"k\"\n[[steps]]\nname = \"k\"\ntype = \"progressive\"\nwriter = { type = \"none\" }\n\
         [steps.reader]\ntype = \"kafka\"\nserver = \"kafka://h\"\ntopic = \"a\"\n",
    );
    let refused = place.run(&["run", "job.toml"]).expect(2);
    assert!(refused.err.contains("cannot read a queue"), "{}", refused.err);
}
