//! However many processes start or restart one instance at once: one runs it, the others are refused.

mod common;
#[path = "../../batchwright-store/tests/common/mod.rs"]
mod databases;

use common::{Place, done};
use databases::Kind;

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

fn of_eight_processes_one_runs(kind: Kind, rounds: usize) {
    if !kind.is_there() {
        return;
    }
    let database = databases::Place::new(kind);
    let place = Place::on(&database.quick_url());
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
    // The table is there before eight make it at once: what they race for is the instance.
    place.run(&["run", "job.toml", "round=0"]).expect(0);
    for round in 1..=rounds {
        let parameter = format!("round={round}");
        race(&place, &["run", "job.toml", &parameter], "start");

        let failing = format!("round={}", round + 1_000);
        let plan = r#"{"fatal_write":[13]}"#;
        place.run(&["run", "job.toml", &failing, "--inject", plan]).expect(1);
        let id = place.newest().unwrap().to_string();
        race(&place, &["restart", &id], "restart");
        let rows = database.numbers("SELECT count(*) FROM number")[0];
        assert_eq!(rows, 20 + 40 * i64::try_from(round).unwrap(), "round {round}: every row once");
    }
}

#[test]
fn rows_149_and_150_of_eight_processes_on_sqlite_one_runs_and_seven_are_refused() {
    of_eight_processes_one_runs(Kind::Sqlite, ROUNDS);
}

#[test]
fn rows_149_and_150_of_eight_processes_on_postgresql_one_runs_and_seven_are_refused() {
    of_eight_processes_one_runs(Kind::Postgres, ROUNDS);
}

#[test]
fn rows_149_and_150_of_eight_processes_on_mariadb_one_runs_and_seven_are_refused() {
    of_eight_processes_one_runs(Kind::MySql, ROUNDS);
}

#[test]
fn a_new_store_is_made_once_however_many_processes_open_it_at_once() {
    for (round, kind) in (0..ROUNDS).zip(databases::all().iter().cycle()) {
        let database = databases::Place::new(*kind);
        let place = Place::on(&database.quick_url());
        place.write("one.toml", "name = \"one\"\nopen_parameters = true\n[[steps]]\nname = \"say\"\ntype = \"command\"\nargv = [\"true\"]\n");
        let start = |number| place.spawn(&["start", "one.toml", &format!("number={number}")]);
        let children: Vec<_> = (0..PROCESSES).map(start).collect();
        for child in children {
            let done = done(child.wait_with_output().unwrap());
            assert_eq!(done.code, 0, "round {round} on {kind:?}: {}{}", done.out, done.err);
        }
    }
}
