//! The durable memory of executions: one trait, all rules of life in [`lifecycle`] above it.

pub(crate) mod lifecycle;
mod memory;
mod progressive;

use std::any::{Any, TypeId};

use jiff::Timestamp;

pub use memory::MemoryRepository;
pub use progressive::{
    Lane, ProgressiveExecution, ProgressiveQueries, ProgressiveRows, ProgressiveState,
    StoredResponse,
};

use crate::error::RepositoryError;
use crate::event::EventRecord;
use crate::execution::{
    Counters, ExecutionId, InstanceId, JobExecution, JobInstance, SkipRecord, StepExecution,
    StepExecutionId,
};
use crate::launch::RequestKey;
use crate::query::Queries;

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Nothing but the life of this process.
    None,
    /// The death of the process, at any instant.
    Process,
    /// Power loss too: files must be synced before the checkpoint that counts on them.
    Power,
}

/// Remembers executions. One implementation per database, all held to
/// [`testing::conformance`](crate::testing::conformance).
pub trait JobRepository: Queries {
    /// Opens a unit of work, alone: no other unit of work sees or changes the rows it reads until
    /// it ends. Dropping it without [`commit`](UnitOfWork::commit) undoes it.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Unavailable`]: nothing happened.
    fn begin(&self) -> Result<Box<dyn UnitOfWork + '_>, RepositoryError>;

    /// Questions about progressive executions.
    fn slices(&self) -> &dyn ProgressiveQueries;

    /// What a commit survives.
    fn durability(&self) -> Durability;

    /// Name of this store, unique in the world: the key of checkpoints kept in other databases.
    fn store_id(&self) -> &str;
}

/// Rows to read and write, all or nothing.
///
/// It holds no rules: who may start, restart or stop what is decided once, in `lifecycle`.
#[expect(clippy::missing_errors_doc, reason = "each fails with what the store reports, no more")]
pub trait UnitOfWork {
    /// The instance of `job` with that key.
    fn find_instance(
        &mut self,
        job: &str,
        key: &str,
    ) -> Result<Option<JobInstance>, RepositoryError>;

    /// The newest instance of `job`.
    fn newest_instance(&mut self, job: &str) -> Result<Option<JobInstance>, RepositoryError>;

    /// A new instance. The store refuses a second one with the same job and key.
    fn insert_instance(
        &mut self,
        job: &str,
        key: &str,
        at: Timestamp,
    ) -> Result<JobInstance, RepositoryError>;

    /// Executions of an instance, newest first.
    fn executions_of(&mut self, id: InstanceId) -> Result<Vec<JobExecution>, RepositoryError>;

    /// One execution.
    fn execution(&mut self, id: ExecutionId) -> Result<Option<JobExecution>, RepositoryError>;

    /// A new execution; `id` and `version` of `execution` are ignored. The store refuses a second
    /// running execution of an instance.
    fn insert_execution(
        &mut self,
        execution: &JobExecution,
    ) -> Result<ExecutionId, RepositoryError>;

    /// Replaces the execution whose version is `execution.version`, raising it by one.
    fn update_execution(&mut self, execution: &JobExecution) -> Result<(), RepositoryError>;

    /// Extends the lease. `None`: it belongs to another worker now. Else whether a stop is requested.
    fn renew_lease(
        &mut self,
        lease: &Lease,
        until: Timestamp,
    ) -> Result<Option<bool>, RepositoryError>;

    /// Step executions of an execution, in the order in which they began.
    fn steps_of(&mut self, id: ExecutionId) -> Result<Vec<StepExecution>, RepositoryError>;

    /// Step executions of that name in all executions of an instance, newest first.
    fn history_of(
        &mut self,
        id: InstanceId,
        step: &str,
    ) -> Result<Vec<StepExecution>, RepositoryError>;

    /// A new step execution; `id` of `step` is ignored.
    fn insert_step(&mut self, step: &StepExecution) -> Result<StepExecutionId, RepositoryError>;

    /// Replaces a step execution.
    fn update_step(&mut self, step: &StepExecution) -> Result<(), RepositoryError>;

    /// The hot path: position and counters of a chunk, fenced, in one statement. Returns whether a
    /// stop is requested.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::LeaseLost`] when the fence is not current: the caller must stop.
    fn save_checkpoint(&mut self, update: &CheckpointUpdate<'_>) -> Result<bool, RepositoryError>;

    /// Skips of a step execution.
    fn insert_skips(
        &mut self,
        step: StepExecutionId,
        skips: &[SkipRecord],
    ) -> Result<(), RepositoryError>;

    /// The request with that key that started an execution, and the execution.
    fn request(&mut self, key: &str) -> Result<Option<(RequestKey, ExecutionId)>, RepositoryError>;

    /// Remembers that `request` started execution `id`. A [`RepositoryError::Conflict`] when its key is known.
    fn insert_request(
        &mut self,
        request: &RequestKey,
        id: ExecutionId,
    ) -> Result<(), RepositoryError>;

    /// A line of history.
    fn insert_event(&mut self, event: &EventRecord) -> Result<(), RepositoryError>;

    /// Removes an execution with its steps, skips and events, and its instance when it was the last.
    fn delete_execution(&mut self, id: ExecutionId) -> Result<(), RepositoryError>;

    /// Rows of progressive executions.
    fn slices(&mut self) -> &mut dyn ProgressiveRows;

    /// The open transaction, for a writer that shares the store's database: as `wanted`, when the store has it
    /// in that form, or as it comes.
    fn resource(&mut self, wanted: TypeId) -> &mut dyn Any;

    /// Makes everything durable, or nothing.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Unavailable`] means that the outcome is *unknown*: reload before deciding.
    fn commit(self: Box<Self>) -> Result<(), RepositoryError>;
}

/// The right to carry an execution forward, as every commit proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The execution.
    pub execution: ExecutionId,
    /// The number that must still stand in its row.
    pub fence: i64,
}

/// What the commit of a chunk stores of its step.
#[derive(Debug)]
pub struct CheckpointUpdate<'a> {
    /// Proof of ownership.
    pub lease: Lease,
    /// The step execution.
    pub step: StepExecutionId,
    /// What it did so far, this chunk included.
    pub counters: &'a Counters,
    /// The engine's checkpoint, as JSON text.
    pub checkpoint: &'a str,
    /// The step's context, when it changed.
    pub step_context: Option<&'a str>,
    /// The job's context, when it changed.
    pub job_context: Option<&'a str>,
    /// Now.
    pub at: Timestamp,
}
