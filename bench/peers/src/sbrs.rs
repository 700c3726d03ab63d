//! The workloads done with spring-batch-rs.
//!
//! Its engine is synchronous and keeps no repository: a job's executions live in the job value.
//! Readers, processors and writers are the crate's own wherever it ships one, built from buffered
//! files as its own benchmark example does.

use std::cell::Cell;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::time::Duration;

use spring_batch_rs::core::item::{
    ItemProcessor, ItemProcessorResult, ItemReader, ItemReaderResult, ItemWriter, ItemWriterResult,
};
use spring_batch_rs::core::job::{Job, JobBuilder};
use spring_batch_rs::core::step::StepBuilder;
use spring_batch_rs::item::csv::csv_reader::{CsvItemReader, CsvItemReaderBuilder};
use spring_batch_rs::item::csv::csv_writer::CsvItemWriterBuilder;
use spring_batch_rs::item::rdbc::RdbcItemWriterBuilder;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use crate::work::{BUFFER, Trade, Valued, clear, scramble, timed};
use crate::{CHUNK, Files, Outcome, Result, Work};

const STEP: &str = "work";

struct Numbers {
    next: Cell<u64>,
    end: u64,
}

impl ItemReader<u64> for Numbers {
    fn read(&self) -> ItemReaderResult<u64> {
        let n = self.next.get();
        if n == self.end {
            return Ok(None);
        }
        self.next.set(n + 1);
        Ok(Some(n))
    }
}

struct Scramble;

impl ItemProcessor<u64, u64> for Scramble {
    fn process(&self, item: u64) -> ItemProcessorResult<u64> {
        Ok(Some(scramble(item)))
    }
}

struct Discard;

impl ItemWriter<u64> for Discard {
    fn write(&self, items: &[u64]) -> ItemWriterResult {
        black_box(items);
        Ok(())
    }
}

struct Value;

impl ItemProcessor<Trade, Valued> for Value {
    fn process(&self, item: Trade) -> ItemProcessorResult<Valued> {
        let value = item.value();
        Ok(Some(Valued { id: item.id, account: item.account, symbol: item.symbol, value }))
    }
}

pub fn run(work: &Work) -> Result<Outcome> {
    let elapsed = match work {
        Work::Memory { count } => {
            time(&Numbers { next: Cell::new(0), end: *count }, &Scramble, &Discard)?
        }
        Work::CsvCsv(files) => csv_csv(files)?,
        Work::CsvJsonl(_) => {
            return Ok(Outcome::Impossible(
                "spring-batch-rs 0.4.1 has no JSON Lines writer: its JSON writer makes one array",
            ));
        }
        Work::CsvSqlite(files) => csv_sqlite(files)?,
    };
    Ok(Outcome::Ran(elapsed))
}

fn csv_csv(files: &Files) -> Result<Duration> {
    let reader = trades(&files.input)?;
    let output = BufWriter::with_capacity(BUFFER, File::create(&files.output)?);
    let writer = CsvItemWriterBuilder::<Valued>::new().has_headers(true).from_writer(output);
    time(&reader, &Value, &writer)
}

/// Runs `csv-sqlite`, inside a multi-threaded runtime because the database writer blocks in place.
fn csv_sqlite(files: &Files) -> Result<Duration> {
    for suffix in ["", "-wal", "-shm"] {
        let mut path = files.output.clone().into_os_string();
        path.push(suffix);
        clear(Path::new(&path))?;
    }
    let reader = trades(&files.input)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let pool = open(&files.output).await?;
        let writer = RdbcItemWriterBuilder::<Valued>::new()
            .sqlite(&pool)
            .table("valued")
            .column("id", |item: &Valued| item.id.cast_signed().into())
            .column("account", |item: &Valued| item.account.as_str().into())
            .column("symbol", |item: &Valued| item.symbol.as_str().into())
            .column("value", |item: &Valued| item.value.into())
            .build_sqlite();
        let elapsed = time(&reader, &Value, &writer)?;
        pool.close().await;
        Ok(elapsed)
    })
}

/// Opens a pool of one connection: the step writes from one thread, and a statement is prepared once per
/// connection.
async fn open(path: &Path) -> Result<SqlitePool> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    sqlx::query(
        "CREATE TABLE valued(id INTEGER PRIMARY KEY, account TEXT, symbol TEXT, value REAL)",
    )
    .execute(&pool)
    .await?;
    Ok(pool)
}

fn trades(path: &Path) -> Result<CsvItemReader<BufReader<File>>> {
    let input = BufReader::with_capacity(BUFFER, File::open(path)?);
    Ok(CsvItemReaderBuilder::<Trade>::new().has_headers(true).from_reader(input))
}

/// Runs a one-step job over the three components and times the run.
fn time<I, O>(
    reader: &dyn ItemReader<I>,
    processor: &dyn ItemProcessor<I, O>,
    writer: &dyn ItemWriter<O>,
) -> Result<Duration> {
    let step = StepBuilder::new(STEP)
        .chunk::<I, O>(CHUNK)
        .reader(reader)
        .processor(processor)
        .writer(writer)
        .build();
    let job = JobBuilder::new().name("peers".to_string()).start(&step).build();
    let (result, elapsed) = timed(|| job.run());
    result?;
    let step = job.get_step_execution(STEP).ok_or("the step left no execution")?;
    if step.write_count != step.read_count {
        return Err(format!("read {} but wrote {}", step.read_count, step.write_count).into());
    }
    Ok(elapsed)
}
