//! A scheduler that fires jobs of a folder.

use std::path::Path;
use std::sync::Arc;

use batchwright::clock::{Clock as _, SystemClock};
use batchwright::query::ExecutionFilter;
use batchwright::{BatchStatus, JobOperator};
use batchwright_jobfile::JobFolder;
use batchwright_server::{Config, Plan, Request, RuleSettings, Server, When};
use batchwright_store::{SqlRepository, SqlSchedule, StoreOptions};
use batchwright_testkit::process::until;

/// Slots that the trigger missed and makes good for.
const FIRINGS: u64 = 1_000;

fn write(folder: &Path, count: u32) {
    let text = format!(
        "name = \"count\"\nsteps = [{{ name = \"count\", reader = {{ type = \"sequence\", count = {count} }}, \
         writer = {{ type = \"none\" }} }}]\n"
    );
    std::fs::write(folder.join("count.toml"), text).unwrap();
}

fn serve(folder: &Path, jobs: &JobFolder) -> (Server, JobOperator) {
    let url = format!("sqlite://{}?synchronous=normal", folder.join("store.db").display());
    let (database, options) = StoreOptions::parse(&url).unwrap();
    let repository = Arc::new(SqlRepository::open(database.clone(), &options).unwrap());
    let operator = JobOperator::builder(repository).jobs(jobs.clone()).build();
    let settings = Config::parse("[kcp]\nlisten = \"127.0.0.1:0\"", folder).unwrap();
    let server = Server::builder(operator.clone());
    let schedule = SqlSchedule::open(&database, &options).unwrap();
    let server = server.scheduler(settings.scheduler.unwrap(), schedule);
    (server.start().unwrap(), operator)
}

fn completed(operator: &JobOperator) -> u64 {
    let filter = ExecutionFilter::of_job("count").status(BatchStatus::Completed);
    operator.queries().execution_count(&filter).unwrap()
}

fn ask(server: &Server, request: Request) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(server.scheduler().unwrap().ask(request)).unwrap();
}

fn plan(words: &[&str]) -> When {
    let now = SystemClock::default().now().as_microsecond();
    When::Recurring(Box::new(Plan::parse(words, now).unwrap()))
}

#[test]
fn a_trigger_that_fires_a_thousand_times_compiles_its_job_file_once_and_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 3);
    let jobs = JobFolder::new(folder.path());
    let (server, operator) = serve(folder.path(), &jobs);
    ask(
        &server,
        Request::SetRule {
            identifier: "counts".to_owned(),
            pattern: "count.".to_owned(),
            settings: RuleSettings::parse(&["job", "count"]).unwrap(),
        },
    );
    let often = ["every", "1h", "misfire", "all", "misfire-cap", "1000"];
    ask(&server, Request::Set { identifier: "count.often".to_owned(), when: plan(&often) });
    server.stop();
    drop(operator);

    // As if no server had run for a thousand hours.
    let database = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    let missed = i64::try_from(FIRINGS).unwrap() * 3_600_000_000;
    database.execute("UPDATE bw_trigger SET slot = slot - ?1, due = due - ?1", [missed]).unwrap();
    let (server, operator) = serve(folder.path(), &jobs);
    until("the missed slots ran", || completed(&operator) == FIRINGS);
    assert_eq!(jobs.compiled(), 1);

    write(folder.path(), 4);
    let soon = When::At(SystemClock::default().now().as_microsecond());
    ask(&server, Request::Set { identifier: "count.once".to_owned(), when: soon });
    until("the changed job ran", || completed(&operator) == FIRINGS + 1);
    let newest = operator.queries().executions(&ExecutionFilter::of_job("count").limit(1)).unwrap();
    assert_eq!(operator.explorer().summary(newest[0].id).unwrap().steps[0].counters.read, 4);
    assert_eq!(jobs.compiled(), 2);
    server.stop();
}
