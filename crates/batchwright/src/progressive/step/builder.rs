//! The builder of progressive steps.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::typed::{Body, Reduce, Typed};
use super::unit_work::{Awaited, Made, Plain, UnitWork, Watched};
use super::{FinalResponse, OnFailed, ProgressiveStep, Settings};
use crate::error::ItemError;
use crate::execution::JobExecution;
use crate::item::{ItemProcessor, ItemWriter, cloning};
use crate::policy::Completion;
use crate::progressive::progress::UnitsSummary;
use crate::progressive::units::Units;
use crate::scope::StepScope;

/// Default number of lanes.
const LANES_DEFAULT: u32 = 4;
/// Default target of a slice.
const TARGET_DEFAULT: Duration = Duration::from_secs(2);
/// Default maximum time between two checkpoints.
const CHUNK_TIME_DEFAULT: Duration = Duration::from_millis(250);
/// Default maximum number of attempts at a unit that fails, panics, hangs or kills its worker.
const ATTEMPTS_DEFAULT: u32 = 3;
/// Default time after which a unit is considered to hang.
const UNIT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// Builds a [`ProgressiveStep`]: first `units`, then `process` or one of its variants, then all other
/// settings.
#[must_use = "call `.build()`"]
pub struct ProgressiveBuilder<U, B> {
    name: String,
    settings: Settings,
    units: U,
    body: B,
}

impl<U, B> std::fmt::Debug for ProgressiveBuilder<U, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProgressiveBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ProgressiveBuilder<(), ()> {
    pub(super) fn new(name: String) -> Self {
        let settings = Settings {
            lanes: LANES_DEFAULT,
            target: TARGET_DEFAULT,
            chunk_units: Completion::ITEMS_DEFAULT as u64,
            chunk_time: CHUNK_TIME_DEFAULT,
            max_attempts: ATTEMPTS_DEFAULT,
            on_failed: OnFailed::default(),
            unit_timeout: UNIT_TIMEOUT_DEFAULT,
        };
        Self { name, settings, units: (), body: () }
    }

    /// Sets the source of the units.
    pub fn units<U: Units>(self, units: U) -> ProgressiveBuilder<U, ()> {
        let Self { name, settings, body, .. } = self;
        ProgressiveBuilder { name, settings, units, body }
    }
}

impl<U: Units> ProgressiveBuilder<U, ()> {
    /// Sets the processor of the units. A unit whose output is `None` is filtered.
    pub fn process<P: ItemProcessor<U::Unit>>(
        self,
        processor: P,
    ) -> ProgressiveBuilder<U, Body<Plain<P>, P::Output, ()>> {
        self.body(Plain(Arc::new(processor)))
    }

    /// Sets the processor like [`process`](Self::process); `make` makes one for each slice.
    pub fn process_with<P: ItemProcessor<U::Unit>, M>(
        self,
        make: M,
    ) -> ProgressiveBuilder<U, Body<Made<M>, P::Output, ()>>
    where
        M: Fn(&StepScope) -> Result<P, ItemError> + Send + Sync,
    {
        self.body(Made(make))
    }

    /// Sets the processor like [`process`](Self::process), as a future: `make` takes from the unit what the
    /// future needs. The future is dropped while it awaits, as a failed attempt, when its slice took twice
    /// its target or when it takes longer than the timeout of a unit.
    ///
    /// A thread that waits for the future polls it. In a server of Batchwright, timers and sockets of Tokio
    /// work.
    pub fn process_async<O, F, M>(self, make: M) -> ProgressiveBuilder<U, Body<Awaited<M>, O, ()>>
    where
        O: Send + Sync,
        F: Future<Output = Result<Option<O>, ItemError>> + Send,
        M: Fn(&U::Unit) -> F + Send + Sync,
    {
        self.body(Awaited(Arc::new(make)))
    }

    fn body<W, O>(self, work: W) -> ProgressiveBuilder<U, Body<W, O, ()>> {
        let Self { name, settings, units, .. } = self;
        let body = Body { work, writer: None, reduce: None, respond: None, on_end: None };
        ProgressiveBuilder { name, settings, units, body }
    }
}

impl<U, W, O> ProgressiveBuilder<U, Body<W, O, ()>> {
    /// Reduces the outputs to one value. `fold` adds an output to the partial result of the units before it
    /// (`None` before the first); `combine` combines two neighbouring partial results, the left one first.
    /// The value is stored as JSON with every checkpoint.
    pub fn reduce<P: Serialize + DeserializeOwned + Send + 'static>(
        self,
        fold: impl Fn(Option<P>, &O) -> Result<P, ItemError> + Send + Sync + 'static,
        combine: impl Fn(P, P) -> Result<P, ItemError> + Send + Sync + 'static,
    ) -> ProgressiveBuilder<U, Body<W, O, P>> {
        let Self { name, settings, units, body: Body { work, writer, on_end, .. } } = self;
        let reduce = Some(Reduce { fold: Box::new(fold), combine: Box::new(combine) });
        let body = Body { work, writer, reduce, respond: None, on_end };
        ProgressiveBuilder { name, settings, units, body }
    }
}

impl<U: Units, W, O, P> ProgressiveBuilder<U, Body<W, O, P>> {
    /// Sets a function that gets each unit with the result of the attempt at it: an output, none, or the error. It is called
    /// before the units are committed, so it gets a unit again if the commit fails or the worker dies. Its own error fails
    /// the attempt.
    ///
    /// ```
    /// use batchwright::progressive::{NumberedUnits, ProgressiveStep};
    ///
    /// let step = ProgressiveStep::builder("squares")
    ///     .units(NumberedUnits::new(1000))
    ///     .process(|unit: &u64| Ok(Some(unit * unit)))
    ///     .on_unit(|scope, unit, result| {
    ///         if let Err(error) = result {
    ///             eprintln!("{}: unit {unit} failed: {error}", scope.job().job());
    ///         }
    ///         Ok(())
    ///     })
    ///     .build();
    /// ```
    pub fn on_unit<F>(self, on_unit: F) -> ProgressiveBuilder<U, Body<Watched<W, F>, O, P>>
    where
        F: Fn(&StepScope, &U::Unit, &Result<Option<O>, ItemError>) -> Result<(), ItemError>
            + Send
            + Sync,
    {
        let Self { name, settings, units, body } = self;
        let Body { work, writer, reduce, respond, on_end } = body;
        let work = Watched { work, on_unit: Arc::new(on_unit) };
        let body = Body { work, writer, reduce, respond, on_end };
        ProgressiveBuilder { name, settings, units, body }
    }
}

impl<U, W, O, P> ProgressiveBuilder<U, Body<W, O, P>> {
    /// Sets the function that assembles the final response: from the combined value, which is `None` when no unit was
    /// reduced, and the summary, which also knows the [`scope`](UnitsSummary::scope) of the step. The function may be
    /// called more than once; the first stored response is the response of the execution. Default: a JSON object with
    /// `units_done`, `units_failed` and `result`.
    pub fn respond(
        mut self,
        respond: impl Fn(Option<P>, &UnitsSummary) -> Result<FinalResponse, ItemError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.body.respond = Some(Box::new(respond));
        self
    }

    /// Sets a function that is called once the end of the execution is stored, with the complete or failed execution: to
    /// notify someone, for example. If the process dies just then, it is not called; its error is logged.
    pub fn on_end(
        mut self,
        on_end: impl Fn(&StepScope, &JobExecution) -> Result<(), ItemError> + Send + Sync + 'static,
    ) -> Self {
        self.body.on_end = Some(Box::new(on_end));
        self
    }

    /// Sets the number of lanes that may work at once, from 1 to 1,024. Default 4.
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.settings.lanes = lanes.clamp(1, 1024);
        self
    }

    /// Sets the target of a slice, counted from the arrival of its request: from 1 ms to 24 h. Default 2 s.
    pub fn target(mut self, target: Duration) -> Self {
        self.settings.target = target;
        self
    }

    /// Sets when a chunk of units is committed. Default: after 1,000 units or 250 ms. With chunks of one
    /// unit, each unit is committed alone, and a unit that kills its worker is known at once.
    pub fn completion(mut self, completion: Completion) -> Self {
        self.settings.chunk_units = completion.items.get() as u64;
        self.settings.chunk_time = completion.within.unwrap_or(CHUNK_TIME_DEFAULT);
        self
    }

    /// Sets the maximum attempts at a unit that fails, panics, hangs or kills its worker. Default 3.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts.max(1);
        self
    }

    /// Sets what happens to the execution when all attempts at a unit failed. Default: it fails.
    pub fn on_failed(mut self, on_failed: OnFailed) -> Self {
        self.settings.on_failed = on_failed;
        self
    }

    /// Sets the time after which a unit is considered to hang: its request ends, its lane is free for the
    /// next request, and no later result of the unit is stored. Default 60 s.
    pub fn unit_timeout(mut self, timeout: Duration) -> Self {
        self.settings.unit_timeout = timeout;
        self
    }
}

impl<U, W, O: 'static, P> ProgressiveBuilder<U, Body<W, O, P>> {
    /// Sets the writer of the outputs. A writer that shares the store's database writes in the transaction of
    /// the checkpoint. A writer that keeps a position of its own (a file, another database) is refused when a
    /// lane opens it.
    pub fn writer<K>(self, writer: K) -> Self
    where
        K: ItemWriter<O> + Clone + 'static,
    {
        let make = cloning(writer);
        self.writer_with(move |scope| make(scope))
    }

    /// Sets the writer like [`writer`](Self::writer); `make` makes one for each slice.
    pub fn writer_with<K>(
        mut self,
        make: impl Fn(&StepScope) -> Result<K, ItemError> + Send + Sync + 'static,
    ) -> Self
    where
        K: ItemWriter<O> + 'static,
    {
        self.body.writer = Some(Box::new(move |scope| Ok(Box::new(make(scope)?))));
        self
    }
}

impl<U, W, O, P> ProgressiveBuilder<U, Body<W, O, P>>
where
    U: Units + 'static,
    W: UnitWork<U::Unit, Output = O> + 'static,
    O: Send + Sync + 'static,
    P: Serialize + DeserializeOwned + Send + 'static,
{
    /// Builds the step.
    pub fn build(self) -> ProgressiveStep {
        let Self { name, settings, units, body } = self;
        let work = Arc::new(Typed { settings, units, body });
        ProgressiveStep { name, work }
    }
}
