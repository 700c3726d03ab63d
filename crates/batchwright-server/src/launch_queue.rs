//! Starts jobs by messages of an AMQP queue: signed by the sender, verified here, and each started once.
//!
//! The form of a message is that of the [Standard Webhooks](https://www.standardwebhooks.com) that the scheduler sends: a
//! JSON body, and the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`. Programs in any language send
//! them.

use std::convert::Infallible;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use batchwright::clock::StopToken;
use batchwright::error::{RepositoryError, report};
use batchwright::execution::JobExecution;
use batchwright::launch::{Launch, LaunchOptions, RequestKey};
use batchwright::operator::{OperatorError, Refusal};
use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::scheduler::runner::amqp::{redacted, uri};
use crate::scheduler::runner::signature::signature;
use crate::scheduler::{JobStarter, Secret};

/// Messages that are taken before the first of them is acknowledged.
const PREFETCH: u16 = 50;
/// First and longest wait before the next attempt to reach the broker, or the store.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Maximum time to open a connection with its channel.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a message, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// A request to start a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchMessage {
    /// Name of the job.
    pub job: String,
    /// Parameters: plain values, or objects with `value`, `type`, `identifying` and `secret`.
    #[serde(default)]
    pub parameters: Map<String, Value>,
}

impl LaunchMessage {
    /// Requests a start of `job` without parameters.
    pub fn new(job: impl Into<String>) -> Self {
        Self { job: job.into(), parameters: Map::new() }
    }

    /// Adds a parameter.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.parameters.insert(name.into(), value.into());
        self
    }
}

/// A queue of [`LaunchMessage`]s on a broker, and the secret of those who may send them.
///
/// ```no_run
/// use batchwright::JobOperator;
/// use batchwright::clock::StopToken;
/// use batchwright_server::{JobStarter, LaunchMessage, LaunchQueue};
///
/// # async fn example(jobs: JobStarter) -> Result<(), Box<dyn std::error::Error>> {
/// let queue = LaunchQueue::new("amqp://guest:guest@127.0.0.1:5672/", "launches", "a long secret")?;
///
/// // In the program that sends: the id makes a message that is sent twice one start.
/// let sender = queue.sender().await?;
/// sender.send("import-2026-11-28", &LaunchMessage::new("import").with("day", "2026-11-28")).await?;
///
/// // In the program with the jobs, beside a `Worker` or in a `Server`.
/// let stop = StopToken::default();
/// queue.serve(&jobs, &stop).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct LaunchQueue {
    dsn: Secret,
    queue: String,
    secret: Secret,
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchQueueError {
    /// The DSN cannot be used.
    #[error("{0}")]
    Dsn(String),
    /// The secret is empty, so that anyone could sign.
    #[error("the secret of the queue is empty")]
    Secret,
    /// The id of the message is not 1 to 255 visible ASCII characters, so it cannot identify a request.
    #[error("the id of the message is not 1 to 255 visible ASCII characters")]
    Id,
    /// The broker is unavailable or refused the message. It may have arrived: send it again, with the same id.
    #[error("the broker did not confirm the message")]
    Broker(#[source] lapin::Error),
    /// The broker could not store the message.
    #[error("the broker rejected the message")]
    Rejected,
}

impl LaunchQueue {
    /// Creates the queue `queue` of the broker at `dsn`: `amqp://USER:PASSWORD@HOST:PORT/VHOST`. Senders and receivers share
    /// `secret`; with the prefix `whsec_` it is base64 after the prefix.
    ///
    /// # Errors
    ///
    /// [`LaunchQueueError::Dsn`], without the DSN's password; [`LaunchQueueError::Secret`].
    pub fn new(
        dsn: impl Into<String>,
        queue: impl Into<String>,
        secret: impl Into<String>,
    ) -> Result<Self, LaunchQueueError> {
        let dsn = dsn.into();
        uri(&dsn).map_err(LaunchQueueError::Dsn)?;
        let secret = secret.into();
        if secret.strip_prefix("whsec_").unwrap_or(&secret).is_empty() {
            return Err(LaunchQueueError::Secret);
        }
        Ok(Self { dsn: Secret::new(dsn), queue: queue.into(), secret: Secret::new(secret) })
    }

    /// Connects to the broker as a sender, and creates the queue, durable, if it does not exist.
    ///
    /// # Errors
    ///
    /// [`LaunchQueueError::Broker`].
    pub async fn sender(&self) -> Result<LaunchSender, LaunchQueueError> {
        let opened = self.open().await?;
        let confirm = opened.channel.confirm_select(ConfirmSelectOptions::default());
        confirm.await.map_err(LaunchQueueError::Broker)?;
        Ok(LaunchSender { queue: self.clone(), opened })
    }

    /// Connects to the broker, and creates the queue if it does not exist.
    async fn open(&self) -> Result<Opened, LaunchQueueError> {
        let broker = uri(self.dsn.expose()).map_err(LaunchQueueError::Dsn)?;
        let opened = async {
            let connection =
                Connection::connect_uri(broker, ConnectionProperties::default()).await?;
            let declare = async |passive: bool| {
                let channel = connection.create_channel().await?;
                let options =
                    QueueDeclareOptions { durable: !passive, passive, ..Default::default() };
                let none = FieldTable::default();
                channel.queue_declare(self.queue.as_str().into(), options, none).await?;
                Ok::<_, lapin::Error>(channel)
            };
            // An existing queue keeps its arguments, such as its dead-letter exchange.
            let channel = match declare(true).await {
                Ok(channel) => channel,
                Err(_) => declare(false).await?,
            };
            Ok(Opened { channel, _connection: connection })
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, opened).await {
            Ok(opened) => opened.map_err(LaunchQueueError::Broker),
            Err(_) => Err(LaunchQueueError::Broker(io_error("no answer within ten seconds"))),
        }
    }

    /// Starts the jobs of `jobs` by the messages of the queue, until `stop` is requested: a start is queued for the workers
    /// of the store, and then its message is acknowledged. A message whose signature is wrong, that cannot be parsed, or
    /// whose start is refused is rejected, for the queue's dead-letter exchange if it has one, and logged. While the broker or
    /// the store is unavailable, or another execution of the instance runs, the message is not acknowledged and the next
    /// attempt follows within ten seconds.
    pub async fn serve(&self, jobs: &JobStarter, stop: &StopToken) {
        let served = async {
            let mut pause = PAUSE_MIN;
            loop {
                let Err(error) = self.serve_connected(jobs, &mut pause).await;
                let (broker, error) = (redacted(self.dsn.expose()), report(&error));
                tracing::warn!(broker, error, "the queue of launches cannot be read");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        };
        // The end of the connection gives the messages back that are not acknowledged.
        tokio::select! {
            () = served => {}
            () = stopped(stop) => {}
        }
    }

    async fn serve_connected(
        &self,
        jobs: &JobStarter,
        pause: &mut Duration,
    ) -> Result<Infallible, LaunchQueueError> {
        let opened = self.open().await?;
        let channel = &opened.channel;
        let broker = LaunchQueueError::Broker;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.map_err(broker)?;
        let tag = "batchwright".into();
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(self.queue.as_str().into(), tag, options, none);
        let mut consumer = consumer.await.map_err(broker)?;
        loop {
            let Some(delivery) = consumer.next().await else {
                return Err(LaunchQueueError::Broker(io_error("the consumer was cancelled")));
            };
            self.answer(delivery.map_err(broker)?, jobs).await.map_err(broker)?;
            *pause = PAUSE_MIN;
        }
    }

    /// Starts the job of a message, and acknowledges or rejects the message. A message that cannot be started now stays
    /// unacknowledged until it can: each delivery of it may count against a limit of its queue.
    async fn answer(&self, delivery: Delivery, jobs: &JobStarter) -> Result<(), lapin::Error> {
        let id = header(&delivery, "webhook-id").unwrap_or_default().to_owned();
        let mut wait = PAUSE_MIN;
        let reason = loop {
            match self.start(&id, &delivery, jobs).await {
                Ok(execution) => {
                    let job = execution.job;
                    tracing::info!(id, execution = %execution.id, job, "a message starts a job");
                    break None;
                }
                Err(Unstarted::Repeated) => break None,
                Err(Unstarted::Refused(reason)) => break Some(reason),
                Err(Unstarted::Later(error)) => {
                    tracing::warn!(id, error = %report(&error), "a message waits for its start");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(PAUSE_MAX);
                }
            }
        };
        let Some(reason) = reason else {
            return delivery.acker.ack(BasicAckOptions::default()).await.map(drop);
        };
        tracing::warn!(id, queue = self.queue, reason, "a message is rejected");
        let reject = BasicNackOptions { requeue: false, ..BasicNackOptions::default() };
        delivery.acker.nack(reject).await.map(drop)
    }

    async fn start(
        &self,
        id: &str,
        delivery: &Delivery,
        jobs: &JobStarter,
    ) -> Result<JobExecution, Unstarted> {
        let refused = |reason: &str| Unstarted::Refused(reason.to_owned());
        if delivery.data.len() > MESSAGE_BYTES_MAX {
            return Err(refused("it is larger than 1 MiB"));
        }
        let body = std::str::from_utf8(&delivery.data).map_err(|_| refused("it is not UTF-8"))?;
        let timestamp = header(delivery, "webhook-timestamp").and_then(|text| text.parse().ok());
        let timestamp = timestamp.ok_or_else(|| refused("it has no `webhook-timestamp`"))?;
        let signed = header(delivery, "webhook-signature").unwrap_or_default();
        let expected = signature(self.secret.expose(), id, timestamp, body);
        // While a secret is exchanged, a message has the signature of each.
        let is_it = |one: &str| bool::from(one.as_bytes().ct_eq(expected.as_bytes()));
        if !signed.split(' ').any(is_it) {
            return Err(refused("its signature is missing or wrong"));
        }
        let message: LaunchMessage = serde_json::from_str(body)
            .map_err(|error| Unstarted::Refused(format!("its body is no launch: {error}")))?;
        let fingerprint = URL_SAFE_NO_PAD.encode(Sha256::digest(&delivery.data));
        let request = RequestKey { key: id.to_owned(), fingerprint };
        let triggered_by = format!("queue:{}", self.queue);
        let trace_parent = header(delivery, "traceparent").and_then(|text| text.parse().ok());
        let enqueued = jobs.operator.asynchronous().call(move |operator| {
            let job = operator.explorer().job(&message.job)?;
            let parameters = Value::Object(message.parameters).to_string();
            let parameters = job.parameters_from_json(&parameters)?;
            let options = LaunchOptions {
                request: Some(request),
                triggered_by: Some(triggered_by),
                trace_parent,
                ..LaunchOptions::default()
            };
            operator.enqueue(&Launch::start(message.job, parameters).options(options))
        });
        enqueued.await.map_err(Unstarted::of)
    }
}

/// Why a message starts nothing.
enum Unstarted {
    /// An earlier delivery of the message started its execution.
    Repeated,
    /// The store or the jobs are unavailable, or another execution of the instance runs.
    Later(OperatorError),
    /// It can never start one.
    Refused(String),
}

impl Unstarted {
    fn of(error: OperatorError) -> Self {
        match error {
            OperatorError::Refused(Refusal::RequestRepeated { .. }) => Self::Repeated,
            error @ (OperatorError::Refused(
                Refusal::AlreadyRunning { .. } | Refusal::JobsUnreadable { .. },
            )
            | OperatorError::Repository(
                RepositoryError::Unavailable { .. } | RepositoryError::Conflict { .. },
            )) => Self::Later(error),
            error => Self::Refused(report(&error)),
        }
    }
}

/// A connection that sends [`LaunchMessage`]s.
#[derive(Debug)]
pub struct LaunchSender {
    queue: LaunchQueue,
    opened: Opened,
}

/// A channel, and its connection, which ends when it is dropped.
#[derive(Debug)]
struct Opened {
    channel: Channel,
    _connection: Connection,
}

impl LaunchSender {
    /// Sends `message`, signed and persistent, and waits until the broker has stored it. `id` identifies the request: 1 to
    /// 255 visible ASCII characters; of several messages with the same id and content, one starts the job.
    ///
    /// # Errors
    ///
    /// [`LaunchQueueError`]; the message may have arrived, so send it again, with the same id and a new sender.
    pub async fn send(&self, id: &str, message: &LaunchMessage) -> Result<(), LaunchQueueError> {
        if !RequestKey::is_valid(id) {
            return Err(LaunchQueueError::Id);
        }
        let body = serde_json::json!(message).to_string();
        let timestamp = now();
        let signed = signature(self.queue.secret.expose(), id, timestamp, &body);
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", timestamp.to_string()),
            ("webhook-signature", signed),
        ] {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_message_id(id.into())
            .with_headers(headers);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let queue = self.queue.queue.as_str().into();
        let published = self.opened.channel.basic_publish(
            "".into(),
            queue,
            options,
            body.as_bytes(),
            properties,
        );
        let confirm = published.await.map_err(LaunchQueueError::Broker)?;
        match confirm.await.map_err(LaunchQueueError::Broker)? {
            Confirmation::Ack(None) => Ok(()),
            _ => Err(LaunchQueueError::Rejected),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the time of a signature, which nothing decides by")]
fn now() -> i64 {
    Timestamp::now().as_second()
}

fn io_error(reason: &str) -> lapin::Error {
    std::io::Error::other(reason).into()
}

/// Returns the text of a header.
fn header<'d>(delivery: &'d Delivery, name: &str) -> Option<&'d str> {
    match delivery.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// Waits until `stop` is requested.
async fn stopped(stop: &StopToken) {
    /// Time between two looks at the token, which wakes no task.
    const LOOK: Duration = Duration::from_millis(50);
    while !stop.is_requested() {
        tokio::time::sleep(LOOK).await;
    }
}
