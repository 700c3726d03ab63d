//! Jobs: a name, what parameters they take, and the steps that run one after the other.

mod runner;

use std::collections::BTreeSet;
use std::sync::Arc;

pub(crate) use runner::{JobRun, Runner};

use crate::clock::StopToken;
use crate::context::ContextHandle;
use crate::execution::{ExecutionId, InstanceId, JobExecution};
use crate::listener::JobListener;
use crate::operator::Refusal;
use crate::parameters::{JobParameters, ParameterDeclaration, ParameterSchema};
use crate::step::Step;

/// Makes the parameters of the next instance from those of the newest one, if there is one.
pub type Incrementer =
    Arc<dyn Fn(Option<&JobParameters>) -> Result<JobParameters, String> + Send + Sync>;

/// A named definition: steps in their order, and the rules of starting it.
///
/// One job serves many executions at once; what a step needs for an execution it makes for it.
#[derive(Clone)]
pub struct Job {
    name: String,
    description: String,
    steps: Vec<Arc<dyn Step>>,
    listeners: Vec<Arc<dyn JobListener>>,
    schema: ParameterSchema,
    restartable: bool,
    fingerprint: Option<String>,
    source: Option<String>,
    next: Option<Incrementer>,
}

impl Job {
    /// Begins the description of a job.
    ///
    /// ```
    /// use batchwright::{ChunkStepBuilder, Job, NoWriter, Sequence};
    ///
    /// let step = ChunkStepBuilder::new("count")
    ///     .reader(Sequence::to(10))
    ///     .writer(NoWriter::new())
    ///     .build();
    /// let job = Job::builder("nightly").step(step).build()?;
    /// assert_eq!(job.name(), "nightly");
    /// # Ok::<(), batchwright::Refusal>(())
    /// ```
    pub fn builder(name: impl Into<String>) -> JobBuilder {
        JobBuilder {
            job: Self {
                name: name.into(),
                description: String::new(),
                steps: Vec::new(),
                listeners: Vec::new(),
                schema: ParameterSchema { declared: Vec::new(), open: true },
                restartable: true,
                fingerprint: None,
                source: None,
                next: None,
            },
        }
    }

    /// Its name, unique in a registry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The parameters that it takes.
    pub fn parameters(&self) -> &ParameterSchema {
        &self.schema
    }

    /// Names of its steps, in their order.
    pub fn step_names(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|step| step.name())
    }

    /// Whether a failed or stopped instance may be tried again.
    pub fn is_restartable(&self) -> bool {
        self.restartable
    }

    /// What identifies its definition, if anything does.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// Where its definition was read from, when it was read from somewhere.
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// Makes the parameters of the next instance, if the job says how.
    pub fn incrementer(&self) -> Option<&Incrementer> {
        self.next.as_ref()
    }

    /// `given` with defaults, if the job accepts them.
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidParameters`] with every problem.
    pub fn accept(&self, given: JobParameters) -> Result<JobParameters, Refusal> {
        self.schema.complete(given).map_err(|problems| Refusal::InvalidParameters { problems })
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("name", &self.name)
            .field("steps", &self.step_names().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Describes a [`Job`].
#[derive(Debug)]
pub struct JobBuilder {
    job: Job,
}

impl JobBuilder {
    /// What the job is for.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.job.description = text.into();
        self
    }

    /// Adds a step behind the others.
    #[must_use]
    pub fn step(mut self, step: impl Step + 'static) -> Self {
        self.job.steps.push(Arc::new(step));
        self
    }

    /// Calls `listener` around each execution.
    #[must_use]
    pub fn listener(mut self, listener: impl JobListener + 'static) -> Self {
        self.job.listeners.push(Arc::new(listener));
        self
    }

    /// Declares a parameter. From the first declaration on, undeclared parameters are refused.
    #[must_use]
    pub fn parameter(mut self, declaration: ParameterDeclaration) -> Self {
        self.job.schema.declared.push(declaration);
        self.job.schema.open = false;
        self
    }

    /// Accepts undeclared parameters beside the declared ones.
    #[must_use]
    pub fn open_parameters(mut self) -> Self {
        self.job.schema.open = true;
        self
    }

    /// Accepts only the declared parameters, none when none is declared.
    #[must_use]
    pub fn closed_parameters(mut self) -> Self {
        self.job.schema.open = false;
        self
    }

    /// Refuses restarts: a failed instance stays failed.
    #[must_use]
    pub fn not_restartable(mut self) -> Self {
        self.job.restartable = false;
        self
    }

    /// A text that changes when the definition does; a restart under another one is refused until
    /// the caller accepts it.
    #[must_use]
    pub fn fingerprint(mut self, fingerprint: impl Into<String>) -> Self {
        self.job.fingerprint = Some(fingerprint.into());
        self
    }

    /// Where the definition was read from; kept with every execution.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.job.source = Some(source.into());
        self
    }

    /// How the parameters of the next instance are made from those of the newest one.
    #[must_use]
    pub fn next(
        mut self,
        incrementer: impl Fn(Option<&JobParameters>) -> Result<JobParameters, String>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.job.next = Some(Arc::new(incrementer));
        self
    }

    /// The job.
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidDefinition`] when it has no step, two steps of one name, or a name that is
    /// empty.
    pub fn build(self) -> Result<Job, Refusal> {
        let job = self.job;
        let invalid =
            |reason: String| Err(Refusal::InvalidDefinition { job: job.name.clone(), reason });
        if job.name.trim().is_empty() {
            return invalid("its name is empty".to_owned());
        }
        if job.steps.is_empty() {
            return invalid("it has no step".to_owned());
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = job.step_names().find(|name| !seen.insert(*name)) {
            return invalid(format!("two steps are called `{twice}`"));
        }
        if let Some(limit) = job.steps.iter().find(|step| step.options().start_limit == Some(0)) {
            return invalid(format!("step `{}` may never start: its limit is 0", limit.name()));
        }
        Ok(job)
    }
}

/// What listeners and steps may know of the job execution that they work in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JobScope {
    inner: Arc<JobScopeParts>,
}

#[derive(Debug)]
struct JobScopeParts {
    job: String,
    instance_id: InstanceId,
    execution_id: ExecutionId,
    parameters: JobParameters,
    context: ContextHandle,
    stop: StopToken,
}

impl JobScope {
    pub(crate) fn new(execution: &JobExecution, stop: StopToken) -> Self {
        Self {
            inner: Arc::new(JobScopeParts {
                job: execution.job.clone(),
                instance_id: execution.instance_id,
                execution_id: execution.id,
                parameters: execution.parameters.clone(),
                context: ContextHandle::new(execution.context.clone()),
                stop,
            }),
        }
    }

    /// Name of the job.
    pub fn job(&self) -> &str {
        &self.inner.job
    }

    /// Number of the instance.
    pub fn instance_id(&self) -> InstanceId {
        self.inner.instance_id
    }

    /// Number of the execution.
    pub fn execution_id(&self) -> ExecutionId {
        self.inner.execution_id
    }

    /// Everything it was started with.
    pub fn parameters(&self) -> &JobParameters {
        &self.inner.parameters
    }

    /// The job's own state, inherited by the next execution of the instance.
    pub fn context(&self) -> &ContextHandle {
        &self.inner.context
    }

    /// Asks long-running code to return early.
    pub fn stop(&self) -> &StopToken {
        &self.inner.stop
    }
}
