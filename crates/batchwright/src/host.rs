//! The process as its executions see it: the services and settings with which they run, and the executions
//! that are active.

mod permits;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use permits::Permits;

use crate::clock::{Clock, StopToken};
use crate::execution::ExecutionId;
use crate::lifecycle::ObservedStore;
use crate::scope::JobScope;
use crate::store::Lease;

/// The services and settings with which executions run.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) store: ObservedStore,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) step_permits: Arc<Permits>,
    pub(crate) commit_hook: Option<CommitHook>,
    /// The name of this process as an owner of executions.
    pub(crate) owner: Arc<str>,
    pub(crate) lease_timeout: Duration,
    /// The executions that this process runs or drives.
    pub(crate) active: Active,
    /// Whether a restart accepts changed definitions, also those of the jobs that its steps run.
    pub(crate) accept_changed_definition: bool,
}

/// A moment of a step's commit at which the commit hook is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitPoint {
    /// All writes are done; the commit has not begun.
    Before,
    /// The commit is durable.
    After,
}

/// A function that is called at each [`CommitPoint`] with the execution and the step's name. Rehearsals kill
/// the process in it.
pub(crate) type CommitHook = Arc<dyn Fn(&JobScope, &str, CommitPoint) + Send + Sync>;

/// The executions that this process runs or drives, by id.
pub(crate) type Active = Arc<Mutex<BTreeMap<ExecutionId, ActiveExecution>>>;

/// An execution that this process runs or drives.
#[derive(Clone)]
pub(crate) struct ActiveExecution {
    pub(crate) lease: Lease,
    pub(crate) job: String,
    pub(crate) stop: StopToken,
    pub(crate) mode: RunMode,
}

/// How this process runs an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunMode {
    /// The process owns the execution and renews its lease.
    Owned,
    /// The process drives the execution slice by slice for a caller that waits.
    Driven,
    /// The process drives the execution slice by slice, as any server of the store may.
    ServerDriven,
}

pub(crate) fn lock(active: &Active) -> MutexGuard<'_, BTreeMap<ExecutionId, ActiveExecution>> {
    active.lock().unwrap_or_else(PoisonError::into_inner)
}
