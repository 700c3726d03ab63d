//! Telemetry of this process: traces, metrics and log lines for a collector of OpenTelemetry, if the environment names one.

use std::fmt::{Debug, Write as _};
use std::sync::OnceLock;

use batchwright::JobOperator;
use batchwright::clock::{Clock as _, SystemClock};
use batchwright::execution::ExecutionId;
use batchwright_server::{LogEvent, Scheduler, Severity, Telemetry};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

static TELEMETRY: OnceLock<Telemetry> = OnceLock::new();

/// Starts the exporter that the environment describes. The texts are to be logged. Telemetry never fails a job: what cannot be
/// used is logged, and nothing is exported.
pub(crate) fn begin() -> Vec<String> {
    match Telemetry::from_env() {
        Ok(None) => Vec::new(),
        Ok(Some((telemetry, notes))) => {
            let _ = TELEMETRY.set(telemetry);
            notes
        }
        Err(problem) => vec![format!("no telemetry is exported: {problem}")],
    }
}

/// Exports what `operator` runs, from now on.
pub(crate) fn observe(operator: &JobOperator) {
    if let Some(telemetry) = TELEMETRY.get() {
        telemetry.observe(operator);
    }
}

/// Exports metrics of the triggers of `scheduler`, from now on.
pub(crate) fn observe_schedule(scheduler: Option<&Scheduler>) {
    if let Some((telemetry, scheduler)) = TELEMETRY.get().zip(scheduler) {
        telemetry.observe_schedule(scheduler);
    }
}

/// Sends what waits to be sent.
pub(crate) fn end() {
    if let Some(telemetry) = TELEMETRY.get() {
        telemetry.end();
    }
}

/// Returns the layer that exports log lines, if the exporter was started.
pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> Option<impl Layer<S>> {
    TELEMETRY.get().cloned().map(Lines)
}

/// Exports the lines of the log.
struct Lines(Telemetry);

/// The execution that a span is about.
struct OfExecution(ExecutionId);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut read = Fields::default();
        attributes.record(&mut read);
        if let Some((execution, span)) = read.execution.zip(context.span(id)) {
            span.extensions_mut().insert(OfExecution(execution));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut read = Fields::default();
        event.record(&mut read);
        let mut spans = context.event_scope(event).into_iter().flatten();
        let execution =
            spans.find_map(|span| span.extensions().get::<OfExecution>().map(|it| it.0));
        let metadata = event.metadata();
        self.0.log(LogEvent {
            at: SystemClock::default().now(),
            severity: match *metadata.level() {
                Level::ERROR => Severity::Error,
                Level::WARN => Severity::Warn,
                Level::INFO => Severity::Info,
                Level::DEBUG => Severity::Debug,
                Level::TRACE => Severity::Trace,
            },
            target: metadata.target().to_owned(),
            message: read.message,
            fields: read.fields,
            execution: execution.or(read.execution),
        });
    }
}

/// The fields of a span or a line.
#[derive(Default)]
struct Fields {
    message: String,
    fields: Vec<(&'static str, String)>,
    execution: Option<ExecutionId>,
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "execution" {
            self.execution = Some(ExecutionId(value));
        }
        self.record_debug(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            name => self.fields.push((name, value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
            return;
        }
        let text = format!("{value:?}");
        if field.name() == "execution" && self.execution.is_none() {
            self.execution = text.parse().ok().map(ExecutionId);
        }
        self.fields.push((field.name(), text));
    }
}
