//! The thread that collects what is to be sent, and sends it.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use batchwright::clock::Clock;
use batchwright::event::Event;
use batchwright::execution::{ExecutionId, TraceContext};
use batchwright::{JobOperator, report};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use reqwest::StatusCode;

use super::settings::{Settings, Target};
use super::{END_TIMEOUT, LogEvent, WAITING_MAX, metric, nanos, scope, trace};
use crate::metrics::{Metrics, next_fires};
use crate::scheduler::Scheduler;

/// How long spans and lines wait for others, with which they are sent together.
const COLLECT_TIME: Duration = Duration::from_secs(1);
/// Most spans or lines of a request.
const BATCH_MAX: usize = 512;
/// Attempts to send a request, and the first wait between them.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);
/// Executions whose spans are remembered.
const KNOWN_MAX: usize = 10_000;

thread_local! {
    static IS_EXPORTER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is the thread of the exporter, whose own log must not be exported.
pub(super) fn is_exporter() -> bool {
    IS_EXPORTER.get()
}

/// A message to the exporter.
pub(super) enum Message {
    /// Executions and metrics come from here.
    Observe(Box<Source>),
    ObserveSchedule(Scheduler),
    Ended(ExecutionId),
    /// Send everything, and confirm that.
    End(Sender<()>),
}

/// Where executions and metrics come from.
pub(super) struct Source {
    pub(super) operator: JobOperator,
    pub(super) metrics: Metrics,
}

/// A line of the log that waits.
pub(super) struct Line(pub(super) LogEvent);

/// What reaches the exporter.
pub(super) struct Inputs {
    pub(super) messages: Receiver<Message>,
    pub(super) lines: Receiver<Line>,
    /// Ended calls of runners.
    pub(super) calls: Receiver<Event>,
}

/// What is known of one of the three signals.
#[derive(Debug, Default)]
struct Signal {
    /// Whether the last request failed: only the first of several failures is logged.
    has_failed: bool,
    /// Spans, lines or reports of metrics that were not sent since.
    dropped: usize,
}

/// Number of spans, lines and messages that were not sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Dropped(Arc<AtomicU64>);

impl Dropped {
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

pub(super) struct Worker {
    settings: Settings,
    clock: Arc<dyn Clock>,
    inputs: Inputs,
    dropped: Dropped,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    source: Option<Box<Source>>,
    scheduler: Option<Scheduler>,
    signals: HashMap<&'static str, Signal>,
    /// The spans of executions that were asked for lately.
    known: HashMap<ExecutionId, TraceContext>,
    /// When the last export must have ended, once the process ends.
    ends_at: Option<Duration>,
    spans: Vec<Span>,
    began: u64,
}

impl Worker {
    pub(super) fn new(
        settings: Settings,
        clock: Arc<dyn Clock>,
        inputs: Inputs,
        dropped: Dropped,
    ) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("batchwright/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client.map_err(|error| {
            format!("cannot create the HTTP client: {}", batchwright::report(&error))
        })?;
        let began = nanos(clock.now());
        Ok(Self {
            settings,
            clock,
            inputs,
            dropped,
            runtime,
            client,
            source: None,
            scheduler: None,
            signals: HashMap::new(),
            known: HashMap::new(),
            ends_at: None,
            spans: Vec::new(),
            began,
        })
    }

    pub(super) fn run(mut self) {
        IS_EXPORTER.set(true);
        let mut metrics_at = self.clock.elapsed() + self.settings.interval;
        let mut flush_at = self.clock.elapsed() + COLLECT_TIME;
        loop {
            let wait = flush_at.min(metrics_at).saturating_sub(self.clock.elapsed());
            match self.inputs.messages.recv_timeout(wait) {
                Ok(Message::Observe(source)) => self.source = Some(source),
                Ok(Message::ObserveSchedule(scheduler)) => self.scheduler = Some(scheduler),
                Ok(Message::Ended(id)) => self.ended(id),
                Ok(Message::End(done)) => {
                    self.ends_at = Some(self.clock.elapsed() + END_TIMEOUT);
                    self.send_spans();
                    self.send_metrics();
                    self.send_lines();
                    self.tell_dropped();
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = self.clock.elapsed();
            if self.spans.len() >= BATCH_MAX || now >= flush_at {
                self.send_spans();
                self.send_lines();
                self.tell_dropped();
                flush_at = self.clock.elapsed() + COLLECT_TIME;
            }
            if now >= metrics_at {
                self.send_metrics();
                metrics_at = self.clock.elapsed() + self.settings.interval;
            }
        }
    }

    /// Makes the spans of an execution of what the store has.
    fn ended(&mut self, id: ExecutionId) {
        let Some(source) = &self.source else { return };
        if self.settings.traces.is_none() {
            return;
        }
        let operator = source.operator.clone();
        let spans = operator.explorer().summary(id).map(|one| {
            if !self.settings.sampler.takes(trace::context(operator.store_id(), &one)) {
                return Vec::new();
            }
            let before = one.restart_of.and_then(|before| self.span_of(&operator, before));
            trace::spans(operator.store_id(), &one, before)
        });
        match spans {
            Ok(spans) => self.spans.extend(spans),
            Err(error) => {
                self.dropped.add(1);
                tracing::debug!(execution = %id, error = %report(&error), "no trace is made");
            }
        }
    }

    /// Returns the span of execution `id`; `None` when the store cannot be asked or has it no more.
    fn span_of(&mut self, operator: &JobOperator, id: ExecutionId) -> Option<TraceContext> {
        if let Some(known) = self.known.get(&id) {
            return Some(*known);
        }
        let one = operator.explorer().execution(id).ok()?;
        let span = TraceContext::of_execution(operator.store_id(), id, one.trace_parent);
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(id, span);
        Some(span)
    }

    /// Logs how many spans and lines found no room.
    fn tell_dropped(&mut self) {
        let dropped = self.dropped.take();
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "telemetry came faster than the collector takes it, and was dropped"
            );
        }
    }

    fn send_spans(&mut self) {
        self.take_calls();
        let spans = std::mem::take(&mut self.spans);
        let Some(target) = self.settings.traces.clone() else { return };
        for some in spans.chunks(BATCH_MAX) {
            let scope_spans =
                ScopeSpans { scope: Some(scope()), spans: some.to_vec(), ..ScopeSpans::default() };
            let resource_spans = vec![ResourceSpans {
                resource: Some(self.resource()),
                scope_spans: vec![scope_spans],
                ..ResourceSpans::default()
            }];
            let request = ExportTraceServiceRequest { resource_spans };
            self.send("traces", &target, request.encode_to_vec(), some.len());
        }
    }

    /// Makes the spans of the calls of runners that ended: of each look at most as many as can wait.
    fn take_calls(&mut self) {
        let calls = self.inputs.calls.try_iter().take(WAITING_MAX);
        let spans = calls.filter_map(|event| trace::call(&event));
        let sampler = self.settings.sampler;
        self.spans.extend(spans.filter(|(at, _)| sampler.takes(*at)).map(|(_, span)| span));
    }

    /// Sends the lines that wait: of each look at most as many as can wait, so that other work gets its turn.
    fn send_lines(&mut self) {
        let Some(target) = self.settings.logs.clone() else { return };
        let waiting: Vec<Line> = self.inputs.lines.try_iter().take(WAITING_MAX).collect();
        let operator = self.source.as_ref().map(|source| source.operator.clone());
        let mut records: Vec<LogRecord> = Vec::with_capacity(waiting.len());
        for Line(event) in waiting {
            let about = operator.as_ref().zip(event.execution);
            let span = about.and_then(|(operator, id)| self.span_of(operator, id));
            records.push(event.record(span));
        }
        for some in records.chunks(BATCH_MAX) {
            let scope_logs = ScopeLogs {
                scope: Some(scope()),
                log_records: some.to_vec(),
                ..ScopeLogs::default()
            };
            let resource_logs = vec![ResourceLogs {
                resource: Some(self.resource()),
                scope_logs: vec![scope_logs],
                ..ResourceLogs::default()
            }];
            let request = ExportLogsServiceRequest { resource_logs };
            self.send("logs", &target, request.encode_to_vec(), some.len());
        }
    }

    fn resource(&self) -> Resource {
        Resource { attributes: self.settings.resource.clone(), ..Resource::default() }
    }

    fn send_metrics(&mut self) {
        let (Some(target), Some(source)) = (self.settings.metrics.clone(), &self.source) else {
            return;
        };
        let upcoming = self.runtime.block_on(next_fires(self.scheduler.as_ref()));
        let text = match source.metrics.text(&upcoming) {
            Ok(text) => text,
            Err(error) => return tracing::debug!(error, "the metrics cannot be read"),
        };
        let scope_metrics = ScopeMetrics {
            scope: Some(scope()),
            metrics: metric::metrics(&text, self.began, nanos(self.clock.now())),
            ..ScopeMetrics::default()
        };
        let resource_metrics = vec![ResourceMetrics {
            resource: Some(self.resource()),
            scope_metrics: vec![scope_metrics],
            ..ResourceMetrics::default()
        }];
        let request = ExportMetricsServiceRequest { resource_metrics };
        self.send("metrics", &target, request.encode_to_vec(), 1);
    }

    /// Sends a request, again when the collector is away or overloaded. What cannot be sent is dropped, counted and logged. At
    /// the end of the process each request is sent once, and all within [`END_TIMEOUT`].
    fn send(&mut self, signal: &'static str, target: &Target, body: Vec<u8>, count: usize) {
        let now = self.clock.elapsed();
        let deadline = (now + target.timeout).min(self.ends_at.unwrap_or(Duration::MAX));
        let sent = match deadline <= now {
            true => Err("the collector does not answer".to_owned()),
            false => {
                let attempts = if self.ends_at.is_some() { 1 } else { ATTEMPTS };
                self.runtime.block_on(post(
                    &self.client,
                    &*self.clock,
                    target,
                    body,
                    attempts,
                    deadline,
                ))
            }
        };
        let known = self.signals.entry(signal).or_default();
        match sent {
            Ok(()) => {
                if std::mem::take(&mut known.has_failed) {
                    let dropped = std::mem::take(&mut known.dropped);
                    tracing::info!(signal, dropped, "the collector of telemetry takes data again");
                }
            }
            Err(error) => {
                known.dropped += count;
                if !std::mem::replace(&mut known.has_failed, true) {
                    tracing::warn!(
                        signal,
                        error,
                        "telemetry cannot be sent and is dropped until the collector takes it"
                    );
                }
            }
        }
    }
}

/// Sends `body` until the collector takes it, refuses it for good, or `deadline` has come.
async fn post(
    client: &reqwest::Client,
    clock: &dyn Clock,
    target: &Target,
    body: Vec<u8>,
    attempts: u32,
    deadline: Duration,
) -> Result<(), String> {
    let mut last = String::new();
    for attempt in 0..attempts {
        if attempt > 0 {
            let pause = PAUSE * 2_u32.pow(attempt);
            if clock.elapsed() + pause >= deadline {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        let left = deadline.saturating_sub(clock.elapsed());
        let mut request = client.post(target.url.clone()).body(body.clone()).timeout(left);
        request = request.header("content-type", "application/x-protobuf");
        for (name, value) in &target.headers {
            request = request.header(name, value);
        }
        match request.send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => {
                let status = answer.status();
                last = format!("the collector answered {status}");
                if !is_repeatable(status) {
                    break;
                }
            }
            // The address may have a password.
            Err(error) => last = report(&error.without_url()),
        }
    }
    Err(last)
}

/// Whether the protocol allows to send a request again after this answer.
fn is_repeatable(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}
