//! Where the flow of an instance continues.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ExecutionId;

/// State of a job's flow beyond its steps, inherited by the next execution of the instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowState {
    /// Last result of each decision.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub decisions: BTreeMap<String, String>,
    /// Entry points for the restart of flows that a transition stopped, by the flow's name; the job's own
    /// flow has the empty name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub entries: BTreeMap<String, FlowEntry>,
    /// Whether a step ended with `COMPLETED_WITH_SKIPS`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub has_skips: bool,
}

impl FlowState {
    /// Returns the state of a flow that begins again with the node `first`, although it was complete in `complete`.
    pub(crate) fn again(first: &str, complete: ExecutionId) -> Self {
        let entry = FlowEntry { at: Some(first.to_owned()), again_after: Some(complete) };
        Self { entries: BTreeMap::from([(String::new(), entry)]), ..Self::default() }
    }
}

/// The entry point of a restarted flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEntry {
    /// The step, decision, split or flow to begin with; `None` when nothing is left to run.
    pub at: Option<String>,
    /// Steps that completed in this execution or an earlier one run again when the flow reaches them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_after: Option<ExecutionId>,
}
