//! Messages to RabbitMQ: persistent, mandatory, confirmed. One task a broker, one channel an exchange, so that
//! an exchange that is missing holds up no other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::protocol::AMQPErrorKind;
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ErrorKind,
    ExchangeKind, PublisherConfirm,
};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, mpsc};

use crate::scheduler::dispatch::{Shared, Stop};
use crate::scheduler::group::Firing;
use crate::scheduler::rule::{Runner, redacted};
use crate::scheduler::time;
use crate::scheduler::trigger::Outcome;

/// Messages whose confirms are awaited together.
const BATCH_MAX: usize = 500;
/// Batches under way at once.
const BATCHES_MAX: usize = 4;
/// A broker that confirms nothing for so long is taken for gone.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait before the broker is tried again: first, and at most.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(10);
/// Longest text of AMQP's headers, in bytes.
const SHORT_MAX: usize = 255;

/// Refuses a DSN that cannot be understood. Says nothing of what is in it.
pub(crate) fn check_dsn(dsn: &str) -> Result<(), String> {
    match dsn.parse::<AMQPUri>() {
        Ok(_) => Ok(()),
        Err(_) => {
            Err("the DSN cannot be used; write amqp://USER:PASSWORD@HOST:PORT/VHOST".to_owned())
        }
    }
}

/// Publishes what comes in until nobody sends any more. A broker that is away is waited for: what is not
/// confirmed is published again once it is back.
pub(crate) async fn publish_all(
    shared: Arc<Shared>,
    dsn: String,
    mut work: mpsc::UnboundedReceiver<Firing>,
    waiting: Arc<AtomicUsize>,
) {
    let (again, mut returned) = mpsc::unbounded_channel();
    let ledger = Reports { shared: Arc::clone(&shared), waiting, again };
    let mut broker =
        Broker { dsn, connection: None, channels: HashMap::new(), pause: Duration::ZERO };
    let permits = Arc::new(Semaphore::new(BATCHES_MAX));
    let mut everybody = shared.everybody();
    let (mut batch, mut new) = (Vec::new(), Vec::new());
    loop {
        tokio::select! {
            biased;
            _ = returned.recv_many(&mut batch, BATCH_MAX) => {}
            count = work.recv_many(&mut new, BATCH_MAX) => if count == 0 { return },
        }
        batch.append(&mut new);
        let stop = async { everybody.wait_for(|stop| *stop != Stop::No).await.is_ok() };
        let published = tokio::select! {
            biased;
            _ = stop => {
                // All that is left is given back, and what comes as well.
                ledger.report(batch.drain(..).map(|firing| (firing, Outcome::Released)).collect());
                continue;
            }
            published = broker.publish(&shared, &mut batch) => published,
        };
        ledger.report(published.refused);
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let ledger = ledger.clone();
        tokio::spawn(async move {
            ledger.await_confirms(published.sent).await;
            drop(permit);
        });
    }
}

/// Where results go.
#[derive(Clone)]
struct Reports {
    shared: Arc<Shared>,
    waiting: Arc<AtomicUsize>,
    again: mpsc::UnboundedSender<Firing>,
}

impl Reports {
    fn report(&self, outcomes: Vec<(Firing, Outcome)>) {
        if !outcomes.is_empty() {
            self.waiting.fetch_sub(outcomes.len(), Ordering::Relaxed);
            self.shared.report(outcomes);
        }
    }

    /// Reports what the broker says of each message. What it says nothing of is published again.
    async fn await_confirms(&self, sent: Vec<(Firing, PublisherConfirm)>) {
        let (firings, confirms): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
        let answers = tokio::time::timeout(CONFIRM_TIMEOUT, join_all(confirms)).await;
        let Ok(answers) = answers else {
            tracing::warn!("a broker confirmed nothing for {CONFIRM_TIMEOUT:?}: published again");
            firings.into_iter().for_each(|firing| drop(self.again.send(firing)));
            return;
        };
        let mut outcomes = Vec::with_capacity(firings.len());
        for (firing, answer) in firings.into_iter().zip(answers) {
            match answer {
                Ok(answer) => outcomes.push((firing, outcome(answer))),
                Err(_) => drop(self.again.send(firing)),
            }
        }
        self.report(outcomes);
    }
}

fn outcome(answer: Confirmation) -> Outcome {
    let failed = |reason: String, retryable| Outcome::Failed { reason, output: None, retryable };
    match answer {
        Confirmation::Ack(None) => Outcome::Executed(None),
        Confirmation::Ack(Some(returned)) => {
            let told = returned.reply_text.to_string();
            failed(format!("unroutable: no queue takes it ({told})"), false)
        }
        Confirmation::Nack(_) => failed("refused by the broker (nack)".to_owned(), true),
        Confirmation::NotRequested => failed("not confirmed by the broker".to_owned(), true),
    }
}

#[derive(Default)]
struct Published {
    sent: Vec<(Firing, PublisherConfirm)>,
    /// What no broker will ever take.
    refused: Vec<(Firing, Outcome)>,
}

/// A connection that is made again when it breaks.
struct Broker {
    dsn: String,
    connection: Option<Connection>,
    channels: HashMap<String, Channel>,
    /// Wait before the next try to connect.
    pause: Duration,
}

impl Broker {
    /// Publishes `batch`, waiting for the broker when it is away.
    async fn publish(&mut self, shared: &Shared, batch: &mut Vec<Firing>) -> Published {
        let mut published = Published::default();
        let mut left = std::mem::take(batch).into_iter();
        let mut next = left.next();
        while let Some(firing) = next.take() {
            if !shared.lease.is_valid() {
                published.refused.push((firing, Outcome::Released));
                next = left.next();
                continue;
            }
            match self.publish_one(&firing).await {
                Ok(confirm) => published.sent.push((firing, confirm)),
                Err(Trouble::Refused(reason)) => {
                    let outcome = Outcome::Failed { reason, output: None, retryable: false };
                    published.refused.push((firing, outcome));
                }
                Err(Trouble::Away(reason)) => {
                    self.away(&reason).await;
                    next = Some(firing);
                    continue;
                }
            }
            next = left.next();
        }
        published
    }

    async fn away(&mut self, reason: &str) {
        if self.pause.is_zero() {
            let broker = redacted(&self.dsn);
            tracing::warn!(broker, reason, "the broker is away: what is due waits for it");
        }
        self.connection = None;
        self.channels.clear();
        self.pause = (self.pause * 2).clamp(RECONNECT_MIN, RECONNECT_MAX);
        tokio::time::sleep(self.pause).await;
    }

    async fn publish_one(&mut self, firing: &Firing) -> Result<PublisherConfirm, Trouble> {
        let Runner::Amqp { exchange, routing_key, .. } = &firing.rule.settings.runner else {
            return Err(Trouble::Refused("its rule has another runner".to_owned()));
        };
        let channel = match self.channels.get(exchange) {
            Some(channel) if channel.status().connected() => channel,
            _ => {
                let channel = self.open(exchange).await?;
                self.channels.entry(exchange.clone()).insert_entry(channel).into_mut()
            }
        };
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_app_id("batchwright".into())
            .with_timestamp((firing.slot / 1_000_000).cast_unsigned())
            .with_message_id(message_id(firing));
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let payload = firing.key.identifier.as_bytes();
        let sent = channel.basic_publish(
            exchange.as_str().into(),
            routing_key.as_str().into(),
            options,
            payload,
            properties,
        );
        sent.await.map_err(Trouble::of)
    }

    /// A channel for `exchange`, which must exist.
    async fn open(&mut self, exchange: &str) -> Result<Channel, Trouble> {
        let connection = match &self.connection {
            Some(connection) if connection.status().connected() => connection,
            _ => {
                let connecting = Connection::connect(&self.dsn, ConnectionProperties::default());
                let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
                let connected = connected
                    .map_err(|_| Trouble::Away(format!("no answer within {CONNECT_TIMEOUT:?}")))?;
                if !self.pause.is_zero() {
                    tracing::info!(broker = redacted(&self.dsn), "the broker is back");
                }
                self.pause = Duration::ZERO;
                self.connection.insert(connected.map_err(|error| Trouble::Away(error.to_string()))?)
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
            Ok(opened) => opened.map_err(Trouble::of),
            Err(_) => Err(Trouble::Away(format!("no answer within {CONNECT_TIMEOUT:?}"))),
        }
    }
}

enum Trouble {
    /// The broker will not take this message, now or later.
    Refused(String),
    /// The broker cannot be reached.
    Away(String),
}

impl Trouble {
    fn of(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(told) if matches!(told.kind(), AMQPErrorKind::Soft(_)) => {
                Self::Refused(told.get_message().to_string())
            }
            _ => Self::Away(error.to_string()),
        }
    }
}

/// Trigger and slot: the same for every attempt, so that a consumer knows a message that it has seen.
fn message_id(firing: &Firing) -> ShortString {
    let slot = time::show_exact(firing.slot);
    let identifier = &firing.key.identifier;
    let whole = format!("{identifier}/{slot}");
    ShortString::try_new(whole).unwrap_or_else(|_| {
        let hash =
            Sha256::digest(identifier).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let short = format!("sha256:{hash}/{slot}");
        ShortString::try_new(&short[..short.len().min(SHORT_MAX)]).unwrap_or_default()
    })
}
