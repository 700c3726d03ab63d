//! The builder of chunk steps: a missing part is a compile error.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::listeners::{ItemHooks, NoListeners};
use super::{ChunkStep, Settings};
use crate::error::ItemError;
#[cfg(feature = "async")]
use crate::item::{AsyncItemReader, AsyncProcessor, AsyncReader, AsyncWriter};
use crate::item::{
    Factory, ItemProcessor, ItemReader, ItemWriter, PassThrough, ProcessorChain, cloning,
};
use crate::listener::StepListener;
use crate::policy::{Completion, SkipPolicy};
use crate::retry::{CircuitBreaker, RetryPolicy};
use crate::scope::StepScope;
use crate::step::StepOptions;

/// The marker of a part of a [`ChunkStepBuilder`] that is not set yet.
#[derive(Debug, Clone, Copy)]
#[doc(hidden)]
pub struct Missing;

/// A builder of a chunk step: reader, processor, writer, and settings.
///
/// ```
/// use batchwright::item::NoWriter;
/// use batchwright::{ChunkStepBuilder, Sequence};
///
/// let step = ChunkStepBuilder::new("squares")
///     .reader(Sequence::to(100))
///     .processor(|n: &u64| Ok(Some(n * n)))
///     .writer(NoWriter::new())
///     .chunk_size(10)
///     .build();
/// ```
pub struct ChunkStepBuilder<R = Missing, P = PassThrough, W = Missing, H = NoListeners> {
    pub(super) name: String,
    pub(super) options: StepOptions,
    pub(super) settings: Settings,
    pub(super) reader: Factory<R>,
    pub(super) processor: Factory<P>,
    pub(super) writer: Factory<W>,
    pub(super) hooks: H,
}

impl ChunkStepBuilder {
    /// Maximum number of chunks read ahead; each chunk is held in memory.
    pub const READ_AHEAD_MAX: usize = 64;
    /// Maximum number of processing threads of one step: more than any machine can use.
    pub const PARALLELISM_MAX: usize = 256;

    /// Creates a step without reader, processor and writer, which tolerates no failure.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            options: StepOptions::default(),
            settings: Settings {
                completion: None,
                skip: SkipPolicy::never(),
                retry: RetryPolicy::never(),
                read_ahead: None,
                parallelism: None,
                dead_letters: None,
                breaker: None,
                stop_when: None,
            },
            reader: cloning(Missing),
            processor: cloning(PassThrough),
            writer: cloning(Missing),
            hooks: NoListeners,
        }
    }
}

impl<R, P, W> ChunkStepBuilder<R, P, W> {
    /// Sets the reader; each step execution uses a clone.
    #[must_use]
    pub fn reader<R2>(self, reader: R2) -> ChunkStepBuilder<R2, P, W>
    where
        R2: ItemReader + Clone + 'static,
    {
        self.reader_factory(cloning(reader))
    }

    /// Sets a function that creates the reader for each step execution, from its parameters and contexts.
    #[must_use]
    pub fn reader_with<R2: ItemReader>(
        self,
        make: impl Fn(&StepScope) -> Result<R2, ItemError> + Send + Sync + 'static,
    ) -> ChunkStepBuilder<R2, P, W> {
        self.reader_factory(Arc::new(make))
    }

    /// Sets an asynchronous reader of pages; each step execution uses a clone.
    ///
    /// ```
    /// use batchwright::item::{AsyncItemReader, NoWriter, Page};
    /// use batchwright::{ChunkStepBuilder, ItemError};
    ///
    /// #[derive(Clone)]
    /// struct Customers;
    ///
    /// impl AsyncItemReader for Customers {
    ///     type Item = String;
    ///     type Position = u32;
    ///
    ///     async fn read_page(&mut self, page: Option<&u32>) -> Result<Page<String, u32>, ItemError> {
    ///         let page = page.copied().unwrap_or(1);
    ///         // A real reader asks its service here.
    ///         let items = vec![format!("customer {page}")];
    ///         Ok(Page { items, next: (page < 3).then_some(page + 1) })
    ///     }
    /// }
    ///
    /// let step = ChunkStepBuilder::new("customers")
    ///     .async_reader(Customers)
    ///     .writer(NoWriter::new())
    ///     .build();
    /// ```
    #[cfg(feature = "async")]
    #[must_use]
    pub fn async_reader<R2>(self, reader: R2) -> ChunkStepBuilder<AsyncReader<R2>, P, W>
    where
        R2: AsyncItemReader<Item: 'static, Position: 'static> + Clone + 'static,
    {
        self.reader(AsyncReader::new(reader))
    }

    fn reader_factory<R2>(self, reader: Factory<R2>) -> ChunkStepBuilder<R2, P, W> {
        let Self { name, options, settings, processor, writer, hooks, .. } = self;
        ChunkStepBuilder { name, options, settings, reader, processor, writer, hooks }
    }

    fn processor_factory<P2>(self, processor: Factory<P2>) -> ChunkStepBuilder<R, P2, W> {
        let Self { name, options, settings, reader, writer, hooks, .. } = self;
        ChunkStepBuilder { name, options, settings, reader, processor, writer, hooks }
    }
}

impl<R, P, W, H> ChunkStepBuilder<R, P, W, H> {
    /// Sets the writer; each step execution uses a clone.
    #[must_use]
    pub fn writer<W2>(self, writer: W2) -> ChunkStepBuilder<R, P, W2, H>
    where
        W2: Clone + Send + 'static,
    {
        self.writer_factory(cloning(writer))
    }

    /// Sets a function that creates the writer for each step execution.
    #[must_use]
    pub fn writer_with<W2>(
        self,
        make: impl Fn(&StepScope) -> Result<W2, ItemError> + Send + Sync + 'static,
    ) -> ChunkStepBuilder<R, P, W2, H> {
        self.writer_factory(Arc::new(make))
    }

    /// Sets an asynchronous writer: a type of your own, or a function `async |items: &[Output], key: &str| Ok(())`. Each
    /// step execution uses a clone.
    #[cfg(feature = "async")]
    #[must_use]
    pub fn async_writer<W2>(self, writer: W2) -> ChunkStepBuilder<R, P, AsyncWriter<W2>, H>
    where
        W2: Clone + Send + 'static,
    {
        self.writer(AsyncWriter::new(writer))
    }

    fn writer_factory<W2>(self, writer: Factory<W2>) -> ChunkStepBuilder<R, P, W2, H> {
        let Self { name, options, settings, reader, processor, hooks, .. } = self;
        ChunkStepBuilder { name, options, settings, reader, processor, writer, hooks }
    }

    /// Sets the number of items in a transaction; zero counts as one. A larger number is faster and repeats
    /// more work after a failure. Default: what the writer [chooses](ItemWriter::chunk_items), 1000 in files and 5000 in databases.
    #[must_use]
    pub fn chunk_size(self, items: usize) -> Self {
        self.completion(Completion::items(items))
    }

    /// Sets the condition under which a chunk is full: items, time, or both.
    #[must_use]
    pub fn completion(mut self, completion: Completion) -> Self {
        self.settings.completion = Some(completion);
        self
    }

    /// Sets the failures that skip a record instead of failing the step. Default: none.
    #[must_use]
    pub fn skip(mut self, policy: SkipPolicy) -> Self {
        self.settings.skip = policy;
        self
    }

    /// Sets the failures that are retried. Default: none.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.settings.retry = policy;
        self
    }

    /// Sets a circuit breaker that allows or refuses each call of the processor and of the writer. While it is open, their
    /// calls fail with the kind `circuit.open`, which the retry policy may wait for. Steps and partitions that use one
    /// system share one breaker.
    ///
    /// ```
    /// use std::time::Duration;
    /// use batchwright::item::NoWriter;
    /// use batchwright::policy::Classifier;
    /// use batchwright::retry::{Backoff, CircuitBreaker, RetryPolicy};
    /// use batchwright::{ChunkStepBuilder, Sequence};
    ///
    /// let breaker = CircuitBreaker::new(5, Duration::from_secs(30));
    /// let step = ChunkStepBuilder::new("prices")
    ///     .reader(Sequence::to(100))
    ///     .writer(NoWriter::new())
    ///     .breaker(breaker.on(Classifier::all().excluding("data")))
    ///     .retry(RetryPolicy::attempts(20).backoff(Backoff::Fixed(Duration::from_secs(10))))
    ///     .build();
    /// ```
    #[must_use]
    pub fn breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.settings.breaker = Some(breaker);
        self
    }

    /// Sets a function that is asked before each chunk; when it returns true, the step stops at its checkpoint, and with
    /// it the job: at the end of a maintenance window, for example.
    #[must_use]
    pub fn stop_when(mut self, stop: impl Fn(&StepScope) -> bool + Send + Sync + 'static) -> Self {
        self.settings.stop_when = Some(Arc::new(stop));
        self
    }

    /// Appends every skipped record to this file, one JSON object a line, exactly once each. A new instance
    /// begins the file anew: to keep all files, derive the name from the instance's parameters.
    #[must_use]
    pub fn dead_letters(self, path: impl Into<PathBuf>) -> Self {
        self.dead_letter_factory(cloning(path.into()))
    }

    /// Sets a function that creates the path of the dead letters for each step execution; see
    /// [`dead_letters`](Self::dead_letters).
    #[must_use]
    pub fn dead_letters_with(
        self,
        make: impl Fn(&StepScope) -> Result<PathBuf, ItemError> + Send + Sync + 'static,
    ) -> Self {
        self.dead_letter_factory(Arc::new(make))
    }

    fn dead_letter_factory(mut self, path: Factory<PathBuf>) -> Self {
        self.settings.dead_letters = Some(path);
        self
    }

    /// Sets the number of chunks that the reader, on a thread of its own, may be ahead of the writer; 0 reads
    /// on the step's own thread. Default: two for readers of files and databases, none for the others. At
    /// most [`READ_AHEAD_MAX`](ChunkStepBuilder::READ_AHEAD_MAX).
    #[must_use]
    pub fn read_ahead(mut self, chunks: usize) -> Self {
        self.settings.read_ahead = Some(chunks.min(ChunkStepBuilder::READ_AHEAD_MAX));
        self
    }

    /// Sets the number of threads that decode, process and encode chunks concurrently; the output keeps the order of the
    /// input. At most [`PARALLELISM_MAX`](ChunkStepBuilder::PARALLELISM_MAX).
    ///
    /// Default: as many as the step has cores, up to 16, and one less with a writer to databases, for readers of CSV,
    /// JSON lines and other formats whose records are found without decoding them; 1 for other readers, and where
    /// something gets the items in order: listeners of items, chunks and retries,
    /// [`chunk_until`](super::ChunkStep::chunk_until), [`Completion::within`], a [`breaker`](Self::breaker), and
    /// asynchronous processors, whose calls at once are limited. `parallelism(1)` calls the processor for one item
    /// after another; a processor whose results depend on earlier items needs it.
    #[must_use]
    pub fn parallelism(mut self, threads: usize) -> Self {
        self.settings.parallelism = Some(threads.clamp(1, ChunkStepBuilder::PARALLELISM_MAX));
        self
    }

    /// Sets the number of executions of the step that an instance may have. Default: no limit.
    #[must_use]
    pub fn start_limit(mut self, limit: u32) -> Self {
        self.options.start_limit = Some(limit);
        self
    }

    /// Runs the step again in every execution, from its beginning, although it is complete.
    #[must_use]
    pub fn allow_start_if_complete(mut self) -> Self {
        self.options.allow_start_if_complete = true;
        self
    }

    /// Sets the failures after which the whole step runs again; see [`StepOptions::retry`]. [`retry`](Self::retry) repeats a
    /// single read, item or write instead.
    #[must_use]
    pub fn retry_step(mut self, policy: RetryPolicy) -> Self {
        self.options.retry = Some(policy);
        self
    }

    /// Sets the time after which the step fails, at the end of a chunk; see [`StepOptions::timeout`]. Default: none.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Adds a listener of the step's executions.
    #[must_use]
    pub fn step_listener(mut self, listener: impl StepListener + 'static) -> Self {
        self.options.listeners.push(Arc::new(listener));
        self
    }

    /// Adds a listener that other code shares; see [`step_listener`](Self::step_listener).
    #[must_use]
    pub fn shared_step_listener(mut self, listener: Arc<dyn StepListener>) -> Self {
        self.options.listeners.push(listener);
        self
    }

    /// Builds the step. Does not compile while a reader or a writer is missing.
    pub fn build(self) -> ChunkStep<R, P, W>
    where
        R: ItemReader,
        P: ItemProcessor<R::Item>,
        W: ItemWriter<P::Output>,
        H: ItemHooks<R::Item, P::Output>,
    {
        let Self { name, options, settings, reader, processor, writer, hooks } = self;
        let hooks = hooks.into_hooks();
        ChunkStep { name, options, settings, reader, processor, writer, hooks }
    }
}

impl<R, W> ChunkStepBuilder<R, PassThrough, W> {
    /// Sets the processor: a function `|item: &Input| Ok(Some(output))`, or a type of your own. Each further call adds
    /// a processor, which gets the outputs of the one before it.
    #[must_use]
    pub fn processor<P>(self, processor: P) -> ChunkStepBuilder<R, Processors<P>, W>
    where
        P: Clone + Send + 'static,
    {
        self.processor_factory(cloning(Processors(processor)))
    }

    /// Sets a function that creates the processor for each step execution.
    #[must_use]
    pub fn processor_with<P: 'static>(
        self,
        make: impl Fn(&StepScope) -> Result<P, ItemError> + Send + Sync + 'static,
    ) -> ChunkStepBuilder<R, Processors<P>, W> {
        self.processor_factory(Arc::new(move |scope| make(scope).map(Processors)))
    }

    /// Sets a function as processor, as [`processor`](Self::processor) does. Call it after the reader is set: the type
    /// of its argument is inferred from the reader.
    ///
    /// ```
    /// use batchwright::item::NoWriter;
    /// use batchwright::{ChunkStepBuilder, Sequence};
    ///
    /// let step = ChunkStepBuilder::new("odd squares")
    ///     .reader(Sequence::to(100))
    ///     .process(|n| Ok((n % 2 == 1).then_some(n * n)))
    ///     .writer(NoWriter::new())
    ///     .build();
    /// ```
    #[must_use]
    pub fn process<O, F>(self, function: F) -> ChunkStepBuilder<R, Processors<F>, W>
    where
        R: ItemReader,
        F: Fn(&R::Item) -> Result<Option<O>, ItemError> + Clone + Send + 'static,
    {
        self.processor(function)
    }

    /// Sets an asynchronous function as processor, with at most `in_flight` calls at once; zero counts as one. The
    /// outputs keep the order of the inputs. With listeners of items, the step calls it for one item after another.
    ///
    /// ```
    /// use batchwright::item::NoWriter;
    /// use batchwright::{ChunkStepBuilder, Sequence};
    ///
    /// let step = ChunkStepBuilder::new("prices")
    ///     .reader(Sequence::to(100))
    ///     .process_async(64, async |n: &u64| Ok(Some(n * 2)))
    ///     .writer(NoWriter::new())
    ///     .build();
    /// ```
    #[cfg(feature = "async")]
    #[must_use]
    pub fn process_async<F>(
        self,
        in_flight: usize,
        function: F,
    ) -> ChunkStepBuilder<R, Processors<AsyncProcessor<F>>, W>
    where
        F: Clone + Send + Sync + 'static,
    {
        self.process_async_with(in_flight, move |_| Ok(function.clone()))
    }
}

impl<R, W> ChunkStepBuilder<R, PassThrough, W> {
    /// Sets a function that makes an asynchronous processor for each step execution, from its parameters and contexts; see
    /// [`process_async`](Self::process_async).
    ///
    /// ```
    /// use batchwright::item::NoWriter;
    /// use batchwright::{ChunkStepBuilder, Sequence};
    ///
    /// let step = ChunkStepBuilder::new("prices")
    ///     .reader(Sequence::to(100))
    ///     .process_async_with(64, |scope| {
    ///         let rate = scope.parameters().float("rate")?;
    ///         Ok(async move |n: &u64| Ok(Some(*n as f64 * rate)))
    ///     })
    ///     .writer(NoWriter::new())
    ///     .build();
    /// ```
    #[cfg(feature = "async")]
    #[must_use]
    pub fn process_async_with<F: 'static>(
        self,
        in_flight: usize,
        make: impl Fn(&StepScope) -> Result<F, ItemError> + Send + Sync + 'static,
    ) -> ChunkStepBuilder<R, Processors<AsyncProcessor<F>>, W> {
        self.processor_with(move |scope| {
            Ok(AsyncProcessor::new(in_flight, make(scope)?, scope.stop().clone()))
        })
    }
}

impl<R, P: 'static, W> ChunkStepBuilder<R, Processors<P>, W> {
    /// Adds a processor, which gets the outputs of the processors before it.
    #[must_use]
    pub fn processor<P2>(
        self,
        processor: P2,
    ) -> ChunkStepBuilder<R, Processors<ProcessorChain<P, P2>>, W>
    where
        P2: Clone + Send + 'static,
    {
        self.chain(cloning(processor))
    }

    /// Adds a function that creates a processor for each step execution; see [`processor`](Self::processor).
    #[must_use]
    pub fn processor_with<P2: 'static>(
        self,
        make: impl Fn(&StepScope) -> Result<P2, ItemError> + Send + Sync + 'static,
    ) -> ChunkStepBuilder<R, Processors<ProcessorChain<P, P2>>, W> {
        self.chain(Arc::new(make))
    }

    /// Adds a function as processor, as [`processor`](Self::processor) does. The type of its argument is inferred from
    /// the reader and the processors before it.
    #[must_use]
    pub fn process<O, F>(
        self,
        function: F,
    ) -> ChunkStepBuilder<R, Processors<ProcessorChain<P, F>>, W>
    where
        R: ItemReader,
        P: ItemProcessor<R::Item>,
        F: Fn(&P::Output) -> Result<Option<O>, ItemError> + Clone + Send + 'static,
    {
        self.processor(function)
    }

    /// Adds an asynchronous function as processor, which gets the outputs of the processors before it: with at most
    /// `in_flight` calls at once, in the order of the inputs.
    #[cfg(feature = "async")]
    #[must_use]
    pub fn process_async<F>(
        self,
        in_flight: usize,
        function: F,
    ) -> ChunkStepBuilder<R, Processors<ProcessorChain<P, AsyncProcessor<F>>>, W>
    where
        F: Clone + Send + Sync + 'static,
    {
        self.process_async_with(in_flight, move |_| Ok(function.clone()))
    }

    /// Adds a function that makes an asynchronous processor for each step execution, which gets the outputs of the
    /// processors before it.
    #[cfg(feature = "async")]
    #[must_use]
    pub fn process_async_with<F: 'static>(
        self,
        in_flight: usize,
        make: impl Fn(&StepScope) -> Result<F, ItemError> + Send + Sync + 'static,
    ) -> ChunkStepBuilder<R, Processors<ProcessorChain<P, AsyncProcessor<F>>>, W> {
        self.processor_with(move |scope| {
            Ok(AsyncProcessor::new(in_flight, make(scope)?, scope.stop().clone()))
        })
    }

    fn chain<P2: 'static>(
        self,
        next: Factory<P2>,
    ) -> ChunkStepBuilder<R, Processors<ProcessorChain<P, P2>>, W> {
        let first = Arc::clone(&self.processor);
        self.processor_factory(Arc::new(move |scope| {
            let Processors(first) = first(scope)?;
            Ok(Processors(ProcessorChain::new(first, next(scope)?)))
        }))
    }
}

/// The processors that were set on a [`ChunkStepBuilder`], as one processor.
#[derive(Debug, Clone)]
#[doc(hidden)]
pub struct Processors<P>(P);

impl<I, P: ItemProcessor<I>> ItemProcessor<I> for Processors<P> {
    type Output = P::Output;

    #[inline]
    fn process(&self, item: &I) -> Result<Option<P::Output>, ItemError> {
        self.0.process(item)
    }

    fn processes_all(&self) -> bool {
        self.0.processes_all()
    }

    fn process_all(
        &self,
        items: &[I],
        is_last: &dyn Fn(&ItemError) -> bool,
    ) -> Vec<Result<Option<P::Output>, ItemError>> {
        self.0.process_all(items, is_last)
    }

    fn pass_through(&self, items: Vec<I>) -> Result<Vec<P::Output>, Vec<I>> {
        self.0.pass_through(items)
    }

    fn pass_back(&self, outputs: Vec<P::Output>) -> Result<Vec<I>, Vec<P::Output>> {
        self.0.pass_back(outputs)
    }
}
