//! The flow of a job as a graph in the DOT language, and as an SVG image.

mod layout;
mod svg;

use std::collections::BTreeSet;
use std::fmt::Write as _;

pub(super) use svg::svg;

use super::Job;
use super::flow::{JobFlow, Node, NodeKind, Target};
use crate::execution::ExitStatus;
use crate::text::matches;

/// The destination of a route from a node, as drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    To(usize),
    /// An end of the flow: its label and its appearance.
    Ends(String, EndKind),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndKind {
    Completed,
    Failed,
    Stopped,
}

/// Returns every route from the node at `index`, with the codes that select it.
fn ways(flow: &JobFlow, index: usize) -> Vec<(String, Way)> {
    let node = &flow.nodes[index];
    let following = (index + 1 < flow.nodes.len()).then_some(index + 1);
    let mut ways = Vec::new();
    for transition in &node.transitions {
        let way = match &transition.target {
            Target::To(name) => flow.index_of(name).map(Way::To),
            Target::End(code) => Some(Way::Ends(code.clone(), EndKind::Completed)),
            Target::Fail(code) => Some(Way::Ends(code.clone(), EndKind::Failed)),
            Target::Stop => Some(Way::Ends(restart_note(flow, following), EndKind::Stopped)),
            Target::RestartAt(name) => {
                Some(Way::Ends(restart_note(flow, flow.index_of(name)), EndKind::Stopped))
            }
        };
        ways.extend(way.map(|way| (transition.pattern.clone(), way)));
    }
    let takes_completed =
        |one: &super::flow::Transition| matches(&one.pattern, ExitStatus::COMPLETED);
    if !node.transitions.iter().any(takes_completed) && !matches!(node.kind, NodeKind::Decision(_))
    {
        let end = || Way::Ends("end".to_owned(), EndKind::Completed);
        ways.push(("COMPLETED*".to_owned(), following.map_or_else(end, Way::To)));
    }
    ways
}

fn restart_note(flow: &JobFlow, at: Option<usize>) -> String {
    match at.and_then(|at| flow.nodes.get(at)) {
        Some(node) => format!("stop, then {}", node.name),
        None => "stop".to_owned(),
    }
}

pub(super) fn dot(job: &Job) -> String {
    let mut text = format!(
        "digraph {} {{\n  rankdir=LR;\n  compound=true;\n  node [shape=box, style=rounded];\n",
        quoted(&job.name)
    );
    dot_flow(&job.flow, "", &mut text);
    text.push_str("}\n");
    text
}

/// Writes the nodes and edges of `flow`; returns its ends, whose names contain `prefix`.
fn dot_flow(flow: &JobFlow, prefix: &str, text: &mut String) -> BTreeSet<String> {
    let mut ends = BTreeSet::new();
    for (index, node) in flow.nodes.iter().enumerate() {
        dot_node(node, text);
        let from = quoted(&leave(node));
        for (pattern, way) in ways(flow, index) {
            let to = match way {
                Way::To(to) => quoted(&flow.nodes[to].name),
                Way::Ends(label, kind) => {
                    let id = quoted(&format!("{prefix}end: {label} {kind:?}"));
                    let shape = match kind {
                        EndKind::Completed => "shape=ellipse",
                        EndKind::Failed => "shape=octagon",
                        EndKind::Stopped => "shape=ellipse, style=dashed",
                    };
                    let _ = writeln!(text, "  {id} [label={}, {shape}];", quoted(&label));
                    ends.insert(id.clone());
                    id
                }
            };
            let _ = writeln!(text, "  {from} -> {to} [label={}];", quoted(&pattern));
        }
    }
    ends
}

fn dot_node(node: &Node, text: &mut String) {
    let name = quoted(&node.name);
    let cluster = |flow: &JobFlow, text: &mut String| {
        let (id, label) = (quoted(&format!("cluster {}", flow.name)), quoted(&flow.name));
        let _ = writeln!(text, "  subgraph {id} {{\n  label={label};");
        let ends = dot_flow(flow, &format!("{} ", flow.name), text);
        text.push_str("  }\n");
        for end in ends {
            let _ = writeln!(text, "  {end} -> {} [style=dotted];", quoted(&leave(node)));
        }
        if let Some(first) = flow.nodes.first() {
            let _ = writeln!(text, "  {name} -> {};", quoted(&first.name));
        }
    };
    match &node.kind {
        NodeKind::Step(step) => {
            let more = match step.kind() {
                crate::step::StepKind::Work | crate::step::StepKind::Progressive => "",
                crate::step::StepKind::Partitions => " [peripheries=2]",
                crate::step::StepKind::Job => " [shape=component]",
            };
            let _ = writeln!(text, "  {name}{more};");
        }
        NodeKind::Decision(_) => {
            let _ = writeln!(text, "  {name} [shape=diamond, style=solid];");
        }
        NodeKind::Flow(flow) => {
            let _ =
                writeln!(text, "  {name} [shape=cds];\n  {} [shape=point];", quoted(&leave(node)));
            cluster(flow, text);
        }
        NodeKind::Split(branches) => {
            let _ =
                writeln!(text, "  {name} [shape=cds];\n  {} [shape=point];", quoted(&leave(node)));
            branches.iter().for_each(|branch| cluster(branch, text));
        }
    }
}

/// Returns the DOT node from which the edges of `node` begin.
fn leave(node: &Node) -> String {
    match node.kind {
        NodeKind::Step(_) | NodeKind::Decision(_) => node.name.clone(),
        NodeKind::Flow(_) | NodeKind::Split(_) => format!("end of {}", node.name),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
