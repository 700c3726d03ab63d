//! What is remembered of jobs: instances, executions, step executions and their counters.

mod exit;
mod status;
mod summary;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{AddAssign, Sub};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use exit::ExitStatus;
pub use status::{BatchStatus, IllegalTransition, StatusEvent};
pub(crate) use summary::millis;
pub use summary::{ExecutionSummary, StepSummary};

use crate::context::ExecutionContext;
use crate::error::{Failure, Phase};
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

/// "This job for these parameters."
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobInstance {
    /// Number given by the store.
    pub id: InstanceId,
    /// Name of the job.
    pub job: String,
    /// [`JobParameters::key`] of the identifying parameters.
    pub key: String,
    /// When it was first started.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    #[serde(serialize_with = "millis")]
    pub created_at: Timestamp,
}

/// One attempt at an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct JobExecution {
    /// Number given by the store.
    pub id: ExecutionId,
    /// The instance it attempts.
    pub instance_id: InstanceId,
    /// Name of the job.
    pub job: String,
    /// What it is doing.
    pub status: BatchStatus,
    /// The word it ended with.
    pub exit: ExitStatus,
    /// Everything it was started with.
    pub parameters: JobParameters,
    /// The execution it continues.
    pub restart_of: Option<ExecutionId>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its owner began.
    pub started_at: Option<Timestamp>,
    /// When its owner, or a recovery, ended it.
    pub ended_at: Option<Timestamp>,
    /// The process that carries it forward; `None` while nobody does.
    pub owner: Option<String>,
    /// Number that every commit of the owner must still match.
    pub fence: i64,
    /// Until when the owner holds it, unless it renews.
    pub lease_until: Option<Timestamp>,
    /// Whether somebody asked it to stop.
    pub stop_requested: bool,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Things that went wrong without changing the outcome.
    pub warnings: Vec<String>,
    /// The job's own state, inherited by the next execution of the instance.
    pub context: ExecutionContext,
    /// Fingerprint of the job's definition, when it has one.
    pub fingerprint: Option<String>,
    /// Where the job's definition was read from, when it was read from somewhere.
    pub source: Option<String>,
    /// What the flow remembers beyond its steps.
    pub flow: FlowState,
    /// The execution whose step started this one.
    pub parent: Option<ExecutionId>,
    /// Raised by every change; a writer with an old one is refused.
    pub version: i64,
}

impl JobExecution {
    /// One that is not stored yet.
    pub(crate) fn unborn(job: &str, parameters: JobParameters, now: Timestamp) -> Self {
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
            version: 1,
        }
    }

    /// Whether its owner's lease has expired while it is running.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        self.status.is_running() && self.lease_until.is_some_and(|until| until < now)
    }
}

/// One attempt at a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepExecution {
    /// Number given by the store.
    pub id: StepExecutionId,
    /// The job execution it belongs to.
    pub execution_id: ExecutionId,
    /// Name of the step.
    pub name: String,
    /// Key of the partition, for a part of a partitioned step.
    pub partition: Option<String>,
    /// What it is doing.
    pub status: BatchStatus,
    /// The word it ended with.
    pub exit: ExitStatus,
    /// What it did so far.
    pub counters: Counters,
    /// Where it stands: JSON of the engine, committed with every chunk.
    pub checkpoint: Option<String>,
    /// The step's own state.
    pub context: ExecutionContext,
    /// When it began.
    pub started_at: Timestamp,
    /// When it last committed.
    pub updated_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Whether the flow went on from its failure: a restart does not try it again.
    pub handled: bool,
    /// The execution of the step that began what this one continues; `None` when this one began it.
    pub begun_by: Option<StepExecutionId>,
}

impl StepExecution {
    /// One that is not stored yet.
    pub(crate) fn unborn(name: &str, now: Timestamp) -> Self {
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
            updated_at: now,
            ended_at: None,
            failure: None,
            handled: false,
            begun_by: None,
        }
    }

    /// The execution that began what this one continues: all that continue one beginning are one round.
    pub fn round(&self) -> StepExecutionId {
        self.begun_by.unwrap_or(self.id)
    }
}

/// What the flow of a job remembers beyond its steps, inherited by the next execution of the instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowState {
    /// What each decision decided last.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub decisions: BTreeMap<String, String>,
    /// Where a restart enters the flows that a transition stopped, by the flow's name; the job's own flow has
    /// the empty name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub entries: BTreeMap<String, FlowEntry>,
    /// Whether a step ended with `COMPLETED_WITH_SKIPS`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub has_skips: bool,
}

/// Where a restart enters a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEntry {
    /// The step, decision, split or flow to begin with; `None` when nothing is left.
    pub at: Option<String>,
    /// Steps that completed in this execution or before it run again when the flow comes to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_after: Option<ExecutionId>,
}

/// What a step execution did. Each counter has one owner: the commit of a chunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Counters {
    /// Items handed over by the reader, those of a chunk that later failed included.
    pub read: u64,
    /// Items in committed write transactions.
    pub write: u64,
    /// Items for which the processor returned nothing.
    pub filter: u64,
    /// Records given up while reading.
    pub read_skip: u64,
    /// Items given up while processing.
    pub process_skip: u64,
    /// Items given up while writing.
    pub write_skip: u64,
    /// Committed checkpoints.
    pub commit: u64,
    /// Abandoned attempts.
    pub rollback: u64,
}

impl Counters {
    /// Skips of all phases together.
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

    /// The law of conservation, for a completed chunk step.
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

    /// What happened since `earlier`, counters of the same step execution.
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

/// One record given up, written in the transaction that commits the skip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SkipRecord {
    /// Step that skipped it.
    pub step: String,
    /// What was being done.
    pub phase: Phase,
    /// The record's number in reading order, from 1.
    pub item: u64,
    /// Where it stands in its source, if the reader said so.
    pub location: Option<String>,
    /// Kind of the error.
    pub kind: String,
    /// The error, for people.
    pub message: String,
    /// The record as it was, when the step keeps it.
    pub content: Option<String>,
}
