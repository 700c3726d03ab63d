//! The workloads done with oxide-batch.
//!
//! A chunk job is launched through the in-memory job repository with monomorphised components.
//! The crate ships no in-memory chunk transactions, only `PostgreSQL`'s, so this supplies the
//! no-op ones of its reference pipeline: nothing enlists, every commit returns the same receipt.
//! No item streams are registered, since no durable store could keep their positions. The crate's
//! file writers sync the file's data after every chunk, and the JSON Lines one does not buffer.

use std::fs::File;
use std::future::ready;
use std::hint::black_box;
use std::io::BufReader;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use oxide_batch::item_components::{
    DelimitedDialect, DelimitedReader, DelimitedRecord, IterReader, JsonLinesFormat,
    delimited_reader, delimited_writer, jsonl_writer,
};
use oxide_batch::{
    BoxFuture, BusinessTransaction, Checkpoint, ChunkCommitReceipt, ChunkCounts, ChunkDeliveryMode,
    ChunkExecutionOutcome, ChunkFaultProgress, ChunkPipelineBuilder, ChunkRestartContract,
    ChunkSize, ChunkTransaction, ChunkTransactionError, ChunkTransactionManager, ComponentRevision,
    ComponentStreamIdentity, DefinitionRevision, ExecutionContext, InMemoryJobRepository,
    ItemProcessor, ItemReader, ItemWriter, JobLauncher, JobName, JobParameters, ProcessContext,
    ProcessOutcome, ProcessorError, SequentialIdGenerator, StateLimits, StateSchemaId,
    StateSchemaVersion, StepName, StopSource, SystemClock, WriteContext, WriteOutcome, WriterError,
};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::work::{BUFFER, Trade, Valued, clear, scramble, timed};
use crate::{CHUNK, Files, Outcome, Result, Work};

const CHECKPOINT: &str = "peers.checkpoint";
const CONTEXT: &str = "peers.context";

struct NoTransactions {
    receipt: ChunkCommitReceipt,
}

impl ChunkTransactionManager for NoTransactions {
    fn begin(
        &self,
    ) -> BoxFuture<'_, std::result::Result<Box<dyn ChunkTransaction + '_>, ChunkTransactionError>>
    {
        let transaction: Box<dyn ChunkTransaction + '_> = Box::new(NoTransaction(&self.receipt));
        Box::pin(ready(Ok(transaction)))
    }
}

struct NoTransaction<'a>(&'a ChunkCommitReceipt);

impl ChunkTransaction for NoTransaction<'_> {
    fn business_transaction(&mut self) -> Option<&mut dyn BusinessTransaction> {
        None
    }

    fn commit(
        &mut self,
        _counts: ChunkCounts,
        _fault: ChunkFaultProgress,
    ) -> BoxFuture<'_, std::result::Result<ChunkCommitReceipt, ChunkTransactionError>> {
        Box::pin(ready(Ok(self.0.clone())))
    }

    fn rollback(&mut self) -> BoxFuture<'_, std::result::Result<(), ChunkTransactionError>> {
        Box::pin(ready(Ok(())))
    }
}

struct Scramble;

impl ItemProcessor<u64, u64> for Scramble {
    async fn process(
        &self,
        item: &u64,
        _context: ProcessContext<'_>,
    ) -> std::result::Result<ProcessOutcome<u64>, ProcessorError> {
        Ok(ProcessOutcome::Item(scramble(*item)))
    }
}

struct Discard;

impl ItemWriter<u64> for Discard {
    async fn write(
        &self,
        items: &[u64],
        _context: WriteContext<'_>,
    ) -> std::result::Result<WriteOutcome, WriterError> {
        black_box(items);
        Ok(WriteOutcome::Written)
    }
}

/// A trade, or nothing when the record was not one: the reader's conversion cannot fail, so the
/// processor reports it. The reader has no serde layer, and this takes its strings as they are.
struct Row(Option<Trade>);

impl From<DelimitedRecord> for Row {
    fn from(record: DelimitedRecord) -> Self {
        Self(trade(record))
    }
}

fn trade(record: DelimitedRecord) -> Option<Trade> {
    let mut fields = record.into_fields().into_iter();
    Some(Trade {
        id: fields.next()?.parse().ok()?,
        account: fields.next()?,
        symbol: fields.next()?,
        quantity: fields.next()?.parse().ok()?,
        price: fields.next()?.parse().ok()?,
        note: fields.next()?,
    })
}

struct Evaluate;

impl ItemProcessor<Row, Valued> for Evaluate {
    async fn process(
        &self,
        item: &Row,
        _context: ProcessContext<'_>,
    ) -> std::result::Result<ProcessOutcome<Valued>, ProcessorError> {
        let trade = item.0.as_ref().ok_or_else(ProcessorError::new)?;
        Ok(ProcessOutcome::Item(Valued {
            id: trade.id,
            account: trade.account.clone(),
            symbol: trade.symbol.clone(),
            value: trade.value(),
        }))
    }
}

impl From<Valued> for DelimitedRecord {
    fn from(item: Valued) -> Self {
        let value = ryu::Buffer::new().format(item.value).to_owned();
        Self::new(vec![item.id.to_string(), item.account, item.symbol, value])
    }
}

impl From<Valued> for Value {
    fn from(item: Valued) -> Self {
        let mut object = Map::new();
        object.insert("id".to_owned(), item.id.into());
        object.insert("account".to_owned(), item.account.into());
        object.insert("symbol".to_owned(), item.symbol.into());
        object.insert("value".to_owned(), item.value.into());
        Self::Object(object)
    }
}

pub fn run(work: &Work) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let elapsed = match work {
        Work::Memory { count } => {
            time::<u64, u64, _, _, _>(&runtime, IterReader::new(0..*count), Scramble, Discard)?
        }
        Work::CsvCsv(files) => csv_csv(&runtime, files)?,
        Work::CsvJsonl(files) => csv_jsonl(&runtime, files)?,
        Work::CsvSqlite(_) => {
            return Ok(Outcome::Impossible(
                "oxide-batch 0.6.0 has no SQLite writer: PostgreSQL is its only database",
            ));
        }
    };
    Ok(Outcome::Ran(elapsed))
}

/// Runs `csv-csv`. The writer has no headers, so the header is written as a record before the job.
fn csv_csv(runtime: &Runtime, files: &Files) -> Result<Duration> {
    clear(&files.output)?;
    let dialect = DelimitedDialect::csv();
    let identity = ComponentStreamIdentity::new("peers.writer")?;
    let (writer, _stream, _contract) = delimited_writer(&files.output, dialect, identity)?;
    let header = DelimitedRecord::new(["id", "account", "symbol", "value"].map(Into::into).into());
    let (_source, stop) = StopSource::new();
    runtime.block_on(writer.write(&[header], WriteContext::non_transactional(&stop)))?;
    time::<Row, Valued, _, _, _>(runtime, trades(files)?, Evaluate, writer)
}

fn csv_jsonl(runtime: &Runtime, files: &Files) -> Result<Duration> {
    clear(&files.output)?;
    let identity = ComponentStreamIdentity::new("peers.writer")?;
    let format = JsonLinesFormat::new();
    let (writer, _stream, _contract) = jsonl_writer(&files.output, format, identity)?;
    time::<Row, Valued, _, _, _>(runtime, trades(files)?, Evaluate, writer)
}

fn trades(files: &Files) -> Result<DelimitedReader<BufReader<File>>> {
    let input = BufReader::with_capacity(BUFFER, File::open(&files.input)?);
    let dialect = DelimitedDialect::csv().with_headers(true);
    let identity = ComponentStreamIdentity::new("peers.reader")?;
    let (reader, _stream, _contract) = delimited_reader::<Row, _>(input, dialect, identity);
    Ok(reader)
}

fn receipt() -> Result<ChunkCommitReceipt> {
    let checkpoint = envelope("oxide-batch.checkpoint", CHECKPOINT);
    let context = envelope("oxide-batch.execution-context", CONTEXT);
    Ok(ChunkCommitReceipt::new(
        Checkpoint::from_json(&checkpoint, StateLimits::default())?,
        ExecutionContext::from_json(&context, StateLimits::default())?,
    ))
}

/// Returns the bytes of an empty state of the given format and schema.
fn envelope(format: &str, schema: &str) -> Vec<u8> {
    let state = json!({
        "format": format,
        "format_version": 1,
        "schema": schema,
        "schema_version": 1,
        "payload": {},
    });
    state.to_string().into_bytes()
}

/// Launches a one-step chunk job over the three components and times the launch.
fn time<I, O, R, P, W>(runtime: &Runtime, reader: R, processor: P, writer: W) -> Result<Duration>
where
    I: Send + Sync + 'static,
    O: Send + Sync + 'static,
    R: ItemReader<I> + 'static,
    P: ItemProcessor<I, O> + 'static,
    W: ItemWriter<O> + 'static,
{
    let restart = ChunkRestartContract::new(
        StateSchemaId::new(CHECKPOINT)?,
        StateSchemaVersion::new(1)?,
        StateSchemaId::new(CONTEXT)?,
        StateSchemaVersion::new(1)?,
        ChunkDeliveryMode::AtLeastOnce,
    );
    let mut job = ChunkPipelineBuilder::new(
        StepName::new("work")?,
        ChunkSize::new(CHUNK.into())?,
        reader,
        ComponentRevision::new("reader-v1")?,
        processor,
        ComponentRevision::new("processor-v1")?,
        writer,
        ComponentRevision::new("writer-v1")?,
        ComponentRevision::new("checkpoint-v1")?,
        restart,
        Arc::new(NoTransactions { receipt: receipt()? }),
    )
    .build_chunk_job(JobName::new("peers")?, DefinitionRevision::new("v1")?)?;

    let clock = Arc::new(SystemClock);
    let ids = Arc::new(SequentialIdGenerator::new(NonZeroU64::MIN));
    let repository = InMemoryJobRepository::new(clock.clone(), ids.clone());
    let launcher = JobLauncher::new(&repository, clock.as_ref(), ids.as_ref());
    let parameters = JobParameters::new();
    let (_source, stop) = StopSource::new();

    let launch = launcher.launch_chunk(&mut job, &parameters, &stop);
    let (report, elapsed) = timed(|| runtime.block_on(launch));
    let report = report?;
    let chunks = report.chunk().ok_or("the launch ran no chunk step")?;
    if chunks.outcome() != ChunkExecutionOutcome::Completed {
        return Err(format!("the step ended as {:?}", chunks.outcome()).into());
    }
    Ok(elapsed)
}
