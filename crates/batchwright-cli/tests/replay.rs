//! Skipped records: exported, corrected, and replayed by the processors and the writer of their step, each once.

mod common;
#[path = "common/serving.rs"]
mod serving;

use common::{Place, until};
use serde_json::{Value, json};
use serving::{Serving, ask, ask_with};

/// Ten orders of which 2 cannot be read, 4 is rejected, and 6 cannot be written, because its number is taken.
const ORDERS: &str = "id,amount\n1,10\n2,20,?\n3,30\n4,-40\n5,50\n3,60\n7,70\n8,80\n9,90\n10,100\n";

const JOB: &str = r#"name = "load"
[parameters.day]
required = true

[[steps]]
name = "load"
chunk = 2
reader = { type = "csv", path = "orders.csv" }
processors = [
  { type = "reject", when = "item.amount < 0" },
  { type = "map", set = { cents = "item.amount * 100" }, keep = ["id", "cents"] },
]
writer = { type = "sql", table = "orders", columns = ["id", "cents"] }
skip = { limit = 100, on = ["read", "process", "write"] }
"#;

/// A folder with the job of which three records are skipped; execution 1.
fn skipped() -> Place {
    let place = Place::new();
    place.write("orders.csv", ORDERS);
    place.write("load.toml", JOB);
    let store = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
    store.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, cents INTEGER)").unwrap();
    let ran = place.run(&["run", "load.toml", "day=monday", "--format", "json"]).expect(0).json();
    let counted = &ran["steps"][0];
    assert_eq!((&counted["read_skip"], &counted["process_skip"]), (&json!(1), &json!(1)));
    assert_eq!(counted["write_skip"], 1);
    place
}

/// Changes the job so that each record is a chunk of its own, and a bad one fails the execution.
fn refuse_bad_records(place: &Place) {
    let job = JOB.replace("chunk = 2", "chunk = 1").replace("limit = 100", "limit = 0");
    place.write("load.toml", job);
}

fn orders(place: &Place) -> Vec<(i64, i64)> {
    let store = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
    let mut rows = store.prepare("SELECT id, cents FROM orders ORDER BY id").unwrap();
    rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

/// The content of the file that the replay of instance 1 wrote in place of `name`.
fn replayed_file(place: &Place, name: &str) -> String {
    let names = std::fs::read_dir(place.root()).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_it = |found: &String| found.starts_with("replay-1-") && found.ends_with(name);
    place.read(&names.find(is_it).unwrap())
}

fn lines(place: &Place, name: &str) -> Vec<Value> {
    place.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write_lines(place: &Place, name: &str, lines: &[Value]) {
    place.write(name, lines.iter().map(|line| format!("{line}\n")).collect::<String>());
}

#[test]
fn what_was_skipped_is_exported_corrected_and_replayed_once() {
    let place = skipped();
    let exported = place.run(&["skips", "1", "--export", "bad.jsonl"]).expect(0);
    assert!(exported.out.contains("exported 3 records to bad.jsonl"), "{}", exported.out);
    let mut bad = lines(&place, "bad.jsonl");
    bad.sort_by_key(|line| line["item"].as_u64());
    assert_eq!(bad[0]["record"], Value::Null);
    assert!(bad[0]["content"].as_str().unwrap().contains("2,20,?"), "{}", bad[0]);
    assert_eq!(bad[1]["record"], json!({"id": "4", "amount": "-40"}), "as it was read");
    assert_eq!(bad[2]["record"], json!({"id": "3", "cents": 6000}), "as it was to be written");
    // The line of the record that could not be read has no fields yet.
    let refused = place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(2);
    assert!(refused.err.contains("`record` has no fields"), "{}", refused.err);
    bad[0]["record"] = json!({"id": "2", "amount": "20"});
    bad[1]["record"]["amount"] = json!("40");
    bad[2]["record"]["id"] = json!(6);
    write_lines(&place, "bad.jsonl", &bad);
    let replayed = place.run(&["replay", "1", "--from", "bad.jsonl", "--format", "json"]);
    let replayed = replayed.expect(0).json();
    assert_eq!(replayed["job"], "load.replay");
    assert_eq!(replayed["parameters"]["day"]["value"], "monday");
    assert_eq!(replayed["parameters"]["replay_of_instance"]["value"], 1);
    let all: Vec<_> = (1..=10).map(|id| (id, id * 1_000)).collect();
    assert_eq!(orders(&place), all);
    // Once more there is nothing to do: for the same file, and for a new export.
    let again = place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(2);
    assert!(again.err.contains("its records (3) are all replayed already"), "{}", again.err);
    let exported = place.run(&["skips", "1", "--export", "rest.jsonl"]).expect(0).out;
    assert!(exported.contains("no record is left to export"), "{exported}");
    assert!(exported.contains("left out 3 that are replayed already"), "{exported}");
    assert!(!place.path("rest.jsonl").exists());
    let listed = place.run(&["skips", "1"]).expect(0);
    assert_eq!(listed.out.matches(" yes ").count(), 3, "{}", listed.out);
    assert!(listed.err.contains("3 records are skipped: "), "{}", listed.err);
}

#[test]
fn a_server_replays_corrected_records_once_also_when_the_request_is_repeated() {
    let place = skipped();
    let serving = Serving::start_with(&place, &["--jobs", ".", "--http", "127.0.0.1:0"]);
    let (status, open) = ask(&serving, "GET", "/v1/executions/1/replay?limit=2", None);
    assert_eq!((status, open["items"].as_array().map(Vec::len)), (200, Some(2)), "{open}");
    let more = format!("/v1/executions/1/replay?cursor={}", open["next_cursor"].as_str().unwrap());
    let (_, rest) = ask(&serving, "GET", &more, None);
    assert_eq!(rest["next_cursor"], Value::Null);
    let records = [open["items"].as_array().unwrap(), rest["items"].as_array().unwrap()];
    let mut records: Vec<Value> = records.into_iter().flatten().cloned().collect();
    records.sort_by_key(|record| record["item"].as_u64());
    assert_eq!(records[0]["record"], Value::Null);
    // What is not corrected is refused with the place of the mistake, and nothing is replayed.
    let send = |records: &[Value]| {
        ask(&serving, "POST", "/v1/executions/1/replay", Some(json!({"records": records})))
    };
    let (status, refused) = send(&records);
    assert_eq!((status, &refused["code"]), (409, &json!("usage")));
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("line 1: `record` has no fields"), "{detail}");
    records[0]["record"] = json!({"id": "2", "amount": "20"});
    records[1]["record"]["amount"] = json!("40");
    records[2]["record"]["id"] = json!(6);
    let (status, started) = send(&records[..2]);
    assert_eq!((status, &started["job"]), (202, &json!("load.replay")), "{started}");
    let path = format!("/v1/executions/{}", started["id"]);
    until("the replay ends", || ask(&serving, "GET", &path, None).1["status"] == "COMPLETED");
    let (_, ended) = ask(&serving, "GET", &path, None);
    assert_eq!(ended["triggered_by"], "api");
    assert_eq!(ended["parameters"]["day"]["value"], "monday");
    let (status, refused) = send(&records[..2]);
    assert_eq!(status, 409, "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("all replayed already"), "{refused}");
    assert_eq!(send(&records).0, 202, "the third one is left");
    until("all are written", || orders(&place).len() == 10);
    assert_eq!(orders(&place), (1..=10).map(|id| (id, id * 1_000)).collect::<Vec<_>>());
    // A program that is restarted does not restart what was made of a request.
    until("nothing is left", || {
        ask(&serving, "GET", "/v1/executions/1/replay", None).1["items"] == json!([])
    });
    for verb in ["restart", "abandon"] {
        let (status, refused) = ask(&serving, "POST", &format!("{path}/{verb}"), Some(json!({})));
        assert_eq!((status, &refused["code"]), (409, &json!("not_restartable")), "{refused}");
    }
}

#[test]
fn records_that_an_unfinished_replay_does_not_have_are_refused_and_not_dropped() {
    let place = skipped();
    refuse_bad_records(&place);
    let serving = Serving::start_with(&place, &["--jobs", ".", "--http", "127.0.0.1:0"]);
    let open = || {
        ask(&serving, "GET", "/v1/executions/1/replay", None).1["items"].as_array().unwrap().clone()
    };
    let send = |records: &[Value], key: &str| {
        let line = format!("idempotency-key: {key}\r\n");
        ask_with(
            &serving,
            "POST",
            "/v1/executions/1/replay",
            &line,
            Some(json!({"records": records})),
        )
    };
    let mut records = open();
    records.sort_by_key(|record| record["item"].as_u64());
    records[0]["record"] = json!({"id": 2, "amount": 20});
    records[2]["record"]["id"] = json!(6);
    // Record 2 is written, record 4 is still negative.
    let (status, started) = send(&records[..2], "first");
    assert_eq!(status, 202, "{started}");
    let path = format!("/v1/executions/{}", started["id"]);
    until("the replay fails", || ask(&serving, "GET", &path, None).1["status"] == "FAILED");
    let (status, again) = send(&records[..2], "first");
    assert_eq!((status, &again["id"]), (202, &started["id"]), "the same request again");
    let (status, refused) = send(&records[2..], "second");
    assert_eq!(status, 409, "{refused}");
    assert!(
        refused["detail"].as_str().unwrap().contains("an earlier replay is not complete"),
        "{refused}"
    );
    assert_eq!(open().len(), 2, "nothing was given up");
    records[1]["record"]["amount"] = json!("40");
    assert_eq!(send(&records[1..2], "third").0, 202);
    until("record 4 is written", || open().len() == 1);
    // A drained server begins no replay.
    assert_eq!(ask(&serving, "POST", "/v1/server/drain", None).0, 200);
    assert_eq!(send(&records[2..], "fourth").0, 503);
    assert_eq!(ask(&serving, "POST", "/v1/server/resume", None).0, 200);
    until("the replay has ended", || send(&records[2..], "fifth").0 == 202);
    until("all are written", || orders(&place).len() == 10);
}

#[test]
fn pages_of_open_records_pass_over_none_when_some_are_replayed_meanwhile() {
    let place = skipped();
    let serving = Serving::start_with(&place, &["--jobs", ".", "--http", "127.0.0.1:0"]);
    let (mut seen, mut path) = (0, "/v1/executions/1/replay?limit=1".to_owned());
    loop {
        let (_, page) = ask(&serving, "GET", &path, None);
        let mut record = page["items"][0].clone();
        seen += 1;
        record["record"] = json!({"id": 100 + seen, "amount": 1, "cents": 1});
        let (status, started) =
            ask(&serving, "POST", "/v1/executions/1/replay", Some(json!({"records": [record]})));
        assert_eq!(status, 202, "{started}");
        let one = format!("/v1/executions/{}", started["id"]);
        until("it ends", || ask(&serving, "GET", &one, None).1["ended_at"].is_string());
        match page["next_cursor"].as_str() {
            Some(next) => path = format!("/v1/executions/1/replay?limit=1&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, 3);
}

#[test]
fn of_two_replays_that_are_prepared_at_once_one_begins_and_none_is_locked_out() {
    let place = skipped();
    refuse_bad_records(&place);
    place.run(&["skips", "1", "--export", "bad.jsonl"]).expect(0);
    let mut bad = lines(&place, "bad.jsonl");
    bad.retain(|line| line["item"] == 4);
    write_lines(&place, "bad.jsonl", &bad);
    bad[0]["record"]["amount"] = json!("40");
    write_lines(&place, "good.jsonl", &bad);
    // The second one reads its parameters after it has been prepared; opening the other end waits for that.
    let fifo = place.path("parameters");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let at_fifo = format!("@{}", fifo.display());
    let prepared = place.spawn(&["replay", "1", "--from", "good.jsonl", "--params-json", &at_fifo]);
    let mut parameters = std::fs::File::options().write(true).open(&fifo).unwrap();
    // The first one fails at once: record 4 is still negative.
    place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(1);
    std::io::Write::write_all(&mut parameters, b"{}").unwrap();
    drop(parameters);
    let refused = common::done(prepared.wait_with_output().unwrap());
    assert_ne!(refused.code, 0, "{}", refused.out);
    assert!(!orders(&place).iter().any(|(id, _)| *id == 4), "{}", refused.err);
    place.run(&["replay", "1", "--from", "good.jsonl"]).expect(0);
    assert_eq!(orders(&place).iter().filter(|(id, _)| *id == 4).count(), 1);
    // Later ones are replays of their own.
    std::fs::remove_file(place.path("bad.jsonl")).unwrap();
    place.run(&["skips", "1", "--export", "bad.jsonl"]).expect(0);
    let mut rest = lines(&place, "bad.jsonl");
    rest.retain(|line| line["item"] == 6);
    rest[0]["record"]["id"] = json!(6);
    write_lines(&place, "rest.jsonl", &rest);
    place.run(&["replay", "1", "--from", "rest.jsonl"]).expect(0);
    assert!(orders(&place).contains(&(6, 6_000)));
}

#[test]
fn a_replay_that_died_after_its_last_record_blocks_no_other() {
    let place = skipped();
    place.run(&["skips", "1", "--export", "bad.jsonl"]).expect(0);
    let mut bad = lines(&place, "bad.jsonl");
    bad.sort_by_key(|line| line["item"].as_u64());
    bad[0]["record"] = json!({"id": "2", "amount": "20"});
    bad[1]["record"]["amount"] = json!("40");
    write_lines(&place, "first.jsonl", &bad[..1]);
    let kill = r#"{"step":"load","kill":{"after_commit":1}}"#;
    let killed = place.spawn(&["replay", "1", "--from", "first.jsonl", "--inject", kill]);
    assert_ne!(common::done(killed.wait_with_output().unwrap()).code, 0);
    place.run(&["recover"]).expect(0);
    assert!(orders(&place).contains(&(2, 2_000)), "its record is committed");
    let serving = Serving::start_with(&place, &["--jobs", ".", "--http", "127.0.0.1:0"]);
    let body = json!({"records": &bad[1..2]});
    let (status, started) = ask(&serving, "POST", "/v1/executions/1/replay", Some(body));
    assert_eq!(status, 202, "{started}");
    until("the other record is written", || orders(&place).contains(&(4, 4_000)));
    assert_eq!(orders(&place).iter().filter(|(id, _)| *id == 2).count(), 1);
}

#[test]
fn a_replay_that_failed_continues_after_its_last_commit_with_records_corrected_again() {
    let place = skipped();
    refuse_bad_records(&place);
    place.run(&["skips", "1", "--export", "bad.jsonl"]).expect(0);
    let mut bad = lines(&place, "bad.jsonl");
    bad.sort_by_key(|line| line["item"].as_u64());
    bad[0]["record"] = json!({"id": 2, "amount": 20});
    write_lines(&place, "bad.jsonl", &bad);
    // Record 2 is committed, record 4 is still negative.
    let failed = place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(1);
    assert!(
        failed.out.contains("Continue with: batchwright replay 1 --from bad.jsonl"),
        "{}",
        failed.out
    );
    let restarted = place.run(&["restart", "2"]).expect(2);
    assert!(restarted.err.contains("execution 2 is a replay"), "{}", restarted.err);
    bad[1]["record"]["amount"] = json!(40);
    bad[2]["record"]["id"] = json!(6);
    for parameters in
        [&["day=tuesday"][..], &["replay_number=7"], &["replay_of_instance=7"], &["replay_from=x"]]
    {
        let refused = place.run(&[&["replay", "1", "--from", "bad.jsonl"], parameters].concat());
        assert!(refused.expect(2).err.contains("a replay cannot change the parameter"));
    }
    write_lines(&place, "bad.jsonl", &bad);
    place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(0);
    let all: Vec<_> = (1..=10).map(|id| (id, id * 1_000)).collect();
    assert_eq!(orders(&place), all);
}

#[test]
fn a_record_without_a_line_is_given_up_and_can_be_replayed_later() {
    let place = skipped();
    refuse_bad_records(&place);
    place.run(&["skips", "1", "--export", "bad.jsonl"]).expect(0);
    let mut bad = lines(&place, "bad.jsonl");
    bad.sort_by_key(|line| line["item"].as_u64());
    bad[0]["record"] = json!({"id": 2, "amount": 20});
    write_lines(&place, "bad.jsonl", &bad);
    place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(1);
    let refused = place.run(&["abandon", "2"]).expect(2);
    assert!(refused.err.contains("execution 2 is a replay"), "{}", refused.err);
    place.run(&["skips", "1", "--export", "rest.jsonl"]).expect(0);
    assert_eq!(lines(&place, "rest.jsonl").len(), 2, "record 2 is written");
    // Without the line of record 4 and that of record 2, which is done.
    bad[2]["record"]["id"] = json!(6);
    write_lines(&place, "bad.jsonl", &bad[2..]);
    place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(0);
    assert_eq!(orders(&place).len(), 9);
    bad[1]["record"]["amount"] = json!(40);
    write_lines(&place, "bad.jsonl", &bad);
    let replayed = place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(0);
    assert!(replayed.err.contains("2 records are replayed already"), "{}", replayed.err);
    let all: Vec<_> = (1..=10).map(|id| (id, id * 1_000)).collect();
    assert_eq!(orders(&place), all);
}

/// The first chunk of the replay is never whole: its records are written one by one.
#[test]
fn a_replay_that_failed_in_its_first_chunk_knows_what_it_wrote() {
    for keep_first_line in [true, false] {
        let place = Place::new();
        place.write("orders.csv", "id,amount\n1,1\n1,2\n1,3\n1,4\n1,5\n");
        place.write("load.toml", JOB.replace("chunk = 2", "chunk = 100"));
        let store = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
        store.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, cents INTEGER)").unwrap();
        place.run(&["run", "load.toml", "day=monday"]).expect(0);
        place.run(&["skips", "1", "--export", "bad.jsonl"]).expect(0);
        let mut bad = lines(&place, "bad.jsonl");
        assert_eq!(bad.len(), 4, "one is written");
        for (line, id) in bad.iter_mut().zip(2..).take(2) {
            line["record"]["id"] = json!(id);
        }
        write_lines(&place, "bad.jsonl", &bad);
        place.write(
            "load.toml",
            JOB.replace("chunk = 2", "chunk = 100").replace("limit = 100", "limit = 1"),
        );
        place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(1);
        for (line, id) in bad.iter_mut().zip(2..) {
            line["record"]["id"] = json!(id);
        }
        write_lines(&place, "bad.jsonl", if keep_first_line { &bad } else { &bad[1..] });
        place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(0);
        let ids: Vec<i64> = orders(&place).iter().map(|order| order.0).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5], "first line kept: {keep_first_line}");
        place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(2);
    }
}

#[test]
fn a_replay_that_is_killed_at_any_commit_writes_each_record_once() {
    let files = JOB.replace(
        r#"{ type = "sql", table = "orders", columns = ["id", "cents"] }"#,
        r#"{ type = "csv", path = "out.csv", columns = ["id", "cents"] }"#,
    );
    for point in ["before_commit", "after_commit"] {
        for commit in 1..=3 {
            let place = Place::new();
            let bad: String = (1..=5).map(|id| format!("{id},-{id}\n")).collect();
            place.write("orders.csv", format!("id,amount\n{bad}6,6\n"));
            place.write("load.toml", &files);
            place.run(&["run", "load.toml", "day=monday"]).expect(0);
            place.run(&["skips", "1", "--export", "bad.jsonl"]).expect(0);
            place.write("bad.jsonl", place.read("bad.jsonl").replace("\"-", "\""));
            let plan = json!({"kill": {point: commit}}).to_string();
            let replay = ["replay", "1", "--from", "bad.jsonl"];
            let killed = place.run(&[&replay[..], &["--inject", &plan]].concat());
            assert_eq!(killed.code, -9, "{point} {commit}: {}", killed.err);
            place.run(&replay).expect(0);
            assert_eq!(place.read("out.csv"), "id,cents\n6,600\n", "the file of the first run");
            let replayed = replayed_file(&place, "out.csv");
            assert_eq!(
                replayed, "id,cents\n1,100\n2,200\n3,300\n4,400\n5,500\n",
                "{point} {commit}"
            );
        }
    }
}

#[test]
fn what_a_replay_skips_once_more_is_replayed_in_its_turn() {
    let place = skipped();
    place.run(&["skips", "1", "--kind", "data.rejected", "--export", "bad.jsonl"]).expect(0);
    assert_eq!(lines(&place, "bad.jsonl").len(), 1);
    // Unchanged it is rejected again; all records of the replay are then skipped, which fails it.
    place.write("more.jsonl", place.read("bad.jsonl") + "{\"step\":\"load\",\"phase\":\"read\",\"item\":2,\"record\":{\"id\":2,\"amount\":20}}\n");
    place.run(&["replay", "1", "--from", "more.jsonl"]).expect(0);
    place.run(&["skips", "2", "--export", "again.jsonl"]).expect(0);
    let mut again = lines(&place, "again.jsonl");
    assert_eq!((again.len(), &again[0]["execution"]), (1, &json!(2)));
    again[0]["record"]["amount"] = json!("40");
    write_lines(&place, "again.jsonl", &again);
    place.run(&["replay", "2", "--from", "again.jsonl"]).expect(0);
    assert!(orders(&place).contains(&(4, 4_000)) && orders(&place).contains(&(2, 2_000)));
}

#[test]
fn a_dead_letter_file_can_be_replayed_and_so_can_records_of_partitions() {
    let place = Place::new();
    place.write("orders.csv", "id,amount\n1,1\n2,-2\n3,3\n4,-4\n5,5\n6,-6\n");
    let job = JOB.replace(
        "skip = { limit = 100",
        "skip = { limit = 100, dead_letter = \"bad-${partition.key}.jsonl\"",
    ) + "partition = { grid = 2, by = { bytes = \"orders.csv\" } }\n";
    place.write("load.toml", job);
    let store = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
    store.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, cents INTEGER)").unwrap();
    place.run(&["run", "load.toml", "day=monday"]).expect(0);
    let letters = |place: &Place, prefix: &str| -> String {
        let names = std::fs::read_dir(place.root()).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(prefix))
            .map(|name| place.read(&name))
            .collect()
    };
    let dead = letters(&place, "bad-");
    assert_eq!(dead.lines().count(), 3);
    place.write("fixed.jsonl", dead.replacen("\\\"-", "\\\"", 2));
    place.run(&["replay", "1", "--from", "fixed.jsonl"]).expect(0);
    assert_eq!(orders(&place).len(), 5);
    assert_eq!(letters(&place, "bad-"), dead, "those of the first run");
    let again = letters(&place, "replay-1-");
    assert_eq!(again.lines().count(), 1, "{again}");
    place.write("fixed.jsonl", again.replace("\\\"-", "\\\""));
    place.run(&["replay", "2", "--from", "fixed.jsonl"]).expect(0);
    assert_eq!(orders(&place).len(), 6);
    let both = dead.replace("\\\"-", "\\\"");
    place.write("fixed.jsonl", both);
    let done = place.run(&["replay", "1", "--from", "fixed.jsonl"]).expect(2);
    assert!(done.err.contains("its records (3) are all replayed already"), "{}", done.err);
}

#[test]
fn a_file_that_cannot_be_replayed_names_its_line() {
    let place = skipped();
    let good =
        json!({"step": "load", "phase": "process", "item": 4, "record": {"id": 4, "amount": 4}});
    for (line, wanted) in [
        ("{", "line 2: it is no skipped record"),
        ("[]", "line 2: it is no skipped record"),
        (
            r#"{"step":"load","phase":"process","item":4,"record":{"id":4}}"#,
            "line 1 corrects the same record",
        ),
        (
            r#"{"step":"store","phase":"process","item":5,"record":{"id":4}}"#,
            "no execution of the instance skipped the record 5 of step `store`",
        ),
        (
            r#"{"execution":9,"step":"load","phase":"process","item":5,"record":{}}"#,
            "no execution of the instance skipped the record 5 of step `load`",
        ),
        (
            r#"{"step":"load","phase":"write","item":5,"record":[1]}"#,
            "line 2: it is no skipped record",
        ),
    ] {
        place.write("bad.jsonl", format!("{good}\n{line}\n"));
        let refused = place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(2);
        assert!(refused.err.contains(wanted), "{line}: {}", refused.err);
    }
    place.write("bad.jsonl", "\n");
    let empty = place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(2);
    assert!(empty.err.contains("it has no records"), "{}", empty.err);
    let none = place.run(&["replay", "1", "--from", "none.jsonl"]).expect(2);
    assert!(none.err.contains("cannot read `none.jsonl`"), "{}", none.err);
    let exists = place.run(&["skips", "1", "--export", "bad.jsonl"]).expect(2);
    assert!(exists.err.contains("cannot write `bad.jsonl`"), "{}", exists.err);
    assert_eq!(place.newest(), Some(1), "nothing was started");
}

/// Two steps, each with three skipped records; the file loses and gains lines between attempts, which are killed.
#[test]
fn a_replay_that_is_killed_while_its_file_changes_writes_each_record_once() {
    let step = |name: &str| {
        format!(
            "[[steps]]\nname = \"{name}\"\nchunk = 2\nreader = {{ type = \"csv\", path = \"orders.csv\" }}\n\
             processors = [{{ type = \"reject\", when = \"item.amount < 0\" }}]\n\
             writer = {{ type = \"sql\", table = \"{name}\", columns = [\"id\", \"amount\"] }}\nskip = {{ limit = 9 }}\n"
        )
    };
    for point in ["before_commit", "after_commit"] {
        for commit in 1..=5 {
            let place = Place::new();
            place.write("orders.csv", "id,amount\n1,-1\n2,-2\n3,-3\n4,4\n");
            place.write(
                "load.toml",
                format!("name = \"load\"\nrestartable = false\n{}{}", step("one"), step("two")),
            );
            let store = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
            // Without a key a row can be there twice.
            store
                .execute_batch("CREATE TABLE one (id, amount); CREATE TABLE two (id, amount)")
                .unwrap();
            place.run(&["run", "load.toml"]).expect(0);
            place.run(&["skips", "1", "--export", "bad.jsonl"]).expect(0);
            let bad = place.read("bad.jsonl").replace("\"-", "\"");
            let all: Vec<&str> = bad.lines().collect();
            let replay = |lines: &[&str], more: &[&str]| {
                place.write("bad.jsonl", lines.join("\n"));
                place.run(&[&["replay", "1", "--from", "bad.jsonl"], more].concat())
            };
            let plan = json!({"kill": {point: commit}}).to_string();
            // First those of the first step, then without one of each.
            replay(&all[..3], &["--inject", &plan]);
            let fewer = [all[0], all[2], all[3], all[5]];
            replay(&fewer, &["--inject", &plan]);
            replay(&fewer, &[]);
            for _ in 0..3 {
                replay(&all, &[]);
            }
            for table in ["one", "two"] {
                let mut ids = place.run(&["skips", "1"]).expect(0).out.matches(" no ").count();
                let mut rows =
                    store.prepare(&format!("SELECT id FROM {table} ORDER BY id")).unwrap();
                let found: Vec<String> =
                    rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
                assert_eq!(found, ["1", "2", "3", "4"], "{point} {commit} {table}");
                ids += found.len();
                assert_eq!(ids, 4, "all are replayed");
            }
        }
    }
}

#[test]
fn a_replay_whose_records_are_all_skipped_again_blocks_no_other() {
    let place = skipped();
    place.run(&["skips", "1", "--export", "bad.jsonl"]).expect(0);
    let mut bad = lines(&place, "bad.jsonl");
    bad.sort_by_key(|line| line["item"].as_u64());
    write_lines(&place, "wrong.jsonl", &bad[1..2]);
    let failed = place.run(&["replay", "1", "--from", "wrong.jsonl"]).expect(1);
    assert!(failed.out.contains("all_skipped"), "{}", failed.out);
    bad[0]["record"] = json!({"id": 2, "amount": 20});
    bad[2]["record"]["id"] = json!(6);
    write_lines(&place, "bad.jsonl", &bad);
    place.run(&["replay", "1", "--from", "bad.jsonl"]).expect(0);
    assert_eq!(orders(&place).len(), 9);
    bad[1]["execution"] = json!(2);
    bad[1]["record"]["amount"] = json!(40);
    bad[1]["item"] = json!(1);
    write_lines(&place, "again.jsonl", &bad[1..2]);
    place.run(&["replay", "2", "--from", "again.jsonl"]).expect(0);
    assert_eq!(orders(&place).len(), 10);
}
