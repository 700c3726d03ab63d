//! However many processes start or restart one instance at once: one runs it, the others are told.

mod common;

use common::{Place, done};

const PROCESSES: usize = 8;
const ROUNDS: usize = 20;

fn race(place: &Place, arguments: &[&str], what: &str) {
    let children: Vec<_> = (0..PROCESSES).map(|_| place.spawn(arguments)).collect();
    let mut codes: Vec<_> =
        children.into_iter().map(|child| done(child.wait_with_output().unwrap()).code).collect();
    codes.sort_unstable();
    assert_eq!(codes[0], 0, "{what}: one runs: {codes:?}");
    let refused = codes[1..].iter().all(|code| matches!(code, 3 | 4));
    assert!(refused, "{what}: the others are refused with 3 or 4: {codes:?}");
}

#[test]
fn of_eight_processes_one_runs_and_seven_are_refused() {
    let place = Place::new();
    place.write(
        "job.toml",
        r#"
name = "race"
parameters = { round = { type = "integer", required = true } }

[[steps]]
name = "prepare"
type = "sql"
sql = "CREATE TABLE IF NOT EXISTS number (n INTEGER NOT NULL)"

[[steps]]
name = "load"
chunk = 5
reader = { type = "sequence", count = 20 }
writer = { type = "sql", table = "number" }
"#,
    );
    for round in 1..=ROUNDS {
        let parameter = format!("round={round}");
        race(&place, &["run", "job.toml", &parameter], "start");

        let failing = format!("round={}", round + 1_000);
        let plan = r#"{"fatal_write":[13]}"#;
        place.run(&["run", "job.toml", &failing, "--inject", plan]).expect(1);
        let id = place.newest().unwrap().to_string();
        race(&place, &["restart", &id], "restart");
        let rows = place.numbers("batchwright.db", "number");
        assert_eq!(rows.len(), round * 40, "round {round}: every row once");
    }
}

#[test]
fn a_new_store_is_made_once_however_many_processes_open_it_at_once() {
    for round in 0..ROUNDS {
        let place = Place::new();
        let children: Vec<_> = (0..PROCESSES).map(|_| place.spawn(&["health"])).collect();
        for child in children {
            let done = done(child.wait_with_output().unwrap());
            assert_eq!(done.code, 0, "round {round}: {}{}", done.out, done.err);
        }
    }
}
