//! Runs executions: [`job`] runs a job execution from the claim to the end, [`flow`] walks from step to step,
//! and [`step`] runs one step execution.

mod flow;
mod job;
mod step;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use job::JobRun;
pub(crate) use step::{Past, StepOrder};

use crate::clock::Clock;
use crate::event::{Change, Event, Events};
use crate::execution::{BatchStatus, JobExecution, StepExecution};
use crate::operator::{Active, CommitHook, Permits};
use crate::store::JobRepository;

/// The services and settings with which executions run.
#[derive(Clone)]
pub(crate) struct Runner {
    pub(crate) repository: Arc<dyn JobRepository>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
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

impl Runner {
    pub(crate) fn emit_job(&self, execution: &JobExecution, status: BatchStatus) {
        self.events.emit(|| Event {
            at: self.clock.now(),
            execution: execution.id,
            job: execution.job.as_str().into(),
            change: Change::Job { status, note: None },
        });
    }

    fn emit_step(&self, job: &str, row: &StepExecution) {
        self.events.emit(|| Event {
            at: self.clock.now(),
            execution: row.execution_id,
            job: job.into(),
            change: Change::Step { id: row.id, name: row.name.as_str().into(), status: row.status },
        });
    }
}
