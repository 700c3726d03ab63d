//! The thread that collects what is to be sent, and sends it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use batchwright::clock::Clock;
use batchwright::execution::ExecutionId;
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
use super::{hashed, metric, nanos, scope, trace};
use crate::metrics::Metrics;
use crate::scheduler::{Answer, Request, Scheduler};

/// How long spans and lines wait for others, with which they are sent together.
const COLLECT_TIME: Duration = Duration::from_secs(1);
/// Most spans or lines of a request.
const BATCH_MAX: usize = 512;
/// Triggers whose next fires are among the metrics.
const NEXT_FIRES_MAX: usize = 1_000;
/// Attempts to send a request, and the first wait between them.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);
/// Executions between one and its outermost parent.
const DEPTH_MAX: usize = 100;

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
    Ended(ExecutionId),
    Log(Box<LogRecord>),
    /// Send everything, and confirm that.
    End(Sender<()>),
}

/// Where executions and metrics come from.
pub(super) struct Source {
    pub(super) operator: JobOperator,
    pub(super) metrics: Metrics,
    pub(super) scheduler: Option<Scheduler>,
}

/// Number of spans, lines and messages that were not sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Dropped(Arc<AtomicU64>);

impl Dropped {
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }
}

pub(super) struct Worker {
    settings: Settings,
    clock: Arc<dyn Clock>,
    messages: Receiver<Message>,
    dropped: Dropped,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    source: Option<Box<Source>>,
    spans: Vec<Span>,
    logs: Vec<LogRecord>,
    began: u64,
    /// Whether the last request failed: only the first of several failures is logged.
    has_failed: bool,
}

impl Worker {
    pub(super) fn new(
        settings: Settings,
        clock: Arc<dyn Clock>,
        messages: Receiver<Message>,
        dropped: Dropped,
    ) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("batchwright/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client.map_err(|error| format!("cannot create the HTTP client: {error}"))?;
        let began = nanos(clock.now());
        Ok(Self {
            settings,
            clock,
            messages,
            dropped,
            runtime,
            client,
            source: None,
            spans: Vec::new(),
            logs: Vec::new(),
            began,
            has_failed: false,
        })
    }

    pub(super) fn run(mut self) {
        IS_EXPORTER.set(true);
        let mut metrics_at = self.clock.elapsed() + self.settings.interval;
        let mut flush_at = self.clock.elapsed() + COLLECT_TIME;
        loop {
            let wait = flush_at.min(metrics_at).saturating_sub(self.clock.elapsed());
            match self.messages.recv_timeout(wait) {
                Ok(Message::Observe(source)) => self.source = Some(source),
                Ok(Message::Ended(id)) => self.ended(id),
                Ok(Message::Log(record)) => self.logs.push(*record),
                Ok(Message::End(done)) => {
                    self.flush();
                    self.send_metrics();
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = self.clock.elapsed();
            let is_full = self.spans.len() >= BATCH_MAX || self.logs.len() >= BATCH_MAX;
            if is_full || now >= flush_at {
                self.flush();
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
        let explorer = source.operator.explorer();
        let (mut root, mut read) = (id, explorer.summary(id));
        let mut parent = read.as_ref().ok().and_then(|one| one.parent);
        for _ in 0..DEPTH_MAX {
            let Some(outer) = parent else { break };
            root = outer;
            parent = explorer.execution(outer).ok().and_then(|one| one.parent);
        }
        if !self.is_sampled(root) {
            return;
        }
        if read.is_err() {
            // The store may have been busy.
            read = explorer.summary(id);
        }
        match read {
            Ok(one) => self.spans.extend(trace::spans(source.operator.store_id(), &one, root)),
            Err(error) => {
                self.dropped.add(1);
                tracing::debug!(execution = %id, error = %report(&error), "no trace is made");
            }
        }
    }

    /// Whether the trace of `root` is sent: the same for each process.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    fn is_sampled(&self, root: ExecutionId) -> bool {
        let hash = hashed(&["sample"], root.0);
        let number = u64::from_be_bytes([
            hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7],
        ]);
        (number as f64 / u64::MAX as f64) < self.settings.sampled || self.settings.sampled >= 1.0
    }

    /// Sends what has been collected.
    fn flush(&mut self) {
        let resource = Some(self.resource());
        let spans = std::mem::take(&mut self.spans);
        if let Some(target) = self.settings.traces.clone() {
            for some in spans.chunks(BATCH_MAX) {
                let scope_spans = ScopeSpans {
                    scope: Some(scope()),
                    spans: some.to_vec(),
                    ..ScopeSpans::default()
                };
                let resource_spans = vec![ResourceSpans {
                    resource: resource.clone(),
                    scope_spans: vec![scope_spans],
                    ..ResourceSpans::default()
                }];
                let request = ExportTraceServiceRequest { resource_spans };
                self.send("traces", &target, request.encode_to_vec(), some.len());
            }
        }
        let records = std::mem::take(&mut self.logs);
        if let Some(target) = self.settings.logs.clone() {
            for some in records.chunks(BATCH_MAX) {
                let scope_logs = ScopeLogs {
                    scope: Some(scope()),
                    log_records: some.to_vec(),
                    ..ScopeLogs::default()
                };
                let resource_logs = vec![ResourceLogs {
                    resource: resource.clone(),
                    scope_logs: vec![scope_logs],
                    ..ResourceLogs::default()
                }];
                let request = ExportLogsServiceRequest { resource_logs };
                self.send("logs", &target, request.encode_to_vec(), some.len());
            }
        }
    }

    fn resource(&self) -> Resource {
        Resource { attributes: self.settings.resource.clone(), ..Resource::default() }
    }

    fn send_metrics(&mut self) {
        let (Some(target), Some(source)) = (self.settings.metrics.clone(), &self.source) else {
            return;
        };
        let upcoming = match &source.scheduler {
            Some(scheduler) => {
                let asked = scheduler.read(Request::Upcoming { limit: NEXT_FIRES_MAX });
                self.runtime.block_on(asked).map(Answer::triggers).unwrap_or_default()
            }
            None => Vec::new(),
        };
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

    /// Sends a request, again when the collector is away or overloaded. What cannot be sent is dropped, counted and logged.
    fn send(&mut self, signal: &str, target: &Target, body: Vec<u8>, count: usize) {
        let (client, clock) = (self.client.clone(), Arc::clone(&self.clock));
        let deadline = clock.elapsed() + target.timeout;
        let sent = self.runtime.block_on(async {
            let mut last = String::new();
            for attempt in 0..ATTEMPTS {
                let left = deadline.saturating_sub(clock.elapsed());
                let pause = PAUSE * 2_u32.pow(attempt);
                if attempt > 0 && left > pause {
                    tokio::time::sleep(pause).await;
                }
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
                if deadline <= clock.elapsed() {
                    break;
                }
            }
            Err(last)
        });
        match sent {
            Ok(()) if self.has_failed => {
                self.has_failed = false;
                let dropped = self.dropped.0.swap(0, Ordering::Relaxed);
                tracing::info!(dropped, "the collector of telemetry takes data again");
            }
            Ok(()) => {}
            Err(error) => {
                self.dropped.add(count);
                if !std::mem::replace(&mut self.has_failed, true) {
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
