//! Lines of the log, with the numbers of the trace that they belong to.

use batchwright::execution::{ExecutionId, TraceContext};
use jiff::Timestamp;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};

use super::{integer, nanos, text};

/// How serious a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// For the one who looks for a fault in detail.
    Trace,
    /// For the one who looks for a fault.
    Debug,
    /// What happened.
    Info,
    /// What may become a problem.
    Warn,
    /// A problem.
    Error,
}

/// A line of the log.
#[derive(Debug, Clone)]
pub struct LogEvent {
    /// When it happened.
    pub at: Timestamp,
    /// How serious it is.
    pub severity: Severity,
    /// The part of the program that wrote it.
    pub target: String,
    /// Its text.
    pub message: String,
    /// Its further fields.
    pub fields: Vec<(&'static str, String)>,
    /// The execution that it is about, if any.
    pub execution: Option<ExecutionId>,
}

impl LogEvent {
    /// Returns the line as it is sent; `span` is that of its execution.
    pub(super) fn record(self, span: Option<TraceContext>) -> LogRecord {
        let (number, name) = match self.severity {
            Severity::Trace => (SeverityNumber::Trace, "TRACE"),
            Severity::Debug => (SeverityNumber::Debug, "DEBUG"),
            Severity::Info => (SeverityNumber::Info, "INFO"),
            Severity::Warn => (SeverityNumber::Warn, "WARN"),
            Severity::Error => (SeverityNumber::Error, "ERROR"),
        };
        let at = nanos(self.at);
        let mut attributes: Vec<KeyValue> = vec![text("log.logger", self.target)];
        attributes.extend(self.fields.into_iter().map(|(name, value)| text(name, value)));
        attributes.extend(self.execution.map(|it| integer("batch.job.execution.id", it.0)));
        LogRecord {
            time_unix_nano: at,
            observed_time_unix_nano: at,
            severity_number: number.into(),
            severity_text: name.to_owned(),
            body: Some(AnyValue { value: Some(Value::StringValue(self.message)) }),
            attributes,
            trace_id: span.map_or(Vec::new(), |span| span.trace_id().to_vec()),
            span_id: span.map_or(Vec::new(), |span| span.span_id().to_vec()),
            ..LogRecord::default()
        }
    }
}
