//! The trace of an execution that has ended: a span of the execution, and one of each step and partition.

use batchwright::event::{Change, Event, Subject};
use batchwright::execution::{BatchStatus, ExecutionSummary, StepSummary, TraceContext};
use jiff::Timestamp;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use super::{integer, nanos, text};

/// Most spans of steps in a trace; the attribute `batch.steps.dropped` has the number of the others.
const STEPS_MAX: usize = 2_000;
/// The flag of a trace that is sampled.
const SAMPLED: u32 = 1;

/// Returns the span of `one`, an execution of the store `store`.
pub(super) fn context(store: &str, one: &ExecutionSummary) -> TraceContext {
    TraceContext::of_execution(store, one.id, one.trace_parent)
}

/// Returns the spans of `one`, an execution of the store `store`; `before` is the span of the execution that it restarts.
pub(super) fn spans(
    store: &str,
    one: &ExecutionSummary,
    before: Option<TraceContext>,
) -> Vec<Span> {
    let Some(ended) = one.ended_at else { return Vec::new() };
    let run = context(store, one);
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
    attributes.extend(one.restart_of.map(|before| integer("batch.job.restart_of", before.0)));
    let links = before.map(|before| Link {
        trace_id: before.trace_id().to_vec(),
        span_id: before.span_id().to_vec(),
        flags: SAMPLED,
        ..Link::default()
    });
    if one.steps.len() > STEPS_MAX {
        let dropped = i64::try_from(one.steps.len() - STEPS_MAX).unwrap_or(i64::MAX);
        attributes.push(integer("batch.steps.dropped", dropped));
    }
    let failure = one.failure.as_ref().map(|it| (it.code.as_str(), it.message.as_str()));
    attributes.extend(failure.map(|(code, _)| text("error.type", code)));
    let execution = Span {
        trace_id: run.trace_id().to_vec(),
        span_id: run.span_id().to_vec(),
        parent_span_id: one.trace_parent.map_or(Vec::new(), |it| it.span_id().to_vec()),
        flags: SAMPLED,
        name: format!("run {}", one.job),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: nanos(one.started_at.unwrap_or(one.created_at)),
        end_time_unix_nano: nanos(ended),
        attributes,
        links: links.into_iter().collect(),
        status: Some(status(one.status, failure)),
        ..Span::default()
    };
    let steps = one.steps.iter().take(STEPS_MAX);
    let steps = steps.map(|it| step(store, one, it, ended, run));
    std::iter::once(execution).chain(steps).collect()
}

/// Returns the span of a call of a trigger's runner, and its place; `None` for other events.
pub(super) fn call(event: &Event) -> Option<(TraceContext, Span)> {
    let Subject::Trigger { identifier, slot } = &event.subject else { return None };
    let Change::RunnerEnded { runner, call, attempt, trace: at, took, outcome, reason } =
        &event.change
    else {
        return None;
    };
    // The execution of a job is the root of its own trace.
    if *runner == "job" {
        return None;
    }
    let kind = match *runner {
        "shell" => SpanKind::Internal,
        "amqp" => SpanKind::Producer,
        _ => SpanKind::Client,
    };
    let code = if reason.is_some() { StatusCode::Error } else { StatusCode::Unset };
    let span = Span {
        trace_id: at.trace_id().to_vec(),
        span_id: at.span_id().to_vec(),
        flags: SAMPLED,
        name: call.to_string(),
        kind: kind.into(),
        start_time_unix_nano: nanos(event.at.saturating_sub(*took).unwrap_or(event.at)),
        end_time_unix_nano: nanos(event.at),
        attributes: vec![
            text("batch.trigger.name", &**identifier),
            text("batch.trigger.slot", slot.to_string()),
            text("batch.runner", *runner),
            text("batch.runner.outcome", *outcome),
            integer("batch.runner.attempt", i64::from(*attempt)),
        ],
        status: Some(Status { code: code.into(), message: reason.clone().unwrap_or_default() }),
        ..Span::default()
    };
    Some((*at, span))
}

fn step(
    store: &str,
    one: &ExecutionSummary,
    step: &StepSummary,
    ended: Timestamp,
    run: TraceContext,
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
    let of_step = |step: &StepSummary| TraceContext::of_step(store, step.id, run);
    let span = of_step(step);
    Span {
        trace_id: span.trace_id().to_vec(),
        span_id: span.span_id().to_vec(),
        parent_span_id: whole.map_or(run, of_step).span_id().to_vec(),
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
