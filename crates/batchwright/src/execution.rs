//! Stored facts about jobs: instances, executions, step executions and their counters.

mod estimate;
mod exit;
mod failure;
pub(crate) mod flow_state;
#[doc(hidden)]
pub mod owner;
pub(crate) mod status;
mod summary;
mod trace;

use std::fmt;
use std::ops::{AddAssign, Sub};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use estimate::Estimate;
pub use exit::ExitStatus;
pub use failure::{Failure, Phase};
pub(crate) use flow_state::{FlowEntry, FlowState};
pub use status::BatchStatus;
pub(crate) use status::StatusEvent;
pub(crate) use summary::millis;
pub use summary::{ExecutionSummary, StepSummary};
pub use trace::{InvalidTraceContext, TraceContext};

use crate::context::ExecutionContext;
use crate::parameters::JobParameters;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// Number of a [`JobInstance`], given by the store.
    InstanceId
);
id!(
    /// Number of a [`JobExecution`], given by the store.
    ExecutionId
);
id!(
    /// Number of a [`StepExecution`], given by the store.
    StepExecutionId
);

/// A job together with its identifying parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobInstance {
    /// Number given by the store.
    pub id: InstanceId,
    /// Name of the job.
    pub job: String,
    /// [`JobParameters::key`] of the identifying parameters.
    pub key: String,
    /// Time of the first start.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    #[serde(serialize_with = "millis")]
    pub created_at: Timestamp,
}

/// One attempt at an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct JobExecution {
    /// Number given by the store.
    pub id: ExecutionId,
    /// The instance.
    pub instance_id: InstanceId,
    /// Name of the job.
    pub job: String,
    /// Current status.
    pub status: BatchStatus,
    /// Exit status.
    pub exit: ExitStatus,
    /// All parameters of the execution.
    pub parameters: JobParameters,
    /// The execution that this one restarts.
    pub restart_of: Option<ExecutionId>,
    /// Time at which the start was accepted.
    pub created_at: Timestamp,
    /// Time at which the owner began to run the execution.
    pub started_at: Option<Timestamp>,
    /// Time at which the owner or a recovery ended the execution.
    pub ended_at: Option<Timestamp>,
    /// The process that runs the execution; `None` while no process does.
    pub owner: Option<String>,
    /// Fencing number: a commit with another number is refused.
    pub fence: i64,
    /// End of the owner's lease, unless the owner renews it.
    pub lease_until: Option<Timestamp>,
    /// Whether a stop was requested.
    pub stop_requested: bool,
    /// Reason of the failure.
    pub failure: Option<Failure>,
    /// Problems that did not change the outcome.
    pub warnings: Vec<String>,
    /// Context of the job, inherited by the next execution of the instance.
    pub context: ExecutionContext,
    /// Fingerprint of the job's definition, when it has one.
    pub fingerprint: Option<String>,
    /// Where the job's definition was read from, when it was read from a file.
    pub source: Option<String>,
    /// State of the flow beyond its steps.
    pub flow: FlowState,
    /// The execution whose step started this one.
    pub parent: Option<ExecutionId>,
    /// Who or what asked for this execution: `triggered_by` of its launch.
    pub triggered_by: Option<String>,
    /// The caller's place in its trace: `trace_parent` of the launch.
    pub trace_parent: Option<TraceContext>,
    /// Incremented by every change; an update with an older version is refused.
    pub version: i64,
}

impl JobExecution {
    /// Creates an execution that is not stored yet.
    pub(crate) fn new_unsaved(job: &str, parameters: JobParameters, now: Timestamp) -> Self {
        Self {
            id: ExecutionId(0),
            instance_id: InstanceId(0),
            job: job.to_owned(),
            status: BatchStatus::Starting,
            exit: ExitStatus::executing(),
            parameters,
            restart_of: None,
            created_at: now,
            started_at: None,
            ended_at: None,
            owner: None,
            fence: 1,
            lease_until: None,
            stop_requested: false,
            failure: None,
            warnings: Vec::new(),
            context: ExecutionContext::default(),
            fingerprint: None,
            source: None,
            flow: FlowState::default(),
            parent: None,
            triggered_by: None,
            trace_parent: None,
            version: 1,
        }
    }

    /// Whether the execution is running and its owner's lease has expired.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        self.status.is_running() && self.lease_until.is_some_and(|until| until < now)
    }
}

/// One attempt at a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepExecution {
    /// Number given by the store.
    pub id: StepExecutionId,
    /// The job execution that contains it.
    pub execution_id: ExecutionId,
    /// Name of the step.
    pub name: String,
    /// Key of the partition, for the execution of a partition.
    pub partition: Option<String>,
    /// Current status.
    pub status: BatchStatus,
    /// Exit status.
    pub exit: ExitStatus,
    /// Counters so far.
    pub counters: Counters,
    /// Checkpoint: JSON of the engine, committed with every chunk.
    pub checkpoint: Option<String>,
    /// Context of the step.
    pub context: ExecutionContext,
    /// Time at which it began.
    pub started_at: Timestamp,
    /// Position in the input at the last commit, and its size; `None` when the reader does not know its size.
    pub progress: Option<Progress>,
    /// Time of its last commit.
    pub updated_at: Timestamp,
    /// Time at which it ended.
    pub ended_at: Option<Timestamp>,
    /// Reason of the failure.
    pub failure: Option<Failure>,
    /// Whether the flow continued after the failure; a restart does not run such a step again.
    pub handled: bool,
    /// The first step execution of the round that this one continues; `None` for the first one itself.
    pub begun_by: Option<StepExecutionId>,
}

impl StepExecution {
    /// Creates a step execution that is not stored yet.
    pub(crate) fn new_unsaved(name: &str, now: Timestamp) -> Self {
        Self {
            id: StepExecutionId(0),
            execution_id: ExecutionId(0),
            name: name.to_owned(),
            partition: None,
            status: BatchStatus::Starting,
            exit: ExitStatus::executing(),
            counters: Counters::default(),
            checkpoint: None,
            context: ExecutionContext::default(),
            started_at: now,
            progress: None,
            updated_at: now,
            ended_at: None,
            failure: None,
            handled: false,
            begun_by: None,
        }
    }

    /// Returns the first step execution of this round: an execution and all restarts that continue it form
    /// one round.
    pub fn round(&self) -> StepExecutionId {
        self.begun_by.unwrap_or(self.id)
    }
}

/// Counters of a step execution. Only the commit of a chunk changes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Counters {
    /// Items that the reader returned, including those of a chunk that failed later.
    pub read: u64,
    /// Items in committed write transactions.
    pub write: u64,
    /// Items for which the processor returned nothing.
    pub filter: u64,
    /// Records skipped while reading.
    pub read_skip: u64,
    /// Items skipped while processing.
    pub process_skip: u64,
    /// Items skipped while writing.
    pub write_skip: u64,
    /// Committed checkpoints.
    pub commit: u64,
    /// Attempts that were rolled back.
    pub rollback: u64,
}

impl Counters {
    /// Returns the sum of the skips of all phases.
    pub fn skips(&self) -> u64 {
        self.read_skip + self.process_skip + self.write_skip
    }

    /// Counts one skip of `phase`.
    pub(crate) fn count_skip(&mut self, phase: Phase) {
        match phase {
            Phase::Read => self.read_skip += 1,
            Phase::Process => self.process_skip += 1,
            Phase::Write => self.write_skip += 1,
        }
    }

    /// Whether every item that was read is written, filtered or skipped; true for every completed chunk step.
    pub fn is_balanced(&self) -> bool {
        self.read == self.write + self.filter + self.process_skip + self.write_skip
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.write += other.write;
        self.filter += other.filter;
        self.read_skip += other.read_skip;
        self.process_skip += other.process_skip;
        self.write_skip += other.write_skip;
        self.commit += other.commit;
        self.rollback += other.rollback;
    }
}

impl Sub for Counters {
    type Output = Self;

    /// Returns what was counted since `earlier`, counters of the same step execution.
    fn sub(self, earlier: Self) -> Self {
        Self {
            read: self.read - earlier.read,
            write: self.write - earlier.write,
            filter: self.filter - earlier.filter,
            read_skip: self.read_skip - earlier.read_skip,
            process_skip: self.process_skip - earlier.process_skip,
            write_skip: self.write_skip - earlier.write_skip,
            commit: self.commit - earlier.commit,
            rollback: self.rollback - earlier.rollback,
        }
    }
}

/// Progress of a step through its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Progress {
    /// Items or bytes that the reader has consumed.
    pub done: u64,
    /// Items or bytes in total.
    pub total: u64,
    /// Unit of both numbers.
    pub unit: ProgressUnit,
}

/// The unit of [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ProgressUnit {
    /// Items.
    Items,
    /// Bytes of the input.
    Bytes,
}

impl ProgressUnit {
    /// Returns the stored name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Items => "items",
            Self::Bytes => "bytes",
        }
    }
}

/// A skipped record, written in the transaction that commits the skip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SkipRecord {
    /// Step that skipped the record.
    pub step: String,
    /// Phase of the failure.
    pub phase: Phase,
    /// The record's number in reading order, from 1.
    pub item: u64,
    /// Location of the record in its source, if the reader set one.
    pub location: Option<String>,
    /// Kind of the error.
    pub kind: String,
    /// The error, for people.
    pub message: String,
    /// The record itself, when the step keeps it.
    pub content: Option<String>,
}
