//! The flow of a job as a pure graph: nodes, transitions, validation, and the route from each node.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decider::Decider;
use crate::execution::ExitStatus;
use crate::step::{Step, StepKind};
use crate::text::matches;

/// A flow: nodes in their order, each with its transitions. A job has one flow, and every branch of a split
/// is another one.
#[derive(Clone)]
pub struct JobFlow {
    pub(crate) name: String,
    pub(crate) nodes: Vec<Node>,
}

/// A node of a flow.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) kind: NodeKind,
    pub(crate) transitions: Vec<Transition>,
}

#[derive(Clone)]
pub(crate) enum NodeKind {
    Step(Arc<dyn Step>),
    Decision(Arc<dyn Decider>),
    Split(Vec<JobFlow>),
    Flow(JobFlow),
}

/// A transition from a node that ended with a code that `pattern` matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) pattern: String,
    pub(crate) target: Target,
}

/// The target of a transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Another node of the same flow.
    To(String),
    /// The flow ends as completed, with this code.
    End(String),
    /// The flow ends as failed, with this code.
    Fail(String),
    /// The flow stops; a restart continues with the node after this one.
    Stop,
    /// The flow stops; a restart begins at the named node.
    RestartAt(String),
}

/// Whether a node did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Completed,
    Failed,
}

/// The route taken from a node that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route<'f> {
    /// The flow continues with that node.
    Next(usize),
    /// No node follows: the flow ends as the node did.
    Done,
    /// An explicit transition ends the flow.
    Transition(&'f Target),
    /// No transition matches.
    Lost,
}

impl JobFlow {
    /// Creates a builder of a flow: a branch of a split, or a nested flow.
    pub fn builder(name: impl Into<String>) -> super::FlowBuilder {
        super::FlowBuilder::new(name)
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn index_of(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// Returns all steps, including those of nested flows.
    pub(crate) fn steps(&self) -> Vec<&Arc<dyn Step>> {
        let mut steps = Vec::new();
        for node in &self.nodes {
            match &node.kind {
                NodeKind::Step(step) => steps.push(step),
                NodeKind::Decision(_) => {}
                NodeKind::Flow(flow) => steps.extend(flow.steps()),
                NodeKind::Split(branches) => {
                    steps.extend(branches.iter().flat_map(Self::steps));
                }
            }
        }
        steps
    }

    /// Returns the route from the node at `index`, which ended with `outcome` and `code`: the most specific
    /// matching transition, otherwise the next node when the node completed.
    pub(crate) fn route(&self, index: usize, outcome: Outcome, code: &str) -> Route<'_> {
        if let Some(transition) = self.nodes[index].transition(code) {
            return match &transition.target {
                Target::To(name) => self.index_of(name).map_or(Route::Lost, Route::Next),
                target => Route::Transition(target),
            };
        }
        if matches!(self.nodes[index].kind, NodeKind::Decision(_)) {
            return Route::Lost;
        }
        let last = index + 1 == self.nodes.len();
        // A code of the step's own continues only by an explicit transition; on the last node it becomes the
        // job's code.
        let goes_on = code.starts_with(ExitStatus::COMPLETED) || code.starts_with(ExitStatus::NOOP);
        match outcome {
            Outcome::Completed if last => Route::Done,
            Outcome::Completed if goes_on => Route::Next(index + 1),
            Outcome::Completed | Outcome::Failed => Route::Lost,
        }
    }

    /// Whether the flow continues after the node's failure with `code`, so that a restart does not run the
    /// node again. A path that can only end in `fail`, such as a mail about the failure, does not count: a
    /// restart runs the failed step again.
    pub(crate) fn handles(&self, index: usize, code: &str) -> bool {
        match self.nodes[index].transition(code).map(|transition| &transition.target) {
            None | Some(Target::Fail(_)) => false,
            Some(Target::To(name)) => self
                .index_of(name)
                .is_some_and(|next| self.can_end_well(next, &mut vec![false; self.nodes.len()])),
            Some(Target::End(_) | Target::Stop | Target::RestartAt(_)) => true,
        }
    }

    /// Whether some path from the node at `index` ends otherwise than failed.
    fn can_end_well(&self, index: usize, seen: &mut [bool]) -> bool {
        if std::mem::replace(&mut seen[index], true) {
            return false;
        }
        let node = &self.nodes[index];
        let by_transition = node.transitions.iter().any(|transition| match &transition.target {
            Target::Fail(_) => false,
            Target::To(name) => {
                self.index_of(name).is_some_and(|next| self.can_end_well(next, seen))
            }
            Target::End(_) | Target::Stop | Target::RestartAt(_) => true,
        });
        let goes_on_alone = !matches!(node.kind, NodeKind::Decision(_))
            && node.transition(ExitStatus::COMPLETED).is_none();
        by_transition
            || goes_on_alone
                && (index + 1 == self.nodes.len() || self.can_end_well(index + 1, seen))
    }

    /// Returns every fault of this flow and its nested flows.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut names = BTreeMap::new();
        self.collect_names(&mut names);
        for (name, count) in names {
            if name.trim().is_empty() {
                faults.push("a step has an empty name".to_owned());
            } else if name.trim() != name {
                faults.push(format!("the name `{name}` begins or ends with a space"));
            } else if count > 1 {
                faults.push(format!("two steps are called `{name}`"));
            }
        }
        self.collect_faults(&mut faults);
        let steps = self.steps();
        let is_alone = self.nodes.len() == 1 && matches!(self.nodes[0].kind, NodeKind::Step(_));
        for step in steps.iter().filter(|step| step.kind() == StepKind::Progressive) {
            if !is_alone || !self.nodes[0].transitions.is_empty() {
                let name = step.name();
                faults.push(format!(
                    "step `{name}` is progressive, so it must be the only step of its job"
                ));
            }
        }
        for partitioned in steps.iter().filter(|step| step.kind() == StepKind::Partitions) {
            let prefix = format!("{}:", partitioned.name());
            if let Some(other) = steps.iter().find(|step| step.name().starts_with(&prefix)) {
                let (name, other) = (partitioned.name(), other.name());
                faults.push(format!(
                    "the name of step `{other}` is reserved for partitions of step `{name}`"
                ));
            }
        }
        faults
    }

    fn collect_names<'f>(&'f self, names: &mut BTreeMap<&'f str, usize>) {
        for node in &self.nodes {
            *names.entry(&node.name).or_default() += 1;
            match &node.kind {
                NodeKind::Step(_) | NodeKind::Decision(_) => {}
                NodeKind::Flow(flow) => flow.collect_names(names),
                NodeKind::Split(branches) => {
                    for branch in branches {
                        *names.entry(&branch.name).or_default() += 1;
                        branch.collect_names(names);
                    }
                }
            }
        }
    }

    fn collect_faults(&self, faults: &mut Vec<String>) {
        if self.nodes.is_empty() {
            let whole = self.name.is_empty();
            faults.push(if whole {
                "it has no step".to_owned()
            } else {
                format!("flow `{}` has no step", self.name)
            });
            return;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            self.node_faults(index, node, faults);
            match &node.kind {
                NodeKind::Step(_) | NodeKind::Decision(_) => {}
                NodeKind::Flow(flow) => flow.collect_faults(faults),
                NodeKind::Split(branches) => {
                    if branches.is_empty() {
                        faults.push(format!("split `{}` has no branch", node.name));
                    }
                    branches.iter().for_each(|branch| branch.collect_faults(faults));
                }
            }
        }
        let reached = self.reached_from(&[0]);
        for (node, _) in self.nodes.iter().zip(&reached).filter(|(_, reached)| !**reached) {
            faults.push(format!("no transition leads to `{}`", node.name));
        }
        for (index, node) in self.nodes.iter().enumerate().filter(|(index, _)| reached[*index]) {
            let ahead = self.reached_from(&[index]);
            if !(0..self.nodes.len()).any(|one| ahead[one] && self.may_end_at(one)) {
                faults.push(format!("no path from `{}` ends the flow", node.name));
            }
        }
    }

    fn node_faults(&self, index: usize, node: &Node, faults: &mut Vec<String>) {
        let name = &node.name;
        for transition in &node.transitions {
            let pattern = &transition.pattern;
            if pattern.is_empty() {
                faults.push(format!("a transition of `{name}` has an empty pattern"));
            }
            if let Target::To(to) | Target::RestartAt(to) = &transition.target
                && self.index_of(to).is_none()
            {
                let known: Vec<_> =
                    self.nodes.iter().map(|one| format!("`{}`", one.name)).collect();
                faults.push(format!(
                    "on `{pattern}`, `{name}` goes to `{to}`, which does not exist; there are {}",
                    known.join(", ")
                ));
            }
        }
        for (at, one) in node.transitions.iter().enumerate() {
            for other in &node.transitions[at + 1..] {
                let (a, b) = (&one.pattern, &other.pattern);
                if specificity(a) == specificity(b) && overlap(a, b) {
                    faults.push(format!(
                        "the transitions on `{a}` and `{b}` of `{name}` match the same codes, and none is \
                         more specific"
                    ));
                }
            }
        }
        if matches!(node.kind, NodeKind::Decision(_)) && node.transitions.is_empty() {
            faults.push(format!("decision `{name}` has no transition"));
        }
        if index == 0 && matches!(node.kind, NodeKind::Decision(_)) && self.name.is_empty() {
            faults
                .push(format!("decision `{name}` comes first: there is nothing to decide on yet"));
        }
    }

    /// Whether the flow may end at the node, other than by an unexpected failure.
    fn may_end_at(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        node.transitions.iter().any(|one| !matches!(one.target, Target::To(_)))
            || (index + 1 == self.nodes.len() && node.transition(ExitStatus::COMPLETED).is_none())
    }

    /// Returns the nodes reachable from those at `from`, including these.
    fn reached_from(&self, from: &[usize]) -> Vec<bool> {
        let mut reached = vec![false; self.nodes.len()];
        let mut open = from.to_vec();
        while let Some(index) = open.pop() {
            if std::mem::replace(&mut reached[index], true) {
                continue;
            }
            open.extend(self.successors(index).into_iter().map(|(_, to)| to));
        }
        reached
    }

    /// Returns the nodes that may follow the node at `index`, with the patterns that select them.
    pub(crate) fn successors(&self, index: usize) -> Vec<(String, usize)> {
        let node = &self.nodes[index];
        let following = (index + 1 < self.nodes.len()).then_some(index + 1);
        let mut found = Vec::new();
        for transition in &node.transitions {
            let to = match &transition.target {
                Target::To(name) | Target::RestartAt(name) => self.index_of(name),
                Target::Stop => following,
                Target::End(_) | Target::Fail(_) => None,
            };
            found.extend(to.map(|to| (transition.pattern.clone(), to)));
        }
        if node.transition(ExitStatus::COMPLETED).is_none() {
            found.extend(following.map(|to| ("COMPLETED*".to_owned(), to)));
        }
        found
    }
}

impl Node {
    /// Returns the most specific transition for `code`, in any order of declaration. `COMPLETED_WITH_SKIPS`
    /// also matches transitions for `COMPLETED`.
    fn transition(&self, code: &str) -> Option<&Transition> {
        let fits = |pattern: &str| matches(pattern, code);
        let fits_complete = |pattern: &str| matches(pattern, ExitStatus::COMPLETED);
        let most_specific = |fits: &dyn Fn(&str) -> bool| {
            let fitting = self.transitions.iter().filter(|one| fits(&one.pattern));
            fitting.max_by_key(|one| specificity(&one.pattern))
        };
        if code != ExitStatus::COMPLETED_WITH_SKIPS {
            return most_specific(&fits);
        }
        // A transition that matches only completion with skips precedes one that matches any completion.
        most_specific(&|pattern| fits(pattern) && !fits_complete(pattern))
            .or_else(|| most_specific(&|pattern| fits(pattern) || fits_complete(pattern)))
    }
}

/// Returns a key that is greater for a more specific pattern: no wildcard at all, then more literal
/// characters, then fewer `*`, then more `?`.
fn specificity(pattern: &str) -> (bool, usize, std::cmp::Reverse<usize>, usize) {
    let count = |wanted: char| pattern.chars().filter(|one| *one == wanted).count();
    let (stars, marks) = (count('*'), count('?'));
    let literals = pattern.chars().count() - stars - marks;
    (stars + marks == 0, literals, std::cmp::Reverse(stars), marks)
}

/// Whether some code matches both patterns.
fn overlap(a: &str, b: &str) -> bool {
    fn meet(a: &[char], b: &[char], known: &mut BTreeMap<(usize, usize), bool>) -> bool {
        if let Some(known) = known.get(&(a.len(), b.len())) {
            return *known;
        }
        let met = match (a.split_first(), b.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) if meet(rest, b, known) => true,
            (_, Some(('*', rest))) if meet(a, rest, known) => true,
            (Some((x, a_rest)), Some((y, b_rest))) => match (x, y) {
                ('*', '*') => false,
                ('*', _) => meet(a, b_rest, known),
                (_, '*') => meet(a_rest, b, known),
                ('?', _) | (_, '?') => meet(a_rest, b_rest, known),
                (x, y) => x == y && meet(a_rest, b_rest, known),
            },
            _ => false,
        };
        known.insert((a.len(), b.len()), met);
        met
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    meet(&a, &b, &mut BTreeMap::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_run_and_a_mark_is_one_character() {
        for (pattern, code, matched) in [
            ("COMPLETED", "COMPLETED", true),
            ("COMPLETED", "COMPLETED_WITH_SKIPS", false),
            ("C*D", "COMPLETED", true),
            ("C?D", "COMPLETED", false),
            ("F*", "FAILED", true),
            ("*", "", true),
            ("?*", "", false),
            ("?????????", "COMPLETED", true),
        ] {
            assert_eq!(matches(pattern, code), matched, "{pattern} on {code}");
        }
    }

    #[test]
    fn the_most_specific_pattern_wins_whatever_the_order() {
        let order =
            ["COMPLETED", "C?MPLETED", "CO?PLE?ED", "COMPL*", "*ED", "C*D", "C*", "?*", "*", "**"];
        for pair in order.windows(2) {
            let better = specificity(pair[0]) > specificity(pair[1]);
            let equal = specificity(pair[0]) == specificity(pair[1]);
            assert!(better || equal, "{} before {}", pair[0], pair[1]);
        }
        assert!(specificity("COMPLETED*") > specificity("**"));
    }

    #[test]
    fn patterns_that_share_a_code_are_found() {
        for (a, b, shared) in [
            ("A*", "*B", true),
            ("A*", "B*", false),
            ("A?C", "AB?", true),
            ("*ED", "FAIL*", true),
            ("A??", "A?", false),
        ] {
            assert_eq!(overlap(a, b), shared, "{a} and {b}");
            assert_eq!(overlap(b, a), shared, "{b} and {a}");
        }
    }
}
