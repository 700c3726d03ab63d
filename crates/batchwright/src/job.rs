//! Jobs: a name, the parameters that a job accepts, and the flow of its steps.
//!
//! ```
//! use batchwright::job::{Decider, Decision, FlowBuilder, JobBuilder, JobFlow, TransitionBuilder};
//! use batchwright::job::{Incrementer, increment, next_day};
//! use batchwright::job_step::JobStep;
//! use batchwright::parameters::{Parameter, ParameterDeclaration, ParameterSchema, ParameterType};
//! use batchwright::{ItemError, Job, JobParameters, TaskletStep};
//!
//! /// Decides by a parameter.
//! struct MonthEnd;
//!
//! impl Decider for MonthEnd {
//!     fn decide(&self, decision: &Decision<'_>) -> Result<String, ItemError> {
//!         let last = decision.scope.parameters().get("month").is_some();
//!         Ok(if last { "YES" } else { "NO" }.to_owned())
//!     }
//! }
//!
//! let step = |name: &str| TaskletStep::call(name, || ());
//! let sums: FlowBuilder = JobFlow::builder("sums").step(step("sum"));
//! let builder: JobBuilder = Job::builder("nightly")
//!     .parameter(ParameterDeclaration::new("run", ParameterType::Integer).default(1))
//!     .next(increment("run", 1))
//!     .step(JobStep::new("load", Job::builder("load").step(step("copy")).build()?))
//!     .nested(sums)
//!     .decider("month end?", MonthEnd);
//! let on_yes: TransitionBuilder<JobBuilder> = builder.on("YES");
//! let job = on_yes.to("archive").on("NO").end("COMPLETED").step(step("archive")).build()?;
//!
//! let schema: &ParameterSchema = job.parameters();
//! assert_eq!(schema.declared.len(), 1);
//! let next: &Incrementer = job.incrementer().ok_or("there is one")?;
//! let second = next(Some(&JobParameters::new().with("run", 1)))?;
//! let run: &Parameter = second.get("run").ok_or("it is set")?;
//! assert!(run.identifying);
//! // Or from day to day.
//! let tomorrow = next_day("day", 1);
//! assert!(tomorrow(None).is_err(), "there is no first day");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builder;
mod decider;
mod flow;
mod incrementer;
mod picture;

use std::sync::Arc;

pub use builder::{FlowBuilder, JobBuilder, TransitionBuilder};
pub use decider::{Decider, Decision};
pub use flow::JobFlow;
pub(crate) use flow::{NodeKind, Outcome, Route, Target};
pub use incrementer::{increment, next_day};

use crate::launch::LaunchRules;
use crate::listener::JobListener;
use crate::parameters::{JobParameters, ParameterSchema};
use crate::progressive::ProgressiveWork;
use crate::refusal::Refusal;

/// A function that makes the parameters of the next instance from those of the newest one, if any.
pub type Incrementer =
    Arc<dyn Fn(Option<&JobParameters>) -> Result<JobParameters, String> + Send + Sync>;

/// A check of parameters beyond their declarations.
type Validator = Arc<dyn Fn(&JobParameters) -> Result<(), String> + Send + Sync>;

/// A named definition: the flow of its steps, and the rules for starting it.
///
/// One `Job` serves many executions concurrently; a step creates its parts anew for each execution.
#[derive(Clone)]
pub struct Job {
    name: String,
    description: String,
    pub(crate) flow: JobFlow,
    pub(crate) listeners: Vec<Arc<dyn JobListener>>,
    validators: Vec<Validator>,
    schema: ParameterSchema,
    restartable: bool,
    allow_start_if_complete: bool,
    fingerprint: Option<String>,
    source: Option<String>,
    next: Option<Incrementer>,
}

impl Job {
    /// Creates a builder.
    ///
    /// ```
    /// use batchwright::item::NoWriter;
    /// use batchwright::{ChunkStepBuilder, Job, Sequence};
    ///
    /// let step = ChunkStepBuilder::new("count")
    ///     .reader(Sequence::to(10))
    ///     .writer(NoWriter::new())
    ///     .build();
    /// let job = Job::builder("nightly").step(step).build()?;
    /// assert_eq!(job.name(), "nightly");
    /// # Ok::<(), batchwright::operator::Refusal>(())
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
            allow_start_if_complete: false,
            fingerprint: None,
            source: None,
            next: None,
        }
    }

    /// Returns the name, unique in a registry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the description.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Returns the parameters that the job accepts.
    pub fn parameters(&self) -> &ParameterSchema {
        &self.schema
    }

    /// Parses `text`, a JSON object of parameters, with the types that the job declares. A value is plain, or an
    /// object with `value`, `type`, `identifying` and `secret`.
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidParameters`] with all problems.
    pub fn parameters_from_json(&self, text: &str) -> Result<JobParameters, Refusal> {
        let refused = |problems| Refusal::InvalidParameters { problems };
        let given: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)
            // The parser's own text may repeat a value, which may be secret.
            .map_err(|error| {
                let (line, column) = (error.line(), error.column());
                let problem =
                    format!("the text is not a JSON object (line {line}, column {column})");
                refused(vec![problem])
            })?;
        self.schema.parameters(given).map_err(refused)
    }

    /// Returns the names of the steps, in the order in which they were added, including those of nested
    /// flows.
    pub fn step_names(&self) -> impl Iterator<Item = &str> {
        self.flow.steps().into_iter().map(|step| step.name())
    }

    /// Returns the flow as a graph in the DOT language.
    pub fn to_dot(&self) -> String {
        picture::dot(self)
    }

    /// Returns the flow as an SVG image.
    pub fn to_svg(&self) -> String {
        picture::svg(self)
    }

    /// Returns a job with the step `name` alone, and the name, parameters and listeners of this job.
    #[cfg(feature = "testing")]
    pub(crate) fn of_step(&self, name: &str) -> Option<Self> {
        let steps = self.flow.steps();
        let step = steps.into_iter().find(|step| step.name() == name)?;
        let alone = Self::builder(&self.name).shared_step(Arc::clone(step)).build().ok()?;
        let name = format!("{}.{name}", self.name);
        Some(Self { name, flow: alone.flow, ..self.clone() })
    }

    /// Returns the progressive work of the job's only step, if that step is progressive.
    pub(crate) fn progressive(&self) -> Option<Arc<dyn ProgressiveWork>> {
        self.flow.steps().first().and_then(|step| step.progressive()).map(|body| body.0)
    }

    pub(crate) fn launch_rules(&self) -> LaunchRules<'_> {
        LaunchRules {
            restartable: self.restartable,
            again_from: self.again_from(),
            fingerprint: self.fingerprint.as_deref(),
            source: self.source.as_deref(),
        }
    }

    fn again_from(&self) -> Option<&str> {
        self.first_node().filter(|_| self.allow_start_if_complete)
    }

    /// Returns the name of the first node of the flow.
    pub(crate) fn first_node(&self) -> Option<&str> {
        self.flow.nodes.first().map(|node| &*node.name)
    }

    /// Whether a failed or stopped instance may be restarted.
    pub fn is_restartable(&self) -> bool {
        self.restartable
    }

    /// Returns the fingerprint of the definition, if one is set.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// Returns where the definition was read from, when it was read from a file.
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// Returns the function that makes the parameters of the next instance, if one is set.
    pub fn incrementer(&self) -> Option<&Incrementer> {
        self.next.as_ref()
    }

    /// Checks `given` and returns it with the defaults filled in.
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidParameters`] with all problems.
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
