//! Steps that run another job.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::later;
use crate::engine::{JobRun, run_job};
use crate::error::{ItemError, ItemErrorText, RepositoryError, StepError, report};
use crate::execution::{BatchStatus, ExecutionId, ExitStatus, JobExecution};
use crate::host::{ActiveExecution, RunMode, lock};
use crate::item::guarded;
use crate::job::Job;
use crate::launch::{LaunchOptions, LaunchRules, RecoverMode};
use crate::lifecycle;
use crate::lifecycle::{Claimant, StartRequest};
use crate::parameters::JobParameters;
use crate::refusal::{OperatorError, Refusal};
use crate::scope::{StepScope, StepStart};
use crate::step::{Step, StepEnd, StepKind, StepOptions, StepRun};
use crate::store::Lease;

type Extractor = Arc<dyn Fn(&StepScope) -> Result<JobParameters, ItemError> + Send + Sync>;

/// A step that runs a job as an instance of its own.
///
/// The child's parameters are extracted once and stored, so a restart of the parent restarts the same child
/// instance. The child's end, including its exit code, becomes the step's end; a stop of the parent stops the
/// child.
pub struct JobStep {
    name: String,
    options: StepOptions,
    job: Arc<Job>,
    parameters: Extractor,
}

impl JobStep {
    /// Creates a step that runs `job` with all parameters of the parent.
    pub fn new(name: impl Into<String>, job: Job) -> Self {
        Self {
            name: name.into(),
            options: StepOptions::default(),
            job: Arc::new(job),
            parameters: Arc::new(|scope| Ok(scope.parameters().clone())),
        }
    }

    /// Sets a function that makes the child's parameters from the parent's parameters and contexts.
    #[must_use]
    pub fn parameters(
        mut self,
        extract: impl Fn(&StepScope) -> Result<JobParameters, ItemError> + Send + Sync + 'static,
    ) -> Self {
        self.parameters = Arc::new(extract);
        self
    }

    /// Sets start limit, rerun of a completed step, and listeners.
    #[must_use]
    pub fn options(mut self, options: StepOptions) -> Self {
        self.options = options;
        self
    }
}

/// The stored plan of the step, for a restart.
#[derive(Serialize, Deserialize)]
struct Plan {
    parameters: JobParameters,
}

impl Step for JobStep {
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> &StepOptions {
        &self.options
    }

    fn kind(&self) -> StepKind {
        StepKind::Job
    }

    fn run(&self, run: &mut StepRun<'_>) -> Result<StepEnd, StepError> {
        let parameters = self.plan(run)?;
        let rules = self.job.launch_rules();
        let mut started = self.start(run, parameters.clone(), RecoverMode::Detect, rules);
        match &started {
            // The worker that runs this child has lost the parent, which this execution owns now, and so the child.
            Err(OperatorError::Refused(Refusal::AlreadyRunning { execution, .. }))
                if self.is_ours(run, *execution)?.is_some() =>
            {
                started = self.start(run, parameters, RecoverMode::Force, rules);
            }
            // The step runs again from its beginning, and so does its child.
            Err(OperatorError::Refused(Refusal::AlreadyComplete { execution }))
                if run.scope.start() == StepStart::Fresh
                    && self.is_ours(run, *execution)?.is_some() =>
            {
                let again = LaunchRules { again_from: self.job.first_node(), ..rules };
                started = self.start(run, parameters, RecoverMode::Detect, again);
            }
            _ => {}
        }
        let started = match started {
            Ok(execution) => execution,
            Err(OperatorError::Repository(source)) => return Err(run.commit_failed(source)),
            // Only waiting for an end and asynchronous calls report these.
            Err(error @ (OperatorError::Run(_) | OperatorError::NoResult)) => {
                let source = RepositoryError::unavailable("start the job", error);
                return Err(run.commit_failed(source));
            }
            Err(OperatorError::Refused(refusal)) => return self.refused(run, &refusal),
        };
        let lease = Lease { execution: started.id, fence: started.fence };
        let stop = run.scope.stop().child();
        let job = self.job.name().to_owned();
        let held = ActiveExecution { lease, job, stop: stop.clone(), mode: RunMode::Owned };
        lock(&run.host.active).insert(lease.execution, held);
        let ended = run_job(run.host, &JobRun { job: Arc::clone(&self.job), lease, stop });
        lock(&run.host.active).remove(&lease.execution);
        match ended {
            Ok(Some(execution)) => self.end(execution),
            Ok(None) => Ok(StepEnd::Stopped),
            // Another worker took over the child; this execution still owns the parent.
            Err(lost @ RepositoryError::LeaseLost { .. }) => Err(self.failed(&lost)),
            Err(source) => Err(run.commit_failed(source)),
        }
    }
}

impl JobStep {
    /// Returns the stored parameters, or extracts and stores them before the child starts.
    fn plan(&self, run: &mut StepRun<'_>) -> Result<JobParameters, StepError> {
        if let Some(text) = &run.step.checkpoint {
            let plan: Plan = serde_json::from_str(text).map_err(|error| {
                let what = format!("the parameters of step `{}`: {error}", self.name);
                run.commit_failed(RepositoryError::Corrupt { what })
            })?;
            return Ok(plan.parameters);
        }
        let extracted = guarded(|| (self.parameters)(&run.scope)).map_err(|source| {
            let (step, source) = (self.name.clone(), ItemErrorText(source));
            StepError::Component { step, part: "parameters", action: "evaluate", source }
        })?;
        let parameters = self.job.accept(extracted).map_err(|refusal| self.failed(&refusal))?;
        let plan = Plan { parameters };
        let text = serde_json::to_string(&plan).map_err(|error| {
            run.commit_failed(RepositoryError::unavailable("store the parameters", error))
        })?;
        run.keep_plan(&text)?;
        Ok(plan.parameters)
    }

    fn start(
        &self,
        run: &StepRun<'_>,
        parameters: JobParameters,
        recover: RecoverMode,
        rules: LaunchRules<'_>,
    ) -> Result<JobExecution, OperatorError> {
        let accept_changed_definition = run.host.accept_changed_definition;
        // After a restart of the step, a complete child is its end, also if the child's job may start again.
        let keep_complete = run.scope.start() != StepStart::Fresh;
        let options = LaunchOptions {
            recover,
            accept_changed_definition,
            keep_complete,
            triggered_by: Some(format!("step:{}", run.scope.step())),
            trace_parent: Some(run.scope.trace_context()),
            ..LaunchOptions::default()
        };
        let now = run.clock().now();
        let request = StartRequest {
            job: self.job.name(),
            rules,
            options: &options,
            claimant: Some(Claimant {
                owner: run.host.owner.to_string(),
                lease_until: later(now, run.host.lease_timeout),
            }),
            parent: Some(run.lease.execution),
            now,
        };
        lifecycle::start(run.store(), &request, parameters)
    }

    /// Ends the step with a completed child of this instance: the parent may have died before it stored the
    /// child's end, or may run again. Every other refusal is a failure.
    fn refused(&self, run: &StepRun<'_>, refusal: &Refusal) -> Result<StepEnd, StepError> {
        if let Refusal::AlreadyComplete { execution } = refusal
            && let Some(child) = self.is_ours(run, *execution)?
        {
            return self.end(child);
        }
        Err(self.failed(refusal))
    }

    /// Returns execution `child`, if an execution of this instance started it.
    fn is_ours(
        &self,
        run: &StepRun<'_>,
        child: ExecutionId,
    ) -> Result<Option<JobExecution>, StepError> {
        let find = |id| run.store().execution(id).map_err(|source| run.commit_failed(source));
        let Some(child) = find(child)? else { return Ok(None) };
        let Some(parent) = child.parent else { return Ok(None) };
        let instance = run.scope.job().instance_id();
        let ours = find(parent)?.is_some_and(|parent| parent.instance_id == instance);
        Ok(ours.then_some(child))
    }

    fn failed(&self, reason: &(dyn std::error::Error + 'static)) -> StepError {
        StepError::Job {
            step: self.name.clone(),
            job: self.job.name().to_owned(),
            failure: report(reason),
            exit: ExitStatus::failed().with_message(report(reason)),
        }
    }

    fn end(&self, execution: JobExecution) -> Result<StepEnd, StepError> {
        match execution.status {
            BatchStatus::Completed => Ok(StepEnd::Completed(execution.exit)),
            BatchStatus::Stopped => Ok(StepEnd::Stopped),
            status => {
                let message = execution.failure.map(|failure| failure.message).unwrap_or_default();
                Err(StepError::Job {
                    step: self.name.clone(),
                    job: self.job.name().to_owned(),
                    failure: format!("execution {} is {status}: {message}", execution.id),
                    exit: execution.exit,
                })
            }
        }
    }
}
