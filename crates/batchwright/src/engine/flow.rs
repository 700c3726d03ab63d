//! Walks a flow from node to node along its transitions; a restart passes over every node that is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Past, StepOrder, run_step};
use crate::error::{RepositoryError, StepError};
use crate::execution::{
    BatchStatus, ExecutionId, ExitStatus, Failure, FlowEntry, FlowState, StepExecution,
    StepExecutionId,
};
use crate::host::Host;
use crate::item::guarded;
use crate::job::{Decider, Decision, JobFlow, NodeKind, Outcome, Route, Target};
use crate::launch::{StepDecision, decide_step};
use crate::lifecycle;
use crate::scope::JobScope;
use crate::step::Step;
use crate::store::Lease;

/// The end of a flow or of one of its nodes.
pub(super) enum FlowEnd {
    Completed {
        exit: ExitStatus,
        /// Whether any step ran.
        ran: bool,
    },
    Stopped,
    Failed {
        failure: Failure,
        exit: ExitStatus,
        /// The step executions that failed and were not handled.
        steps: Vec<StepExecutionId>,
        /// Whether a transition stopped another branch: the job stops, even when the failure is handled.
        stopped: bool,
    },
}

impl FlowEnd {
    pub(super) fn failed(failure: Failure, exit: ExitStatus) -> Self {
        Self::Failed { failure, exit, steps: Vec::new(), stopped: false }
    }
}

/// A failure that a flow left by a transition to nodes from which it can only fail. The failure stays the
/// reason of the flow's end, also when a later node fails.
struct FirstFailure {
    failure: Failure,
    exit: ExitStatus,
    steps: Vec<StepExecutionId>,
}

impl FirstFailure {
    /// Returns `end` with `first` as its cause, if there is one.
    fn before(first: Option<Self>, end: FlowEnd) -> FlowEnd {
        let Some(first) = first else { return end };
        match end {
            FlowEnd::Failed { failure, exit, steps, stopped } => {
                let Failure { code, message } = first.failure;
                let message = match failure.code.as_str() {
                    "flow_failed" => message,
                    _ => format!("{message}; after that: {}", failure.message),
                };
                let failure = Failure::new(code, message);
                let exit = ExitStatus { code: exit.code, ..first.exit };
                FlowEnd::Failed { failure, exit, steps: [first.steps, steps].concat(), stopped }
            }
            other => other,
        }
    }
}

/// What the end of a node means for its flow.
enum NodeEnd {
    /// The flow ends with it.
    Flow(FlowEnd),
    /// A route leads on.
    Node(EndedNode),
}

/// The end of a node from which a route leads on.
struct EndedNode {
    exit: ExitStatus,
    /// Whether any step ran.
    ran: bool,
    failure: Option<Failure>,
    /// The step executions that failed and were not handled.
    steps: Vec<StepExecutionId>,
    /// Whether a transition stopped another branch.
    stopped: bool,
}

impl EndedNode {
    fn outcome(&self) -> Outcome {
        if self.failure.is_some() { Outcome::Failed } else { Outcome::Completed }
    }

    fn into_first_failure(self) -> Option<FirstFailure> {
        let Self { exit, failure, steps, .. } = self;
        failure.map(|failure| FirstFailure { failure, exit, steps })
    }

    /// Returns the end of a flow that fails with this node; an error for a node that completed.
    fn into_failed(self) -> Result<FlowEnd, ExitStatus> {
        let Self { exit, failure, steps, stopped, .. } = self;
        match failure {
            Some(failure) => Ok(FlowEnd::Failed { failure, exit, steps, stopped }),
            None => Err(exit),
        }
    }
}

/// A walk through the flow of a job execution.
pub(super) struct Walk<'r> {
    host: &'r Host,
    lease: Lease,
    state: Mutex<FlowState>,
}

impl<'r> Walk<'r> {
    pub(super) fn new(host: &'r Host, lease: Lease, state: FlowState) -> Self {
        Self { host, lease, state: Mutex::new(state) }
    }

    /// Returns the state of this walk that the next execution of the instance continues from.
    pub(super) fn into_state(self) -> FlowState {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, FlowState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Walks `flow` to its end.
    pub(super) fn flow(
        &self,
        flow: &JobFlow,
        scope: &JobScope,
    ) -> Result<FlowEnd, RepositoryError> {
        self.flow_in(flow, scope, Round::default())
    }

    fn flow_in(
        &self,
        flow: &JobFlow,
        scope: &JobScope,
        round: Round,
    ) -> Result<FlowEnd, RepositoryError> {
        if round.again {
            self.forget_entries(flow);
        }
        let entry = self.state().entries.get(&flow.name).cloned();
        let again_after = entry.as_ref().and_then(|entry| entry.again_after).max(round.again_after);
        let mut at = match entry.map(|entry| entry.at) {
            None => 0,
            // An accepted change of the definition may have removed the node: then the flow begins at its
            // first node.
            Some(Some(name)) => flow.index_of(&name).unwrap_or(0),
            Some(None) => {
                let exit = ExitStatus::new(ExitStatus::NOOP);
                return Ok(FlowEnd::Completed { exit, ran: false });
            }
        };
        let (mut visited, mut ran_any) = (BTreeSet::new(), false);
        let mut first: Option<FirstFailure> = None;
        loop {
            if scope.stop().is_requested() {
                return Ok(FlowEnd::Stopped);
            }
            let again = !visited.insert(at) || round.again || first.is_some();
            let end = match self.node(flow, at, scope, Round { again, again_after })? {
                NodeEnd::Flow(end) => return Ok(end),
                NodeEnd::Node(end) => end,
            };
            ran_any |= end.ran;
            if self.handle_failure(flow, at, &end)? {
                return Ok(FlowEnd::Stopped);
            }
            match flow.route(at, end.outcome(), &end.exit.code) {
                Route::Next(next) => {
                    if end.failure.is_some() && !flow.handles(at, &end.exit.code) {
                        if end.stopped {
                            return Ok(FlowEnd::Stopped);
                        }
                        first = first.or(end.into_first_failure());
                    }
                    at = next;
                }
                Route::Done => {
                    let exit = end.exit.with_skips(self.state().has_skips);
                    return Ok(FlowEnd::Completed { exit, ran: ran_any });
                }
                Route::Lost => {
                    let lost = end
                        .into_failed()
                        .unwrap_or_else(|exit| lost(&flow.nodes[at].name, &exit.code));
                    return Ok(FirstFailure::before(first, lost));
                }
                Route::Transition(target) => {
                    let entry = (at, again_after);
                    return Ok(self.transition(flow, target, end, first, entry, scope));
                }
            }
        }
    }

    /// Runs the node at index `at`.
    fn node(
        &self,
        flow: &JobFlow,
        at: usize,
        scope: &JobScope,
        round: Round,
    ) -> Result<NodeEnd, RepositoryError> {
        let node = &flow.nodes[at];
        let end = match &node.kind {
            NodeKind::Step(step) => {
                let handles = |code: &str| flow.handles(at, code);
                self.step(step, scope, round, &handles)?
            }
            NodeKind::Decision(decider) => {
                match self.decision(&node.name, &**decider, scope, round)? {
                    // A failed decision ends the flow: transitions do not apply to it.
                    failed @ FlowEnd::Failed { .. } => return Ok(NodeEnd::Flow(failed)),
                    decided => decided,
                }
            }
            NodeKind::Flow(inner) => self.flow_in(inner, scope, round)?,
            NodeKind::Split(branches) => self.split(branches, scope, round)?,
        };
        Ok(match end {
            FlowEnd::Stopped => NodeEnd::Flow(FlowEnd::Stopped),
            FlowEnd::Completed { exit, ran } => {
                if exit.code == ExitStatus::COMPLETED_WITH_SKIPS {
                    self.state().has_skips = true;
                }
                NodeEnd::Node(EndedNode {
                    exit,
                    ran,
                    failure: None,
                    steps: Vec::new(),
                    stopped: false,
                })
            }
            FlowEnd::Failed { failure, exit, steps, stopped } => {
                NodeEnd::Node(EndedNode { exit, ran: true, failure: Some(failure), steps, stopped })
            }
        })
    }

    /// Stores that a failure is handled, if the transitions of its node handle it, and returns whether the flow
    /// stops after it.
    fn handle_failure(
        &self,
        flow: &JobFlow,
        at: usize,
        end: &EndedNode,
    ) -> Result<bool, RepositoryError> {
        if end.failure.is_none() || !flow.handles(at, &end.exit.code) {
            return Ok(false);
        }
        if !end.steps.is_empty() {
            lifecycle::handle_failures(&self.host.store, self.lease, &end.steps)?;
        }
        Ok(end.stopped)
    }

    /// Ends the flow with the target of a transition.
    fn transition(
        &self,
        flow: &JobFlow,
        target: &Target,
        end: EndedNode,
        first: Option<FirstFailure>,
        (at, again_after): (usize, Option<ExecutionId>),
        scope: &JobScope,
    ) -> FlowEnd {
        let EndedNode { exit, failure, steps, stopped, .. } = end;
        match target {
            Target::To(_) => unreachable!("a route to a node is `Next`"),
            Target::End(code) => {
                FlowEnd::Completed { exit: ExitStatus { code: code.clone(), ..exit }, ran: true }
            }
            Target::Fail(code) => {
                let name = &flow.nodes[at].name;
                let text = || format!("step `{name}` ended with `{}`", exit.code);
                let failure = failure.unwrap_or_else(|| Failure::new("flow_failed", text()));
                let exit = ExitStatus { code: code.clone(), ..exit };
                let end = FlowEnd::Failed { stopped, failure, exit, steps };
                FirstFailure::before(first, end)
            }
            Target::Stop => {
                let after = flow.nodes.get(at + 1).map(|node| node.name.clone());
                self.stop_at(flow, FlowEntry { at: after, again_after })
            }
            Target::RestartAt(name) => {
                let again_after = Some(scope.execution_id());
                self.forget_entries(flow);
                self.stop_at(flow, FlowEntry { at: Some(name.clone()), again_after })
            }
        }
    }

    /// Removes the entry points of a flow that begins anew, and those of the flows within it, at which an
    /// earlier round stopped.
    fn forget_entries(&self, flow: &JobFlow) {
        self.state().entries.remove(&flow.name);
        for node in &flow.nodes {
            match &node.kind {
                NodeKind::Step(_) | NodeKind::Decision(_) => {}
                NodeKind::Flow(inner) => self.forget_entries(inner),
                NodeKind::Split(branches) => {
                    branches.iter().for_each(|branch| self.forget_entries(branch));
                }
            }
        }
    }

    fn stop_at(&self, flow: &JobFlow, entry: FlowEntry) -> FlowEnd {
        self.state().entries.insert(flow.name.clone(), entry);
        FlowEnd::Stopped
    }

    fn step(
        &self,
        step: &Arc<dyn Step>,
        scope: &JobScope,
        round: Round,
        handles: &dyn Fn(&str) -> bool,
    ) -> Result<FlowEnd, RepositoryError> {
        let history = {
            let mut tx = self.host.store.begin()?;
            tx.history_of(scope.instance_id(), step.name())?
        };
        let options = step.options();
        // Rows of a round that a `restart_at` closed count only for the start limit.
        let current = history.first().filter(|row| round.has(row.execution_id)).cloned();
        let again = options.allow_start_if_complete || round.again;
        let runs = u32::try_from(history.len()).unwrap_or(u32::MAX);
        let resumed = match decide_step(current, runs, options.start_limit, again) {
            StepDecision::PassOver(row) => return Ok(end_of(*row, false)),
            StepDecision::LimitReached => {
                let (step, limit) = (step.name().to_owned(), options.start_limit);
                let error = StepError::StartLimit { step, limit: limit.unwrap_or(0) };
                return Ok(FlowEnd::failed(error.failure(), ExitStatus::failed()));
            }
            StepDecision::Fresh => None,
            StepDecision::Resume(earlier) => Some(*earlier),
        };
        let past = Past::of(&*self.host.store, &history, step.name(), resumed.as_ref())?;
        let order = StepOrder {
            step: &**step,
            name: step.name().to_owned(),
            partition: None,
            scope,
            lease: self.lease,
            resumed,
            past,
            runs,
            handles,
        };
        Ok(end_of(run_step(self.host, order)?, true))
    }

    fn decision(
        &self,
        name: &str,
        decider: &dyn Decider,
        scope: &JobScope,
        round: Round,
    ) -> Result<FlowEnd, RepositoryError> {
        let steps = self.newest_steps(scope, round)?;
        let decision = Decision { scope, steps: &steps };
        Ok(match guarded(|| decider.decide(&decision)) {
            Ok(code) => {
                self.state().decisions.insert(name.to_owned(), code.clone());
                FlowEnd::Completed { exit: ExitStatus::new(code), ran: false }
            }
            Err(error) => {
                let message = format!("decision `{name}` failed: {error}");
                FlowEnd::failed(Failure::new("decision_failed", message), ExitStatus::failed())
            }
        })
    }

    /// Returns the newest execution of each step of the instance in this round.
    fn newest_steps(
        &self,
        scope: &JobScope,
        round: Round,
    ) -> Result<Vec<StepExecution>, RepositoryError> {
        let store = &self.host.store;
        let executions =
            store.executions(&crate::query::ExecutionFilter::of_instance(scope.instance_id()))?;
        let mut newest = BTreeMap::new();
        // Oldest first, so that newer rows replace older ones.
        for execution in executions.into_iter().rev().filter(|one| round.has(one.id)) {
            for step in store.steps(execution.id)? {
                newest.insert(step.name.clone(), step);
            }
        }
        let mut steps: Vec<_> = newest.into_values().collect();
        steps.sort_by_key(|step| step.id);
        Ok(steps)
    }

    /// Runs all branches at the same time, each from its own entry point.
    fn split(
        &self,
        branches: &[JobFlow],
        scope: &JobScope,
        round: Round,
    ) -> Result<FlowEnd, RepositoryError> {
        let ends: Vec<_> = std::thread::scope(|threads| {
            let branch_in = |branch| {
                let scope = scope.for_concurrent_part(scope.stop().clone(), branches.len());
                move || self.flow_in(branch, &scope, round)
            };
            let running: Vec<_> = branches
                .iter()
                .map(|branch| {
                    (
                        branch,
                        crate::threads::start(threads, "batchwright branch", branch_in(branch)),
                    )
                })
                .collect();
            let joined = running.into_iter().map(|(branch, thread)| match thread {
                Some(thread) => {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                }
                // No thread could be started: the branch runs on this thread, after the others.
                None => branch_in(branch)(),
            });
            joined.collect()
        });
        scope.context().refresh();
        let ends = ends.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(ends.into_iter().reduce(join).unwrap_or(FlowEnd::Stopped))
    }
}

/// Which rows of earlier visits of a node count.
#[derive(Clone, Copy, Default)]
struct Round {
    /// Whether this execution visits the node again, so that a completed step runs again.
    again: bool,
    /// The newest execution whose rows do not count, nor do those of older ones.
    again_after: Option<ExecutionId>,
}

impl Round {
    /// Whether the rows of `execution` count.
    fn has(self, execution: ExecutionId) -> bool {
        self.again_after.is_none_or(|id| execution > id)
    }
}

/// Joins the ends of two branches: the worse end wins, and exit codes combine.
fn join(a: FlowEnd, b: FlowEnd) -> FlowEnd {
    use FlowEnd::{Completed, Failed, Stopped};
    match (a, b) {
        (
            Failed { failure, exit, mut steps, stopped },
            Failed { exit: other, steps: more, stopped: too, .. },
        ) => {
            steps.extend(more);
            Failed { failure, exit: exit.and(other), steps, stopped: stopped || too }
        }
        (Failed { failure, exit, steps, .. }, Stopped)
        | (Stopped, Failed { failure, exit, steps, .. }) => {
            Failed { failure, exit, steps, stopped: true }
        }
        (failed @ Failed { .. }, _) | (_, failed @ Failed { .. }) => failed,
        (Stopped, _) | (_, Stopped) => Stopped,
        (Completed { exit, ran }, Completed { exit: other, ran: more }) => {
            Completed { exit: exit.and(other), ran: ran || more }
        }
    }
}

/// Returns the end of a step from its row.
fn end_of(row: StepExecution, ran: bool) -> FlowEnd {
    match row.status {
        BatchStatus::Completed => FlowEnd::Completed { exit: row.exit, ran },
        BatchStatus::Stopped => FlowEnd::Stopped,
        _ => {
            let failure = row.failure.unwrap_or_else(|| {
                Failure::new("step_failed", format!("step `{}` failed", row.name))
            });
            let steps = if row.handled { Vec::new() } else { vec![row.id] };
            FlowEnd::Failed { failure, exit: row.exit, steps, stopped: false }
        }
    }
}

fn lost(name: &str, code: &str) -> FlowEnd {
    let message =
        format!("step `{name}` ended with `{code}`, which none of its transitions matches");
    FlowEnd::failed(Failure::new("no_transition", message), ExitStatus::failed())
}
