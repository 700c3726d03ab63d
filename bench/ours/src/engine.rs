//! The workloads done with Batchwright, used as its documentation recommends.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use batchwright::event::{Change, Event};
use batchwright::item::{AsyncItemReader, NoWriter, Page};
use batchwright::step::{Flow, Processors, Step};
use batchwright::store::{Durability, JobRepository};
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, MemoryRepository,
    Sequence, TaskletStep,
};
use batchwright_items::format::csv::{CsvReader, CsvWriter};
use batchwright_items::format::json_lines::JsonLinesWriter;
use batchwright_store::{SqlRepository, SqlWriter, SqliteDatabase, StoreOptions};

use crate::plain::{Borrowed, database};
use crate::servers;
use crate::work::{CHUNK, Outcome, Task, Trade, Valued, step, timed};

pub(crate) fn run(work: &str, task: &Task) -> Outcome {
    let sqlite = |durability| store(&task.output, durability);
    match work {
        "memory" => execute(Arc::new(MemoryRepository::new()), numbers(task, CHUNK)),
        "memory-async" => execute(Arc::new(MemoryRepository::new()), asynchronous(task)),
        "memory-sqlite" => execute(sqlite(Durability::Process)?, numbers(task, CHUNK)),
        "commits-normal" => execute(sqlite(Durability::Process)?, numbers(task, 10)),
        "commits-full" => execute(sqlite(Durability::Power)?, numbers(task, 10)),
        "empty" => empty_jobs(sqlite(Durability::Process)?),
        "empty-full" => empty_jobs(sqlite(Durability::Power)?),
        "csv-csv" => execute(beside(task)?, csv(task).writer(CsvWriter::new(&task.output)).build()),
        "csv-csv-observed" => {
            observed(beside(task)?, csv(task).writer(CsvWriter::new(&task.output)).build())
        }
        "csv-csv-borrowed" => {
            let step = ChunkStepBuilder::new("value").reader(borrowed(task)).chunk_size(CHUNK);
            execute(beside(task)?, step.writer(CsvWriter::new(&task.output)).build())
        }
        "csv-csv-one" => {
            let step = csv(task).writer(CsvWriter::new(&task.output));
            execute(beside(task)?, step.parallelism(1).read_ahead(0).build())
        }
        "csv-jsonl" => {
            execute(beside(task)?, csv(task).writer(JsonLinesWriter::new(&task.output)).build())
        }
        "csv-sqlite" => {
            drop(database(task)?);
            let repository = open(&task.output, Durability::Process)?;
            execute(repository, csv(task).writer(valued("valued")).build())
        }
        "csv-postgres" | "csv-mariadb" => {
            let server = work.trim_start_matches("csv-");
            servers::on_server(server, servers::TABLE)?;
            let repository = Arc::new(SqlRepository::connect(&servers::url(server))?);
            let parameters = JobParameters::new().with("run", std::process::id());
            execute_with(repository, csv(task).writer(valued("bench_valued")).build(), &parameters)
        }
        other => Err(format!("the engine has no workload `{other}`").into()),
    }
}

type Repository = Arc<dyn JobRepository>;
type Error = Box<dyn std::error::Error>;

fn open(path: &Path, durability: Durability) -> Result<Repository, Error> {
    let options = StoreOptions { durability, ..StoreOptions::default() };
    Ok(Arc::new(SqlRepository::open(SqliteDatabase::at(path).into(), &options)?))
}

/// Opens a new store.
fn store(path: &Path, durability: Durability) -> Result<Repository, Error> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
    open(path, durability)
}

/// Opens a new store next to the output file.
fn beside(task: &Task) -> Result<Repository, Error> {
    store(&task.output.with_extension("store"), Durability::Process)
}

/// Returns a writer of the outputs to `table` in the store's own database.
fn valued(table: &str) -> SqlWriter<Valued> {
    let columns = ["id", "account", "symbol", "value"];
    SqlWriter::in_store(table, columns, |one: &Valued, row| {
        row.bind(one.id as i64)?;
        row.bind(&one.account)?;
        row.bind(&one.symbol)?;
        row.bind(one.value)
    })
}

fn execute(repository: Repository, step: impl Step + 'static) -> Outcome {
    execute_with(repository, step, &JobParameters::new())
}

fn execute_with(
    repository: Repository,
    step: impl Step + 'static,
    parameters: &JobParameters,
) -> Outcome {
    let operator = JobOperator::new(repository);
    operator.registry().register(Job::builder("bench").step(step).build()?)?;
    timed(|| run_once(&operator, parameters.clone()))
}

/// As [`execute`], with an observer that looks at each event.
fn observed(repository: Repository, step: impl Step + 'static) -> Outcome {
    let seen = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&seen);
    let operator = JobOperator::builder(repository)
        .observer(move |event: &Event| {
            let written = match &event.change {
                Change::ChunkCommitted { counters, .. } => counters.write,
                _ => 0,
            };
            counted.store(written, Ordering::Relaxed);
        })
        .build();
    operator.registry().register(Job::builder("bench").step(step).build()?)?;
    timed(|| run_once(&operator, JobParameters::new()))
}

fn run_once(operator: &JobOperator, parameters: JobParameters) -> Result<(), Error> {
    let done = operator.start("bench", parameters)?.wait()?;
    match done.status {
        BatchStatus::Completed => Ok(()),
        _ => Err(format!("ended {}: {:?}", done.status, done.failure).into()),
    }
}

/// Measures the mean time of many jobs that do nothing, from start to end, after a warm-up job.
fn empty_jobs(repository: Repository) -> Outcome {
    let step = TaskletStep::new("nothing", |_| Ok(Flow::Finished));
    let operator = JobOperator::new(repository);
    operator.registry().register(Job::builder("bench").step(step).build()?)?;
    run_once(&operator, JobParameters::new())?;
    let total = timed(|| {
        (1..=EMPTY_JOBS).try_for_each(|n| run_once(&operator, JobParameters::new().with("n", n)))
    })?;
    Ok(total / EMPTY_JOBS)
}

/// Number of jobs, large enough that one slow commit does not decide the mean.
const EMPTY_JOBS: u32 = 200;

fn numbers(task: &Task, chunk: usize) -> impl Step + use<> {
    ChunkStepBuilder::new("numbers")
        .reader(Sequence::to(task.count))
        .processor(|n: &u64| Ok(Some(step(*n))))
        .writer(NoWriter::new())
        .chunk_size(chunk)
        .build()
}

/// Pages of a chunk each, which are ready at once.
#[derive(Clone)]
struct Pages {
    count: u64,
}

impl AsyncItemReader for Pages {
    type Item = u64;
    type Position = u64;

    async fn read_page(&mut self, from: Option<&u64>) -> Result<Page<u64, u64>, ItemError> {
        let from = from.copied().unwrap_or(0);
        let to = (from + CHUNK as u64).min(self.count);
        Ok(Page { items: (from..to).collect(), next: (to < self.count).then_some(to) })
    }
}

/// An asynchronous reader, processor and writer whose futures are ready at once.
fn asynchronous(task: &Task) -> impl Step + use<> {
    ChunkStepBuilder::new("numbers")
        .async_reader(Pages { count: task.count })
        .process_async(64, async |n: &u64| Ok(Some(step(*n))))
        .async_writer(async |items: &[u64], _: &str| {
            std::hint::black_box(items);
            Ok(())
        })
        .chunk_size(CHUNK)
        .read_ahead(0)
        .build()
}

/// Reads trades whose texts are parts of the record, and makes of each what is written.
fn borrowed(task: &Task) -> CsvReader<Valued> {
    CsvReader::decoding(&task.input, |record| {
        let Borrowed { id, account, symbol, quantity, price, .. } = record.deserialize()?;
        let value = f64::from(quantity) * price;
        Ok(Valued { id, account: account.to_owned(), symbol: symbol.to_owned(), value })
    })
}

type Values = fn(&Trade) -> Result<Option<Valued>, ItemError>;

fn csv(task: &Task) -> ChunkStepBuilder<CsvReader<Trade>, Processors<Values>> {
    ChunkStepBuilder::new("value")
        .reader(CsvReader::<Trade>::new(&task.input))
        .processor((|trade: &Trade| Ok(Some(Valued::of(trade)))) as Values)
        .chunk_size(CHUNK)
}
