//! Runs executions: [`job`] runs a job execution from the claim to the end, [`flow`] walks from step to step,
//! and [`step`] runs one step execution.

mod flow;
mod job;
mod step;

pub(crate) use job::{JobRun, run_job};
pub(crate) use step::{Past, StepOrder, run_step};

/// Target of the spans of executions and steps, so that a log can leave them out.
const SPANS: &str = "batchwright::span";
