//! The trace of an execution that has ended: a span of the execution, and one of each step and partition.

use batchwright::execution::{BatchStatus, ExecutionId, ExecutionSummary, StepSummary};
use jiff::Timestamp;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use super::{hashed, integer, nanos, run_id, text, trace_id};

/// Most spans of steps in a trace; the attribute `batch.steps.dropped` has the number of the others.
const STEPS_MAX: usize = 2_000;
/// The flag of a trace that is sampled.
const SAMPLED: u32 = 1;

/// Returns the spans of `one`, an execution of the store `store`. `root` is the outermost execution that it is a part of, and
/// `root_before` that of the execution which it restarts.
pub(super) fn spans(
    store: &str,
    one: &ExecutionSummary,
    root: ExecutionId,
    root_before: Option<ExecutionId>,
) -> Vec<Span> {
    let Some(ended) = one.ended_at else { return Vec::new() };
    let (trace, run) = (trace_id(store, root), run_id(store, one.id));
    let mut attributes = vec![
        text("batch.job.name", &*one.job),
        integer("batch.job.instance.id", one.instance_id.0),
        integer("batch.job.execution.id", one.id.0),
        text("batch.job.status", one.status.name()),
        text("batch.job.exit_code", &*one.exit.code),
    ];
    if let Some(by) = &one.triggered_by {
        let kind = by.split(':').next().unwrap_or(by);
        attributes.push(text("batch.job.trigger", kind));
    }
    let mut links = Vec::new();
    if let Some(before) = one.restart_of {
        attributes.push(integer("batch.job.restart_of", before.0));
        let trace_id = trace_id(store, root_before.unwrap_or(before));
        let span_id = run_id(store, before);
        links.push(Link { trace_id, span_id, flags: SAMPLED, ..Link::default() });
    }
    if one.steps.len() > STEPS_MAX {
        let dropped = i64::try_from(one.steps.len() - STEPS_MAX).unwrap_or(i64::MAX);
        attributes.push(integer("batch.steps.dropped", dropped));
    }
    let failure = one.failure.as_ref().map(|it| (it.code.as_str(), it.message.as_str()));
    attributes.extend(failure.map(|(code, _)| text("error.type", code)));
    let execution = Span {
        trace_id: trace.clone(),
        span_id: run.clone(),
        parent_span_id: one.parent.map_or(Vec::new(), |parent| run_id(store, parent)),
        flags: SAMPLED,
        name: format!("run {}", one.job),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: nanos(one.started_at.unwrap_or(one.created_at)),
        end_time_unix_nano: nanos(ended),
        attributes,
        links,
        status: Some(status(one.status, failure)),
        ..Span::default()
    };
    let steps = one.steps.iter().take(STEPS_MAX);
    let steps = steps.map(|it| step(store, one, it, ended, (&trace, &run)));
    std::iter::once(execution).chain(steps).collect()
}

fn step(
    store: &str,
    one: &ExecutionSummary,
    step: &StepSummary,
    ended: Timestamp,
    (trace, run): (&[u8], &[u8]),
) -> Span {
    let name = step.name.split(':').next().unwrap_or(&step.name);
    // The span of a partition is within that of its step.
    let whole = step
        .partition
        .as_ref()
        .and_then(|_| one.steps.iter().find(|it| it.partition.is_none() && it.name == name));
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let mut attributes = vec![
        text("batch.step.name", name),
        integer("batch.step.execution.id", step.id.0),
        text("batch.step.status", step.status.name()),
        integer("batch.items.read", count(step.counters.read)),
        integer("batch.items.written", count(step.counters.write)),
        integer("batch.items.filtered", count(step.counters.filter)),
        integer("batch.items.skipped", count(step.counters.skips())),
        integer("batch.step.commit_count", count(step.counters.commit)),
    ];
    attributes.extend(step.partition.as_ref().map(|key| text("batch.step.partition", &**key)));
    let failure = step.failure.as_ref().map(|it| (it.code.as_str(), it.message.as_str()));
    attributes.extend(failure.map(|(code, _)| text("error.type", code)));
    Span {
        trace_id: trace.to_vec(),
        span_id: step_id(store, step),
        parent_span_id: whole.map_or_else(|| run.to_vec(), |whole| step_id(store, whole)),
        flags: SAMPLED,
        name: format!("step {name}"),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: nanos(step.started_at),
        // A process that died has not stored the end of its steps.
        end_time_unix_nano: nanos(step.ended_at.unwrap_or(ended)),
        attributes,
        status: Some(status(step.status, failure)),
        ..Span::default()
    }
}

fn step_id(store: &str, step: &StepSummary) -> Vec<u8> {
    hashed(&["step", store], step.id.0)[..8].to_vec()
}

/// Returns the status of a span: a stop is no error.
fn status(status: BatchStatus, failure: Option<(&str, &str)>) -> Status {
    let code = match status {
        BatchStatus::Completed => StatusCode::Ok,
        BatchStatus::Failed => StatusCode::Error,
        _ => StatusCode::Unset,
    };
    let message = failure.filter(|_| code == StatusCode::Error).map(|(_, message)| message);
    Status { code: code.into(), message: message.unwrap_or_default().to_owned() }
}
