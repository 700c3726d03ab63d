//! Stores and sinks on servers: `kill -9` at any instant, a million rows in partitions; every output equals that of an undisturbed run.

mod common;
#[path = "../../batchwright-store/tests/common/mod.rs"]
mod databases;

use std::time::Duration;

use batchwright::clock::StopToken;
use common::{Place, SimRng};
use databases::Kind;

/// Instants at which the process is killed, for each kind of store.
const KILLS: usize = 50;
/// Longest life of a process before it is killed, in milliseconds.
const LIFE_MS_MAX: u64 = 900;
const RECORDS: i64 = 500;

/// A job that writes to the store's own database, and to another one of the same kind, in partitions.
fn job(other: &str) -> String {
    let step = |name: &str, more: &str, reader: &str| {
        format!(
            r#"
[[steps]]
name = "{name}"
chunk = 11
{more}
reader = {{ type = "csv", path = "input.csv", columns = {{ n = "integer" }}{reader} }}
processors = [{{ type = "reject", when = "item.n % 100 == 0", message = "every hundredth" }}]
skip = {{ limit = 1000 }}
"#
        )
    };
    format!(
        "name = \"exact\"\n{}writer = {{ type = \"sql\", table = \"own\" }}\n\
         {}writer = {{ type = \"sql\", table = \"other\", url = \"{other}\" }}\n\
         {}writer = {{ type = \"sql\", table = \"parts\", url = \"{other}\" }}\n",
        step("own", "", ""),
        step("other", "", ""),
        step("parts", "partition = { grid = 3, by = { bytes = \"input.csv\" } }", ""),
    )
}

fn table(name: &str) -> String {
    format!("CREATE TABLE {name} (n BIGINT PRIMARY KEY)")
}

fn exact_after_kills(kind: Kind) {
    if !kind.is_there() {
        return;
    }
    let seed = std::env::var("SIM_SEED").map_or(11, |seed| seed.parse().unwrap());
    let mut rng = SimRng(seed);
    let expected: Vec<i64> = (1..=RECORDS).filter(|n| n % 100 != 0).collect();
    let (mut kills, mut trials) = (0, 0);
    while kills < KILLS {
        trials += 1;
        let (own, other) = (databases::Place::new(kind), databases::Place::new(kind));
        own.run(&table("own"));
        other.run(&table("other"));
        other.run(&table("parts"));
        let place = Place::on(&own.quick_url());
        let lines: Vec<String> = (1..=RECORDS).map(|n| n.to_string()).collect();
        place.write("input.csv", format!("n\n{}\n", lines.join("\n")));
        place.write("job.toml", job(&other.quick_url()));
        let mut last = None;
        loop {
            let mut child = match last {
                None => place.spawn(&["run", "job.toml"]),
                Some(id) => place.spawn(&["restart", &i64::to_string(&id)]),
            };
            // The instant itself is what is random here; nothing is waited for.
            StopToken::default().wait(Duration::from_millis(rng.below(LIFE_MS_MAX)));
            let ended = child.try_wait().unwrap();
            // Once there were enough kills, the last trial may complete.
            if ended.is_none() && kills < KILLS {
                child.kill().unwrap();
                kills += 1;
            }
            let status = child.wait().unwrap();
            if let Some(code) = status.code() {
                assert_eq!(code, 0, "seed {seed}: it was not killed, so it completes");
                break;
            }
            place.run(&["recover"]).expect(0);
            last = place.newest();
            if let Some(id) = last
                && place.show(id)["status"] == "COMPLETED"
            {
                break;
            }
        }
        for (database, table) in [(&own, "own"), (&other, "other"), (&other, "parts")] {
            // Twice would be a taken key, and a failed job; missing shows here.
            let found = database.numbers(&format!("SELECT n FROM {table} ORDER BY n"));
            assert_eq!(found, expected, "seed {seed}, trial {trials}: table {table}");
        }
    }
}

#[test]
fn whatever_instant_the_process_dies_at_postgresql_holds_every_row_once() {
    exact_after_kills(Kind::Postgres);
}

#[test]
fn whatever_instant_the_process_dies_at_mariadb_holds_every_row_once() {
    exact_after_kills(Kind::MySql);
}

const MILLION: usize = 1_000_000;

/// A million records, some of whose fields hold line feeds, quotes and commas.
fn million() -> String {
    let mut text = String::with_capacity(30 * MILLION);
    text.push_str("id,name,note\n");
    for id in 0..MILLION {
        match id % 7 {
            0 => text.push_str(&format!("{id},\"two\nlines {id}\",x\n")),
            3 => text.push_str(&format!("{id},\"a \"\"word\"\", {id}\",\n")),
            5 => text.push_str(&format!("{id},plain {id},\"\n\n{id}\"\r\n")),
            _ => text.push_str(&format!("{id},plain {id},note\n")),
        }
    }
    text
}

#[test]
fn a_million_rows_in_four_partitions_are_the_rows_of_one_run_and_only_unfinished_ones_are_restarted()
 {
    if !Kind::Postgres.is_there() {
        return;
    }
    let database = databases::Place::new(Kind::Postgres);
    for table in ["whole", "parts"] {
        database.run(&format!("CREATE TABLE {table} (id BIGINT, name TEXT, note TEXT)"));
    }
    let place = Place::on(&database.quick_url());
    place.write("input.csv", million());
    let job = |name: &str, partition: &str| {
        format!(
            "name = \"{name}\"\n[[steps]]\nname = \"load\"\nchunk = 5000\n{partition}\n\
             reader = {{ type = \"csv\", path = \"input.csv\", columns = {{ id = \"integer\" }} }}\n\
             writer = {{ type = \"sql\", table = \"{name}\" }}\n"
        )
    };
    place.write("whole.toml", job("whole", ""));
    place.write(
        "parts.toml",
        job("parts", "partition = { grid = 4, threads = 2, by = { bytes = \"input.csv\" } }"),
    );
    place.run(&["run", "whole.toml"]).expect(0);
    // Half way: two of the four are done, or nearly.
    let killed = place.run(&["run", "parts.toml", "--inject", r#"{"kill":{"after_commit":120}}"#]);
    assert_eq!(killed.code, -9, "{}", killed.err);
    place.run(&["recover"]).expect(0);
    let id = place.newest().unwrap();
    let complete = |id: i64| -> Vec<String> {
        let steps = place.show(id)["steps"].as_array().unwrap().clone();
        steps
            .iter()
            .filter(|step| step["status"] == "COMPLETED" && !step["partition"].is_null())
            .map(|step| step["partition"].as_str().unwrap().to_owned())
            .collect()
    };
    let before = complete(id);
    assert!(!before.is_empty() && before.len() < 4, "killed half way: {before:?}");
    place.run(&["restart", &id.to_string()]).expect(0);
    let after = complete(id + 1);
    assert!(after.iter().all(|key| !before.contains(key)), "{before:?} ran again: {after:?}");
    assert_eq!(before.len() + after.len(), 4);
    let rows = |table: &str| database.numbers(&format!("SELECT count(*) FROM {table}"))[0];
    assert_eq!((rows("whole"), rows("parts")), (1_000_000, 1_000_000));
    let differing = database
        .numbers("SELECT count(*) FROM (SELECT * FROM whole EXCEPT ALL SELECT * FROM parts) AS d");
    assert_eq!(differing, [0], "row for row");
}
