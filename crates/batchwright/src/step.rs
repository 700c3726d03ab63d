//! Steps: the erased boundary, what a running step sees, and the transaction of a chunk.

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
use crate::repository::{Durability, JobRepository, UnitOfWork};

/// A step as the job sees it: the only dynamic boundary, crossed once a run and never for an item.
///
/// Made by [`ChunkStepBuilder`], [`TaskletStep`] or [`CommandStep`]; work of your own goes into a
/// [`Tasklet`].
pub trait Step: Send + Sync {
    /// Name, unique within the job.
    fn name(&self) -> &str;

    /// What the job must know of it.
    fn options(&self) -> &StepOptions;

    /// What its work is.
    #[doc(hidden)]
    fn kind(&self) -> StepKind {
        StepKind::Work
    }

    /// What carries it forward by slices, if anything does.
    #[doc(hidden)]
    fn progressive(&self) -> Option<ProgressiveBody> {
        None
    }

    /// Runs to the end, to a stop, or to the first failure that is not tolerated.
    #[doc(hidden)]
    fn run(&self, run: &mut StepRun<'_>) -> Result<StepEnd, StepError>;
}

/// What the work of a step is.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// Its own.
    Work,
    /// To wait for partitions.
    Partitions,
    /// To wait for a job.
    Job,
    /// To be carried forward by slices.
    Progressive,
}

/// How a step ended without failing.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepEnd {
    /// All work is done.
    Completed(ExitStatus),
    /// Ended at a checkpoint, on request.
    Stopped,
}

/// What every kind of step has.
#[derive(Clone, Default)]
pub struct StepOptions {
    /// Executions of the step that an instance may have; `None` is no limit.
    pub start_limit: Option<u32>,
    /// Whether the step runs again although it completed.
    pub allow_start_if_complete: bool,
    /// Called around it.
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

/// What the parts of a step may know of the execution that they work in. Cheap to clone.
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

/// How a step execution relates to the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepStart {
    /// It begins: the first of its instance, or a rerun of a completed one.
    Fresh,
    /// It continues one that failed or was stopped.
    Resumed,
    /// It continues one that was taken from its owner, who may wake up and go on writing to whatever
    /// it still has open.
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

    /// The job execution around it.
    pub fn job(&self) -> &JobScope {
        &self.inner.job
    }

    /// Name of the step; in a partitioned step with the key of the partition behind it: `load:p0003`.
    pub fn step(&self) -> &str {
        &self.inner.step
    }

    /// Number of the step execution.
    pub fn id(&self) -> StepExecutionId {
        self.inner.id
    }

    /// The execution of the step that began what this one continues: itself, unless it was restarted. With
    /// the step's name and the instance it tells a rerun of a completed step from the run before.
    pub fn round(&self) -> StepExecutionId {
        self.inner.round
    }

    /// The part of the input that is worked on, in a partitioned step.
    pub fn partition(&self) -> Option<&Partition> {
        self.inner.partition.as_ref()
    }

    /// A value of the partition: a bound, a path.
    ///
    /// # Errors
    ///
    /// Names the value when it is missing or of another type, or says that the step has no partitions.
    pub fn partition_value<T: serde::de::DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<T, ItemError> {
        let partition = self.partition().ok_or_else(|| {
            ItemError::fatal(format!("use `{name}` of the partition: this step has no partitions"))
        })?;
        Ok(partition.values.get(name)?)
    }

    /// Everything the job was started with.
    pub fn parameters(&self) -> &JobParameters {
        self.job().parameters()
    }

    /// The step's own state: committed with each chunk, inherited on restart.
    pub fn context(&self) -> &ContextHandle {
        &self.inner.context
    }

    /// Asks long-running code to return early.
    pub fn stop(&self) -> &StopToken {
        self.job().stop()
    }

    /// Name of the store, unique in the world; with instance and step the key of a checkpoint kept
    /// in another database.
    pub fn store_id(&self) -> &str {
        &self.inner.store_id
    }

    /// Whether a file must be synced before the checkpoint that counts on it.
    pub fn durability(&self) -> Durability {
        self.inner.durability
    }

    /// How this execution of the step relates to the ones before it.
    pub fn start(&self) -> StepStart {
        self.inner.start
    }
}

/// The transaction of one chunk, as its writer sees it. It opens when first needed.
pub struct ChunkTransaction<'a> {
    repository: &'a dyn JobRepository,
    unit: Option<Box<dyn UnitOfWork + 'a>>,
    on_commit: Vec<Box<dyn FnOnce() + Send>>,
    scope: &'a StepScope,
    sequence: u64,
    /// Why the store could not begin; no fault of any item.
    broken: Option<RepositoryError>,
}

impl<'a> ChunkTransaction<'a> {
    pub(crate) fn new(
        repository: &'a dyn JobRepository,
        scope: &'a StepScope,
        sequence: u64,
    ) -> Self {
        Self { repository, unit: None, on_commit: Vec::new(), scope, sequence, broken: None }
    }

    /// The store's own transaction as a `T`, for writers that share its database: what is written
    /// there commits with the checkpoint or not at all.
    ///
    /// # Errors
    ///
    /// When the store has no such resource, or cannot begin.
    pub fn resource<T: Any>(&mut self) -> Result<&mut T, ItemError> {
        let step = self.scope.step().to_owned();
        if let Err(error) = self.unit() {
            let told = ItemError::fatal(crate::error::report(&error));
            self.broken = Some(error);
            return Err(told);
        }
        self.unit()?.resource(TypeId::of::<T>()).downcast_mut::<T>().ok_or_else(|| {
            ItemError::fatal(format!(
                "write to the store's own database in step `{step}`: this store has no `{}`",
                std::any::type_name::<T>()
            ))
        })
    }

    /// Runs `action` right after the commit; never, when the chunk is rolled back.
    pub fn on_commit(&mut self, action: impl FnOnce() + Send + 'static) {
        self.on_commit.push(Box::new(action));
    }

    /// Names this chunk for good: the same after a restart, different for every other chunk of every
    /// instance (a rerun of a completed step begins its numbers anew). For sinks that can refuse what they
    /// have seen.
    pub fn idempotency_key(&self) -> String {
        let (job, step) = (self.scope.job(), self.scope.step());
        format!("{}/{}/{step}/{}", self.scope.store_id(), job.instance_id(), self.sequence)
    }

    /// The unit of work, begun if it was not.
    pub(crate) fn unit(&mut self) -> Result<&mut (dyn UnitOfWork + 'a), RepositoryError> {
        let unit = match self.unit.take() {
            Some(unit) => unit,
            None => self.repository.begin()?,
        };
        Ok(&mut **self.unit.insert(unit))
    }

    /// The store's own failure behind whatever the user's part reported.
    pub(crate) fn broken(&mut self) -> Option<RepositoryError> {
        self.broken.take()
    }

    pub(crate) fn commit(mut self) -> Result<(), RepositoryError> {
        if let Some(unit) = self.unit.take() {
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
            .field("open", &self.unit.is_some())
            .finish_non_exhaustive()
    }
}

/// Makes a part of a step for one step execution.
pub(crate) type Factory<T> = Arc<dyn Fn(&StepScope) -> Result<T, ItemError> + Send + Sync>;

/// A factory of clones of `part`, which need not be shareable itself.
pub(crate) fn cloning<T: Clone + Send + 'static>(part: T) -> Factory<T> {
    let part = Mutex::new(part);
    Arc::new(move |_| Ok(part.lock().unwrap_or_else(PoisonError::into_inner).clone()))
}

/// Runs user code; a panic becomes an error of kind `panic`.
pub(crate) fn guarded<T>(code: impl FnOnce() -> Result<T, ItemError>) -> Result<T, ItemError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(code))
        .unwrap_or_else(|payload| Err(ItemError::from_panic(&*payload)))
}

/// `error` as a step error when it is really news about the lease; else gives it back.
pub(crate) fn lease_news(
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
