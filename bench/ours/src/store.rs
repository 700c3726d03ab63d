//! Measures queries on a store with very many executions.

use std::time::{Duration, Instant};

use batchwright::clock::Clock as _;
use batchwright::execution::ExecutionId;
use batchwright::query::{ExecutionFilter, InstancePage, Queries};
use batchwright::step::Flow;
use batchwright::{BatchStatus, Job, JobOperator, JobParameters, TaskletStep};
use batchwright_store::{SqlRepository, SqliteDatabase};
use std::sync::Arc;

use crate::servers;
use crate::work::{Outcome, Task, timed};

/// Number of jobs that the executions belong to.
const JOBS: u64 = 100;
/// Number of times that each query runs; the median counts.
const ASKED: usize = 21;

type Failure = Box<dyn std::error::Error>;

/// Fills a store with `task.count` executions, then prints the time of each query.
pub(crate) fn run(work: &str, task: &Task) -> Outcome {
    timed(|| {
        let (kind, only_fills) = match work.strip_prefix("fill-") {
            Some(kind) => (kind, true),
            None => (work, false),
        };
        let repository = Arc::new(match kind {
            "sqlite" => filled_sqlite(task)?,
            _ => filled_postgres(task)?,
        });
        if only_fills { Ok(()) } else { measure(work, repository, task.count) }
    })
}

/// Microseconds between two executions: a million are some seven days.
const APART: u64 = 600_000;

/// Returns SQL that inserts rows like those of completed jobs with one step, the newest now; only the syntax differs between the
/// databases.
fn rows(series: &str, divide: &str, count: u64) -> String {
    let now = batchwright::clock::SystemClock::default().now().as_microsecond();
    let first = now - i64::try_from(count * APART).unwrap_or(now);
    let at = format!("{first} + n * {APART}");
    format!(
        "INSERT INTO bw_job_instance (job, key, created_at) SELECT 'job-' || (n % {JOBS}), 'key ' || n, {at} FROM {series};
         INSERT INTO bw_job_execution (instance_id, job, status, exit_code, exit_message, parameters, created_at,
             started_at, ended_at, fence, stop_requested, warnings, context, flow, version)
         SELECT n, 'job-' || (n % {JOBS}), CASE n % 50 WHEN 0 THEN 'FAILED' ELSE 'COMPLETED' END, 'COMPLETED', '',
             '{{}}', {at}, {at}, {at} + 5000000, 1, 0, '[]', '{{}}', '{{}}', 3
         FROM {series};
         INSERT INTO bw_step_execution (execution_id, name, status, exit_code, exit_message, read_count, write_count,
             filter_count, read_skip, process_skip, write_skip, commit_count, rollback_count, context, started_at,
             updated_at, handled)
         SELECT n, 'load', 'COMPLETED', 'COMPLETED', '', n {divide} 3, n {divide} 3, 0, 0, 0, 0, 7, 0, '{{}}', {at}, {at}, 0 FROM {series};"
    )
}

fn filled_sqlite(task: &Task) -> Result<SqlRepository, Failure> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = task.output.clone().into_os_string();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
    let url = format!("sqlite://{}?synchronous=normal", task.output.display());
    let repository = SqlRepository::connect(&url)?;
    let count = task.count;
    let series = format!(
        "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) SELECT n FROM s)"
    );
    let connection = SqliteDatabase::at(&task.output).connect()?;
    connection.execute_batch(&format!("BEGIN; {} COMMIT; ANALYZE", rows(&series, "/", count)))?;
    Ok(repository)
}

fn filled_postgres(task: &Task) -> Result<SqlRepository, Failure> {
    let drop_all: String = [
        "event",
        "skip_record",
        "step_execution",
        "job_execution",
        "job_instance",
        "audit",
        "store",
        "schema_version",
    ]
    .map(|table| format!("DROP TABLE IF EXISTS bw_{table} CASCADE;"))
    .concat();
    servers::on_server("postgres", &drop_all)?;
    let repository = SqlRepository::connect(&servers::url("postgres"))?;
    let series = format!("generate_series(1::BIGINT, {}) AS s(n)", task.count);
    servers::on_server("postgres", &rows(&series, "/", task.count))?;
    servers::on_server("postgres", "ANALYZE")?;
    Ok(repository)
}

/// A query that returns the number of rows it found.
type Ask<'a> = Box<dyn FnMut() -> Result<usize, Failure> + 'a>;

fn measure(work: &str, repository: Arc<SqlRepository>, count: u64) -> Result<(), Failure> {
    let operator = JobOperator::new(repository.clone());
    let step = TaskletStep::new("nothing", |_| Ok(Flow::Finished));
    operator.registry().register(Job::builder("job-7").step(step).build()?)?;
    let middle = ExecutionId(i64::try_from(count / 2)?);
    let of_job = || ExecutionFilter::of_job("job-7").limit(50);
    let failed = BatchStatus::Failed;
    let found = |filter: ExecutionFilter| -> Result<usize, Failure> {
        Ok(repository.executions(&filter)?.len())
    };
    let mut number = 0;
    let questions: Vec<(&str, Ask<'_>)> = vec![
        (
            "start a job of one empty step, to its end",
            Box::new(|| {
                number += 1;
                operator.start("job-7", JobParameters::new().with("n", number))?.wait()?;
                Ok(1)
            }),
        ),
        ("newest 50 executions", Box::new(|| found(ExecutionFilter::default().limit(50)))),
        ("newest 50 executions of a job", Box::new(|| found(of_job()))),
        (
            "50 executions of a job from the middle",
            Box::new(|| found(ExecutionFilter { before: Some(middle), ..of_job() })),
        ),
        ("newest 50 failed executions of a job", Box::new(|| found(of_job().status(failed)))),
        (
            "newest 50 failed executions",
            Box::new(|| found(ExecutionFilter::default().status(failed).limit(50))),
        ),
        ("all running executions", Box::new(|| found(ExecutionFilter::default().running()))),
        (
            "a page of instances of a job",
            Box::new(|| Ok(repository.instances("job-7", InstancePage::first(50))?.len())),
        ),
        (
            "number of executions of a job",
            Box::new(|| {
                let counted = repository.execution_count(&ExecutionFilter::of_job("job-7"))?;
                Ok(usize::try_from(counted)?)
            }),
        ),
        (
            "one execution with its steps",
            Box::new(|| {
                let execution = repository.execution(middle)?.ok_or("no such execution")?;
                Ok(repository.steps(execution.id)?.len())
            }),
        ),
        ("names of all jobs", Box::new(|| Ok(repository.job_names()?.len()))),
    ];
    for (what, mut ask) in questions {
        let mut times = Vec::new();
        for _ in 0..ASKED {
            times.push(once(&mut ask)?);
        }
        times.sort_unstable();
        eprintln!("{work:9} {what:44} {:8.3} ms", times[ASKED / 2].as_secs_f64() * 1e3);
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "measuring is the purpose")]
fn once(ask: &mut Ask<'_>) -> Result<Duration, Failure> {
    let start = Instant::now();
    ask()?;
    Ok(start.elapsed())
}
