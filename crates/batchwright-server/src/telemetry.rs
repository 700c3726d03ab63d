//! OpenTelemetry by OTLP: traces of executions, metrics and logs, sent to a collector when the standard variables name one.
//!
//! A trace is made of what the store has when an execution ends, so that it is complete also when another process died with
//! the execution. Its numbers follow from the store and the execution: each process computes the same ones.

mod export;
mod log;
mod metric;
mod settings;
mod trace;

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use batchwright::clock::SystemClock;
use batchwright::event::{Change, Event, Subject};
use batchwright::execution::TraceContext;
use batchwright::{BatchStatus, JobOperator};
use jiff::Timestamp;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};

use self::export::{Inputs, Line, Message, Source, Worker};
use self::settings::Settings;
use crate::metrics::Metrics;
use crate::scheduler::Scheduler;

pub use self::log::{LogEvent, Severity};

/// Most messages that wait for the exporter; further ones are dropped and counted.
const WAITING_MAX: usize = 8_192;
/// How long the last export of a process may take, and how much longer its end waits for the exporter.
const END_TIMEOUT: Duration = Duration::from_secs(5);
const END_MARGIN: Duration = Duration::from_millis(500);

/// Sends traces, metrics and logs of this process. Clones share the exporter.
#[derive(Clone)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

struct Inner {
    /// What the exporter must know: never displaced by lines of the log or calls of runners.
    messages: SyncSender<Message>,
    lines: SyncSender<Line>,
    calls: SyncSender<Event>,
    dropped: export::Dropped,
    exports_logs: bool,
    exports_traces: bool,
}

impl Telemetry {
    /// Starts the exporter that the variables `OTEL_*` of the environment describe; `None` when they name no collector. The texts
    /// say which variables have no effect.
    ///
    /// # Errors
    ///
    /// A sentence about a variable that cannot be used, or about a thread that the system refuses.
    pub fn from_env() -> Result<Option<(Self, Vec<String>)>, String> {
        let Some((settings, notes)) = Settings::read(&std::env::vars().collect())? else {
            return Ok(None);
        };
        Self::start(settings).map(|telemetry| Some((telemetry, notes)))
    }

    fn start(settings: Settings) -> Result<Self, String> {
        // The collector may be reached by TLS; a provider that the program has installed stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (messages, waiting) = sync_channel(WAITING_MAX);
        let (lines, lines_waiting) = sync_channel(WAITING_MAX);
        let (calls, calls_waiting) = sync_channel(WAITING_MAX);
        let dropped = export::Dropped::default();
        TraceContext::set_share(settings.sampler.share);
        let exports_logs = settings.logs.is_some();
        let exports_traces = settings.traces.is_some();
        let clock = Arc::new(SystemClock::default());
        let inputs = Inputs { messages: waiting, lines: lines_waiting, calls: calls_waiting };
        let worker = Worker::new(settings, clock, inputs, dropped.clone())?;
        thread::Builder::new()
            .name("telemetry".to_owned())
            .spawn(move || worker.run())
            .map_err(|error| format!("cannot start the thread of the telemetry: {error}"))?;
        let inner = Inner { messages, lines, calls, dropped, exports_logs, exports_traces };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Observes the executions of `operator` from now on.
    pub fn observe(&self, operator: &JobOperator) {
        let metrics = Metrics::new(operator);
        self.send(Message::Observe(Box::new(Source { operator: operator.clone(), metrics })));
        let telemetry = self.clone();
        operator.events().observe(move |event: &Event| match (&event.subject, &event.change) {
            // An execution that is abandoned ended before.
            (Subject::Execution { id, .. }, Change::Status { status, .. })
                if !status.is_running() && *status != BatchStatus::Abandoned =>
            {
                telemetry.send(Message::Ended(*id));
            }
            (Subject::Trigger { .. }, Change::RunnerEnded { .. }) => telemetry.called(event),
            _ => {}
        });
    }

    /// Adds the next fires of the triggers of `scheduler` to the metrics.
    pub fn observe_schedule(&self, scheduler: &Scheduler) {
        self.send(Message::ObserveSchedule(scheduler.clone()));
    }

    fn called(&self, event: &Event) {
        if !self.inner.exports_traces {
            return;
        }
        if let Err(TrySendError::Full(_)) = self.inner.calls.try_send(event.clone()) {
            self.inner.dropped.add(1);
        }
    }

    /// Sends a line of the log. Those of the exporter itself are not sent.
    pub fn log(&self, event: LogEvent) {
        if !self.inner.exports_logs || export::is_exporter() {
            return;
        }
        if let Err(TrySendError::Full(_)) = self.inner.lines.try_send(Line(event)) {
            self.inner.dropped.add(1);
        }
    }

    /// Sends what waits and the last metrics, and ends the exporter; waits for at most [`END_TIMEOUT`].
    pub fn end(&self) {
        let (done, ended) = std::sync::mpsc::channel();
        let sent = self.inner.messages.try_send(Message::End(done)).is_ok();
        if !sent || ended.recv_timeout(END_TIMEOUT + END_MARGIN).is_err() {
            tracing::warn!(
                "the collector of telemetry is too slow: the last telemetry of this process is lost"
            );
        }
    }

    fn send(&self, message: Message) {
        if let Err(TrySendError::Full(_)) = self.inner.messages.try_send(message) {
            self.inner.dropped.add(1);
        }
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn integer(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

/// Returns a time as OTLP has it: nanoseconds of Unix time.
fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or(0)
}

/// What makes the telemetry.
fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "batchwright".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}
