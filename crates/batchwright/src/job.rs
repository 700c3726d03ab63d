//! Jobs: a name, what parameters they take, and the flow of their steps.

mod builder;
mod decider;
mod flow;
mod incrementer;
mod picture;
mod scope;

use std::sync::Arc;

pub use builder::{FlowBuilder, JobBuilder, TransitionBuilder};
pub use decider::{Decider, Decision};
pub use flow::JobFlow;
pub(crate) use flow::{NodeKind, Outcome, Route, Target, matches};
pub use incrementer::{increment, next_day};
pub use scope::JobScope;

use crate::launch::LaunchRules;
use crate::listener::JobListener;
use crate::operator::Refusal;
use crate::parameters::{JobParameters, ParameterSchema};
use crate::progressive::ProgressiveWork;

/// Makes the parameters of the next instance from those of the newest one, if there is one.
pub type Incrementer =
    Arc<dyn Fn(Option<&JobParameters>) -> Result<JobParameters, String> + Send + Sync>;

/// Finds what is wrong with parameters, beyond what their declarations say.
type Validator = Arc<dyn Fn(&JobParameters) -> Result<(), String> + Send + Sync>;

/// A named definition: the flow of its steps, and the rules of starting it.
///
/// One job serves many executions at once; what a step needs for an execution it makes for it.
#[derive(Clone)]
pub struct Job {
    name: String,
    description: String,
    pub(crate) flow: JobFlow,
    pub(crate) listeners: Vec<Arc<dyn JobListener>>,
    validators: Vec<Validator>,
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
        JobBuilder::new(name)
    }

    fn named(name: String) -> Self {
        Self {
            name,
            description: String::new(),
            flow: JobFlow { name: String::new(), nodes: Vec::new() },
            listeners: Vec::new(),
            validators: Vec::new(),
            schema: ParameterSchema { declared: Vec::new(), open: true },
            restartable: true,
            fingerprint: None,
            source: None,
            next: None,
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

    /// Names of its steps, in the order in which they were added; those of flows within it too.
    pub fn step_names(&self) -> impl Iterator<Item = &str> {
        self.flow.steps().into_iter().map(|step| step.name())
    }

    /// Its flow as a graph in the DOT language.
    pub fn to_dot(&self) -> String {
        picture::dot(self)
    }

    /// Its flow as a picture.
    pub fn to_svg(&self) -> String {
        picture::svg(self)
    }

    /// What carries it forward by slices, if it is progressive.
    pub(crate) fn progressive(&self) -> Option<Arc<dyn ProgressiveWork>> {
        self.flow.steps().first().and_then(|step| step.progressive()).map(|body| body.0)
    }

    pub(crate) fn launch_rules(&self) -> LaunchRules<'_> {
        LaunchRules {
            restartable: self.restartable,
            fingerprint: self.fingerprint.as_deref(),
            source: self.source.as_deref(),
        }
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
        let refused = |problems| Refusal::InvalidParameters { problems };
        let complete = self.schema.complete(given).map_err(refused)?;
        let problems: Vec<_> =
            self.validators.iter().filter_map(|check| check(&complete).err()).collect();
        if problems.is_empty() { Ok(complete) } else { Err(refused(problems)) }
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
