//! Putting jobs and flows together, in the order in which they run.

use std::sync::Arc;

use super::decider::{Decider, Decision};
use super::flow::{JobFlow, Node, NodeKind, Target, Transition};
use super::{Job, JobListener};
use crate::error::ItemError;
use crate::operator::Refusal;
use crate::parameters::{JobParameters, ParameterDeclaration};
use crate::step::{Step, StepKind};

/// Describes a [`JobFlow`].
#[derive(Clone)]
pub struct FlowBuilder {
    flow: JobFlow,
    faults: Vec<String>,
}

/// Describes a [`Job`].
///
/// Steps run in the order in which they are added; [`on`](Self::on) says what else may follow the step (or
/// decision, or split, or flow) that was added last.
///
/// ```
/// use batchwright::{Decision, Flow, Job, JobFlow, TaskletCall, TaskletStep};
///
/// let step = |name: &str| TaskletStep::new(name, |_: &mut TaskletCall<'_, '_>| Ok(Flow::Finished));
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
/// # Ok::<(), batchwright::Refusal>(())
/// ```
pub struct JobBuilder {
    job: Job,
    flow: FlowBuilder,
}

/// A transition that still needs its target.
#[must_use = "say where it leads: to, end, fail, stop or restart_at"]
pub struct TransitionBuilder<B> {
    builder: B,
    pattern: String,
}

/// What describes a flow.
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
    /// On with the step (decision, split, flow) of that name in the same flow.
    pub fn to(self, name: impl Into<String>) -> B {
        self.target(Target::To(name.into()))
    }

    /// The flow ends here, completed, with `code` for its exit code. A job that ended so is not restarted.
    pub fn end(self, code: impl Into<String>) -> B {
        self.target(Target::End(code.into()))
    }

    /// The flow ends here, failed, with `code` for its exit code. A restart passes over what is complete and
    /// looks at this transition again.
    pub fn fail(self, code: impl Into<String>) -> B {
        self.target(Target::Fail(code.into()))
    }

    /// The job stops here. A restart goes on with what was added behind.
    pub fn stop(self) -> B {
        self.target(Target::Stop)
    }

    /// The job stops here. A restart begins at the step of that name and runs what follows it again, complete
    /// or not.
    pub fn restart_at(self, name: impl Into<String>) -> B {
        self.target(Target::RestartAt(name.into()))
    }

    fn target(self, target: Target) -> B {
        let Self { mut builder, pattern } = self;
        let flow = builder.flow();
        match flow.flow.nodes.last_mut() {
            Some(node) => node.transitions.push(Transition { pattern, target }),
            None => {
                flow.faults.push(format!("the transition on `{pattern}` stands before any step"))
            }
        }
        builder
    }
}

/// The methods that describe a flow, for jobs and for flows within them.
macro_rules! flow_methods {
    () => {
        /// Adds a step behind the others.
        #[must_use]
        pub fn step(self, step: impl Step + 'static) -> Self {
            self.shared_step(Arc::new(step))
        }

        /// As [`step`](Self::step), for a step that somebody else holds too.
        #[must_use]
        pub fn shared_step(self, step: Arc<dyn Step>) -> Self {
            let name = step.name().to_owned();
            self.node(name, NodeKind::Step(step))
        }

        /// Adds a decision: `decide` chooses the code by which the flow goes on.
        #[must_use]
        pub fn decision(
            self,
            name: impl Into<String>,
            decide: impl Fn(&Decision<'_>) -> Result<String, ItemError> + Send + Sync + 'static,
        ) -> Self {
            self.decider(name, decide)
        }

        /// As [`decision`](Self::decision), for a type of your own.
        #[must_use]
        pub fn decider(self, name: impl Into<String>, decider: impl Decider + 'static) -> Self {
            self.node(name.into(), NodeKind::Decision(Arc::new(decider)))
        }

        /// Adds flows that run side by side. The split ends when all of them have; its exit code is the most
        /// severe of theirs.
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

        /// Adds a flow as one place of this one: how it ends is matched by the transitions behind it.
        #[must_use]
        pub fn nested(mut self, flow: FlowBuilder) -> Self {
            let FlowBuilder { flow, faults } = flow;
            self.flow().faults.extend(faults);
            self.node(flow.name.clone(), NodeKind::Flow(flow))
        }

        /// What follows the place that was added last when it ends with a code like `pattern`: `*` stands for
        /// any characters, `?` for one. The most specific pattern wins, whatever the order. Without a match,
        /// `COMPLETED…` goes on with the next place and everything else fails the job.
        ///
        /// A failure that a transition other than [`fail`](TransitionBuilder::fail) matches is *handled*: the
        /// flow goes on, and a restart does not try the step again.
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

    /// The flow as described elsewhere, in place of what was added until now.
    #[must_use]
    pub fn whole_flow(mut self, flow: FlowBuilder) -> Self {
        self.flow = FlowBuilder { flow: JobFlow { name: String::new(), ..flow.flow }, ..flow };
        self
    }

    /// What the job is for.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.job.description = text.into();
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

    /// Refuses parameters that `check` has something against, before anything is stored. Several checks are
    /// all made, and all problems told at once.
    #[must_use]
    pub fn validate(
        mut self,
        check: impl Fn(&JobParameters) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.job.validators.push(Arc::new(check));
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

    /// How the parameters of the next instance are made from those of the newest one; see
    /// [`increment`](crate::increment) and [`next_day`](crate::next_day) for the usual ways.
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
    /// [`Refusal::InvalidDefinition`] with everything that is wrong: no step, two places of one name, a
    /// transition that leads nowhere, transitions that match the same codes and none more specific, a place
    /// that nothing leads to, a way that never ends.
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
                faults.push(format!("step `{}` may never start: its limit is 0", step.name()));
            }
        }
        if flow.steps().iter().any(|step| step.kind() == StepKind::Progressive)
            && !job.listeners.is_empty()
        {
            faults.push("it is progressive: nobody would call its listeners".to_owned());
        }
        for one in job.parameters().declared.iter().filter(|one| one.secret && one.identifying) {
            faults.push(format!("parameter `{}` is secret, so it must not identify", one.name));
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
