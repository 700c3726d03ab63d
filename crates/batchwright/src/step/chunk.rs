//! Chunk steps: read, process and write items, and commit them with the checkpoint.

mod acknowledge;
mod builder;
mod checkpoint;
mod fill;
mod listeners;
mod pipeline;
mod prepared;
mod process;
mod retries;
mod settle;
mod skips;

use std::sync::Arc;

pub use builder::{ChunkStepBuilder, Missing, Processors};
pub use listeners::{ItemHooks, NoListeners, WithListeners};

use acknowledge::Acknowledging;
use checkpoint::Checkpoint;
use fill::Filler;
use pipeline::{Threads, carry_on};
use process::Processing;
use retries::Retries;
use settle::Settler;

use super::{Step, StepEnd, StepOptions, StepRun};
use crate::error::{ItemError, ItemErrorText, StepError};
use crate::item::{
    DeadLetterFile, Ending, Factory, ItemProcessor, ItemReader, ItemWriter, guarded,
};
use crate::lifecycle;
use crate::listener::{ChunkListener, ItemListener, RetryListener, SkipListener};
use crate::policy::{Completion, SkipPolicy};
use crate::retry::{CircuitBreaker, RetryPolicy};
use crate::scope::StepScope;

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
    /// When a chunk is full; `None` lets the writer choose the number of items.
    completion: Option<Completion>,
    skip: SkipPolicy,
    retry: RetryPolicy,
    /// Number of chunks read ahead; `None` uses the reader's preference.
    read_ahead: Option<usize>,
    /// Number of threads that process; `None` uses the cores, if chunks may be processed at once.
    parallelism: Option<usize>,
    dead_letters: Option<Factory<std::path::PathBuf>>,
    /// Guards the processor and the writer.
    breaker: Option<CircuitBreaker>,
    stop_when: Option<StopWhen>,
}

impl Settings {
    /// Returns when a chunk is full, which is settled once the writer is there.
    fn completion(&self) -> Completion {
        self.completion.unwrap_or_default()
    }
}

/// Chunks read ahead by a reader that prefers it: enough to even out delays, few enough to use little memory.
const READ_AHEAD_DEFAULT: usize = 2;

/// Maximum number of threads that process by default: each holds a chunk, and the chunks are read one after another.
const PARALLELISM_DEFAULT_MAX: usize = 16;

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
        match self.create_and_carry(run) {
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
    fn create_and_carry(&self, run: &mut StepRun<'_>) -> Result<StepEnd, StepError> {
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
        result.and_then(|end| closed_reader.and(closed_writer).map(|()| end))
    }

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

        let acknowledging =
            Acknowledging::of(reader).map_err(at.component("reader", "acknowledge"))?;
        let threads = self.threads(reader, processor, writer, &scope);
        let mut settings = self.settings.clone();
        settings.completion.get_or_insert_with(|| Completion::items(writer.chunk_items()));
        let (settings, hooks) = (&settings, &self.hooks);
        let retries = Retries {
            policy: &settings.retry,
            listeners: &hooks.retry,
            clock: run.clock(),
            scope: &scope,
            events: run.store().events(),
        };
        let of_parts = Retries { scope: parts, ..retries };
        let in_blocks = threads.processing > 1 && reader.reads_blocks() && self.is_unwatched();
        let resolved = checkpoint.resolved;
        let mut filler = Filler::new(reader, settings, hooks, of_parts, resolved, in_blocks);
        let processing = Processing { processor, settings, hooks, retries: of_parts };
        let mut settler =
            Settler::new(run, writer, checkpoint, dead_letters, settings, hooks, retries)
                .acknowledging(acknowledging);
        let end = carry_on(threads, parts.stop(), &mut filler, &processing, &mut settler)?;
        let is_complete = matches!(end, StepEnd::Completed(_));
        // All records are accounted for, so the dead letters are complete even if every record was skipped.
        settler.finish(is_complete)?;
        if is_complete {
            settler.fail_if_all_skipped()?;
        }
        Ok(end)
    }

    /// Returns the threads that the step uses beside its own.
    fn threads(&self, reader: &R, processor: &P, writer: &W, scope: &StepScope) -> Threads {
        let processing = match self.settings.parallelism {
            Some(threads) => threads,
            None if reader.reads_blocks()
                && self.is_unwatched()
                && self.hooks.chunk.is_empty()
                && self.hooks.retry.is_empty()
                && self.settings.breaker.is_none()
                && !processor.processes_all() =>
            {
                // A writer that does not leave encoding to other threads keeps the step's own one busy.
                let own = usize::from(!writer.encodes());
                scope.job().cores().saturating_sub(own).clamp(1, PARALLELISM_DEFAULT_MAX)
            }
            None => 1,
        };
        let ahead = match self.settings.read_ahead {
            Some(chunks) => chunks,
            None if reader.reads_ahead() => READ_AHEAD_DEFAULT,
            None => 0,
        };
        Threads { ahead, processing }
    }

    /// Whether no listener gets single items, and the number of records alone decides where a chunk ends.
    fn is_unwatched(&self) -> bool {
        self.hooks.item.is_empty()
            && self.hooks.until.is_none()
            && self.settings.completion().within.is_none()
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
