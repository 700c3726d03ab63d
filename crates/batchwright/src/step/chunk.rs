//! Chunk steps: read, process and write items, and commit them with the checkpoint.

mod builder;
mod checkpoint;
mod fill;
mod listeners;
mod prepared;
mod process;
mod retries;
mod settle;

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

pub use builder::{ChunkStepBuilder, Missing, Processors};
pub use listeners::{ItemHooks, NoListeners, WithListeners};

use checkpoint::Checkpoint;
use fill::{Filled, Filler};
use process::{Processed, Processing};
use retries::Retries;
use settle::{Settled, Settler};

use super::{Step, StepEnd, StepOptions, StepRun};
use crate::clock::StopToken;
use crate::error::{ItemError, ItemErrorText, StepError};
use crate::execution::ExitStatus;
use crate::item::{
    DeadLetterFile, Ending, Factory, ItemProcessor, ItemReader, ItemWriter, guarded,
};
use crate::lifecycle;
use crate::listener::{ChunkListener, ItemListener, RetryListener, SkipListener};
use crate::policy::{Completion, SkipPolicy};
use crate::retry::{CircuitBreaker, RetryPolicy};
use crate::scope::StepScope;
use crate::threads::start;

/// A step that reads, processes and writes items. [`ChunkStepBuilder`] creates it; listeners of items are
/// added here, where the item types are known.
pub struct ChunkStep<R: ItemReader, P: ItemProcessor<R::Item>, W> {
    name: String,
    options: StepOptions,
    settings: Settings,
    reader: Factory<R>,
    processor: Factory<P>,
    writer: Factory<W>,
    hooks: Hooks<R::Item, P::Output>,
}

/// The settings of a chunk step, without its parts.
#[derive(Clone)]
struct Settings {
    completion: Completion,
    skip: SkipPolicy,
    retry: RetryPolicy,
    /// Number of chunks read ahead; `None` uses the reader's preference.
    read_ahead: Option<usize>,
    parallelism: usize,
    dead_letters: Option<Factory<std::path::PathBuf>>,
    /// Guards the processor and the writer.
    breaker: Option<CircuitBreaker>,
    stop_when: Option<StopWhen>,
}

/// Chunks read ahead by a reader that prefers it: enough to even out delays, few enough to use little memory.
const READ_AHEAD_DEFAULT: usize = 2;

/// A predicate that ends the step before a chunk.
type StopWhen = Arc<dyn Fn(&StepScope) -> bool + Send + Sync>;
/// A predicate that marks the last item of a chunk.
type Until<I> = Arc<dyn Fn(&I) -> bool + Send + Sync>;
/// A function that formats an item for skip records and dead letters.
type Render<T> = Arc<dyn Fn(&T) -> String + Send + Sync>;

/// The user's listeners and functions that see items.
#[doc(hidden)]
pub struct Hooks<I, O> {
    chunk: Vec<Arc<dyn ChunkListener<I, O>>>,
    item: Vec<Arc<dyn ItemListener<I, O>>>,
    skip: Vec<Arc<dyn SkipListener<I, O>>>,
    retry: Vec<Arc<dyn RetryListener>>,
    until: Option<Until<I>>,
    render_input: Option<Render<I>>,
    render_output: Option<Render<O>>,
}

impl<R: ItemReader, P: ItemProcessor<R::Item>, W> ChunkStep<R, P, W> {
    /// Adds a listener of chunks.
    #[must_use]
    pub fn chunk_listener(
        mut self,
        listener: impl ChunkListener<R::Item, P::Output> + 'static,
    ) -> Self {
        self.hooks.chunk.push(Arc::new(listener));
        self
    }

    /// Adds a listener of each read, process and write.
    #[must_use]
    pub fn item_listener(
        mut self,
        listener: impl ItemListener<R::Item, P::Output> + 'static,
    ) -> Self {
        self.hooks.item.push(Arc::new(listener));
        self
    }

    /// Adds a listener of skips.
    #[must_use]
    pub fn skip_listener(
        mut self,
        listener: impl SkipListener<R::Item, P::Output> + 'static,
    ) -> Self {
        self.hooks.skip.push(Arc::new(listener));
        self
    }

    /// Adds a listener of retries.
    #[must_use]
    pub fn retry_listener(mut self, listener: impl RetryListener + 'static) -> Self {
        self.hooks.retry.push(Arc::new(listener));
        self
    }

    /// Ends a chunk after each item for which `last` returns true, even when the chunk is not full.
    #[must_use]
    pub fn chunk_until(mut self, last: impl Fn(&R::Item) -> bool + Send + Sync + 'static) -> Self {
        self.hooks.until = Some(Arc::new(last));
        self
    }

    /// Keeps skipped items in their skip records (and in the dead letters): `input` formats inputs that could
    /// not be processed, `output` formats outputs that could not be written.
    #[must_use]
    pub fn keep_skipped(
        mut self,
        input: impl Fn(&R::Item) -> String + Send + Sync + 'static,
        output: impl Fn(&P::Output) -> String + Send + Sync + 'static,
    ) -> Self {
        self.hooks.render_input = Some(Arc::new(input));
        self.hooks.render_output = Some(Arc::new(output));
        self
    }
}

impl<R, P, W> Step for ChunkStep<R, P, W>
where
    R: ItemReader,
    P: ItemProcessor<R::Item>,
    W: ItemWriter<P::Output>,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> &StepOptions {
        &self.options
    }

    fn run(&self, run: &mut StepRun<'_>) -> Result<StepEnd, StepError> {
        let scope = run.scope.clone();
        let at = At { step: &self.name };
        // After a failure of the step, its reader and processors on other threads need not wait any longer.
        let parts = scope.with_stop(scope.stop().child());
        let mut reader = (self.reader)(&parts).map_err(at.component("reader", "create"))?;
        let processor = (self.processor)(&parts).map_err(at.component("processor", "create"))?;
        let mut writer = (self.writer)(&scope).map_err(at.component("writer", "create"))?;

        let mut checkpoint =
            Checkpoint::of(&run.step).map_err(|source| run.commit_failed(source))?;
        let result =
            self.open_and_carry(run, &parts, &mut checkpoint, &mut reader, &processor, &mut writer);
        let ending = match &result {
            Ok(StepEnd::Completed(_)) => Ending::Complete,
            _ => Ending::Incomplete,
        };
        // Reader and writer are always closed; the first error wins.
        let closed_reader = guarded(|| reader.close()).map_err(at.component("reader", "close"));
        let closed_writer =
            guarded(|| writer.close(ending)).map_err(at.component("writer", "close"));
        let ended = result.and_then(|end| closed_reader.and(closed_writer).map(|()| end));
        match ended {
            // A stop request cut a call short.
            Err(StepError::Component { source, .. }) if source.0.is_stop() => {
                run.roll_back(&source);
                Ok(StepEnd::Stopped)
            }
            ended => ended,
        }
    }
}

impl<R, P, W> ChunkStep<R, P, W>
where
    R: ItemReader,
    P: ItemProcessor<R::Item>,
    W: ItemWriter<P::Output>,
{
    fn open_and_carry(
        &self,
        run: &mut StepRun<'_>,
        parts: &StepScope,
        checkpoint: &mut Checkpoint,
        reader: &mut R,
        processor: &P,
        writer: &mut W,
    ) -> Result<StepEnd, StepError> {
        let scope = run.scope.clone();
        let at = At { step: &self.name };
        self.open_writer(run, checkpoint, writer)?;
        let dead_letters = self.open_dead_letters(checkpoint, &scope)?;
        let position = checkpoint.reader().map_err(at.component("reader", "restore"))?;
        guarded(|| reader.open(position, parts)).map_err(at.component("reader", "open"))?;

        let depth = match self.settings.read_ahead {
            Some(chunks) => chunks,
            None if reader.reads_ahead() => READ_AHEAD_DEFAULT,
            None => 0,
        };
        let (settings, hooks) = (&self.settings, &self.hooks);
        let retries = Retries {
            policy: &settings.retry,
            listeners: &hooks.retry,
            clock: run.clock(),
            scope: &scope,
        };
        let of_parts = Retries { scope: parts, ..retries };
        let mut filler = Filler::new(reader, settings, hooks, of_parts, checkpoint.resolved);
        let processing = Processing { processor, settings, hooks, retries: of_parts };
        let mut settler =
            Settler::new(run, writer, checkpoint, dead_letters, settings, hooks, retries);
        let end = match (depth, self.settings.parallelism) {
            (0, 1) => carry(&mut settler, |spare| {
                let spare = processing.reclaim(spare);
                processing.process(filler.fill(spare.items), spare.outputs)
            }),
            (depth, 1) => read_ahead(depth, parts.stop(), &mut filler, &processing, &mut settler),
            (depth, threads) => process_in_parallel(
                (depth.max(threads), threads),
                parts.stop(),
                &mut filler,
                &processing,
                &mut settler,
            ),
        }?;
        let is_complete = matches!(end, StepEnd::Completed(_));
        // All records are accounted for, so the dead letters are complete even if every record was skipped.
        settler.finish(is_complete)?;
        if is_complete {
            settler.fail_if_all_skipped()?;
        }
        Ok(end)
    }

    /// Opens the writer at its position. When the sink has committed a chunk that the store has not, the
    /// checkpoint becomes that of the sink.
    fn open_writer(
        &self,
        run: &mut StepRun<'_>,
        checkpoint: &mut Checkpoint,
        writer: &mut W,
    ) -> Result<(), StepError> {
        let at = At { step: &self.name };
        let position = checkpoint.writer().map_err(at.component("writer", "restore"))?;
        // An owner that lost its lease before this point must not touch the successor's output.
        lifecycle::still_owned(run.store(), run.lease)
            .map_err(|source| run.commit_failed(source))?;
        let ahead = guarded(|| writer.open(position, &run.scope)).or_else(|error| {
            super::split_lease_lost(error, &self.name, run.lease.execution)
                .map(Err)?
                .map_err(at.component("writer", "open"))
        })?;
        if let Some(prepared) = ahead {
            *checkpoint = prepared::finish_prepared(run, checkpoint, prepared)?;
        }
        Ok(())
    }

    fn open_dead_letters(
        &self,
        checkpoint: &Checkpoint,
        scope: &StepScope,
    ) -> Result<Option<DeadLetterFile>, StepError> {
        let at = At { step: &self.name };
        let Some(path) = &self.settings.dead_letters else { return Ok(None) };
        let path = path(scope).map_err(at.component("dead-letter file", "create"))?;
        let file = DeadLetterFile::open(&path, checkpoint.dead_letters(), scope);
        Ok(Some(file.map_err(at.component("dead-letter file", "open"))?))
    }
}

/// The records that a stored checkpoint accounts for.
pub(crate) struct RecordsRead {
    pub(crate) records: u64,
    pub(crate) all_skipped: bool,
}

/// Returns the records of a stored checkpoint; `None` when it is not one of a chunk step, or nothing was read.
pub(crate) fn records_read(checkpoint: Option<&str>) -> Option<RecordsRead> {
    let checkpoint = Checkpoint::parse(checkpoint?).ok()?;
    let (records, all_skipped) = (checkpoint.records, checkpoint.skipped_all());
    (records > 0).then_some(RecordsRead { records, all_skipped })
}

/// The main loop of a chunk step: takes chunk after chunk, in order, and settles each (write, save, commit)
/// until the input ends, a stop is requested, or a failure is not tolerated.
fn carry<I, O, W: ItemWriter<O>>(
    settler: &mut Settler<'_, '_, I, O, W>,
    mut next: impl FnMut(RecycledBuffers<I, O>) -> Processed<I, O>,
) -> Result<StepEnd, StepError> {
    let mut spare = RecycledBuffers::default();
    loop {
        if settler.stop_requested()? {
            return Ok(StepEnd::Stopped);
        }
        let mut chunk = next(spare);
        let exhausted = chunk.exhausts_input();
        match settler.settle(&mut chunk)? {
            Settled::Committed => {}
            Settled::Interrupted => return Ok(StepEnd::Stopped),
        }
        if exhausted {
            return Ok(StepEnd::Completed(ExitStatus::completed()));
        }
        spare = chunk.recycle();
    }
}

/// The vectors of a settled chunk, to be reused; their content is dropped at that time.
struct RecycledBuffers<I, O> {
    items: Vec<I>,
    outputs: Vec<O>,
}

impl<I, O> Default for RecycledBuffers<I, O> {
    fn default() -> Self {
        Self { items: Vec::new(), outputs: Vec::new() }
    }
}

/// Runs the reader on a thread of its own, up to `depth` chunks ahead.
fn read_ahead<R, P, W>(
    depth: usize,
    parts: &StopToken,
    filler: &mut Filler<'_, R, P::Output>,
    processing: &Processing<'_, R::Item, P>,
    settler: &mut Settler<'_, '_, R::Item, P::Output, W>,
) -> Result<StepEnd, StepError>
where
    R: ItemReader,
    P: ItemProcessor<R::Item>,
    W: ItemWriter<P::Output>,
{
    thread::scope(|threads| {
        let (sender, chunks) = sync_channel(depth - 1);
        let (recycler, recycled) = channel();
        // Without the thread there is no sender, so the first chunk is the one of `reader_gone`.
        start(threads, "batchwright reader", move || fill_ahead(filler, &sender, &recycled));
        let ended = carry(settler, |spare| {
            let spare = processing.reclaim(spare);
            let _ = recycler.send(spare.items);
            processing.process(chunks.recv().unwrap_or_else(|_| reader_gone()), spare.outputs)
        });
        stop_unless_complete(parts, &ended);
        ended
        // `chunks` is dropped here, so a reader that is still ahead fails to send and returns.
    })
}

/// Runs the reader ahead, and `count` threads that process whole chunks; chunks are settled in reading order.
fn process_in_parallel<R, P, W>(
    (depth, count): (usize, usize),
    parts: &StopToken,
    filler: &mut Filler<'_, R, P::Output>,
    processing: &Processing<'_, R::Item, P>,
    settler: &mut Settler<'_, '_, R::Item, P::Output, W>,
) -> Result<StepEnd, StepError>
where
    R: ItemReader,
    P: ItemProcessor<R::Item>,
    W: ItemWriter<P::Output>,
{
    thread::scope(|threads| {
        let (sender, filled) = sync_channel(depth);
        let (recycler, recycled) = channel();
        // Each chunk has a channel for its result; the receivers arrive here in reading order.
        let (result_sender, results) =
            sync_channel::<Receiver<Processed<R::Item, P::Output>>>(depth);
        start(threads, "batchwright chunks", move || {
            let (inner, chunks) = sync_channel(0);
            thread::scope(|inner_threads| {
                let fill = move || fill_ahead(filler, &inner, &recycled);
                start(inner_threads, "batchwright reader", fill);
                for chunk in chunks {
                    let (sent, result) = channel();
                    if result_sender.send(result).is_err() || sender.send((chunk, sent)).is_err() {
                        break;
                    }
                }
            });
        });
        let filled = Arc::new(Mutex::new(filled));
        for _ in 0..count {
            let filled = Arc::clone(&filled);
            start(threads, "batchwright processor", move || process_chunks(processing, &filled));
        }
        drop(filled);
        let ended = carry(settler, |spare| {
            let spare = processing.reclaim(spare);
            let _ = recycler.send(spare.items);
            let result = results.recv().ok();
            result
                .and_then(|result| result.recv().ok())
                .unwrap_or_else(|| processing.process(reader_gone(), spare.outputs))
        });
        stop_unless_complete(parts, &ended);
        ended
    })
}

/// Requests the reader and the processors to stop, which may wait for what is not needed any more.
fn stop_unless_complete(parts: &StopToken, ended: &Result<StepEnd, StepError>) {
    if !matches!(ended, Ok(StepEnd::Completed(_))) {
        parts.request();
    }
}

/// A filled chunk, and the sender of its result.
type Task<I, O> = (Filled<I>, Sender<Processed<I, O>>);

fn process_chunks<I, P: ItemProcessor<I>>(
    processing: &Processing<'_, I, P>,
    filled: &Mutex<Receiver<Task<I, P::Output>>>,
) {
    loop {
        let next = filled.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((chunk, result)) = next else { return };
        if result.send(processing.process(chunk, Vec::new())).is_err() {
            return;
        }
    }
}

fn fill_ahead<R: ItemReader, O>(
    filler: &mut Filler<'_, R, O>,
    chunks: &SyncSender<Filled<R::Item>>,
    recycled: &Receiver<Vec<R::Item>>,
) {
    loop {
        let chunk = filler.fill(recycled.try_recv().unwrap_or_default());
        let last = chunk.is_last();
        if chunks.send(chunk).is_err() || last {
            return;
        }
    }
}

/// Returns a failed chunk in place of the one that a lost reader thread did not send.
fn reader_gone<I>() -> Filled<I> {
    Filled::failed(ItemError::fatal("the reader's thread ended early or could not be started"))
}

/// The step of an error: turns an item error into a located step error.
#[derive(Clone, Copy)]
struct At<'a> {
    step: &'a str,
}

impl<'a> At<'a> {
    fn component(
        self,
        part: &'static str,
        action: &'static str,
    ) -> impl FnOnce(ItemError) -> StepError + 'a {
        move |error| StepError::Component {
            step: self.step.to_owned(),
            part,
            action,
            source: ItemErrorText(error),
        }
    }
}
