//! Summaries of executions: data for programs, and one stable line for people.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::{
    BatchStatus, Counters, Estimate, ExecutionId, ExitStatus, InstanceId, JobExecution, Progress,
};
use super::{StepExecution, StepExecutionId, TraceContext};
use crate::execution::Failure;
use crate::parameters::Parameter;
use crate::text::shown;

/// The public view of an execution. Its JSON form is a public contract.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecutionSummary {
    /// Number of the execution.
    pub id: ExecutionId,
    /// Name of the job.
    pub job: String,
    /// Number of the instance.
    pub instance_id: InstanceId,
    /// Current status.
    pub status: BatchStatus,
    /// Exit status.
    pub exit: ExitStatus,
    /// All parameters of the execution, with their types.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::HashMap<String, Object>))]
    pub parameters: BTreeMap<String, Parameter>,
    /// The execution that this one restarts.
    pub restart_of: Option<ExecutionId>,
    /// The execution whose step started this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<ExecutionId>,
    /// Who or what asked for the execution, such as `cli:maria@host`, `api:nightly`, `schedule:load`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub triggered_by: Option<String>,
    /// The caller's place in its trace, as the `traceparent` of its request named it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_parent: Option<TraceContext>,
    /// Time at which the start was accepted.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    #[serde(serialize_with = "millis")]
    pub created_at: Timestamp,
    /// Time at which the owner began to run the execution.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    #[serde(serialize_with = "some_millis")]
    pub started_at: Option<Timestamp>,
    /// Time at which the execution ended.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    #[serde(serialize_with = "some_millis")]
    pub ended_at: Option<Timestamp>,
    /// Whether the owner's lease has expired.
    pub stale: bool,
    /// The process that runs the execution.
    pub owner: Option<String>,
    /// Reason of the failure.
    pub failure: Option<Failure>,
    /// Problems that did not change the outcome.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Step executions, in the order in which they began.
    pub steps: Vec<StepSummary>,
}

/// The public view of a step execution.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StepSummary {
    /// Number of the step execution.
    pub id: StepExecutionId,
    /// Name of the step.
    pub name: String,
    /// Current status.
    pub status: BatchStatus,
    /// Exit status.
    pub exit: ExitStatus,
    /// Counters.
    #[serde(flatten)]
    pub counters: Counters,
    /// Time at which it began.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    #[serde(serialize_with = "millis")]
    pub started_at: Timestamp,
    /// Time at which it ended.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    #[serde(serialize_with = "some_millis")]
    pub ended_at: Option<Timestamp>,
    /// Reason of the failure.
    pub failure: Option<Failure>,
    /// Position in the input at the last commit, and its size, when the reader knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Rate and probable end of a running step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// Key of the partition.
    pub partition: Option<String>,
    /// Whether the flow continued after the failure.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub handled: bool,
}

impl ExecutionSummary {
    /// Summarizes `execution` and its `steps` as of `now`.
    pub fn new(execution: &JobExecution, steps: &[StepExecution], now: Timestamp) -> Self {
        let parameters = execution.parameters.iter();
        Self {
            id: execution.id,
            job: execution.job.clone(),
            instance_id: execution.instance_id,
            status: execution.status,
            exit: execution.exit.clone(),
            parameters: parameters
                .map(|(name, one)| (name.to_owned(), one.shown_as(name)))
                .collect(),
            restart_of: execution.restart_of,
            parent: execution.parent,
            triggered_by: execution.triggered_by.clone(),
            trace_parent: execution.trace_parent,
            created_at: execution.created_at,
            started_at: execution.started_at,
            ended_at: execution.ended_at,
            stale: execution.is_stale(now),
            owner: execution.owner.clone(),
            failure: execution.failure.clone(),
            warnings: execution.warnings.clone(),
            steps: steps.iter().map(StepSummary::new).collect(),
        }
    }
}

impl StepSummary {
    /// Summarizes a step execution.
    pub fn new(step: &StepExecution) -> Self {
        Self {
            id: step.id,
            name: step.name.clone(),
            status: step.status,
            exit: step.exit.clone(),
            counters: step.counters,
            started_at: step.started_at,
            ended_at: step.ended_at,
            failure: step.failure.clone(),
            progress: step.progress,
            estimate: Estimate::of(step),
            partition: step.partition.clone(),
            handled: step.handled,
        }
    }
}

/// Serializes a time as RFC 3339 in UTC with milliseconds, the form of all public JSON.
pub(crate) fn millis<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.3}"))
}

fn some_millis<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => millis(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// Writes `execution 2 of import-orders (instance 1): FAILED, exit FAILED, 1.250 s: write_failed: …`
impl fmt::Display for ExecutionSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, job, instance_id, status, exit, .. } = self;
        write!(f, "execution {id} of {} (instance {instance_id}): {status}", shown(job))?;
        if exit.code != status.name() {
            write!(f, ", exit {}", shown(&exit.code))?;
        }
        write_duration(f, self.started_at, self.ended_at)?;
        write_failure(f, self.failure.as_ref())
    }
}

/// Writes `step load: COMPLETED, 10 read, 10 written, 4 commits, 0.002 s`
impl fmt::Display for StepSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, status, exit, counters, .. } = self;
        write!(f, "step {}: {status}", shown(name))?;
        if exit.code != status.name() {
            write!(f, ", exit {}", shown(&exit.code))?;
        }
        write!(f, ", {} read, {} written", counters.read, counters.write)?;
        for (count, word) in [
            (counters.filter, "filtered"),
            (counters.read_skip, "skipped in read"),
            (counters.process_skip, "skipped in process"),
            (counters.write_skip, "skipped in write"),
            (counters.rollback, "rolled back"),
        ] {
            if count > 0 {
                write!(f, ", {count} {word}")?;
            }
        }
        write!(f, ", {} commits", counters.commit)?;
        write_duration(f, Some(self.started_at), self.ended_at)?;
        write_failure(f, self.failure.as_ref())
    }
}

fn write_duration(
    f: &mut fmt::Formatter<'_>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> fmt::Result {
    match (from, to) {
        (Some(from), Some(to)) => {
            write!(f, ", {:.3} s", to.duration_since(from).as_secs_f64())
        }
        _ => Ok(()),
    }
}

fn write_failure(f: &mut fmt::Formatter<'_>, failure: Option<&Failure>) -> fmt::Result {
    match failure {
        Some(failure) => {
            write!(f, ": {}: ", failure.code)?;
            // A program's output can have several lines; indentation keeps them distinct from our own lines.
            for (index, line) in failure.message.lines().enumerate() {
                let indent = if index == 0 { "" } else { "\n    " };
                write!(f, "{indent}{}", shown(line))?;
            }
            Ok(())
        }
        None => Ok(()),
    }
}
