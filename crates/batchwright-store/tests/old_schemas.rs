//! A store of every schema that ever was the newest is migrated when it is opened: no row changes, every row can be
//! read, and what had failed, stopped or was open continues where it was.
//!
//! Each fixture says how it was made. The jobs here have the names of the jobs that wrote the fixture, and the readers
//! have the positions of job files: the position of the reader and the number of the record.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright::execution::{ExecutionId, JobExecution};
use batchwright::launch::RequestKey;
use batchwright::partition::PartitionStep;
use batchwright::progressive::{ItemUnits, OnFailed, ProgressiveStep};
use batchwright::query::{ExecutionFilter, InstancePage, Queries as _};
use batchwright::scope::{Partition, StepScope};
use batchwright::step::{ChunkStep, Flow, Processors};
use batchwright::store::JobRepository as _;
use batchwright::testing::fault::{FaultPlan, FaultyReader};
use batchwright::{
    BatchStatus, ChunkStepBuilder, Job, JobOperator, JobParameters, Sequence, TaskletStep,
};
use batchwright_store::rusqlite::{Connection, types::Value};
use batchwright_store::{Database, SqlReader, SqlRepository, SqlWriter, SqliteDatabase};
use common::Kind;

/// The fixtures: the version of the schema and the statements.
const FIXTURES: [(i64, &str); 6] = [
    (1, include_str!("fixtures/store-v1.sql")),
    (2, include_str!("fixtures/store-v2.sql")),
    (3, include_str!("fixtures/store-v3.sql")),
    (4, include_str!("fixtures/store-v4.sql")),
    (5, include_str!("fixtures/store-v5.sql")),
    (6, include_str!("fixtures/store-v6.sql")),
];

/// Executions of the fixtures.
const LOAD: ExecutionId = ExecutionId(1);
const WAIT: ExecutionId = ExecutionId(3);
const GUARDED: ExecutionId = ExecutionId(4);
const HELD: ExecutionId = ExecutionId(5);
const PARTS: ExecutionId = ExecutionId(6);

/// A SQLite file of its own.
struct OldStore {
    version: i64,
    dir: tempfile::TempDir,
}

impl OldStore {
    /// A file with the fixture of `version`, which no program has opened yet.
    fn new(version: i64, sql: &str) -> Self {
        let place = Self { version, dir: tempfile::tempdir().unwrap() };
        place.connect().execute_batch(sql).unwrap();
        place
    }

    /// The fixtures of version `first` and all later ones.
    fn since(first: i64) -> impl Iterator<Item = Self> {
        FIXTURES
            .into_iter()
            .filter(move |(version, _)| *version >= first)
            .map(|(v, s)| Self::new(v, s))
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store.db")
    }

    fn database(&self) -> SqliteDatabase {
        SqliteDatabase::at(self.path())
    }

    fn connect(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn open(&self) -> Arc<SqlRepository> {
        Arc::new(SqlRepository::sqlite(self.path()).unwrap())
    }

    fn operator(&self, job: Job) -> JobOperator {
        let operator = JobOperator::new(self.open());
        operator.registry().register(job).unwrap();
        operator
    }

    /// The rows of a query, each as its values.
    fn rows(&self, query: &str) -> Vec<Vec<Value>> {
        let connection = self.connect();
        let mut statement = connection.prepare(query).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect());
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// The rows of a query, each as its values in words.
    fn lines(&self, query: &str) -> Vec<String> {
        let word = |value: Value| match value {
            Value::Null => "-".to_owned(),
            Value::Integer(number) => number.to_string(),
            Value::Text(text) => text,
            other => format!("{other:?}"),
        };
        let line = |row: Vec<Value>| row.into_iter().map(word).collect::<Vec<_>>().join("|");
        self.rows(query).into_iter().map(line).collect()
    }

    fn numbers(&self, query: &str) -> Vec<u64> {
        self.lines(query).iter().map(|line| line.parse().unwrap()).collect()
    }

    /// The columns of each table, and the indexes, of the store.
    fn shape(&self) -> BTreeSet<String> {
        self.lines(
            "SELECT t.name, c.name, c.\"notnull\", c.pk FROM sqlite_schema t, pragma_table_info(t.name) c
             WHERE t.type = 'table' AND t.name LIKE 'bw\\_%' ESCAPE '\\'
             UNION ALL SELECT name, tbl_name, '', '' FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL",
        )
        .into_iter()
        .collect()
    }

    /// The rows of every table, by the names of table and columns.
    fn tables(&self) -> BTreeMap<String, Vec<Vec<Value>>> {
        let columns = "SELECT t.name, group_concat('\"' || c.name || '\"') FROM sqlite_schema t, \
             pragma_table_info(t.name) c WHERE t.type = 'table' GROUP BY t.name";
        let select = |line: String| {
            let (table, columns) = line.split_once('|').unwrap();
            let select = format!("SELECT {columns} FROM \"{table}\"");
            let rows = self.rows(&select);
            (select, rows)
        };
        self.lines(columns).into_iter().map(select).collect()
    }
}

/// What a step processed.
type Seen = Arc<Mutex<Vec<u64>>>;

fn sorted(seen: &Seen) -> Vec<u64> {
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    seen
}

type Copied = Box<dyn Fn(&u64) -> Result<Option<u64>, batchwright::ItemError> + Send + Sync>;

/// A step that copies the numbers of `input` to `table` with the name `new`, those between `min` and `max` of its
/// partition if it has one.
fn copy(
    database: impl Into<Database>,
    name: &str,
    chunk: usize,
    table: &'static str,
    seen: &Seen,
) -> ChunkStep<FaultyReader<SqlReader<u64>>, Processors<Copied>, SqlWriter<u64>> {
    let database: Database = database.into();
    let seen = Arc::clone(seen);
    ChunkStepBuilder::new(name)
        .reader_with(move |scope: &StepScope| {
            let query = match scope.partition() {
                Some(_) => {
                    let min: i64 = scope.partition_value("min")?;
                    let max: i64 = scope.partition_value("max")?;
                    format!("SELECT id, name FROM input WHERE id BETWEEN {min} AND {max}")
                }
                None => "SELECT id, name FROM input".to_owned(),
            };
            let id = |row: &batchwright_store::SqlRow<'_>| Ok(row.get::<i64>("id")?.unsigned_abs());
            let reader = SqlReader::new(database.clone(), query, id).keyset("id");
            Ok(FaultyReader::new(reader, &FaultPlan::default()))
        })
        .processor_with(move |_| -> Result<Copied, _> {
            let seen = Arc::clone(&seen);
            Ok(Box::new(move |id: &u64| {
                seen.lock().unwrap().push(*id);
                Ok(Some(*id))
            }))
        })
        .writer(SqlWriter::in_store(table, ["id", "name"], |id: &u64, row| {
            row.bind(id.cast_signed())?;
            row.bind("new")
        }))
        .chunk_size(chunk)
        .build()
}

fn restart(operator: &JobOperator, id: ExecutionId) -> JobExecution {
    operator.restart(id).unwrap().wait().unwrap()
}

/// The number of the schema that a new store has.
fn newest() -> i64 {
    let place = OldStore::new(0, "");
    place.open();
    place.lines("SELECT max(version) FROM bw_schema_version")[0].parse().unwrap()
}

#[test]
fn every_schema_before_the_newest_has_a_fixture() {
    let versions: Vec<_> = FIXTURES.iter().map(|(version, _)| *version).collect();
    let newest = newest();
    assert_eq!(
        versions[..versions.len().min(newest as usize - 1)],
        (1..newest).collect::<Vec<_>>()
    );
    for place in OldStore::since(1) {
        let found = place.lines("SELECT max(version) FROM bw_schema_version");
        assert_eq!(found, [place.version.to_string()]);
    }
}

#[test]
fn an_old_store_becomes_a_new_one_and_no_row_changes() {
    let new = OldStore::new(0, "");
    new.open();
    for place in OldStore::since(1) {
        let version = place.version;
        let before = place.tables();
        let id = place.open().store_id().to_owned();
        assert_eq!(
            place.lines("SELECT max(version) FROM bw_schema_version"),
            [newest().to_string()]
        );
        assert_eq!(place.shape(), new.shape(), "version {version}");
        assert_eq!(place.lines("SELECT id FROM bw_store"), [id]);
        for (select, rows) in before {
            let after = place.rows(&select);
            assert_eq!(after[..rows.len()], rows, "version {version}: {select}");
            let is_grown =
                select.contains("bw_schema_version") || select.contains("sqlite_sequence");
            assert!(after.len() == rows.len() || is_grown, "version {version}: {select}");
        }
        assert_eq!(place.lines("PRAGMA foreign_key_check"), [""; 0]);
    }
}

#[test]
fn a_second_opening_changes_nothing() {
    for place in OldStore::since(1) {
        place.open();
        let first = place.tables();
        place.open();
        assert_eq!(place.tables(), first, "version {}", place.version);
    }
}

#[test]
fn executions_read_as_they_were_stored() {
    for place in OldStore::since(1) {
        let (flow, parent) = if place.version >= 2 { ("flow", "parent") } else { ("'{}'", "NULL") };
        let stored = place.lines(&format!(
            "SELECT id, instance_id, job, status, exit_code, exit_message, parameters, restart_of, created_at,
                 started_at, ended_at, owner, fence, stop_requested, failure_code, failure, warnings, context,
                 fingerprint, source, {flow}, {parent}, version FROM bw_job_execution ORDER BY id DESC"
        ));
        let read = |one: JobExecution| {
            line(&[
                one.id.to_string(),
                one.instance_id.to_string(),
                one.job,
                one.status.to_string(),
                one.exit.code,
                one.exit.message,
                json(&one.parameters),
                some(one.restart_of),
                one.created_at.as_microsecond().to_string(),
                some(one.started_at.map(|at| at.as_microsecond())),
                some(one.ended_at.map(|at| at.as_microsecond())),
                some(one.owner),
                one.fence.to_string(),
                u8::from(one.stop_requested).to_string(),
                some(one.failure.as_ref().map(|failure| &failure.code)),
                some(one.failure.as_ref().map(|failure| &failure.message)),
                json(&one.warnings),
                one.context.to_json(),
                some(one.fingerprint),
                some(one.source),
                json(&one.flow),
                some(one.parent),
                one.version.to_string(),
            ])
        };
        let found = place.open().executions(&ExecutionFilter::default()).unwrap();
        assert_eq!(found.into_iter().map(read).collect::<Vec<_>>(), stored);
    }
}

#[test]
fn instances_steps_skips_and_events_read_as_they_were_stored() {
    for place in OldStore::since(1) {
        let (handled, begun_by) =
            if place.version >= 2 { ("handled", "begun_by") } else { ("0", "NULL") };
        let stored_instances = place
            .lines("SELECT id, job, key, created_at FROM bw_job_instance ORDER BY job, id DESC");
        let stored_steps = place.lines(&format!(
            "SELECT id, execution_id, name, partition, status, exit_code, exit_message, read_count, write_count,
                 filter_count, read_skip, process_skip, write_skip, commit_count, rollback_count, checkpoint, context,
                 started_at, updated_at, ended_at, failure_code, failure, {handled}, {begun_by}
             FROM bw_step_execution ORDER BY execution_id, id"
        ));
        let stored_skips = place.lines(
            "SELECT s.execution_id, s.name, k.phase, k.item, k.location, k.kind, k.message, k.content
             FROM bw_skip_record k JOIN bw_step_execution s ON s.id = k.step_id ORDER BY s.execution_id, k.id",
        );
        let stored_events = place.lines(
            "SELECT execution_id, step, status, note, at FROM bw_event ORDER BY execution_id, id",
        );

        let store = place.open();
        let (mut steps, mut skips, mut events) = (Vec::new(), Vec::new(), Vec::new());
        for id in place.numbers("SELECT id FROM bw_job_execution ORDER BY id") {
            let id = ExecutionId(id.cast_signed());
            for one in store.steps(id).unwrap() {
                let count = one.counters;
                let counts = [
                    count.read,
                    count.write,
                    count.filter,
                    count.read_skip,
                    count.process_skip,
                    count.write_skip,
                    count.commit,
                    count.rollback,
                ];
                steps.push(line(&[
                    one.id.to_string(),
                    one.execution_id.to_string(),
                    one.name,
                    some(one.partition),
                    one.status.to_string(),
                    one.exit.code,
                    one.exit.message,
                    line(&counts.map(|count| count.to_string())),
                    some(one.checkpoint),
                    one.context.to_json(),
                    one.started_at.as_microsecond().to_string(),
                    one.updated_at.as_microsecond().to_string(),
                    some(one.ended_at.map(|at| at.as_microsecond())),
                    some(one.failure.as_ref().map(|failure| &failure.code)),
                    some(one.failure.as_ref().map(|failure| &failure.message)),
                    u8::from(one.handled).to_string(),
                    some(one.begun_by),
                ]));
            }
            for one in store.skips(id).unwrap() {
                skips.push(line(&[
                    id.to_string(),
                    one.step,
                    one.phase.name().to_owned(),
                    one.item.to_string(),
                    some(one.location),
                    one.kind,
                    one.message,
                    some(one.content),
                ]));
            }
            for one in store.events(id).unwrap() {
                let (status, note) = one.status().unwrap();
                events.push(line(&[
                    one.execution().unwrap().to_string(),
                    some(one.step().map(str::to_owned)),
                    status.to_string(),
                    some(note.map(str::to_owned)),
                    one.at.as_microsecond().to_string(),
                ]));
            }
        }
        let mut instances = Vec::new();
        for job in store.job_names().unwrap() {
            for one in store.instances(&job, InstancePage::first(100)).unwrap() {
                let at = one.created_at.as_microsecond().to_string();
                instances.push(line(&[one.id.to_string(), one.job, one.key, at]));
            }
        }
        assert_eq!(instances, stored_instances);
        assert_eq!(steps, stored_steps);
        assert_eq!(skips, stored_skips);
        assert_eq!(events, stored_events);
    }
}

#[test]
fn a_failed_execution_restarts_after_its_checkpoint() {
    for place in OldStore::since(1) {
        let seen = Seen::default();
        let job = Job::builder("load")
            .step(copy(place.database(), "copy", 3, "output", &seen))
            .build()
            .unwrap();
        let operator = place.operator(job);
        let done = restart(&operator, LOAD);
        assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
        assert_eq!(done.restart_of, Some(LOAD));
        // The old execution committed two chunks of three records.
        assert_eq!(sorted(&seen), (7..=12).collect::<Vec<_>>(), "version {}", place.version);
        assert_eq!(place.numbers("SELECT id FROM output WHERE name <> 'new'"), [1, 3, 4, 5, 6]);
        assert_eq!(
            place.numbers("SELECT id FROM output WHERE name = 'new'"),
            (7..=12).collect::<Vec<_>>()
        );
        let steps = operator.queries().steps(done.id).unwrap();
        let counters = steps[0].counters;
        assert_eq!((counters.read, counters.write, counters.skips()), (6, 6, 0));
        let checkpoint: serde_json::Value =
            serde_json::from_str(steps[0].checkpoint.as_ref().unwrap()).unwrap();
        assert_eq!(checkpoint["records"], 12);
        assert_eq!(checkpoint["reader"]["number"], 12);
        assert_eq!(checkpoint["reader"]["inner"]["rows"], 12);
        // The old execution committed two chunks, this one two more and the end of the input.
        assert_eq!(checkpoint["sequence"], 2 + counters.commit);
        let day =
            JobParameters::new().with("day", "2026-11-21".parse::<jiff::civil::Date>().unwrap());
        let again = operator.start("load", day).unwrap_err();
        assert!(
            again.to_string().contains("already completed"),
            "the instance is the old one: {again}"
        );
    }
}

#[test]
fn a_stopped_execution_restarts_after_its_checkpoint() {
    for place in OldStore::since(1) {
        let seen = Seen::default();
        let job = Job::builder("wait")
            .step(copy(place.database(), "copy", 2, "waited", &seen))
            .build()
            .unwrap();
        let done = restart(&place.operator(job), WAIT);
        assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
        assert_eq!(sorted(&seen), (5..=12).collect::<Vec<_>>(), "version {}", place.version);
        assert_eq!(place.numbers("SELECT id FROM waited WHERE name <> 'new'"), [1, 2, 3, 4]);
        assert_eq!(place.numbers("SELECT count(*) FROM waited"), [12]);
    }
}

#[test]
fn only_the_partition_that_failed_runs_again() {
    for place in OldStore::since(2) {
        let seen = Seen::default();
        let cut =
            |_: &StepScope| -> Result<Vec<Partition>, _> { panic!("the stored plan is used") };
        let step = PartitionStep::new(copy(place.database(), "export", 2, "part", &seen), cut);
        let operator = place.operator(Job::builder("parts").step(step).build().unwrap());
        let done = restart(&operator, PARTS);
        assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
        assert_eq!(sorted(&seen), [9, 10, 11, 12], "version {}", place.version);
        assert_eq!(place.numbers("SELECT id FROM part"), (1..=12).collect::<Vec<_>>());
        let steps = operator.queries().steps(done.id).unwrap();
        let names: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["export", "export:p0001"]);
        assert_eq!(steps[0].counters.write, 4);
    }
}

#[test]
fn a_flow_that_a_transition_stopped_continues_after_it() {
    for place in OldStore::since(2) {
        let seen = Seen::default();
        let step = |name: &str, number: u64| {
            let seen = Arc::clone(&seen);
            TaskletStep::new(name, move |_| {
                seen.lock().unwrap().push(number);
                Ok(Flow::Finished)
            })
        };
        // Without the stored entry point, the restart would stop at the transition once more.
        let job = Job::builder("held")
            .step(step("first", 1))
            .on("COMPLETED")
            .stop()
            .step(step("second", 2))
            .build()
            .unwrap();
        let done = restart(&place.operator(job), HELD);
        assert_eq!(done.status, BatchStatus::Completed, "version {}", place.version);
        assert_eq!(sorted(&seen), [2]);
    }
}

#[test]
fn a_handled_failure_stays_handled() {
    for place in OldStore::since(2) {
        let store = place.open();
        let steps = store.steps(GUARDED).unwrap();
        let steps: Vec<_> = steps.iter().map(|step| (step.status, step.handled)).collect();
        assert_eq!(steps, [(BatchStatus::Failed, true), (BatchStatus::Completed, false)]);
        let guarded = store.execution(GUARDED).unwrap().unwrap();
        assert_eq!(
            (guarded.status, &*guarded.flow.decisions["kind"]),
            (BatchStatus::Completed, "TELL")
        );
    }
}

#[test]
fn an_open_progressive_execution_is_driven_to_its_end() {
    for place in OldStore::since(4) {
        let open = place.numbers("SELECT id FROM bw_job_execution WHERE status = 'STARTED'")[0];
        let id = ExecutionId(open.cast_signed());
        let failed = place.numbers(&format!(
            "SELECT k.item FROM bw_skip_record k JOIN bw_step_execution s ON s.id = k.step_id
             WHERE s.execution_id = {open} ORDER BY k.item"
        ));
        let seen = Seen::default();
        let operator = place.operator(Job::builder("rate").step(rate(&seen)).build().unwrap());

        let (_, state) = operator.progressive().progressive_state(id, None).unwrap();
        assert_eq!(
            (state.row.units_total, state.row.target),
            (Some(64), Duration::from_millis(300))
        );
        let lanes: Vec<_> = state.lanes.iter().map(|lane| (lane.seq, lane.slices)).collect();
        assert_eq!(lanes, [(1, 1), (0, 0)]);
        let units: Vec<_> =
            state.segments.iter().map(|one| (one.start, one.position, one.end)).collect();
        let reached = 4 + failed.len() as u64;
        assert_eq!(units, [(0, reached, Some(32)), (32, 32, Some(64))]);

        let done = operator.progressive().drive(id, 2, &StopToken::default()).unwrap();
        assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
        assert_eq!(
            sorted(&seen),
            (reached + 1..=64).collect::<Vec<_>>(),
            "version {}",
            place.version
        );
        let response = operator.progressive().response(id, None).unwrap().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        // The sum of the old slice is in it, and no unit twice.
        assert_eq!(body["result"]["total"], (1..=64).sum::<u64>() - failed.iter().sum::<u64>());
        assert_eq!(body["units_failed"], failed.len());
        let counters = operator.queries().steps(id).unwrap()[0].counters;
        let (failed, read) = (failed.len() as u64, counters.read);
        assert_eq!((read, counters.write, counters.process_skip), (64, 64 - failed, failed));
    }
}

/// The step of the job `rate`: adds the numbers to 64.
fn rate(seen: &Seen) -> ProgressiveStep {
    let seen = Arc::clone(seen);
    let reader = |_: &StepScope| Ok(FaultyReader::new(Sequence::to(64), &FaultPlan::default()));
    let process = move |number: &u64| {
        seen.lock().unwrap().push(*number);
        Ok(Some(*number))
    };
    type Total = BTreeMap<String, u64>;
    let total = |total: u64| Total::from([("total".to_owned(), total)]);
    ProgressiveStep::builder("rate")
        .units(ItemUnits::new(reader))
        .process(process)
        .reduce(
            move |sum: Option<Total>, number| Ok(total(sum.map_or(0, |sum| sum["total"]) + number)),
            move |left: Total, right: Total| Ok(total(left["total"] + right["total"])),
        )
        .on_failed(OnFailed::Continue)
        .lanes(2)
        .target(Duration::from_millis(300))
        .build()
}

#[test]
fn a_final_response_is_there_until_it_is_acknowledged() {
    for place in OldStore::since(4) {
        let id = place.numbers("SELECT execution_id FROM bw_response")[0];
        let operator =
            place.operator(Job::builder("rate").step(rate(&Seen::default())).build().unwrap());
        let id = ExecutionId(id.cast_signed());
        let response = operator.progressive().response(id, None).unwrap().unwrap();
        let body = r#"{"result":{"total":10},"units_done":4,"units_failed":2}"#;
        assert_eq!((response.status, &*response.body), (200, body.as_bytes()));
        assert_eq!(response.headers, [("content-type".to_owned(), "application/json".to_owned())]);
        assert!(!response.is_acknowledged);
        assert!(operator.progressive().acknowledge(id, None).unwrap());
    }
}

#[test]
fn a_request_that_started_an_execution_starts_no_second_one() {
    for place in OldStore::since(5) {
        let stored = place.rows("SELECT request_key, fingerprint FROM bw_request");
        let [Value::Text(key), Value::Text(fingerprint)] = &*stored[0] else {
            panic!("{stored:?}")
        };
        let request = RequestKey { key: key.clone(), fingerprint: fingerprint.clone() };
        let operator = JobOperator::new(place.open());
        assert_eq!(operator.explorer().requested(&request).unwrap(), Some(ExecutionId(9)));
    }
}

#[test]
fn triggers_slots_and_rules_read_as_they_were_stored() {
    use batchwright::store::schedule::{ScheduleStore as _, TriggerRow, TriggerStatus};
    use batchwright_store::{SqlSchedule, StoreOptions};
    let key = |row: &TriggerRow| format!("{} {}", row.key.identifier, row.status);
    for place in OldStore::since(1) {
        place.open();
        let database = place.database().into();
        let mut store = SqlSchedule::open(&database, &StoreOptions::default()).unwrap();
        let mut tx = store.begin().unwrap();
        let listed = tx.list("", "", 10).unwrap();
        let rules = tx.rules().unwrap();
        if place.version < 3 {
            assert_eq!((listed.len(), rules.len(), tx.rules_version().unwrap()), (0, 0, 0));
            continue;
        }
        let found: Vec<_> = listed.iter().map(key).collect();
        assert_eq!(
            found,
            ["app.once planned", "app.past executed", "app.tick paused", "nightly planned"]
        );
        let nightly = "cron \"0 30 2 * * *\" tz Europe/Berlin misfire all overlap queue queue 3";
        assert_eq!(listed[3].plan.as_deref(), Some(nightly));
        let word = if place.version < 5 { "from" } else { "anchor" };
        let tick = listed[2].plan.as_deref().unwrap();
        assert!(tick.starts_with(&format!("every 1s {word} 2026-11-28T11:0")), "{tick}");
        // Only the two planned triggers are due some time, the recurring one first.
        assert_eq!(
            tx.due(i64::MAX, 10).unwrap().iter().map(key).collect::<Vec<_>>(),
            ["nightly planned", "app.once planned"]
        );
        assert_eq!(tx.next_due().unwrap(), Some(listed[3].slot));
        let slots = tx.slots("app.tick").unwrap();
        assert!(slots.len() >= 2);
        assert!(slots.iter().all(|slot| slot.status == TriggerStatus::Executed));
        assert!(
            slots.iter().all(|slot| slot.rule.as_deref() == Some("mail") && slot.due.is_none())
        );
        assert!(
            slots
                .iter()
                .all(|slot| slot.key.occurrence == slot.slot && slot.fired_at >= Some(slot.slot))
        );
        let rules: Vec<_> = rules.iter().map(|rule| (&*rule.identifier, &*rule.pattern)).collect();
        assert_eq!(rules, [("day", "nightly"), ("mail", "app.")]);
        assert_eq!(tx.rules_version().unwrap(), 2);
        assert_eq!(tx.servers().unwrap(), []);
    }
}

/// The migrations of the servers, which begin with version 2.
const POSTGRES: [(i64, &str); 5] = [
    (2, include_str!("../migrations/postgres/0002_init.sql")),
    (3, include_str!("../migrations/postgres/0003_scheduler.sql")),
    (4, include_str!("../migrations/postgres/0004_progressive.sql")),
    (5, include_str!("../migrations/postgres/0005_requests.sql")),
    (6, include_str!("../migrations/postgres/0006_facts.sql")),
];
const MYSQL: [(i64, &str); 5] = [
    (2, include_str!("../migrations/mysql/0002_init.sql")),
    (3, include_str!("../migrations/mysql/0003_scheduler.sql")),
    (4, include_str!("../migrations/mysql/0004_progressive.sql")),
    (5, include_str!("../migrations/mysql/0005_requests.sql")),
    (6, include_str!("../migrations/mysql/0006_facts.sql")),
];

/// Makes the store of `old` on a server: the first migrations, and the rows of the fixture.
fn copy_to_server(old: &OldStore, server: &common::Place) {
    let migrations = if server.kind == Kind::Postgres { POSTGRES } else { MYSQL };
    let mut all = vec![
        "CREATE TABLE bw_schema_version (version BIGINT PRIMARY KEY, name VARCHAR(255) NOT NULL,
             applied_at VARCHAR(255) NOT NULL)"
            .to_owned(),
    ];
    for (_, text) in migrations.iter().filter(|(version, _)| *version <= old.version) {
        all.push(text.replace("{p}", "bw_").trim_end().trim_end_matches(';').to_owned());
    }
    for table in ["input", "output", "waited", "part"] {
        all.push(format!(
            "CREATE TABLE {table} (id BIGINT PRIMARY KEY, name VARCHAR(255) NOT NULL)"
        ));
    }
    // In the order of their creation, which is that of their references.
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY rowid";
    for table in old.lines(tables) {
        let is_schedule = ["bw_trigger", "bw_rule", "bw_schedule", "bw_server"].contains(&&*table);
        if server.kind == Kind::Postgres || !is_schedule {
            all.append(&mut rows_for(server.kind, old, &table));
        }
    }
    server.run(&all.join(";\n"));
}

/// The statements that copy a table to a server of `kind`.
fn rows_for(kind: Kind, old: &OldStore, table: &str) -> Vec<String> {
    let columns = old.lines(&format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid"));
    let (quote, given) = match kind {
        Kind::Postgres => ('"', "OVERRIDING SYSTEM VALUE"),
        _ => ('`', ""),
    };
    let names: Vec<_> = columns.iter().map(|name| format!("{quote}{name}{quote}")).collect();
    // A migration makes the row of this table.
    let mut all = match table {
        "bw_schedule" => vec!["DELETE FROM bw_schedule".to_owned()],
        _ => Vec::new(),
    };
    for row in old.rows(&format!("SELECT * FROM \"{table}\"")) {
        let values: Vec<_> = row.into_iter().map(|value| literal(kind, value)).collect();
        let (names, values) = (names.join(", "), values.join(", "));
        all.push(format!("INSERT INTO {table} ({names}) {given} VALUES ({values})"));
    }
    let is_numbered = columns[0] == "id" && table.starts_with("bw_") && table != "bw_store";
    if kind == Kind::Postgres && is_numbered {
        all.push(format!(
            "SELECT setval(pg_get_serial_sequence('{table}', 'id'), coalesce(max(id), 0) + 1, false) FROM {table}"
        ));
    }
    all
}

/// A value as SQL.
fn literal(kind: Kind, value: Value) -> String {
    match (value, kind) {
        (Value::Null, _) => "NULL".to_owned(),
        (Value::Integer(number), _) => number.to_string(),
        (Value::Text(text), Kind::MySql) => {
            format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
        }
        (Value::Text(text), _) => format!("'{}'", text.replace('\'', "''")),
        (Value::Blob(bytes), _) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            if kind == Kind::MySql { format!("X'{hex}'") } else { format!("'\\x{hex}'") }
        }
        (Value::Real(number), _) => panic!("{number}: no column is a float"),
    }
}

/// Everything that the queries return of a store.
fn everything(store: &SqlRepository) -> String {
    let mut found = Vec::new();
    for execution in store.executions(&ExecutionFilter::default()).unwrap() {
        let id = execution.id;
        found.push(format!("{execution:?}"));
        found.push(format!("{:?}", store.instance(execution.instance_id).unwrap()));
        found.push(format!("{:?}", store.steps(id).unwrap()));
        found.push(format!("{:?}", store.skips(id).unwrap()));
        found.push(format!("{:?}", store.events(id).unwrap()));
        found.push(format!("{:?}", store.slices().progressive_state(id).unwrap()));
        found.push(format!("{:?}", store.slices().response(id).unwrap()));
    }
    found.join("\n")
}

#[test]
fn old_stores_on_servers_read_as_on_sqlite_and_continue() {
    for kind in common::servers() {
        for old in OldStore::since(2) {
            let server = common::Place::new(kind);
            copy_to_server(&old, &server);
            let store = server.repository();
            assert_eq!(server.numbers("SELECT max(version) FROM bw_schema_version"), [newest()]);
            assert_eq!(
                everything(&store),
                everything(&old.open()),
                "{kind:?}, version {}",
                old.version
            );

            let seen = Seen::default();
            let step = copy(server.database(), "copy", 3, "output", &seen);
            let operator = JobOperator::new(store);
            operator.registry().register(Job::builder("load").step(step).build().unwrap()).unwrap();
            let done = restart(&operator, LOAD);
            assert_eq!(done.status, BatchStatus::Completed, "{kind:?}: {:?}", done.failure);
            assert_eq!(
                sorted(&seen),
                (7..=12).collect::<Vec<_>>(),
                "{kind:?}, version {}",
                old.version
            );
            assert_eq!(server.numbers("SELECT count(*) FROM output"), [11]);
        }
    }
}

fn line(values: &[String]) -> String {
    values.join("|")
}

fn some(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}
