//! The AMQP runner: publishes persistent, mandatory, confirmed messages to RabbitMQ. Each broker has one
//! task, and each batch to one exchange its own channel, so that a missing exchange does not delay others.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use batchwright::execution::TraceContext;
use batchwright::parameters::MASK;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ErrorKind,
    ExchangeKind, PublisherConfirm,
};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::scheduler::dispatch::{Shared, Stop};
use crate::scheduler::group::Firing;
use crate::scheduler::rule::Runner;
use crate::scheduler::time::{self, Micros};
use crate::scheduler::trigger::Outcome;

/// Messages whose confirms are awaited together.
const BATCH_MAX: usize = 500;
/// Batches under way at once, each on its own channel. A broker may take a tenth of a second to confirm
/// messages that it writes to its disk: a few messages a second must not wait for each other.
const BATCHES_MAX: usize = 16;
/// Unconfirmed messages at once. More would only fill the broker's queues and delay its other clients.
const UNCONFIRMED_MAX: usize = 2_000;
/// How long the end of this server waits for confirms.
const CONFIRM_GRACE: Duration = Duration::from_secs(5);
/// Seconds between heartbeats; a broker without one for twice as long counts as unavailable.
const HEARTBEAT_SECONDS: u16 = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// First and longest wait before the next attempt to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(10);

/// Parses a DSN for the driver. As in Kairoi, a DSN that ends in `/` means the virtual host `/`.
pub(crate) fn uri(dsn: &str) -> Result<AMQPUri, String> {
    // The parser's error may quote the DSN with its password.
    let wrong = || "the DSN cannot be used; write amqp://USER:PASSWORD@HOST:PORT/VHOST".to_owned();
    let mut uri: AMQPUri = dsn.parse().map_err(|_| wrong())?;
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    // The driver's parser does not support addresses in brackets, so the host is set here.
    let url = reqwest::Url::parse(dsn).map_err(|_| wrong())?;
    if let Some(address) = url.host_str().and_then(|host| host.strip_prefix('[')?.strip_suffix(']'))
    {
        address.clone_into(&mut uri.authority.host);
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}

/// Refuses a DSN that cannot be parsed. The error does not quote it.
pub(crate) fn check_dsn(dsn: &str) -> Result<(), String> {
    uri(dsn).map(drop)
}

/// Returns the address of a broker, without user and password.
pub(crate) fn redacted(dsn: &str) -> String {
    match uri(dsn) {
        Ok(uri) => {
            let (host, port) = (&uri.authority.host, uri.authority.port);
            format!("{}://{host}:{port}/{}", uri.scheme, uri.vhost.replace('/', "%2f"))
        }
        Err(_) => MASK.to_owned(),
    }
}

/// Publishes the triggers of `work` until its senders are dropped. Triggers for an unavailable broker are
/// postponed in the schedule with the reason: there they can be listed, removed, and claimed by another
/// server or for a corrected rule.
pub(crate) async fn publish_all(
    shared: Arc<Shared>,
    dsn: String,
    mut work: mpsc::UnboundedReceiver<Firing>,
    waiting: Arc<AtomicUsize>,
) {
    let (done, mut finished) = mpsc::unbounded_channel::<Batch>();
    let reports = Reports { shared: Arc::clone(&shared), waiting };
    let mut broker = Broker::new(dsn);
    let mut stop_all = shared.everybody();
    let mut backlog: VecDeque<Firing> = VecDeque::new();
    let (mut new, mut under_way, mut unconfirmed, mut is_open) = (Vec::new(), 0, 0, true);
    let is_free = |batches: usize, messages: usize, backlog: &VecDeque<Firing>| {
        batches < BATCHES_MAX && messages < UNCONFIRMED_MAX && !backlog.is_empty()
    };
    while is_open || under_way > 0 {
        let is_stopped = *stop_all.borrow() != Stop::No;
        let goes_on = !is_stopped && is_free(under_way, unconfirmed, &backlog);
        tokio::select! {
            biased;
            Some(batch) = finished.recv() => {
                under_way -= 1;
                unconfirmed -= batch.count;
                broker.take_back(&batch);
                backlog.extend(batch.again);
            }
            count = work.recv_many(&mut new, BATCH_MAX), if is_open && backlog.len() < BATCH_MAX => {
                is_open = count > 0;
                backlog.extend(new.drain(..));
            }
            Ok(_) = stop_all.wait_for(|stop| *stop != Stop::No), if !is_stopped => {}
            () = std::future::ready(()), if goes_on => {}
        }
        if *stop_all.borrow() != Stop::No {
            reports.report(backlog.drain(..).map(|firing| (firing, Outcome::Released)).collect());
            continue;
        }
        if broker.away_until.is_some_and(|until| Instant::now() < until) {
            let postponed = || Outcome::Postponed(broker.reason.clone());
            reports.report(backlog.drain(..).map(|firing| (firing, postponed())).collect());
            continue;
        }
        if is_free(under_way, unconfirmed, &backlog) {
            let mut batch = Batch { began: shared.lease.now(), ..Batch::default() };
            let stopped = stop_all.wait_for(|stop| *stop != Stop::No);
            tokio::select! {
                () = broker.publish(&shared, &mut backlog, &mut batch) => {}
                _ = stopped => {}
            }
            let refused = std::mem::take(&mut batch.refused);
            reports.ended(batch.began, &refused);
            reports.report(refused);
            batch.count = batch.sent.len();
            under_way += 1;
            unconfirmed += batch.count;
            let (reports, done) = (reports.clone(), done.clone());
            tokio::spawn(async move {
                let _ = done.send(reports.await_confirms(batch).await);
            });
        }
    }
}

/// Messages to one exchange, on a channel that no other batch uses meanwhile, so that each message the broker
/// returns belongs to this batch.
#[derive(Default)]
struct Batch {
    exchange: String,
    /// When it was begun.
    began: Micros,
    channel: Option<Channel>,
    sent: Vec<(Firing, ShortString, PublisherConfirm)>,
    /// Number of messages that were sent.
    count: usize,
    /// Outcomes that need no confirm, such as a refusal by the broker.
    refused: Vec<(Firing, Outcome)>,
    /// Triggers to publish again, because the connection broke before a confirm.
    again: Vec<Firing>,
}

/// Reports outcomes to the ledger.
#[derive(Clone)]
struct Reports {
    shared: Arc<Shared>,
    waiting: Arc<AtomicUsize>,
}

impl Reports {
    fn report(&self, outcomes: Vec<(Firing, Outcome)>) {
        if !outcomes.is_empty() {
            self.waiting.fetch_sub(outcomes.len(), Ordering::Relaxed);
            self.shared.report(outcomes);
        }
    }

    fn ended(&self, began: Micros, outcomes: &[(Firing, Outcome)]) {
        for (firing, outcome) in outcomes {
            self.shared.ended(firing, began, outcome);
        }
    }

    /// Reports the broker's answer to each message. While the connection is open, an unconfirmed message is
    /// not published again, because a full broker already has it.
    async fn await_confirms(&self, mut batch: Batch) -> Batch {
        let mut stop_all = self.shared.everybody();
        let server_ends = async {
            let _ = stop_all.wait_for(|stop| *stop != Stop::No).await;
            tokio::time::sleep(CONFIRM_GRACE).await;
        };
        tokio::pin!(server_ends);
        let mut has_ended = false;
        let mut answered = Vec::with_capacity(batch.sent.len());
        let mut returned = HashMap::new();
        for (firing, id, confirm) in std::mem::take(&mut batch.sent) {
            let answer = match has_ended {
                true => None,
                false => tokio::select! {
                    biased;
                    answer = confirm => Some(answer),
                    () = &mut server_ends => None,
                },
            };
            has_ended |= answer.is_none();
            match answer {
                Some(Ok(answer)) => {
                    let is_ack = matches!(answer, Confirmation::Ack(_));
                    // The driver attaches a returned message to some confirm of the channel, not always to
                    // its own.
                    if let Some(message) = answer.take_message() {
                        let id = message.delivery.properties.message_id().as_ref();
                        returned
                            .extend(id.map(|id| (id.to_string(), message.reply_text.to_string())));
                    }
                    answered.push((firing, id, is_ack));
                }
                // The whole channel was refused: no permission, or a removed exchange.
                Some(Err(error)) => match PublishError::of(error) {
                    PublishError::Refused(reason) => {
                        batch.refused.push((firing, Outcome::failed(reason, true)));
                    }
                    PublishError::Closed(reason) => {
                        batch.refused.push((firing, Outcome::failed(reason, false)));
                    }
                    PublishError::Away(_) => batch.again.push(firing),
                },
                None => batch.refused.push((firing, Outcome::Released)),
            }
        }
        let with_outcome = |(firing, id, is_ack): (Firing, ShortString, bool)| {
            let outcome = match returned.get(id.as_str()) {
                Some(text) => {
                    Outcome::failed(format!("unroutable: no queue takes it ({text})"), false)
                }
                None if is_ack => Outcome::Executed(None),
                None => Outcome::failed("refused by the broker (nack)", true),
            };
            (firing, outcome)
        };
        let mut outcomes: Vec<_> = answered.into_iter().map(with_outcome).collect();
        outcomes.append(&mut batch.refused);
        self.ended(batch.began, &outcomes);
        self.report(outcomes);
        batch
    }
}

/// A connection to a broker that is opened again when it breaks.
struct Broker {
    dsn: String,
    connection: Option<Connection>,
    /// Channels that no batch uses, by exchange.
    channels: HashMap<String, Vec<Channel>>,
    /// Wait before the next attempt to connect.
    pause: Duration,
    /// The time before which nothing is published.
    away_until: Option<Instant>,
    /// Since when the broker is unavailable.
    away_since: Option<Instant>,
    /// Why the broker accepts nothing now.
    reason: String,
}

impl Broker {
    fn new(dsn: String) -> Self {
        Self {
            dsn,
            connection: None,
            channels: HashMap::new(),
            pause: Duration::ZERO,
            away_until: None,
            away_since: None,
            reason: String::new(),
        }
    }

    fn take_back(&mut self, batch: &Batch) {
        if let Some(channel) = batch.channel.clone().filter(|one| one.status().connected()) {
            self.channels.entry(batch.exchange.clone()).or_default().push(channel);
        }
    }

    fn away(&mut self, reason: &str) {
        self.connection = None;
        self.channels.clear();
        self.rest(&format!("the broker is unavailable: {reason}"));
    }

    /// Returns whether the broker has blocked this connection, which stays open.
    fn is_blocked(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.status().blocked())
    }

    /// Stops publishing for a while.
    fn rest(&mut self, reason: &str) {
        let now = Instant::now();
        if self.away_since.is_none() {
            self.away_since = Some(now);
            let broker = redacted(&self.dsn);
            tracing::warn!(broker, reason, "cannot publish: due triggers wait");
        }
        reason.clone_into(&mut self.reason);
        self.pause = (self.pause * 2).clamp(RECONNECT_MIN, RECONNECT_MAX);
        self.away_until = Some(now + self.pause);
    }

    /// Publishes the first trigger of `backlog`, and those after it for the same exchange, as `batch`. The
    /// future may be dropped at any moment: each trigger is in one of the two.
    async fn publish(
        &mut self,
        shared: &Shared,
        backlog: &mut VecDeque<Firing>,
        batch: &mut Batch,
    ) {
        let Some(first) = backlog.front() else { return };
        address(first).0.clone_into(&mut batch.exchange);
        if self.is_blocked() {
            return self
                .rest("the broker accepts no messages for now: its memory or its disk is full");
        }
        let channel = match self.channel(&batch.exchange).await {
            Ok(channel) => channel,
            Err(PublishError::Away(reason)) => return self.away(&reason),
            Err(PublishError::Closed(reason)) => {
                // The refusal applies to all exchanges.
                let outcome = |firing| (firing, Outcome::failed(reason.clone(), false));
                batch.refused.extend(backlog.drain(..).map(outcome));
                self.connection = None;
                return;
            }
            Err(PublishError::Refused(reason)) => {
                // No trigger of this exchange can be published: the exchange does not exist.
                let (refused, others): (VecDeque<_>, VecDeque<_>) =
                    backlog.drain(..).partition(|firing| address(firing).0 == batch.exchange);
                *backlog = others;
                let outcome = |firing| (firing, Outcome::failed(reason.clone(), false));
                batch.refused.extend(refused.into_iter().map(outcome));
                return;
            }
        };
        let channel = &*batch.channel.insert(channel);
        while let Some(firing) = backlog.front() {
            if !shared.lease.is_valid() {
                batch.refused.extend(backlog.pop_front().map(|firing| (firing, Outcome::Released)));
                continue;
            }
            let (exchange, key) = address(firing);
            if batch.exchange != exchange || batch.sent.len() >= BATCH_MAX || self.is_blocked() {
                return;
            }
            let id = message_id(firing);
            match publish_one(channel, firing, (exchange, key), id.clone(), shared.trace(firing))
                .await
            {
                Ok(confirm) => {
                    batch.sent.extend(backlog.pop_front().map(|firing| (firing, id, confirm)));
                }
                Err(PublishError::Refused(reason)) => {
                    let outcome = Outcome::failed(reason, false);
                    batch.refused.extend(backlog.pop_front().map(|firing| (firing, outcome)));
                    return;
                }
                Err(PublishError::Closed(reason) | PublishError::Away(reason)) => {
                    return self.away(&reason);
                }
            }
        }
    }

    /// Returns an unused channel for `exchange`, or opens one.
    async fn channel(&mut self, exchange: &str) -> Result<Channel, PublishError> {
        let free = self.channels.get_mut(exchange).and_then(|free| {
            free.retain(|channel| channel.status().connected());
            free.pop()
        });
        match free {
            Some(channel) => Ok(channel),
            None => self.open(exchange).await,
        }
    }

    /// Opens a channel for `exchange`, which must exist.
    async fn open(&mut self, exchange: &str) -> Result<Channel, PublishError> {
        let connection = match &self.connection {
            Some(connection) if connection.status().connected() => connection,
            _ => {
                let uri = uri(&self.dsn).map_err(PublishError::Closed)?;
                let connecting = Connection::connect_uri(uri, ConnectionProperties::default());
                let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
                let connected = connected
                    .map_err(|_| {
                        PublishError::Away(format!("no answer within {CONNECT_TIMEOUT:?}"))
                    })?
                    .map_err(|error| PublishError::at_login(&error))?;
                if self.away_since.take().is_some() {
                    tracing::info!(broker = redacted(&self.dsn), "the broker is available again");
                }
                self.pause = Duration::ZERO;
                self.channels.clear();
                self.connection.insert(connected)
            }
        };
        let opening = async {
            let channel = connection.create_channel().await?;
            if !exchange.is_empty() {
                let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
                let (kind, none) = (ExchangeKind::Direct, FieldTable::default());
                channel.exchange_declare(exchange.into(), kind, options, none).await?;
            }
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>(channel)
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, opening).await {
            Ok(opened) => opened.map_err(PublishError::of),
            Err(_) => Err(PublishError::Away(format!("no answer within {CONNECT_TIMEOUT:?}"))),
        }
    }
}

/// Returns exchange and routing key of a trigger's message.
fn address(firing: &Firing) -> (&str, &str) {
    match &firing.rule.settings.runner {
        Runner::Amqp { exchange, routing_key, .. } => (exchange, routing_key),
        _ => ("", ""),
    }
}

async fn publish_one(
    channel: &Channel,
    firing: &Firing,
    (exchange, routing_key): (&str, &str),
    id: ShortString,
    trace: TraceContext,
) -> Result<PublisherConfirm, PublishError> {
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString(trace.to_string().into()));
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_app_id("batchwright".into())
        .with_timestamp((firing.slot / 1_000_000).cast_unsigned())
        .with_message_id(id)
        .with_headers(headers);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let payload = firing.key.identifier.as_bytes();
    let sent =
        channel.basic_publish(exchange.into(), routing_key.into(), options, payload, properties);
    sent.await.map_err(PublishError::of)
}

/// Why a message cannot be published.
enum PublishError {
    /// The broker refuses this message for good.
    Refused(String),
    /// The broker refuses the connection for good: a wrong password, an unknown virtual host.
    Closed(String),
    /// The broker is unavailable.
    Away(String),
}

impl PublishError {
    /// Classifies a failed connection: refused for good, or unavailable.
    fn at_login(error: &lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(refusal) => {
                let text = refusal.get_message().as_str();
                // The broker uses the same codes for temporary conditions.
                let passes = text.contains("limit") || text.contains("is down");
                match refusal.kind() {
                    AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
                    | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH)
                        if !passes =>
                    {
                        Self::Closed(text.to_owned())
                    }
                    _ => Self::Away(text.to_owned()),
                }
            }
            ErrorKind::InvalidProtocolVersion(_) | ErrorKind::AuthProviderError(_) => {
                Self::Closed(error.to_string())
            }
            _ => Self::Away(error.to_string()),
        }
    }

    fn of(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(refusal)
                if matches!(refusal.kind(), AMQPErrorKind::Soft(_)) =>
            {
                Self::Refused(refusal.get_message().to_string())
            }
            _ => Self::Away(error.to_string()),
        }
    }
}

/// Returns the id of a message: trigger and slot, the same for every attempt, so that a consumer can
/// recognize a repeated message.
fn message_id(firing: &Firing) -> ShortString {
    let slot = time::show_exact(firing.slot);
    let identifier = &firing.key.identifier;
    let whole = format!("{identifier}/{slot}");
    ShortString::try_new(whole).unwrap_or_else(|_| {
        let hash =
            Sha256::digest(identifier).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        ShortString::try_new(format!("sha256:{hash}/{slot}"))
            .expect("a hash and a time take about a hundred bytes")
    })
}
