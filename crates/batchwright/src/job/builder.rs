//! Builders of jobs and flows.

use std::sync::Arc;

use super::decider::{Decider, Decision};
use super::flow::{JobFlow, Node, NodeKind, Target, Transition};
use super::{Job, JobListener};
use crate::error::ItemError;
use crate::parameters::{JobParameters, ParameterDeclaration};
use crate::refusal::Refusal;
use crate::step::{Step, StepKind};

/// A builder of a [`JobFlow`].
#[derive(Clone)]
pub struct FlowBuilder {
    flow: JobFlow,
    faults: Vec<String>,
}

/// A builder of a [`Job`].
///
/// Steps run in the order in which they are added; [`on`](Self::on) sets what else may follow the step (or
/// decision, or split, or flow) that was added last.
///
/// ```
/// use batchwright::job::{Decision, JobFlow};
/// use batchwright::step::{Flow, TaskletCall};
/// use batchwright::{Job, TaskletStep};
///
/// let step = |name: &str| TaskletStep::new(name, |_| Ok(Flow::Finished));
/// let job = Job::builder("nightly")
///     .step(step("load"))
///     .on("FAILED").to("repair")
///     .on("COMPLETED_WITH_SKIPS").end("DONE WITH SKIPS")
///     .split("reports", [
///         JobFlow::builder("sums").step(step("sum")),
///         JobFlow::builder("lists").step(step("list")),
///     ])
///     .decision("month end?", |decision: &Decision<'_>| {
///         Ok(if decision.scope.parameters().get("month").is_some() { "YES" } else { "NO" }.to_owned())
///     })
///     .on("YES").to("archive")
///     .on("NO").end("COMPLETED")
///     .step(step("repair"))
///     .on("COMPLETED").to("load")
///     .step(step("archive"))
///     .build()?;
/// # Ok::<(), batchwright::operator::Refusal>(())
/// ```
pub struct JobBuilder {
    job: Job,
    flow: FlowBuilder,
}

/// A transition without a target.
#[must_use = "set the target: to, end, fail, stop or restart_at"]
pub struct TransitionBuilder<B> {
    builder: B,
    pattern: String,
}

/// Common access to the flow of both builders.
#[doc(hidden)]
pub trait Describes {
    fn flow(&mut self) -> &mut FlowBuilder;
}

impl Describes for FlowBuilder {
    fn flow(&mut self) -> &mut FlowBuilder {
        self
    }
}

impl Describes for JobBuilder {
    fn flow(&mut self) -> &mut FlowBuilder {
        &mut self.flow
    }
}

impl<B: Describes> TransitionBuilder<B> {
    /// Continues with the step (decision, split, flow) of that name in the same flow.
    pub fn to(self, name: impl Into<String>) -> B {
        self.target(Target::To(name.into()))
    }

    /// Ends the flow as completed, with the exit code `code`. A job that ended so cannot be restarted.
    pub fn end(self, code: impl Into<String>) -> B {
        self.target(Target::End(code.into()))
    }

    /// Ends the flow as failed, with the exit code `code`. A restart skips what is complete and evaluates
    /// this transition again.
    pub fn fail(self, code: impl Into<String>) -> B {
        self.target(Target::Fail(code.into()))
    }

    /// Stops the job. A restart continues with the node that was added next.
    pub fn stop(self) -> B {
        self.target(Target::Stop)
    }

    /// Stops the job. A restart begins at the step of that name and runs what follows it again, complete or
    /// not.
    pub fn restart_at(self, name: impl Into<String>) -> B {
        self.target(Target::RestartAt(name.into()))
    }

    fn target(self, target: Target) -> B {
        let Self { mut builder, pattern } = self;
        let flow = builder.flow();
        match flow.flow.nodes.last_mut() {
            Some(node) => node.transitions.push(Transition { pattern, target }),
            None => {
                flow.faults.push(format!("the transition on `{pattern}` precedes the first step"))
            }
        }
        builder
    }
}

/// The methods that describe a flow, shared by jobs and nested flows.
macro_rules! flow_methods {
    () => {
        /// Adds a step after the others.
        #[must_use]
        pub fn step(self, step: impl Step + 'static) -> Self {
            self.shared_step(Arc::new(step))
        }

        /// Adds a step that other code shares; see [`step`](Self::step).
        #[must_use]
        pub fn shared_step(self, step: Arc<dyn Step>) -> Self {
            let name = step.name().to_owned();
            self.node(name, NodeKind::Step(step))
        }

        /// Adds a decision: `decide` chooses the code that selects the next transition.
        #[must_use]
        pub fn decision(
            self,
            name: impl Into<String>,
            decide: impl Fn(&Decision<'_>) -> Result<String, ItemError> + Send + Sync + 'static,
        ) -> Self {
            self.decider(name, decide)
        }

        /// Adds a decision of a type of your own; see [`decision`](Self::decision).
        #[must_use]
        pub fn decider(self, name: impl Into<String>, decider: impl Decider + 'static) -> Self {
            self.node(name.into(), NodeKind::Decision(Arc::new(decider)))
        }

        /// Adds flows that run concurrently. The split ends when all of them have ended; its exit code is the
        /// most severe of their codes.
        #[must_use]
        pub fn split(
            mut self,
            name: impl Into<String>,
            branches: impl IntoIterator<Item = FlowBuilder>,
        ) -> Self {
            let mut flows = Vec::new();
            for FlowBuilder { flow, faults } in branches {
                self.flow().faults.extend(faults);
                flows.push(flow);
            }
            self.node(name.into(), NodeKind::Split(flows))
        }

        /// Adds a flow as one node of this flow; the node's transitions match the flow's exit code.
        #[must_use]
        pub fn nested(mut self, flow: FlowBuilder) -> Self {
            let FlowBuilder { flow, faults } = flow;
            self.flow().faults.extend(faults);
            self.node(flow.name.clone(), NodeKind::Flow(flow))
        }

        /// Adds a transition from the node that was added last, for exit codes that `pattern` matches: `*`
        /// matches any characters, `?` one character. The most specific pattern wins, in any order. Without a
        /// match, `COMPLETED…` continues with the next node and every other code fails the job.
        ///
        /// A failure that is matched by another transition than [`fail`](TransitionBuilder::fail) is
        /// *handled*: the flow continues, and a restart does not run the step again.
        pub fn on(self, pattern: impl Into<String>) -> TransitionBuilder<Self> {
            TransitionBuilder { builder: self, pattern: pattern.into() }
        }

        fn node(mut self, name: String, kind: NodeKind) -> Self {
            self.flow().flow.nodes.push(Node { name, kind, transitions: Vec::new() });
            self
        }
    };
}

impl FlowBuilder {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { flow: JobFlow { name: name.into(), nodes: Vec::new() }, faults: Vec::new() }
    }

    flow_methods!();
}

impl JobBuilder {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { job: Job::named(name.into()), flow: FlowBuilder::new("") }
    }

    flow_methods!();

    /// Replaces the flow added so far with `flow`, which was built separately.
    #[must_use]
    pub fn whole_flow(mut self, flow: FlowBuilder) -> Self {
        self.flow = FlowBuilder { flow: JobFlow { name: String::new(), ..flow.flow }, ..flow };
        self
    }

    /// Sets the description.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.job.description = text.into();
        self
    }

    /// Adds a listener of the job's executions.
    #[must_use]
    pub fn listener(mut self, listener: impl JobListener + 'static) -> Self {
        self.job.listeners.push(Arc::new(listener));
        self
    }

    /// Declares a parameter. Once a parameter is declared, undeclared parameters are refused.
    #[must_use]
    pub fn parameter(mut self, declaration: ParameterDeclaration) -> Self {
        self.job.schema.declared.push(declaration);
        self.job.schema.open = false;
        self
    }

    /// Accepts undeclared parameters in addition to the declared ones.
    #[must_use]
    pub fn open_parameters(mut self) -> Self {
        self.job.schema.open = true;
        self
    }

    /// Accepts declared parameters only; without declarations, the job accepts none.
    #[must_use]
    pub fn closed_parameters(mut self) -> Self {
        self.job.schema.open = false;
        self
    }

    /// Refuses parameters for which `check` returns an error, before anything is stored. All checks run, and
    /// all their problems are reported together.
    #[must_use]
    pub fn validate(
        mut self,
        check: impl Fn(&JobParameters) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.job.validators.push(Arc::new(check));
        self
    }

    /// Forbids restarts: a failed instance stays failed.
    #[must_use]
    pub fn not_restartable(mut self) -> Self {
        self.job.restartable = false;
        self
    }

    /// Allows a complete instance to be started again: all its steps run again, from their beginning. The new execution is
    /// a restart of the complete one, with its contexts.
    #[must_use]
    pub fn allow_start_if_complete(mut self) -> Self {
        self.job.allow_start_if_complete = true;
        self
    }

    /// Sets a text that changes with the definition; a restart under another fingerprint is refused until the
    /// caller accepts it.
    #[must_use]
    pub fn fingerprint(mut self, fingerprint: impl Into<String>) -> Self {
        self.job.fingerprint = Some(fingerprint.into());
        self
    }

    /// Sets where the definition was read from; stored with every execution.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.job.source = Some(source.into());
        self
    }

    /// Sets how the parameters of the next instance are made from those of the newest one;
    /// [`increment`](crate::job::increment) and [`next_day`](crate::job::next_day) are the usual ways.
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

    /// Builds the job.
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidDefinition`] with all problems: no step, two nodes of one name, a transition whose
    /// target does not exist, equally specific transitions that match the same codes, a node that no
    /// transition leads to, a path that never ends.
    pub fn build(self) -> Result<Job, Refusal> {
        let Self { mut job, flow: FlowBuilder { flow, mut faults } } = self;
        if job.name.trim().is_empty() {
            faults.push("its name is empty".to_owned());
        } else if job.name.trim() != job.name {
            faults.push("its name begins or ends with a space".to_owned());
        }
        faults.extend(flow.faults());
        for step in flow.steps() {
            if step.options().start_limit == Some(0) {
                faults.push(format!("step `{}` can never start: its limit is 0", step.name()));
            }
        }
        if flow.steps().iter().any(|step| step.kind() == StepKind::Progressive) {
            if !job.listeners.is_empty() {
                faults
                    .push("it is progressive, and a progressive job calls no listeners".to_owned());
            }
            if job.allow_start_if_complete {
                faults.push("it is progressive, and a progressive job runs once".to_owned());
            }
        }
        if job.allow_start_if_complete && !job.restartable {
            faults.push("a complete instance can start again, but a failed one cannot".to_owned());
        }
        for one in job.parameters().declared.iter().filter(|one| one.secret && one.identifying) {
            faults.push(format!("parameter `{}` is secret, so it cannot be identifying", one.name));
        }
        if !faults.is_empty() {
            return Err(Refusal::InvalidDefinition { job: job.name, reason: faults.join("; ") });
        }
        job.flow = flow;
        Ok(job)
    }
}

impl std::fmt::Debug for JobBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobBuilder").field("job", &self.job.name).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for FlowBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowBuilder").field("flow", &self.flow.name).finish_non_exhaustive()
    }
}

impl<B> std::fmt::Debug for TransitionBuilder<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TransitionBuilder").field("on", &self.pattern).finish_non_exhaustive()
    }
}
