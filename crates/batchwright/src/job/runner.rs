//! Carries one job execution from its claim to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{Job, JobScope};
use crate::clock::{Clock, StopToken};
use crate::error::{Failure, ItemError, ItemErrorText, RepositoryError, StepError};
use crate::event::{Change, Event, Events};
use crate::execution::{
    BatchStatus, Counters, ExitStatus, JobExecution, StatusEvent, StepExecution, StepExecutionId,
};
use crate::launch::{StepDecision, decide_step};
use crate::operator::{CommitHook, Permits};
use crate::repository::lifecycle::{self, Outcome};
use crate::repository::{JobRepository, Lease};
use crate::step::{Step, StepEnd, StepRun, StepScope, StepStart, guarded};

/// What a runner needs for every execution.
#[derive(Clone)]
pub(crate) struct Runner {
    pub(crate) repository: Arc<dyn JobRepository>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) step_permits: Arc<Permits>,
    pub(crate) commit_hook: Option<CommitHook>,
}

/// One execution to run.
pub(crate) struct JobRun {
    pub(crate) job: Arc<Job>,
    pub(crate) lease: Lease,
    pub(crate) stop: StopToken,
}

/// What earlier executions of a step left, beyond the row that is continued.
struct Past {
    /// Skips that were committed.
    skips: u64,
    /// Whether one of them was taken from its owner, who may still have its files open.
    was_taken: bool,
}

/// How the steps of a job ended together.
enum JobEnd {
    Completed(ExitStatus),
    Stopped,
    Failed(Failure, ExitStatus),
}

impl Runner {
    /// Runs the execution to its end. `None` when it was stopped or taken over before it began.
    pub(crate) fn run(&self, run: &JobRun) -> Result<Option<JobExecution>, RepositoryError> {
        let repository = &*self.repository;
        let Some(execution) = lifecycle::claim(repository, run.lease, self.clock.now())? else {
            return Ok(None);
        };
        self.emit_job(&execution, BatchStatus::Started);
        let scope = JobScope::new(&execution, run.stop.clone());
        let end = match before_job(&run.job, &scope) {
            Ok(()) => self.run_steps(run, &scope)?,
            Err(error) => JobEnd::Failed(
                Failure::new("listener_failed", format!("failed to call before_job: {error}")),
                ExitStatus::failed(),
            ),
        };
        self.finish(run, &scope, execution, end).map(Some)
    }

    fn run_steps(&self, run: &JobRun, scope: &JobScope) -> Result<JobEnd, RepositoryError> {
        let mut exit = None;
        for step in &run.job.steps {
            if run.stop.is_requested() {
                return Ok(JobEnd::Stopped);
            }
            let history = {
                let mut unit = self.repository.begin()?;
                unit.history_of(scope.instance_id(), step.name())?
            };
            let past = Past {
                skips: self.committed_skips(&history, step.name())?,
                was_taken: history.iter().any(|row| {
                    row.failure.as_ref().is_some_and(|failure| failure.code == "recovered")
                }),
            };
            let options = step.options();
            let resumed =
                match decide_step(history, options.start_limit, options.allow_start_if_complete) {
                    StepDecision::PassOver => continue,
                    StepDecision::LimitReached => {
                        let (step, limit) = (step.name().to_owned(), options.start_limit);
                        let error = StepError::StartLimit { step, limit: limit.unwrap_or(0) };
                        return Ok(JobEnd::Failed(error.failure(), ExitStatus::failed()));
                    }
                    StepDecision::Fresh => None,
                    StepDecision::Resume(earlier) => Some(*earlier),
                };
            let ended = self.run_step(run, scope, &**step, resumed, past)?;
            match ended.status {
                BatchStatus::Completed => exit = Some(ended.exit),
                BatchStatus::Stopped => return Ok(JobEnd::Stopped),
                _ => {
                    let failure = ended.failure.unwrap_or_else(|| {
                        Failure::new("step_failed", format!("step `{}` failed", ended.name))
                    });
                    return Ok(JobEnd::Failed(failure, ended.exit));
                }
            }
        }
        Ok(JobEnd::Completed(exit.unwrap_or_else(|| {
            ExitStatus::new(ExitStatus::NOOP).with_message("all steps were already complete")
        })))
    }

    /// Runs one step in a row of its own. The error is a repository that could not be told the end,
    /// or a lease that is lost: nothing more may be written.
    fn run_step(
        &self,
        run: &JobRun,
        scope: &JobScope,
        step: &dyn Step,
        resumed: Option<StepExecution>,
        past: Past,
    ) -> Result<StepExecution, RepositoryError> {
        let Past { skips: earlier_skips, was_taken } = past;
        let repository = &*self.repository;
        let start = match (&resumed, was_taken) {
            (None, _) => StepStart::Fresh,
            (Some(_), true) => StepStart::TakenOver,
            (Some(_), false) => StepStart::Resumed,
        };
        let row = self.begin_step(run, step.name(), resumed)?;
        let permit = self.step_permits.acquire(&run.stop);
        let mut step_run = StepRun {
            repository,
            clock: &*self.clock,
            events: &self.events,
            lease: run.lease,
            scope: StepScope::new(scope.clone(), &row, repository, start),
            step: row,
            earlier_skips,
            commit_hook: self.commit_hook.clone(),
        };
        let result = match permit {
            Some(_) => catch_unwind(AssertUnwindSafe(|| self.start_and_run(step, &mut step_run)))
                .unwrap_or_else(|payload| {
                    let source = ItemErrorText(ItemError::from_panic(&*payload));
                    Err(StepError::Tasklet { step: step.name().to_owned(), source })
                }),
            None => Ok(StepEnd::Stopped),
        };
        drop(permit);
        self.end_step(step, step_run, result)
    }

    /// Skips that stand: those of a chunk that was undone were counted, and never committed.
    fn committed_skips(
        &self,
        history: &[StepExecution],
        step: &str,
    ) -> Result<u64, RepositoryError> {
        let mut count = 0;
        for row in history.iter().filter(|row| row.counters.skips() > 0) {
            let skips = self.repository.skips(row.execution_id)?;
            count += skips.iter().filter(|skip| skip.step == step).count() as u64;
        }
        Ok(count)
    }

    fn begin_step(
        &self,
        run: &JobRun,
        name: &str,
        resumed: Option<StepExecution>,
    ) -> Result<StepExecution, RepositoryError> {
        let now = self.clock.now();
        let (checkpoint, context) =
            resumed.map(|earlier| (earlier.checkpoint, earlier.context)).unwrap_or_default();
        let row = StepExecution {
            id: StepExecutionId(0),
            execution_id: run.lease.execution,
            name: name.to_owned(),
            partition: None,
            status: BatchStatus::Starting,
            exit: ExitStatus::executing(),
            counters: Counters::default(),
            checkpoint,
            context,
            started_at: now,
            updated_at: now,
            ended_at: None,
            failure: None,
            handled: false,
        };
        let row = lifecycle::begin_step(&*self.repository, run.lease, row)?;
        self.emit_step(&run.job.name, &row);
        Ok(row)
    }

    fn start_and_run(&self, step: &dyn Step, run: &mut StepRun<'_>) -> Result<StepEnd, StepError> {
        run.step.status = BatchStatus::Started;
        lifecycle::update_step(&*self.repository, run.lease, &run.step, None, self.clock.now())
            .map_err(|source| run.commit_failed(source))?;
        self.emit_step(run.scope.job().job(), &run.step);
        for listener in &step.options().listeners {
            guarded(|| listener.before_step(&run.scope))
                .map_err(|error| listener_error(step, "before_step", error))?;
        }
        step.run(run)
    }

    fn end_step(
        &self,
        step: &dyn Step,
        run: StepRun<'_>,
        result: Result<StepEnd, StepError>,
    ) -> Result<StepExecution, RepositoryError> {
        let StepRun { lease, scope, step: mut row, .. } = run;
        let event = match result {
            Ok(StepEnd::Completed(exit)) => {
                row.exit = exit;
                StatusEvent::Complete
            }
            Ok(StepEnd::Stopped) => {
                row.exit = ExitStatus::stopped();
                StatusEvent::ConfirmStop
            }
            Err(StepError::Commit { source, .. }) if source.is_lease_lost() => return Err(source),
            Err(error) => fail_row(&mut row, &error),
        };
        set_status(&mut row, event);
        row.ended_at = Some(self.clock.now());
        // Changes that no commit took along belong to a failed unit of work, unless the step is done.
        if row.status != BatchStatus::Completed {
            scope.context().roll_back();
            scope.job().context().roll_back();
        }
        self.after_step(step, &scope, &mut row);
        row.context = scope.context().snapshot();
        row.updated_at = self.clock.now();
        if let Some(stored) = self.stored_row(&row)? {
            // Positions are the chunk commits' business: what they stored stands.
            row.checkpoint = stored.checkpoint;
        }
        let context = scope.job().context().change();
        let now = self.clock.now();
        lifecycle::update_step(&*self.repository, lease, &row, context.as_ref(), now)?;
        if let Some(stored) = context {
            scope.job().context().committed(stored);
        }
        self.emit_step(scope.job().job(), &row);
        Ok(row)
    }

    fn stored_row(&self, row: &StepExecution) -> Result<Option<StepExecution>, RepositoryError> {
        self.repository.step(row.id)
    }

    /// Calls every `after_step`; what they return is combined, what fails fails the step.
    fn after_step(&self, step: &dyn Step, scope: &StepScope, row: &mut StepExecution) {
        let mut errors = Vec::new();
        for listener in step.options().listeners.iter().rev() {
            match guarded(|| listener.after_step(scope, row)) {
                Ok(Some(exit)) => row.exit = row.exit.clone().and(exit),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        if let Some(error) = errors.into_iter().next() {
            let exit = row.exit.clone();
            fail_row(row, &listener_error(step, "after_step", error));
            row.exit = row.exit.clone().and(exit);
            row.status = BatchStatus::Failed;
        }
    }

    /// Tells `after_job` the outcome, then stores it.
    fn finish(
        &self,
        run: &JobRun,
        scope: &JobScope,
        mut execution: JobExecution,
        end: JobEnd,
    ) -> Result<JobExecution, RepositoryError> {
        let (event, exit, failure) = match end {
            JobEnd::Completed(exit) => (StatusEvent::Complete, exit, None),
            JobEnd::Stopped => (StatusEvent::ConfirmStop, ExitStatus::stopped(), None),
            JobEnd::Failed(failure, exit) => (StatusEvent::Fail, exit, Some(failure)),
        };
        if let Ok(status) = execution.status.after(event) {
            execution.status = status;
        }
        execution.exit = exit.clone();
        execution.failure = failure.clone();
        execution.ended_at = Some(self.clock.now());
        let mut warnings = Vec::new();
        for listener in run.job.listeners.iter().rev() {
            if let Err(error) = guarded(|| listener.after_job(scope, &execution)) {
                tracing::warn!(job = %run.job.name, %error, "after_job failed");
                warnings.push(format!("failed to call after_job: {error}"));
            }
        }
        let context = scope.context().change();
        let outcome = Outcome { event, exit, failure, warnings, context };
        let now = self.clock.now();
        let execution = lifecycle::finish(&*self.repository, run.lease, outcome, now)?;
        self.emit_job(&execution, execution.status);
        Ok(execution)
    }

    fn emit_job(&self, execution: &JobExecution, status: BatchStatus) {
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

fn before_job(job: &Job, scope: &JobScope) -> Result<(), ItemError> {
    job.listeners.iter().try_for_each(|listener| guarded(|| listener.before_job(scope)))
}

fn listener_error(step: &dyn Step, call: &'static str, error: ItemError) -> StepError {
    StepError::Listener { step: step.name().to_owned(), call, source: ItemErrorText(error) }
}

fn fail_row(row: &mut StepExecution, error: &StepError) -> StatusEvent {
    let failure = error.failure();
    row.exit = ExitStatus::failed().with_message(failure.message.clone());
    row.failure = Some(failure);
    StatusEvent::Fail
}

/// Rows of steps follow the same machine as jobs; a step never waits for a stop that it confirms.
fn set_status(row: &mut StepExecution, event: StatusEvent) {
    if let Ok(status) = row.status.after(event) {
        row.status = status;
    }
}
