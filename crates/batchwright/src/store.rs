//! The repository of executions: the traits that each store implements, and the rows that they store.

mod memory;
mod progressive;
pub mod schedule;
mod segment;

use std::any::{Any, TypeId};

use jiff::Timestamp;

pub use crate::execution::flow_state::{FlowEntry, FlowState};
#[doc(inline)]
pub use crate::execution::owner;
pub use crate::execution::status::{IllegalTransition, StatusEvent};
pub use memory::MemoryRepository;
pub use progressive::{
    Lane, ProgressiveExecution, ProgressiveQueries, ProgressiveRows, ProgressiveState,
    StoredResponse,
};

pub use segment::{FailureRecord, Segment};

use crate::audit::AuditEntry;
use crate::error::RepositoryError;
use crate::event::Event;
use crate::execution::{
    Counters, ExecutionId, InstanceId, JobExecution, JobInstance, Progress, SkipRecord,
    StepExecution, StepExecutionId,
};
use crate::launch::RequestKey;
use crate::query::Queries;

/// The failures that a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// No failure: committed data is lost when the process ends.
    None,
    /// The death of the process at any time.
    Process,
    /// Also a loss of power: files must be synced before the checkpoint that depends on them.
    Power,
}

/// Stores executions. Each implementation must pass `testing::conformance` (feature `testing`).
pub trait JobRepository: Queries {
    /// Begins a transaction. Until it ends, no other transaction sees its changes or changes the rows that it
    /// reads. Dropping it without [`commit`](Transaction::commit) rolls it back.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Unavailable`]: nothing was changed.
    fn begin(&self) -> Result<Box<dyn Transaction + '_>, RepositoryError>;

    /// Returns the queries about progressive executions.
    fn slices(&self) -> &dyn ProgressiveQueries;

    /// Returns the failures that a commit survives.
    fn durability(&self) -> Durability;

    /// Returns the globally unique name of this store: the key of checkpoints that are kept in other
    /// databases.
    fn store_id(&self) -> &str;
}

/// A transaction of the store: reads and writes rows, all or nothing.
///
/// The trait contains no rules: `lifecycle` decides what may be started, restarted or stopped.
#[expect(clippy::missing_errors_doc, reason = "each fails with what the store reports, no more")]
pub trait Transaction {
    /// Returns the instance of `job` with that key.
    fn find_instance(
        &mut self,
        job: &str,
        key: &str,
    ) -> Result<Option<JobInstance>, RepositoryError>;

    /// Returns the newest instance of `job`.
    fn newest_instance(&mut self, job: &str) -> Result<Option<JobInstance>, RepositoryError>;

    /// Inserts an instance. The store refuses a second one with the same job and key.
    fn insert_instance(
        &mut self,
        job: &str,
        key: &str,
        at: Timestamp,
    ) -> Result<JobInstance, RepositoryError>;

    /// Returns the executions of an instance, newest first.
    fn executions_of(&mut self, id: InstanceId) -> Result<Vec<JobExecution>, RepositoryError>;

    /// Returns one execution.
    fn execution(&mut self, id: ExecutionId) -> Result<Option<JobExecution>, RepositoryError>;

    /// Inserts an execution; `id` and `version` of `execution` are ignored. The store refuses a second
    /// running execution of an instance.
    fn insert_execution(
        &mut self,
        execution: &JobExecution,
    ) -> Result<ExecutionId, RepositoryError>;

    /// Replaces the execution if its stored version is `execution.version`, and increments the version.
    fn update_execution(&mut self, execution: &JobExecution) -> Result<(), RepositoryError>;

    /// Renews the lease and returns whether the caller still holds it.
    fn renew_lease(&mut self, lease: &Lease, until: Timestamp) -> Result<Held, RepositoryError>;

    /// Returns the step executions of an execution in the order in which they began.
    fn steps_of(&mut self, id: ExecutionId) -> Result<Vec<StepExecution>, RepositoryError>;

    /// Returns the executions of the step `step` in all executions of an instance, newest first.
    fn history_of(
        &mut self,
        id: InstanceId,
        step: &str,
    ) -> Result<Vec<StepExecution>, RepositoryError>;

    /// Inserts a step execution; `id` of `step` is ignored.
    fn insert_step(&mut self, step: &StepExecution) -> Result<StepExecutionId, RepositoryError>;

    /// Replaces a step execution.
    fn update_step(&mut self, step: &StepExecution) -> Result<(), RepositoryError>;

    /// Stores position and counters of a chunk, checked against the fence, and returns [`Held::Yes`] or
    /// [`Held::StopRequested`]. Called with each chunk, so that it is one statement.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::LeaseLost`] when the fence is not the current one: nothing of the transaction may be
    /// committed, so a lost lease is an error here.
    fn save_checkpoint(&mut self, update: &CheckpointUpdate<'_>) -> Result<Held, RepositoryError>;

    /// Inserts skips of a step execution.
    fn insert_skips(
        &mut self,
        step: StepExecutionId,
        skips: &[SkipRecord],
    ) -> Result<(), RepositoryError>;

    /// Returns the request with that key and the execution that it started.
    fn request(&mut self, key: &str) -> Result<Option<(RequestKey, ExecutionId)>, RepositoryError>;

    /// Stores that `request` started execution `id`. A [`RepositoryError::Conflict`] when its key is already
    /// stored.
    fn insert_request(
        &mut self,
        request: &RequestKey,
        id: ExecutionId,
    ) -> Result<(), RepositoryError>;

    /// Inserts the new status of an execution or step into the history. Other events are not stored.
    fn insert_event(&mut self, event: &Event) -> Result<(), RepositoryError>;

    /// Inserts a command into the audit.
    fn insert_audit(&mut self, entry: &AuditEntry) -> Result<(), RepositoryError>;

    /// Deletes an execution with its steps, skips and events, and its instance if it has no other execution.
    fn delete_execution(&mut self, id: ExecutionId) -> Result<(), RepositoryError>;

    /// Returns the access to the rows of progressive executions.
    fn slices(&mut self) -> &mut dyn ProgressiveRows;

    /// Returns the database transaction, for a writer that shares the store's database: as type `wanted` when
    /// the store has it as that type, else as the store's own type.
    fn resource(&mut self, wanted: TypeId) -> &mut dyn Any;

    /// Commits all changes, or none.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Unavailable`] means that the outcome is *unknown*: reload before deciding.
    fn commit(self: Box<Self>) -> Result<(), RepositoryError>;
}

/// The right to run an execution; every commit proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The execution.
    pub execution: ExecutionId,
    /// The fence that the row of the execution must still have.
    pub fence: i64,
}

/// Whether the caller still holds its lease, and what the store asks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Held {
    /// The caller holds the lease.
    Yes,
    /// The caller holds the lease, and a stop of the execution is requested.
    StopRequested,
    /// Another process owns the execution, or the execution has ended.
    Lost,
}

impl Held {
    /// Returns the state of a held lease.
    pub fn with_stop(stop_requested: bool) -> Self {
        if stop_requested { Self::StopRequested } else { Self::Yes }
    }
}

/// The values of a step that the commit of a chunk stores.
#[derive(Debug)]
pub struct CheckpointUpdate<'a> {
    /// The lease, which proves the ownership.
    pub lease: Lease,
    /// The step execution.
    pub step: StepExecutionId,
    /// The counters of the step execution, this chunk included.
    pub counters: &'a Counters,
    /// Position in the input and its size, when the reader knows it.
    pub progress: Option<Progress>,
    /// The engine's checkpoint, as JSON text.
    pub checkpoint: &'a str,
    /// The step's context, when it changed.
    pub step_context: Option<&'a str>,
    /// The job's context, when it changed.
    pub job_context: Option<&'a str>,
    /// The time of the commit.
    pub at: Timestamp,
}
