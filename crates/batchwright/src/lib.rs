//! Batchwright: a batch engine. Restartable jobs with exact checkpoints.
//!
//! A [`Job`] is a list of steps. A chunk step reads items, processes and writes them, and commits every chunk
//! with its checkpoint in one transaction; killed at any instant and restarted, the step continues from the
//! last commit. A [`JobOperator`] starts, stops and restarts jobs; a [`JobRepository`] stores their
//! executions.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use batchwright::{
//!     BatchStatus, ChunkStepBuilder, Job, JobOperator, JobParameters, ListWriter, MemoryRepository,
//!     Sequence,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let squares = Arc::new(Mutex::new(Vec::new()));
//! let step = ChunkStepBuilder::new("square")
//!     .reader(Sequence::to(10))
//!     .processor(|n: &u64| Ok((n % 2 == 1).then_some(n * n)))
//!     .writer(ListWriter::new(Arc::clone(&squares)))
//!     .chunk_size(3)
//!     .build();
//!
//! let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
//! operator.registry().register(Job::builder("odd-squares").step(step).build()?)?;
//! let execution = operator.start("odd-squares", JobParameters::new())?.wait()?;
//!
//! assert_eq!(execution.status, BatchStatus::Completed);
//! assert_eq!(*squares.lock().unwrap(), [1, 9, 25, 49, 81]);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! `cache`: [`CachedQueries`]. `discover`: jobs that register themselves at link time.
//! Both are on by default. `testing`: faults, doubles and the conformance suite of repositories.

mod clock;
mod context;
mod error;
mod event;
mod execution;
pub mod fault;
mod item;
mod job;
mod json;
mod launch;
mod listener;
mod operator;
mod owner;
mod parameters;
mod policy;
pub mod program;
mod progressive;
mod query;
mod registry;
mod repository;
mod retry;
mod runner;
mod shown;
mod step;
#[cfg(feature = "testing")]
pub mod testing;
mod threads;

pub use clock::{Clock, SimClock, StopToken, SystemClock, parse_duration};
pub use context::{ContextError, ContextHandle, ExecutionContext};
pub use error::{ErrorKind, Failure, ItemError, Phase, RepositoryError, StepError, report};
pub use event::{Change, Event, EventRecord, Events, Progress, ProgressUnit};
pub use execution::{
    BatchStatus, Counters, ExecutionId, ExecutionSummary, ExitStatus, FlowEntry, FlowState,
    IllegalTransition, InstanceId, JobExecution, JobInstance, SkipRecord, StatusEvent,
    StepExecution, StepExecutionId, StepSummary,
};
pub use item::{
    Ending, FileOutput, FilePosition, ItemProcessor, ItemReader, ItemWriter, ListReader,
    ListWriter, NoWriter, OpenPath, PassThrough, PathUse, PreparedCommit, Sequence, Total,
    stable_hash,
};
pub use job::{
    Decider, Decision, FlowBuilder, Incrementer, Job, JobBuilder, JobFlow, JobScope,
    TransitionBuilder, increment, next_day,
};
pub use json::reject_duplicate_keys;
pub use launch::{LaunchOptions, RecoverMode, RequestKey};
pub use listener::{
    ChunkListener, ItemListener, JobListener, ListenerResult, Promotion, RetryListener,
    SkipListener, StepListener,
};
pub use operator::{
    CommitPoint, JobHandle, JobName, JobOperator, OperatorBuilder, OperatorError, Refusal,
    Retention, RunError,
};
pub use owner::{Liveness, ProcessIdentity};
pub use parameters::{
    JobParameters, Parameter, ParameterDeclaration, ParameterError, ParameterSchema, ParameterType,
    ParameterValue, REPEAT_PARAMETER, SLOT_PARAMETER, TRIGGER_PARAMETER,
};
pub use policy::{Classifier, Completion, SkipLimitScope, SkipPolicy};
pub use progressive::{
    DisconnectSignal, Extent, FailureRecord, FinalResponse, ItemUnitReader, ItemUnits, ListUnits,
    NumberedUnits, OnDisconnect, OnFailed, OpenOptions, ProgressiveBuilder, ProgressiveStep,
    Segment, SliceAnswer, SliceError, SliceOrder, SliceOutcome, UnitIndex, UnitProgress, UnitRange,
    UnitReader, Units, UnitsSummary,
};
#[cfg(feature = "cache")]
pub use query::CachedQueries;
pub use query::{ExecutionFilter, InstancePage, Queries};
pub use registry::{AppState, DuplicateJob, JobRegistry, JobSource};
#[cfg(feature = "discover")]
pub use registry::{DiscoveredJob, JobFactory};
pub use repository::{
    CheckpointUpdate, Durability, JobRepository, Lane, Lease, MemoryRepository,
    ProgressiveExecution, ProgressiveQueries, ProgressiveRows, ProgressiveState, StoredResponse,
    Transaction,
};
pub use retry::{Backoff, BreakerState, CircuitBreaker, Retry, RetryPolicy};
pub use shown::shown;
pub use step::{
    ByteRanges, ChunkStep, ChunkStepBuilder, ChunkTransaction, CommandStep, ExitCodeMeaning,
    FilePartitions, Flow, JobStep, Missing, NumberRanges, Partition, PartitionStep, Partitioner,
    Step, StepOptions, StepScope, StepStart, Tasklet, TaskletCall, TaskletStep,
};

/// Registers a job at link time; see [`JobRegistry::discover`].
#[cfg(feature = "discover")]
pub use batchwright_macros::job;

/// Items that the expansion of [`macro@job`] uses.
#[cfg(feature = "discover")]
#[doc(hidden)]
pub mod discovery {
    pub use inventory::submit;
}
