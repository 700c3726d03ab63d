//! Describing a progressive step, and the loop that works through its units.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::lane::{Halt, LaneRun, Next, Then, UnitEnd};
use super::units::{Extent, UnitRange, UnitReader, Units};
use crate::error::{ErrorKind, ItemError, ItemErrorText, StepError};
use crate::item::{ItemProcessor, ItemWriter};
use crate::policy::Completion;
use crate::step::{
    ChunkTransaction, Step, StepEnd, StepKind, StepOptions, StepRun, StepScope, cloning, guarded,
};

/// Lanes when nothing is said.
const LANES_DEFAULT: u32 = 4;
/// Target of a slice when nothing is said.
const TARGET_DEFAULT: Duration = Duration::from_secs(2);
/// Time between two checkpoints, at most.
const CHUNK_TIME_DEFAULT: Duration = Duration::from_millis(250);
/// Attempts at a unit that fails, panics, hangs or kills its worker.
const ATTEMPTS_DEFAULT: u32 = 3;
/// Time after which a unit is taken to hang.
const UNIT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// What becomes of an execution whose unit failed at all its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailed {
    /// The unit is recorded as skipped, and the others go on.
    #[default]
    Continue,
    /// The execution fails; a restart tries the unit again.
    Fail,
}

/// What holds for every slice of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) lanes: u32,
    pub(crate) target: Duration,
    pub(crate) chunk_units: u64,
    pub(crate) chunk_time: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) on_failed: OnFailed,
    pub(crate) unit_timeout: Duration,
}

/// The HTTP response that a progressive execution ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalResponse {
    /// Status, from 100 to 599.
    pub status: u16,
    /// Headers, in their order.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl FinalResponse {
    /// `value` as JSON, with status 200.
    ///
    /// # Errors
    ///
    /// When `value` cannot be JSON.
    pub fn json(value: &impl Serialize) -> Result<Self, ItemError> {
        Ok(Self::new("application/json", serde_json::to_vec(value)?))
    }

    /// A body of that content type, with status 200.
    pub fn new(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self { status: 200, headers, body: body.into() }
    }

    /// Another status.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// One header more.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// What became of the units of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct UnitsSummary {
    /// Units that succeeded.
    pub units_done: u64,
    /// Units that were given up.
    pub units_failed: u64,
}

/// A step that is carried forward by slices: each takes as many units as fit its time, wherever it runs.
///
/// A job that has one has nothing else. Its units are worked on by several lanes at once; what they are reduced
/// to is combined in the order of the units, so that the result does not depend on who did what.
///
/// ```
/// use batchwright::{FinalResponse, Job, NumberedUnits, ProgressiveStep};
///
/// let step = ProgressiveStep::builder("sum")
///     .units(NumberedUnits::new(1000))
///     .process(|unit: &u64| Ok(Some(unit * unit)))
///     .reduce(|sum: Option<u64>, square| Ok(sum.unwrap_or(0) + square), |left, right| Ok(left + right))
///     .respond(|sum, _| FinalResponse::json(&sum))
///     .build();
/// let job = Job::builder("sum-of-squares").step(step).build()?;
/// # Ok::<(), batchwright::Refusal>(())
/// ```
pub struct ProgressiveStep {
    name: String,
    options: StepOptions,
    work: Arc<dyn ProgressiveWork>,
}

impl ProgressiveStep {
    /// Begins the description of a step.
    pub fn builder(name: impl Into<String>) -> ProgressiveBuilder<(), ()> {
        ProgressiveBuilder {
            name: name.into(),
            settings: Settings {
                lanes: LANES_DEFAULT,
                target: TARGET_DEFAULT,
                chunk_units: Completion::ITEMS_DEFAULT as u64,
                chunk_time: CHUNK_TIME_DEFAULT,
                max_attempts: ATTEMPTS_DEFAULT,
                on_failed: OnFailed::default(),
                unit_timeout: UNIT_TIMEOUT_DEFAULT,
            },
            units: (),
            body: (),
        }
    }
}

impl std::fmt::Debug for ProgressiveStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProgressiveStep").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Step for ProgressiveStep {
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> &StepOptions {
        &self.options
    }

    fn kind(&self) -> StepKind {
        StepKind::Progressive
    }

    fn progressive(&self) -> Option<ProgressiveBody> {
        Some(ProgressiveBody(Arc::clone(&self.work)))
    }

    fn run(&self, _: &mut StepRun<'_>) -> Result<StepEnd, StepError> {
        let source = ItemError::fatal("run it within another job: a progressive job runs alone");
        Err(StepError::Tasklet { step: self.name.clone(), source: ItemErrorText(source) })
    }
}

/// Describes a [`ProgressiveStep`]: units and what is done with them first, in that order.
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
    /// Where its units come from.
    pub fn units<U: Units>(self, units: U) -> ProgressiveBuilder<U, ()> {
        let Self { name, settings, body, .. } = self;
        ProgressiveBuilder { name, settings, units, body }
    }
}

impl<U: Units> ProgressiveBuilder<U, ()> {
    /// What is done with a unit; `None` for its output filters it out.
    pub fn process<P: ItemProcessor<U::Unit>>(
        self,
        processor: P,
    ) -> ProgressiveBuilder<U, Body<Plain<P>, P::Output, ()>> {
        self.body(Plain(Arc::new(processor)))
    }

    /// As [`process`](Self::process), by a processor that `make` makes for each slice.
    pub fn process_with<P: ItemProcessor<U::Unit>, M>(
        self,
        make: M,
    ) -> ProgressiveBuilder<U, Body<Made<M>, P::Output, ()>>
    where
        M: Fn(&StepScope) -> Result<P, ItemError> + Send + Sync,
    {
        self.body(Made(make))
    }

    /// As [`process`](Self::process), by a future: `make` takes from the unit what the future needs. The future
    /// is dropped where it awaits, as a failed attempt, when its slice took twice its target or when it takes
    /// longer than a unit may.
    ///
    /// It is polled on a thread that waits for it. In a server of Batchwright, timers and sockets of Tokio work.
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
        let body = Body { work, writer: None, reduce: None, respond: None };
        ProgressiveBuilder { name, settings, units, body }
    }
}

/// What a step does with its units.
#[doc(hidden)]
pub struct Body<W, O, P> {
    work: W,
    writer: Option<MakeWriter<O>>,
    reduce: Option<Reduce<O, P>>,
    respond: Option<Respond<P>>,
}

type MakeWriter<O> = Box<dyn Fn(&StepScope) -> Result<Box<dyn Sink<O>>, ItemError> + Send + Sync>;
type Respond<P> =
    Box<dyn Fn(Option<P>, &UnitsSummary) -> Result<FinalResponse, ItemError> + Send + Sync>;

type Fold<O, P> = Box<dyn Fn(Option<P>, &O) -> Result<P, ItemError> + Send + Sync>;
type Combine<P> = Box<dyn Fn(P, P) -> Result<P, ItemError> + Send + Sync>;

struct Reduce<O, P> {
    fold: Fold<O, P>,
    combine: Combine<P>,
}

impl<U, W, O> ProgressiveBuilder<U, Body<W, O, ()>> {
    /// Folds outputs into one value: `fold` takes each one into what the units before it were reduced to (`None`
    /// before the first), `combine` puts two neighbours together, the left one first. The value is stored as JSON
    /// with every checkpoint.
    pub fn reduce<P: Serialize + DeserializeOwned + Send + 'static>(
        self,
        fold: impl Fn(Option<P>, &O) -> Result<P, ItemError> + Send + Sync + 'static,
        combine: impl Fn(P, P) -> Result<P, ItemError> + Send + Sync + 'static,
    ) -> ProgressiveBuilder<U, Body<W, O, P>> {
        let Self { name, settings, units, body: Body { work, writer, .. } } = self;
        let reduce = Some(Reduce { fold: Box::new(fold), combine: Box::new(combine) });
        let body = Body { work, writer, reduce, respond: None };
        ProgressiveBuilder { name, settings, units, body }
    }
}

impl<U, W, O, P> ProgressiveBuilder<U, Body<W, O, P>> {
    /// Assembles the final response from the combined value, `None` when no unit was reduced. It may be called
    /// more than once; the first response that is stored is everybody's. Default: a JSON object with
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

    /// Lanes that may work at once. Default 4.
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.settings.lanes = lanes.clamp(1, 1024);
        self
    }

    /// When a slice should end, counted from the arrival of its request: from a millisecond to a day. Default 2 s.
    pub fn target(mut self, target: Duration) -> Self {
        self.settings.target = target;
        self
    }

    /// When a chunk of units is committed. Default: after 1,000 units or 250 ms. With one unit in a chunk, each is
    /// committed alone, and one that kills its worker is known at once.
    pub fn completion(mut self, completion: Completion) -> Self {
        self.settings.chunk_units = completion.items.get() as u64;
        self.settings.chunk_time = completion.within.unwrap_or(CHUNK_TIME_DEFAULT);
        self
    }

    /// Attempts at a unit that fails, panics, hangs or kills its worker. Default 3.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts.max(1);
        self
    }

    /// What becomes of the execution when all attempts at a unit failed. Default: it goes on.
    pub fn on_failed(mut self, on_failed: OnFailed) -> Self {
        self.settings.on_failed = on_failed;
        self
    }

    /// Time after which a unit is taken to hang: its request ends, its lane is free for the next one, and
    /// whatever the unit still does is not accounted for. Default 60 s.
    pub fn unit_timeout(mut self, timeout: Duration) -> Self {
        self.settings.unit_timeout = timeout;
        self
    }
}

impl<U, W, O: 'static, P> ProgressiveBuilder<U, Body<W, O, P>> {
    /// Where outputs go: into the transaction of the checkpoint, when the writer shares the store's database. A
    /// writer that keeps a position of its own (a file, another database) is refused when a lane opens it.
    pub fn writer<K>(self, writer: K) -> Self
    where
        K: ItemWriter<O> + Clone + 'static,
    {
        let make = cloning(writer);
        self.writer_with(move |scope| make(scope))
    }

    /// As [`writer`](Self::writer), by one that `make` makes for each slice.
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
    /// The step.
    pub fn build(self) -> ProgressiveStep {
        let Self { name, settings, units, body } = self;
        let work = Arc::new(Typed { settings, units, body });
        ProgressiveStep { name, options: StepOptions::default(), work }
    }
}

/// A writer whose outputs live in the checkpoint's transaction.
trait Sink<O>: Send {
    fn open(&mut self, scope: &StepScope) -> Result<(), ItemError>;
    fn write(&mut self, outputs: &[O], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError>;
    fn ended(&mut self, committed: bool) -> Result<(), ItemError>;
}

impl<O, W: ItemWriter<O>> Sink<O> for W {
    fn open(&mut self, scope: &StepScope) -> Result<(), ItemError> {
        if self.prepares() || self.keeps_position() {
            return Err(ItemError::fatal(
                "write from several lanes: this writer keeps a position of its own; write to the store's \
                 database, or to something that can tell repeated units",
            ));
        }
        ItemWriter::open(self, None, scope).map(drop)
    }

    fn write(&mut self, outputs: &[O], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        ItemWriter::write(self, outputs, chunk)
    }

    fn ended(&mut self, committed: bool) -> Result<(), ItemError> {
        match committed {
            true => {
                self.committed();
                Ok(())
            }
            false => self.rolled_back(),
        }
    }
}

/// What is done with units.
#[doc(hidden)]
pub trait UnitWork<I>: Send + Sync {
    type Output;
    type Ready: ReadyWork<I, Output = Self::Output>;

    /// For one slice of an execution.
    fn ready(&self, scope: &StepScope) -> Result<Self::Ready, ItemError>;
}

/// What is done with the units of one slice.
#[doc(hidden)]
pub trait ReadyWork<I> {
    type Output;

    /// `time_left` bounds what can be cancelled.
    fn run(&self, unit: &I, time_left: Duration) -> Result<Option<Self::Output>, ItemError>;
}

/// One processor for all slices.
#[doc(hidden)]
pub struct Plain<P>(Arc<P>);

impl<I, P: ItemProcessor<I>> UnitWork<I> for Plain<P> {
    type Output = P::Output;
    type Ready = Self;

    fn ready(&self, _: &StepScope) -> Result<Self, ItemError> {
        Ok(Self(Arc::clone(&self.0)))
    }
}

impl<I, P: ItemProcessor<I>> ReadyWork<I> for Plain<P> {
    type Output = P::Output;

    #[inline]
    fn run(&self, unit: &I, _: Duration) -> Result<Option<P::Output>, ItemError> {
        self.0.process(unit)
    }
}

/// A processor for each slice.
#[doc(hidden)]
pub struct Made<M>(M);

impl<I, P, M> UnitWork<I> for Made<M>
where
    P: ItemProcessor<I>,
    M: Fn(&StepScope) -> Result<P, ItemError> + Send + Sync,
{
    type Output = P::Output;
    type Ready = Plain<P>;

    fn ready(&self, scope: &StepScope) -> Result<Plain<P>, ItemError> {
        Ok(Plain(Arc::new((self.0)(scope)?)))
    }
}

/// A future for each unit.
#[doc(hidden)]
pub struct Awaited<M>(Arc<M>);

impl<I, O, F, M> UnitWork<I> for Awaited<M>
where
    F: Future<Output = Result<Option<O>, ItemError>>,
    M: Fn(&I) -> F + Send + Sync,
{
    type Output = O;
    type Ready = Self;

    fn ready(&self, _: &StepScope) -> Result<Self, ItemError> {
        Ok(Self(Arc::clone(&self.0)))
    }
}

impl<I, O, F, M> ReadyWork<I> for Awaited<M>
where
    F: Future<Output = Result<Option<O>, ItemError>>,
    M: Fn(&I) -> F + Send + Sync,
{
    type Output = O;

    #[expect(clippy::disallowed_methods, reason = "a bound on a wait, not a time that is stored")]
    fn run(&self, unit: &I, time_left: Duration) -> Result<Option<O>, ItemError> {
        let mut future = pin!((self.0)(unit));
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        let begun = std::time::Instant::now();
        loop {
            if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
                return result;
            }
            match time_left.checked_sub(begun.elapsed()) {
                Some(left) if !left.is_zero() => std::thread::park_timeout(left),
                _ => {
                    let told = format!("finish the unit within {time_left:.1?}: it was cancelled");
                    return Err(ItemError::new(ErrorKind::TIMEOUT, told));
                }
            }
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What slices need of a step.
#[doc(hidden)]
pub struct ProgressiveBody(pub(crate) Arc<dyn ProgressiveWork>);

/// What an input is made of, as it is stored.
pub(crate) struct Plan {
    pub(crate) text: String,
    /// Units in all, or ranks.
    pub(crate) extent: Result<u64, u32>,
}

/// A progressive step with its types erased: one call for the whole of a slice.
pub(crate) trait ProgressiveWork: Send + Sync {
    fn settings(&self) -> Settings;

    fn plan(&self, scope: &StepScope) -> Result<Plan, ItemError>;

    fn work(&self, lane: &mut LaneRun<'_>) -> Result<(), Halt>;

    fn assemble(
        &self,
        partials: Vec<Option<String>>,
        summary: &UnitsSummary,
    ) -> Result<FinalResponse, ItemError>;
}

struct Typed<U, W, O, P> {
    settings: Settings,
    units: U,
    body: Body<W, O, P>,
}

/// What a lane has in its hands of the segment it works on.
struct Work<'t, U: Units, R, O, P> {
    ready: R,
    reader: Option<U::Reader>,
    plan: &'t U::Plan,
    /// What the units of the segment were reduced to, those of `outputs` included.
    partial: Option<P>,
    /// Not committed yet.
    outputs: Vec<O>,
    sink: Option<Box<dyn Sink<O>>>,
    /// A fold failed and took `partial` with it.
    is_torn: bool,
}

impl<U, W, O, P> ProgressiveWork for Typed<U, W, O, P>
where
    U: Units,
    W: UnitWork<U::Unit, Output = O>,
    O: Send + Sync,
    P: Serialize + DeserializeOwned + Send,
{
    fn settings(&self) -> Settings {
        self.settings
    }

    fn plan(&self, scope: &StepScope) -> Result<Plan, ItemError> {
        let (extent, plan) = match guarded(|| self.units.extent(scope))? {
            Extent::Split(units, plan) => (Ok(units), plan),
            Extent::Ranks(ranks, plan) => (Err(ranks), plan),
        };
        Ok(Plan { text: serde_json::to_string(&plan)?, extent })
    }

    fn work(&self, lane: &mut LaneRun<'_>) -> Result<(), Halt> {
        let plan: U::Plan = serde_json::from_str(lane.plan())
            .map_err(|error| Halt::fatal("read the plan of the units", error.into()))?;
        let sink = match &self.body.writer {
            Some(make) => {
                let open = || {
                    let mut sink = make(lane.scope())?;
                    sink.open(lane.scope())?;
                    Ok(sink)
                };
                let opened = lane.watched(|| guarded(open));
                Some(opened.map_err(|error| Halt::fatal("open the writer", error))?)
            }
            None => None,
        };
        let ready = lane
            .watched(|| guarded(|| self.body.work.ready(lane.scope())))
            .map_err(|error| Halt::fatal("build the processor", error))?;
        let mut work = Work::<U, W::Ready, O, P> {
            ready,
            reader: None,
            plan: &plan,
            partial: None,
            outputs: Vec::new(),
            sink,
            is_torn: false,
        };
        loop {
            if lane.has_moved() {
                self.take_up(&mut work, lane)?;
            }
            match lane.next()? {
                Next::Unit => self.unit(&mut work, lane)?,
                Next::Commit(then) => self.commit(&mut work, lane, then)?,
                Next::Idle => lane.idle()?,
                Next::End => return Ok(()),
            }
        }
    }

    fn assemble(
        &self,
        partials: Vec<Option<String>>,
        summary: &UnitsSummary,
    ) -> Result<FinalResponse, ItemError> {
        guarded(|| {
            let mut whole: Option<P> = None;
            if let Some(reduce) = &self.body.reduce {
                for partial in partials.into_iter().flatten() {
                    let partial: P = serde_json::from_str(&partial)?;
                    whole = Some(match whole {
                        Some(whole) => (reduce.combine)(whole, partial)?,
                        None => partial,
                    });
                }
            }
            match &self.body.respond {
                Some(respond) => respond(whole, summary),
                None => {
                    let UnitsSummary { units_done, units_failed } = summary;
                    FinalResponse::json(&serde_json::json!({
                        "units_done": units_done,
                        "units_failed": units_failed,
                        "result": whole,
                    }))
                }
            }
        })
    }
}

impl<U, W, O, P> Typed<U, W, O, P>
where
    U: Units,
    W: UnitWork<U::Unit, Output = O>,
    P: Serialize + DeserializeOwned,
{
    /// Takes up the lane's segment where it stands.
    fn take_up(
        &self,
        work: &mut Work<'_, U, W::Ready, O, P>,
        lane: &LaneRun<'_>,
    ) -> Result<(), Halt> {
        work.reader = None;
        work.outputs.clear();
        let read = |text| {
            serde_json::from_str(text)
                .map_err(|error| Halt::fatal("read what units were reduced to", error.into()))
        };
        work.partial = match lane.partial().filter(|_| self.body.reduce.is_some()) {
            Some(text) => Some(read(text)?),
            None => None,
        };
        Ok(())
    }

    /// One attempt at the unit in front of the lane.
    fn unit(
        &self,
        work: &mut Work<'_, U, W::Ready, O, P>,
        lane: &mut LaneRun<'_>,
    ) -> Result<(), Halt> {
        self.open_reader(work, lane)?;
        let attempt = match lane.begin_unit() {
            Ok(()) => guarded(|| self.attempt(work, lane)),
            Err(given_up) => Err(given_up),
        };
        match attempt {
            Ok(Attempted::Output(output)) => {
                work.outputs.push(output);
                lane.unit_done(UnitEnd::Done);
            }
            Ok(Attempted::Filtered) => lane.unit_done(UnitEnd::Filtered),
            Ok(Attempted::NoMore) => lane.no_more_units(),
            Err(error) => {
                // Whatever state the reader is in: the next attempt, or the next unit, has a new one.
                work.reader = None;
                if std::mem::take(&mut work.is_torn) {
                    lane.rewind(&error, 0);
                } else {
                    lane.unit_failed(&error);
                }
            }
        }
        Ok(())
    }

    fn open_reader(
        &self,
        work: &mut Work<'_, U, W::Ready, O, P>,
        lane: &mut LaneRun<'_>,
    ) -> Result<(), Halt> {
        if work.reader.is_none() {
            let (rank, from) = lane.place();
            let range = UnitRange { rank, from };
            let scope = lane.scope().clone();
            let opened = lane.opening(|| guarded(|| self.units.open(work.plan, range, &scope)));
            work.reader = Some(opened.map_err(|error| Halt::fatal("open the units", error))?);
        }
        Ok(())
    }

    #[inline]
    fn attempt(
        &self,
        work: &mut Work<'_, U, W::Ready, O, P>,
        lane: &LaneRun<'_>,
    ) -> Result<Attempted<O>, ItemError> {
        let Some(reader) = &mut work.reader else { return Ok(Attempted::NoMore) };
        let Some(unit) = reader.next()? else { return Ok(Attempted::NoMore) };
        let Some(output) = work.ready.run(&unit, lane.time_left())? else {
            return Ok(Attempted::Filtered);
        };
        if let Some(reduce) = &self.body.reduce {
            // Until the fold returns, nobody has the value any more.
            work.is_torn = true;
            work.partial = Some((reduce.fold)(work.partial.take(), &output)?);
            work.is_torn = false;
        }
        Ok(Attempted::Output(output))
    }

    fn commit(
        &self,
        work: &mut Work<'_, U, W::Ready, O, P>,
        lane: &mut LaneRun<'_>,
        then: Then,
    ) -> Result<(), Halt> {
        let stored = work.partial.as_ref().map(serde_json::to_string).transpose();
        let partial = stored
            .map_err(|error| Halt::fatal("store what units were reduced to", error.into()))?;
        let Work { outputs, sink, .. } = work;
        let committed = lane.commit(then, partial, &mut |chunk| match sink {
            Some(sink) if !outputs.is_empty() => guarded(|| sink.write(outputs, chunk)),
            _ => Ok(()),
        });
        if let Some(sink) = &mut work.sink {
            sink.ended(matches!(committed, Ok(true)))
                .map_err(|error| Halt::fatal("undo what was written", error))?;
        }
        if committed? {
            work.outputs.clear();
        }
        Ok(())
    }
}

enum Attempted<O> {
    Output(O),
    Filtered,
    NoMore,
}
