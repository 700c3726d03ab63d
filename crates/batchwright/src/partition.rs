//! Partitioned steps: a step whose input is divided into partitions, each with a step execution of its own.
//!
//! ```
//! use batchwright::item::NoWriter;
//! use batchwright::partition::{ByteRanges, FilePartitions, NumberRanges, PartitionStep, Partitioner};
//! use batchwright::scope::{Partition, StepScope, StepStart};
//! use batchwright::step::{ChunkStep, Step};
//! use batchwright::{ChunkStepBuilder, ItemError, Sequence};
//!
//! /// A partition for each region.
//! struct Regions;
//!
//! impl Partitioner for Regions {
//!     fn partitions(&self, _: &StepScope) -> Result<Vec<Partition>, ItemError> {
//!         ["north", "south"]
//!             .into_iter()
//!             .map(|region| Ok(Partition::new(region).with("region", &region)?))
//!             .collect()
//!     }
//! }
//!
//! /// The step of one partition.
//! fn load() -> impl Step {
//!     ChunkStepBuilder::new("load")
//!         .reader_with(|scope| {
//!             let region: String = scope.partition_value("region")?;
//!             if scope.start() == StepStart::Fresh {
//!                 println!("{region} begins");
//!             }
//!             Ok(Sequence::to(10))
//!         })
//!         .writer(NoWriter::new())
//!         .build()
//! }
//!
//! let step = PartitionStep::new(load(), Regions).threads(2);
//! // Partitions that are there already.
//! let _ = NumberRanges { min: 1, max: 1_000, grid: 4 };
//! # fn other(_: FilePartitions, _: ByteRanges, _: ChunkStep<Sequence, batchwright::item::PassThrough, NoWriter<u64>>) {}
//! ```

mod ranges;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

pub use ranges::{ByteRanges, FilePartitions, NumberRanges};

use crate::context::ExecutionContext;
use crate::engine::{Past, StepOrder, run_step};
use crate::error::{ErrorKind, ItemError, ItemErrorText, RepositoryError, StepError};
use crate::execution::{BatchStatus, Counters, ExitStatus, StepExecution, StepExecutionId};
use crate::item::guarded;
use crate::launch::{StepDecision, decide_step};
use crate::scope::{JobScope, Partition, StepScope};
use crate::step::{Step, StepEnd, StepKind, StepOptions, StepRun, records_read};

/// A function that divides the input of a step.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a partitioner",
    note = "give a function `|scope: &StepScope| Ok(vec![Partition::new(key)])`, `NumberRanges`, `FilePartitions`, or implement `Partitioner`"
)]
pub trait Partitioner: Send + Sync {
    /// Returns the partitions, in the order in which they start. Called once for an instance: the plan is
    /// stored, and restarts use the stored plan. An empty list completes the step.
    /// # Errors
    ///
    /// Fails the step; nothing was planned.
    fn partitions(&self, scope: &StepScope) -> Result<Vec<Partition>, ItemError>;
}

impl Partitioner for Box<dyn Partitioner> {
    fn partitions(&self, scope: &StepScope) -> Result<Vec<Partition>, ItemError> {
        (**self).partitions(scope)
    }
}

impl<F> Partitioner for F
where
    F: Fn(&StepScope) -> Result<Vec<Partition>, ItemError> + Send + Sync,
{
    fn partitions(&self, scope: &StepScope) -> Result<Vec<Partition>, ItemError> {
        self(scope)
    }
}

type Aggregator = Arc<
    dyn Fn(&StepScope, &[StepExecution]) -> Result<Option<ExitStatus>, ItemError> + Send + Sync,
>;

/// A step that runs another step, the inner step, once for each partition of its input, several concurrently.
///
/// Each partition has a step execution of its own, named `STEP:KEY`, with its own checkpoint and skip limit.
/// All partitions finish before the step ends, unless it [fails fast](Self::fail_fast). A restart runs the
/// partitions that are not complete.
pub struct PartitionStep {
    inner: Arc<dyn Step>,
    partitioner: Arc<dyn Partitioner>,
    aggregator: Option<Aggregator>,
    threads: usize,
    fail_fast: bool,
    options: StepOptions,
}

impl PartitionStep {
    /// Default number of partitions that run concurrently.
    pub const THREADS_DEFAULT: usize = 4;
    /// Maximum number of partitions that run concurrently: more than any machine can use.
    pub const THREADS_MAX: usize = 256;

    /// Creates a step that runs `inner` for each partition that `partitioner` returns. The step has the
    /// name of the inner step.
    pub fn new(inner: impl Step + 'static, partitioner: impl Partitioner + 'static) -> Self {
        Self::shared(Arc::new(inner), partitioner)
    }

    /// Creates a step for an inner step that other code shares; see [`new`](Self::new).
    pub fn shared(inner: Arc<dyn Step>, partitioner: impl Partitioner + 'static) -> Self {
        let options = StepOptions {
            start_limit: inner.options().start_limit,
            allow_start_if_complete: inner.options().allow_start_if_complete,
            ..StepOptions::default()
        };
        Self {
            inner,
            partitioner: Arc::new(partitioner),
            aggregator: None,
            threads: Self::THREADS_DEFAULT,
            fail_fast: false,
            options,
        }
    }

    /// Sets the number of partitions that run concurrently, at most [`THREADS_MAX`](Self::THREADS_MAX); zero
    /// counts as one. The operator's limit of running steps applies too.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.clamp(1, Self::THREADS_MAX);
        self
    }

    /// Requests a stop of the other partitions as soon as one fails. Default: they finish.
    #[must_use]
    pub fn fail_fast(mut self) -> Self {
        self.fail_fast = true;
        self
    }

    /// Sets a function that receives the newest execution of every partition, including those that earlier
    /// executions completed, once all are complete; an exit status that it returns becomes the step's.
    #[must_use]
    pub fn aggregator(
        mut self,
        aggregate: impl Fn(&StepScope, &[StepExecution]) -> Result<Option<ExitStatus>, ItemError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.aggregator = Some(Arc::new(aggregate));
        self
    }

    /// Sets start limit, rerun of a completed step, retry, timeout and listeners of the whole step; retry, timeout and
    /// listeners of the inner step apply to each partition.
    #[must_use]
    pub fn options(mut self, options: StepOptions) -> Self {
        self.options = options;
        self
    }
}

/// The stored plan of the first execution.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    /// The step execution that made the plan: rows of partitions before it belong to another plan.
    step: StepExecutionId,
    partitions: Vec<Planned>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Planned {
    key: String,
    values: Box<serde_json::value::RawValue>,
}

impl Planned {
    fn partition(&self) -> Result<Partition, StepErrorParts> {
        let values = ExecutionContext::from_json(self.values.get()).map_err(|error| {
            StepErrorParts::new("restore", format!("cannot interpret the stored plan: {error}"))
        })?;
        Ok(Partition { key: self.key.clone(), values })
    }
}

/// A failure of the partitioner or the plan, without the step's name.
struct StepErrorParts {
    action: &'static str,
    source: ItemError,
}

impl StepErrorParts {
    fn new(action: &'static str, message: impl Into<String>) -> Self {
        Self { action, source: ItemError::fatal(message) }
    }

    fn of(self, step: &str) -> StepError {
        let Self { action, source } = self;
        let step = step.to_owned();
        StepError::Component { step, part: "partitions", action, source: ItemErrorText(source) }
    }
}

/// A partition that is not complete.
struct Pending {
    partition: Partition,
    name: String,
    resumed: Option<StepExecution>,
    past: Past,
    runs: u32,
}

impl Step for PartitionStep {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn options(&self) -> &StepOptions {
        &self.options
    }

    fn kind(&self) -> StepKind {
        StepKind::Partitions
    }

    fn run(&self, run: &mut StepRun<'_>) -> Result<StepEnd, StepError> {
        let plan = self.plan(run)?;
        let (mut newest, mut pending) = (Vec::new(), Vec::new());
        for planned in &plan.partitions {
            let partition = planned.partition().map_err(|parts| parts.of(self.name()))?;
            match self.look_at(run, &plan, partition)? {
                Looked::Complete(row) => newest.push(*row),
                Looked::Pending(one) => pending.push(*one),
                Looked::LimitReached => {
                    let limit = self.inner.options().start_limit.unwrap_or(0);
                    return Err(StepError::StartLimit { step: self.name().to_owned(), limit });
                }
            }
        }
        let wanted = pending.len();
        let rows = self.run_all(run, pending).map_err(|source| run.commit_failed(source))?;
        run.step.counters = rows.iter().fold(Counters::default(), |mut sum, row| {
            sum += row.counters;
            sum
        });
        let failed: Vec<_> = rows.iter().filter(|row| row.status == BatchStatus::Failed).collect();
        if let Some(first) = failed.first() {
            let failure = first.failure.as_ref().map_or("", |failure| &failure.message);
            return Err(StepError::Partitions {
                step: self.name().to_owned(),
                failed: failed.len(),
                count: plan.partitions.len(),
                first: first.partition.clone().unwrap_or_default(),
                failure: failure.to_owned(),
            });
        }
        if rows.len() < wanted || rows.iter().any(|row| row.status == BatchStatus::Stopped) {
            return Ok(StepEnd::Stopped);
        }
        newest.extend(rows);
        newest.sort_by(|a, b| a.partition.cmp(&b.partition));
        self.fail_if_all_skipped(&newest)?;
        self.aggregate(run, &newest).map(StepEnd::Completed)
    }
}

enum Looked {
    Complete(Box<StepExecution>),
    Pending(Box<Pending>),
    LimitReached,
}

impl PartitionStep {
    /// Returns the stored plan, or makes and stores a new one before anything runs.
    fn plan(&self, run: &mut StepRun<'_>) -> Result<Plan, StepError> {
        if let Some(text) = &run.step.checkpoint {
            return serde_json::from_str(text).map_err(|error| {
                let what = format!("the plan of step `{}`: {error}", self.name());
                run.commit_failed(RepositoryError::Corrupt { what })
            });
        }
        let built = |source| StepErrorParts { action: "create", source }.of(self.name());
        let partitions = guarded(|| self.partitioner.partitions(&run.scope)).map_err(built)?;
        let mut keys = BTreeSet::new();
        if let Some(one) =
            partitions.iter().find(|one| one.key.is_empty() || !keys.insert(&one.key))
        {
            let problem = match one.key.as_str() {
                "" => "a partition has an empty key".to_owned(),
                key => format!("two partitions have the key `{key}`"),
            };
            return Err(StepErrorParts::new("create", problem).of(self.name()));
        }
        let planned = |one: &Partition| -> Result<Planned, ItemError> {
            let values = serde_json::value::RawValue::from_string(one.values.to_json()).map_err(
                |error| ItemError::wrap(ErrorKind::FATAL, "cannot store a partition", error),
            )?;
            Ok(Planned { key: one.key.clone(), values })
        };
        let partitions: Result<Vec<_>, _> = partitions.iter().map(planned).collect();
        let plan = Plan { step: run.step.id, partitions: partitions.map_err(built)? };
        let text = serde_json::to_string(&plan).map_err(|error| {
            built(ItemError::wrap(ErrorKind::FATAL, "cannot store the plan", error))
        })?;
        run.keep_plan(&text)?;
        Ok(plan)
    }

    /// Decides whether `partition` is complete, is to be run, or has reached its start limit.
    fn look_at(
        &self,
        run: &StepRun<'_>,
        plan: &Plan,
        partition: Partition,
    ) -> Result<Looked, StepError> {
        let failed = |source| run.commit_failed(source);
        let name = format!("{}:{}", self.name(), partition.key);
        let mut history = {
            let mut tx = run.store().begin().map_err(failed)?;
            tx.history_of(run.scope.job().instance_id(), &name).map_err(failed)?
        };
        history.retain(|row| row.id > plan.step);
        let runs = u32::try_from(history.len()).unwrap_or(u32::MAX);
        let limit = self.inner.options().start_limit;
        // A rerun of the step has another plan; within one plan, a complete partition stays complete.
        let resumed = match decide_step(history.first().cloned(), runs, limit, false) {
            StepDecision::PassOver(row) => return Ok(Looked::Complete(row)),
            StepDecision::LimitReached => return Ok(Looked::LimitReached),
            StepDecision::Fresh => None,
            StepDecision::Resume(row) => Some(*row),
        };
        let past = Past::of(&*run.host.store, &history, &name, resumed.as_ref());
        let past = past.map_err(failed)?;
        Ok(Looked::Pending(Box::new(Pending { partition, name, resumed, past, runs })))
    }

    /// Runs `pending` on several threads; returns the step executions that began.
    fn run_all(
        &self,
        run: &StepRun<'_>,
        pending: Vec<Pending>,
    ) -> Result<Vec<StepExecution>, RepositoryError> {
        let stop = run.scope.stop().child();
        let threads = self.threads.min(pending.len());
        let pending: Vec<_> = pending.into_iter().map(|one| Mutex::new(Some(one))).collect();
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<StepExecution>, RepositoryError> {
            let mut rows = Vec::new();
            while let Some(slot) = pending.get(next.fetch_add(1, Ordering::SeqCst)) {
                if stop.is_requested() {
                    break;
                }
                let taken = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(one) = taken else { continue };
                let scope = run.scope.job().for_concurrent_part(stop.clone(), threads);
                let row = self.run_one(run, &scope, one).inspect_err(|_| stop.request())?;
                if self.fail_fast && row.status == BatchStatus::Failed {
                    stop.request();
                }
                rows.push(row);
            }
            Ok(rows)
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            // This thread is one of the workers, so the step runs even when no other thread can be started.
            let start = |_| crate::threads::start(scope, "batchwright partition", work);
            let running: Vec<_> = (1..threads).filter_map(start).collect();
            let own = work();
            let joined = running.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            std::iter::once(own).chain(joined).collect()
        });
        run.scope.job().context().refresh();
        Ok(results.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    fn run_one(
        &self,
        run: &StepRun<'_>,
        scope: &JobScope,
        one: Pending,
    ) -> Result<StepExecution, RepositoryError> {
        let Pending { partition, name, resumed, past, runs } = one;
        run_step(
            run.host,
            StepOrder {
                step: &*self.inner,
                name,
                partition: Some(partition),
                scope,
                lease: run.lease,
                resumed,
                past,
                runs,
                handles: &|_| false,
            },
        )
    }

    /// Fails the step when every record of all partitions was skipped.
    fn fail_if_all_skipped(&self, rows: &[StepExecution]) -> Result<(), StepError> {
        let parts = rows.iter().filter_map(|row| records_read(row.checkpoint.as_deref()));
        let parts: Vec<_> = parts.collect();
        if parts.is_empty() || !parts.iter().all(|part| part.all_skipped) {
            return Ok(());
        }
        let records = parts.iter().map(|part| part.records).sum();
        Err(StepError::AllSkipped { step: self.name().to_owned(), records })
    }

    fn aggregate(
        &self,
        run: &StepRun<'_>,
        rows: &[StepExecution],
    ) -> Result<ExitStatus, StepError> {
        let together = rows.iter().map(|row| row.exit.clone()).reduce(ExitStatus::and);
        let together = together.unwrap_or_else(ExitStatus::completed);
        let Some(aggregate) = &self.aggregator else { return Ok(together) };
        let own = guarded(|| aggregate(&run.scope, rows))
            .map_err(|source| StepErrorParts { action: "aggregate", source }.of(self.name()))?;
        Ok(own.unwrap_or(together))
    }
}
