//! A server that ends as in a crash, and starts again, in the middle of a job. Alone in this file: test binaries
//! run one after the other, so that no server goes away under another test.

mod common;
#[path = "../../batchwright-store/tests/common/mod.rs"]
mod databases;

use batchwright_testkit::{Service, needs, restart};
use common::{Place, until};
use databases::Kind;

fn slow_load(place: &Place) {
    place.write(
        "slow.toml",
        r#"
name = "slow"
[[steps]]
name = "load"
chunk = 10
reader = { type = "sequence", count = 600 }
writer = { type = "sql", table = "own" }
"#,
    );
}

fn survives_a_restart_of_its_server(kind: Kind, name: &str) {
    // Only a server that the tests may restart is restarted.
    if !kind.is_there() || needs(Service::Restart).is_none() {
        return;
    }
    let database = databases::Place::new(kind);
    database.run("CREATE TABLE own (n BIGINT PRIMARY KEY)");
    let place = Place::on(&database.quick_url());
    slow_load(&place);
    let plan = r#"{"delay_ms":{"write":20}}"#;
    let child = place.spawn(&["run", "slow.toml", "--inject", plan]);
    until("some rows are there", || database.numbers("SELECT count(*) FROM own")[0] >= 50);
    restart(name);
    let ended = common::done(child.wait_with_output().unwrap());
    // It may go on, or fail; if it failed, its end is stored and it can be restarted.
    if ended.code != 0 {
        assert_eq!(ended.code, 1, "{}{}", ended.out, ended.err);
        assert_eq!(place.show(1)["status"], "FAILED", "{}", ended.err);
        place.run(&["restart", "1"]).expect(0);
    }
    let rows = database.numbers("SELECT n FROM own ORDER BY n");
    assert_eq!(rows, (1..=600).collect::<Vec<_>>());
}

#[test]
fn a_job_survives_the_restart_of_its_server_or_is_exactly_restartable() {
    survives_a_restart_of_its_server(Kind::Postgres, "postgres");
    survives_a_restart_of_its_server(Kind::MySql, "mariadb");
}
