//! Carries executions forward: [`job`] from the claim to the end, [`flow`] from step to step, [`step`] one
//! step in a row of its own.

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
use crate::repository::JobRepository;

/// What every execution is carried forward with.
#[derive(Clone)]
pub(crate) struct Runner {
    pub(crate) repository: Arc<dyn JobRepository>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) step_permits: Arc<Permits>,
    pub(crate) commit_hook: Option<CommitHook>,
    /// Who we are, as owners of executions.
    pub(crate) owner: Arc<str>,
    pub(crate) lease_timeout: Duration,
    /// Executions whose leases are renewed.
    pub(crate) active: Active,
    /// What the caller of a restart said of changed definitions: it holds for jobs within the job too.
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
