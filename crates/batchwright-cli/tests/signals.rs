//! Real signals to the real process: a graceful stop, and a worker that overslept its lease.

mod common;

use std::process::Child;

use common::{Place, done, until};
use rustix::process::{Pid, Signal, kill_process};

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn job(count: u64, writer: &str) -> String {
    format!(
        r#"
name = "slow"

[[steps]]
name = "prepare"
type = "sql"
sql = "CREATE TABLE IF NOT EXISTS number (n INTEGER NOT NULL)"

[[steps]]
name = "prepare-other"
type = "sql"
url = "sqlite://other.db"
sql = "CREATE TABLE IF NOT EXISTS number (n INTEGER NOT NULL)"

[[steps]]
name = "load"
chunk = 10
reader = {{ type = "sequence", count = {count} }}
writer = {{ {writer} }}
"#
    )
}

const OWN: &str = r#"type = "sql", table = "number""#;
const OTHER: &str = r#"type = "sql", table = "number", url = "sqlite://other.db""#;
const JSONL: &str = r#"type = "jsonl", path = "out.jsonl""#;

fn commits(place: &Place) -> u64 {
    match place.newest() {
        Some(id) => place.show(id)["steps"][2]["commit"].as_u64().unwrap_or(0),
        None => 0,
    }
}

#[test]
fn sigterm_in_a_chunk_commits_it_and_stops() {
    for (number, name, code) in
        [(Signal::TERM, "SIGTERM", 143), (Signal::INT, "SIGINT", 130), (Signal::HUP, "SIGHUP", 129)]
    {
        let place = Place::new();
        place.write("job.toml", job(1_000, OWN));
        let child = place.spawn(&["run", "job.toml", "--inject", r#"{"delay_ms":{"write":30}}"#]);
        until("some chunks are committed", || commits(&place) >= 2);
        signal(&child, number);
        // Closed terminals and `timeout` send two within a moment.
        signal(&child, number);
        signal(&child, Signal::HUP);
        let done = done(child.wait_with_output().unwrap());
        // Of signals that arrive together, the system delivers the one with the lower number first.
        assert!([code, 129].contains(&done.code), "{name}: {} {}", done.code, done.err);
        let stopped = place.show(1);
        assert_eq!(stopped["status"], "STOPPED");
        assert_eq!(stopped["exit"]["code"], "STOPPED");
        let written = stopped["steps"][2]["write"].as_u64().unwrap();
        assert_eq!(written % 10, 0, "{name}: whole chunks only");
        assert_eq!(place.numbers("batchwright.db", "number").len() as u64, written);
        place.run(&["restart", "1"]).expect(0);
        let rows = place.numbers("batchwright.db", "number");
        assert_eq!(rows, (1..=1_000).collect::<Vec<_>>(), "{name}: nothing lost, nothing twice");
    }
}

#[test]
fn a_command_under_nohup_goes_on_when_its_terminal_is_closed() {
    let place = Place::new();
    place.write("job.toml", job(500, OWN));
    let mut nohup = std::process::Command::new("nohup");
    nohup.arg(env!("CARGO_BIN_EXE_batchwright"));
    nohup.args(["run", "job.toml", "--inject", r#"{"delay_ms":{"write":30}}"#]);
    nohup.current_dir(place.root()).stdin(std::process::Stdio::null());
    nohup.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = nohup.spawn().unwrap();
    until("some chunks are committed", || commits(&place) >= 2);
    assert!(child.try_wait().unwrap().is_none(), "it is running");
    signal(&child, Signal::HUP);
    assert!(child.wait().unwrap().success());
    assert_eq!(place.show(1)["status"], "COMPLETED");
}

#[test]
fn a_second_signal_ends_at_once_and_leaves_a_recoverable_execution() {
    let place = Place::new();
    place.write("job.toml", job(1_000, OWN));
    // A chunk that takes ten minutes: only the second signal can end this in time.
    let plan = r#"{"delay_ms":{"write":600000}}"#;
    let mut child = place.spawn(&["run", "job.toml", "--inject", plan]);
    until("the step runs", || {
        place.newest().is_some_and(|id| place.show(id)["steps"][2]["status"] == "STARTED")
    });
    signal(&child, Signal::TERM);
    until("the stop is stored", || place.show(1)["status"] == "STOPPING");
    // One that comes within a moment of the first counts as the same.
    until("a second signal ends it", || {
        signal(&child, Signal::TERM);
        child.try_wait().unwrap().is_some()
    });
    assert_eq!(done(child.wait_with_output().unwrap()).code, 143);
    place.run(&["recover", "1"]).expect(0);
    place.run(&["restart", "1"]).expect(0);
}

#[test]
fn stop_from_another_process_arrives_within_a_chunk() {
    let place = Place::new();
    place.write("job.toml", job(1_000, OWN));
    let child = place.spawn(&["run", "job.toml", "--inject", r#"{"delay_ms":{"write":30}}"#]);
    until("some chunks are committed", || commits(&place) >= 2);
    place.run(&["stop", "slow", "--wait"]).expect(0);
    assert_eq!(done(child.wait_with_output().unwrap()).code, 5, "STOPPED, and no signal came");
    place.run(&["stop", "slow"]).expect(1);
    place.run(&["restart", "1"]).expect(0);
}

/// Whether no process is in a transaction of the database at `path`, if it exists.
fn is_free(path: &std::path::Path) -> bool {
    !path.exists() || {
        let database = rusqlite::Connection::open(path).unwrap();
        database.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok()
    }
}

#[test]
fn a_worker_that_overslept_its_lease_can_commit_nothing_more() {
    for (name, writer) in [("own", OWN), ("other", OTHER), ("jsonl", JSONL)] {
        let place = Place::new();
        place.write("job.toml", job(400, writer));
        let plan = r#"{"delay_ms":{"write":40}}"#;
        let child = place.spawn(&["run", "job.toml", "--lease", "1s", "--inject", plan, "-v"]);
        until("some chunks are committed", || commits(&place) >= 3);
        place.run(&["recover", "1"]).expect(4);
        // Sometimes the pause interrupts a transaction, which then locks the store for every other process.
        loop {
            signal(&child, Signal::STOP);
            until("the lease has expired", || place.show(1)["stale"] == true);
            if is_free(&place.path("other.db")) {
                let recovered = place.run(&["recover", "1"]);
                if recovered.code == 0 {
                    break;
                }
                assert_eq!(recovered.code, 7, "{name}: {}", recovered.err);
            }
            signal(&child, Signal::CONT);
            until("it beats again", || place.show(1)["stale"] == false);
        }
        place.run(&["restart", "1"]).expect(0);
        signal(&child, Signal::CONT);
        let late = done(child.wait_with_output().unwrap());
        assert_eq!(late.code, 75, "{name}: {} {}", late.out, late.err);
        assert!(late.err.contains("error[stale_lease]"), "{name}: {}", late.err);
        let expected: Vec<i64> = (1..=400).collect();
        let found = match name {
            "own" => place.numbers("batchwright.db", "number"),
            "other" => place.numbers("other.db", "number"),
            _ => place
                .read("out.jsonl")
                .lines()
                .map(|line| {
                    serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_i64().unwrap()
                })
                .collect(),
        };
        assert_eq!(found, expected, "{name}: the output is exact");
        assert_eq!(place.show(1)["failure"]["code"], "recovered", "{name}");
        assert_eq!(place.show(2)["status"], "COMPLETED", "{name}");
    }
}
