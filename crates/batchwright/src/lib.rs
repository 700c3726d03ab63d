//! Batchwright: a batch engine. Restartable jobs with exact checkpoints.
//!
//! A [`Job`] is a list of steps. A chunk step reads items, processes and writes them, and commits every chunk
//! with its checkpoint in one transaction; killed at any instant and restarted, the step continues from the
//! last commit. A [`JobOperator`] starts, stops and restarts jobs; a [`JobRepository`](store::JobRepository) stores their
//! executions.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use batchwright::{BatchStatus, ChunkStepBuilder, Job, JobOperator, JobParameters, ListWriter, MemoryRepository, Sequence};
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
//! let execution = operator.run("odd-squares", JobParameters::new())?;
//!
//! assert_eq!(execution.status, BatchStatus::Completed);
//! assert_eq!(*squares.lock().unwrap(), [1, 9, 25, 49, 81]);
//! # Ok(())
//! # }
//! ```
//!
//! # From the first job to operating
//!
//! 1. [`ChunkStepBuilder`]: a step from a reader, processors and a writer; [`item`] has them, and the traits of your own.
//! 2. [`Job::builder`]: steps one after another, flows, splits, decisions.
//! 3. [`JobOperator`]: start, wait, stop, restart, look; [`asynchronous`](JobOperator::asynchronous) from asynchronous code.
//! 4. [`skip`](ChunkStepBuilder::skip) and [`retry`](ChunkStepBuilder::retry): records and services that fail.
//! 5. [`operator`]: recover what a dead process left, delete what is old, queue for other processes. A durable store is
//!    `SqlRepository` of the crate `batchwright-store`, a server `Server` of `batchwright-server`.
//!
//! # Modules
//!
//! The root has the names of the example above; [`prelude`] has those that most programs need.
//!
//! | for | modules |
//! |---|---|
//! | jobs | [`job`](mod@job), [`step`], [`item`], [`listener`], [`policy`], [`retry`], [`parameters`], [`progressive`] |
//! | starting and asking | [`operator`], [`launch`], [`registry`], [`query`], [`event`], [`execution`], [`error`] |
//! | tests | [`testing`] |
//! | authors of stores | [`store`], [`context`], [`clock`] |
//!
//! # Features
//!
//! `async`: asynchronous readers, processors, writers and tasklets, on tokio. `cache`:
//! [`CachedQueries`](query::CachedQueries). `discover`: jobs that register themselves at link time. These are on
//! by default. `testing`: faults, doubles and the conformance suite of repositories.

pub mod audit;
pub mod clock;
pub mod context;
mod engine;
pub mod error;
pub mod event;
pub mod execution;
mod host;
pub mod item;
pub mod job;
pub mod job_step;
pub mod launch;
mod lifecycle;
pub mod listener;
pub mod operator;
pub mod parameters;
pub mod partition;
pub mod policy;
pub mod prelude;
#[doc(hidden)]
pub mod program;
pub mod progressive;
pub mod query;
mod refusal;
pub mod registry;
pub mod retry;
#[cfg(feature = "async")]
mod runtime;
pub mod scope;
pub mod step;
pub mod store;
pub mod testing;
#[doc(hidden)]
pub mod text;
mod threads;

pub use error::{ItemError, report};
pub use execution::BatchStatus;
pub use item::{ListWriter, Sequence};
pub use job::Job;
pub use operator::JobOperator;
pub use parameters::JobParameters;
pub use registry::JobRegistry;
pub use step::{ChunkStepBuilder, TaskletStep};
pub use store::MemoryRepository;

/// Registers a job at link time; see [`JobRegistry::discover`].
#[cfg(feature = "discover")]
pub use batchwright_macros::job;

/// Items that the expansion of [`macro@job`] uses.
#[cfg(feature = "discover")]
#[doc(hidden)]
pub mod discovery {
    pub use inventory::submit;
}
