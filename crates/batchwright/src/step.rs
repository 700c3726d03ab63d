//! Steps: the trait of every kind of step, the scope of a running step, and the transaction of a chunk.

mod chunk;
mod command;
mod job;
mod partition;
mod run;
mod tasklet;

use std::any::{Any, TypeId};
use std::sync::{Arc, Mutex, PoisonError};

pub use chunk::{ChunkStep, ChunkStepBuilder, Missing};
pub use command::{CommandStep, ExitCodeMeaning};
pub use job::JobStep;
pub use partition::{
    ByteRanges, FilePartitions, NumberRanges, Partition, PartitionStep, Partitioner,
};
pub(crate) use run::{Commit, StepRun};
pub use tasklet::{Flow, Tasklet, TaskletCall, TaskletStep};

use crate::clock::StopToken;
use crate::context::ContextHandle;
use crate::error::{ErrorKind, ItemError, RepositoryError, StepError};
use crate::execution::{ExitStatus, StepExecutionId};
use crate::job::JobScope;
use crate::listener::StepListener;
use crate::parameters::JobParameters;
use crate::progressive::ProgressiveBody;
use crate::store::{Durability, JobRepository, Transaction};

/// A step as its job sees it: the only dynamic boundary, crossed once per step execution and never for an
/// item.
///
/// [`ChunkStepBuilder`], [`TaskletStep`] and [`CommandStep`] create steps; implement [`Tasklet`] for work of
/// your own.
pub trait Step: Send + Sync {
    /// Returns the name, unique within the job.
    fn name(&self) -> &str;

    /// Returns the options that the job evaluates.
    fn options(&self) -> &StepOptions;

    /// Returns the kind of the step's work.
    #[doc(hidden)]
    fn kind(&self) -> StepKind {
        StepKind::Work
    }

    /// Returns the progressive work of the step, if the step is progressive.
    #[doc(hidden)]
    fn progressive(&self) -> Option<ProgressiveBody> {
        None
    }

    /// Runs until the work is done, a stop is requested, or a failure is not tolerated.
    #[doc(hidden)]
    fn run(&self, run: &mut StepRun<'_>) -> Result<StepEnd, StepError>;
}

/// The kind of a step's work.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// The step does its own work.
    Work,
    /// The step waits for its partitions.
    Partitions,
    /// The step waits for another job.
    Job,
    /// The step runs in slices.
    Progressive,
}

/// The end of a step that did not fail.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepEnd {
    /// All work is done.
    Completed(ExitStatus),
    /// The step ended at a checkpoint, on request.
    Stopped,
}

/// Options common to all kinds of steps.
#[derive(Clone, Default)]
pub struct StepOptions {
    /// Number of executions of the step that an instance may have; `None` is no limit.
    pub start_limit: Option<u32>,
    /// Whether the step runs again although it is complete.
    pub allow_start_if_complete: bool,
    /// Listeners of the step's executions.
    pub listeners: Vec<Arc<dyn StepListener>>,
}

impl std::fmt::Debug for StepOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepOptions")
            .field("start_limit", &self.start_limit)
            .field("allow_start_if_complete", &self.allow_start_if_complete)
            .field("listeners", &self.listeners.len())
            .finish()
    }
}

/// The step execution as its reader, processor, writer or tasklet sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StepScope {
    inner: Arc<StepScopeParts>,
}

#[derive(Debug)]
struct StepScopeParts {
    job: JobScope,
    step: String,
    id: StepExecutionId,
    round: StepExecutionId,
    partition: Option<Partition>,
    context: ContextHandle,
    store_id: String,
    durability: Durability,
    start: StepStart,
}

/// The relation of a step execution to earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepStart {
    /// The step begins: its first execution in the instance, or a rerun of a completed one.
    Fresh,
    /// The step continues an execution that failed or was stopped.
    Resumed,
    /// The step continues an execution that was taken from its owner; the owner may wake up and write to its
    /// open outputs.
    TakenOver,
}

impl StepScope {
    pub(crate) fn new(
        job: JobScope,
        step: &crate::execution::StepExecution,
        partition: Option<Partition>,
        repository: &dyn JobRepository,
        start: StepStart,
    ) -> Self {
        Self {
            inner: Arc::new(StepScopeParts {
                job,
                step: step.name.clone(),
                id: step.id,
                round: step.round(),
                partition,
                context: ContextHandle::new(step.context.clone()),
                store_id: repository.store_id().to_owned(),
                durability: repository.durability(),
                start,
            }),
        }
    }

    /// Returns the job execution.
    pub fn job(&self) -> &JobScope {
        &self.inner.job
    }

    /// Returns the name of the step, for a partition followed by its key: `load:p0003`.
    pub fn step(&self) -> &str {
        &self.inner.step
    }

    /// Returns the number of the step execution.
    pub fn id(&self) -> StepExecutionId {
        self.inner.id
    }

    /// Returns the first step execution of the round that this one continues: itself, unless it was
    /// restarted. Together with the step's name and the instance, the round distinguishes a rerun of a
    /// completed step from the earlier run.
    pub fn round(&self) -> StepExecutionId {
        self.inner.round
    }

    /// Returns the partition, in a partitioned step.
    pub fn partition(&self) -> Option<&Partition> {
        self.inner.partition.as_ref()
    }

    /// Returns a value of the partition: a bound, a path.
    ///
    /// # Errors
    ///
    /// Names the value when it is missing or of another type, or reports that the step has no partitions.
    pub fn partition_value<T: serde::de::DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<T, ItemError> {
        let partition = self.partition().ok_or_else(|| {
            ItemError::fatal(format!("use `{name}` of the partition: this step has no partitions"))
        })?;
        Ok(partition.values.get(name)?)
    }

    /// Returns all parameters of the job execution.
    pub fn parameters(&self) -> &JobParameters {
        self.job().parameters()
    }

    /// Returns the context of the step: committed with each chunk, inherited on restart.
    pub fn context(&self) -> &ContextHandle {
        &self.inner.context
    }

    /// Returns the stop token; long-running code polls it and returns early.
    pub fn stop(&self) -> &StopToken {
        self.job().stop()
    }

    /// Returns the globally unique name of the store; with instance and step, the key of a checkpoint kept in
    /// another database.
    pub fn store_id(&self) -> &str {
        &self.inner.store_id
    }

    /// Returns whether files must be synced before the checkpoint that refers to them.
    pub fn durability(&self) -> Durability {
        self.inner.durability
    }

    /// Returns the relation of this execution to earlier ones.
    pub fn start(&self) -> StepStart {
        self.inner.start
    }
}

/// The transaction of one chunk, as its writer sees it. The transaction opens at its first use.
pub struct ChunkTransaction<'a> {
    repository: &'a dyn JobRepository,
    tx: Option<Box<dyn Transaction + 'a>>,
    on_commit: Vec<Box<dyn FnOnce() + Send>>,
    scope: &'a StepScope,
    sequence: u64,
    /// Why the store could not begin a transaction; not the fault of any item.
    broken: Option<RepositoryError>,
}

impl<'a> ChunkTransaction<'a> {
    pub(crate) fn new(
        repository: &'a dyn JobRepository,
        scope: &'a StepScope,
        sequence: u64,
    ) -> Self {
        Self { repository, tx: None, on_commit: Vec::new(), scope, sequence, broken: None }
    }

    /// Returns the store's own transaction as a `T`, for writers that use the store's database: their writes
    /// commit together with the checkpoint or not at all.
    ///
    /// # Errors
    ///
    /// When the store has no such resource, or cannot begin a transaction.
    pub fn resource<T: Any>(&mut self) -> Result<&mut T, ItemError> {
        let step = self.scope.step().to_owned();
        if let Err(error) = self.tx() {
            let failure = ItemError::fatal(crate::error::report(&error));
            self.broken = Some(error);
            return Err(failure);
        }
        self.tx()?.resource(TypeId::of::<T>()).downcast_mut::<T>().ok_or_else(|| {
            ItemError::fatal(format!(
                "write to the store's own database in step `{step}`: this store has no `{}`",
                std::any::type_name::<T>()
            ))
        })
    }

    /// Runs `action` right after the commit; a rollback discards it.
    pub fn on_commit(&mut self, action: impl FnOnce() + Send + 'static) {
        self.on_commit.push(Box::new(action));
    }

    /// Returns a permanent key of this chunk: the same after a restart, different for every other chunk of
    /// every instance (a rerun of a completed step restarts the numbers). For sinks that can refuse a key
    /// they already have.
    pub fn idempotency_key(&self) -> String {
        let (job, step) = (self.scope.job(), self.scope.step());
        format!("{}/{}/{step}/{}", self.scope.store_id(), job.instance_id(), self.sequence)
    }

    /// Returns the transaction, and begins it at the first call.
    pub(crate) fn tx(&mut self) -> Result<&mut (dyn Transaction + 'a), RepositoryError> {
        let unit = match self.tx.take() {
            Some(unit) => unit,
            None => self.repository.begin()?,
        };
        Ok(&mut **self.tx.insert(unit))
    }

    /// Takes the store's own failure, which caused the error that the user's part returned.
    pub(crate) fn broken(&mut self) -> Option<RepositoryError> {
        self.broken.take()
    }

    pub(crate) fn commit(mut self) -> Result<(), RepositoryError> {
        if let Some(unit) = self.tx.take() {
            unit.commit()?;
        }
        for action in self.on_commit.drain(..) {
            action();
        }
        Ok(())
    }
}

impl std::fmt::Debug for ChunkTransaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkTransaction")
            .field("key", &self.idempotency_key())
            .field("open", &self.tx.is_some())
            .finish_non_exhaustive()
    }
}

/// A factory that creates a part of a step for each step execution.
pub(crate) type Factory<T> = Arc<dyn Fn(&StepScope) -> Result<T, ItemError> + Send + Sync>;

/// Creates a factory that clones `part`; `part` itself need not be shareable.
pub(crate) fn cloning<T: Clone + Send + 'static>(part: T) -> Factory<T> {
    let part = Mutex::new(part);
    Arc::new(move |_| Ok(part.lock().unwrap_or_else(PoisonError::into_inner).clone()))
}

/// Runs user code and turns a panic into an error of kind `panic`.
pub(crate) fn guarded<T>(code: impl FnOnce() -> Result<T, ItemError>) -> Result<T, ItemError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(code))
        .unwrap_or_else(|payload| Err(ItemError::from_panic(&*payload)))
}

/// Returns a step error when `error` means that the lease is lost; otherwise returns `error`.
pub(crate) fn split_lease_lost(
    error: ItemError,
    step: &str,
    execution: crate::execution::ExecutionId,
) -> Result<ItemError, StepError> {
    if *error.kind() == ErrorKind::LEASE_LOST {
        let source = RepositoryError::LeaseLost { execution };
        return Err(StepError::Commit { step: step.to_owned(), source });
    }
    Ok(error)
}
