//! The kind `amqp`: queues of RabbitMQ and other brokers that speak AMQP 0-9-1.

use std::sync::Arc;
use std::time::Duration;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::stable_hash;
use futures_util::future::{join_all, try_join_all};
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::runtime::Runtime;
use url::Url;

use super::body::BodyFormat;
use super::keys::{self, failed, format_of, shown, silent};
use super::reader::{Connect, QueueReader};
use super::reader_keys::{reader_keys, takes_outside};
use super::recent::Key;
use super::{Broker, Content, Message};
use crate::key::{At, Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make, MakeReader};
use crate::sent::{self, Outgoing, Sender, SendingWriter};
use crate::template::Template;
use crate::transport::runtime;
use crate::writer::BoxedWriter;

/// Messages that are published before the first of them is confirmed.
const UNCONFIRMED_MAX: usize = 1_000;
/// Seconds between heartbeats; a broker without one for twice as long counts as unavailable.
const HEARTBEAT_SECONDS: u16 = 10;
const SCHEMES: &[&str] = &["amqp", "amqps"];

/// The kind `amqp`.
pub(crate) struct AmqpKind;

reader_keys! {
    /// Reads the messages of a queue until it is empty. A message is acknowledged once it is committed.
    struct ReaderKeys {
        /// The broker, `amqp://USER:PASSWORD@HOST:PORT/VHOST` or `amqps://…`.
        server: Text,
        /// The queue, which exists.
        queue: Text,
        /// What a message is: `json`, an object, or `text`, the field `body`. Default: `json`.
        format: Option<At<BodyFormat>>,
    }
}

/// Sends each record as a message of JSON, persistent, and waits until the broker has stored it. A message that is sent again has
/// the same `message_id`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriterKeys {
    /// The broker, `amqp://USER:PASSWORD@HOST:PORT/VHOST` or `amqps://…`.
    server: Text,
    /// The exchange, which exists. Default: the one that leads to the queue which the routing key names.
    exchange: Option<Text>,
    /// The routing key of all messages.
    routing_key: Option<Text>,
    /// The field with the routing key of a message, instead of `routing_key`.
    routing_field: Option<String>,
    /// Time after which an unanswered request fails. Default: `30s`.
    timeout: Option<Text>,
}

impl ItemKind for AmqpKind {
    fn name(&self) -> &'static str {
        "amqp"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .reader::<ReaderKeys>()
            .reader_restarts("The queue delivers again what was not acknowledged. Messages with a `message_id` that were committed are recognized, so exact; others may come twice after a crash.")
            .writer::<WriterKeys>()
            .writer_restarts("At least once: messages that are sent again have the same `message_id`.")
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let parsed: ReaderKeys = keys.parse()?;
        if cx.inside_only {
            return Err(keys.problem(takes_outside()));
        }
        let settings = parsed.settings(format_of(parsed.format.as_ref()))?;
        let server = keys::server(&parsed.server, SCHEMES, cx)?;
        let queue = cx.template(&parsed.queue)?;
        let timeout = keys::timeout(parsed.timeout.as_ref())?;
        let connect: Connect<AmqpQueue> =
            Arc::new(move |scope| AmqpQueue::open(&server(scope)?, queue.render(scope)?, timeout));
        Ok(QueueReader::made(connect, settings))
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let parsed: WriterKeys = keys.parse()?;
        if cx.inside_only {
            return Err(keys.problem(BuildContext::sends_outside()));
        }
        if parsed.routing_key.is_some() == parsed.routing_field.is_some() {
            return Err(keys.problem("a writer has either `routing_key` or `routing_field`"));
        }
        let server = keys::server(&parsed.server, SCHEMES, cx)?;
        let template =
            |text: &Option<Text>| text.as_ref().map(|text| cx.template(text)).transpose();
        let (exchange, key) = (template(&parsed.exchange)?, template(&parsed.routing_key)?);
        let (field, timeout) = (parsed.routing_field, keys::timeout(parsed.timeout.as_ref())?);
        let connect: sent::Connect<AmqpSender> = Arc::new(move |scope| {
            let link = Link::open(&server(scope)?, timeout)?;
            link.wait(
                "use confirms",
                link.channel.confirm_select(ConfirmSelectOptions::default()),
            )?;
            let rendered = |template: &Option<Template>, what| {
                let text = template.as_ref().map_or(Ok(String::new()), |one| one.render(scope))?;
                short(text, what).map_err(ItemError::fatal)
            };
            let exchange = rendered(&exchange, "the name of an exchange")?;
            let routing = match &field {
                Some(field) => Routing::Field(field.clone()),
                None => Routing::Key(rendered(&key, "the routing key")?),
            };
            Ok(AmqpSender { link, exchange, routing })
        });
        Ok(Box::new(move |_| Ok(BoxedWriter::new(SendingWriter::new(Arc::clone(&connect))))))
    }
}

/// A channel, and its connection.
struct Link {
    runtime: &'static Runtime,
    connection: Connection,
    channel: Channel,
    /// The address, for messages.
    shown: String,
    timeout: Duration,
}

impl Link {
    fn open(url: &Url, timeout: Duration) -> Result<Self, ItemError> {
        let (runtime, shown) = (runtime()?, shown(url));
        let uri = uri(url)?;
        let opening = async {
            let properties = ConnectionProperties::default();
            let connection = Connection::connect_uri(uri, properties).await?;
            let channel = connection.create_channel().await?;
            Ok::<_, lapin::Error>((connection, channel))
        };
        let opened = runtime.block_on(async { tokio::time::timeout(timeout, opening).await });
        match opened {
            Ok(Ok((connection, channel))) => {
                Ok(Self { runtime, connection, channel, shown, timeout })
            }
            Ok(Err(error)) => Err(failed("connect", &shown, error)),
            Err(_) => Err(silent("connect", &shown, timeout)),
        }
    }

    /// Waits for an answer of the broker.
    fn wait<T>(
        &self,
        action: &str,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, ItemError> {
        let timed = async { tokio::time::timeout(self.timeout, answer).await };
        match self.runtime.block_on(timed) {
            Ok(answer) => answer.map_err(|error| failed(action, &self.shown, error)),
            Err(_) => Err(silent(action, &self.shown, self.timeout)),
        }
    }

    /// Closes the connection; what was sent before arrives.
    fn close(&self) -> Result<(), ItemError> {
        self.wait("close the channel", self.channel.close(200, "done".into()))?;
        self.wait("close the connection", self.connection.close(200, "done".into()))
    }
}

/// Returns `url` for the driver. A URL without a virtual host means the virtual host `/`.
fn uri(url: &Url) -> Result<AMQPUri, ItemError> {
    // The parser's error may have the password.
    let wrong = || {
        ItemError::fatal(
            "cannot use the address of the broker: write amqp://USER:PASSWORD@HOST:PORT/VHOST",
        )
    };
    let mut uri: AMQPUri = url.as_str().parse().map_err(|_| wrong())?;
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    if let Some(url::Host::Ipv6(address)) = url.host() {
        uri.authority.host = address.to_string();
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}

/// A queue that is read.
struct AmqpQueue {
    link: Link,
    queue: ShortString,
}

/// Returns `text` as AMQP has it.
fn short(text: String, what: &str) -> Result<ShortString, String> {
    ShortString::try_new(text).map_err(|_| format!("{what} has more than 255 bytes"))
}

impl AmqpQueue {
    fn open(url: &Url, queue: String, timeout: Duration) -> Result<Self, ItemError> {
        let queue = short(queue, "the name of a queue").map_err(ItemError::fatal)?;
        let found = Self { link: Link::open(url, timeout)?, queue };
        found.link.wait(&format!("find the queue `{}`", found.queue), found.declared())?;
        Ok(found)
    }

    /// Asks the broker whether the queue is there. Its answer comes after it has done what was sent before.
    async fn declared(&self) -> lapin::Result<()> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.queue.clone();
        self.link.channel.queue_declare(queue, options, FieldTable::default()).await.map(drop)
    }
}

impl Broker for AmqpQueue {
    type Tag = u64;

    const KEYS_ARE_UNIQUE: bool = false;

    fn fetch(&self, max: usize) -> Result<Vec<Message<u64>>, ItemError> {
        // Each message is asked for: a consumer would get no more than a fixed number before the first commit.
        let gets = async {
            let get =
                || self.link.channel.basic_get(self.queue.clone(), BasicGetOptions::default());
            let mut messages = Vec::new();
            for answer in join_all((0..max).map(|_| get())).await {
                let Some(got) = answer? else { continue };
                let delivery = got.delivery;
                let id: Option<Arc<str>> =
                    delivery.properties.message_id().as_ref().map(|id| id.as_str().into());
                // Senders may give the same id to messages of different contents.
                let key = id.as_ref().map(|id| {
                    Key::Text(format!("{id} {:016x}", stable_hash(&delivery.data)).into())
                });
                messages.push(Message {
                    key,
                    id,
                    redelivered: delivery.redelivered,
                    tag: delivery.delivery_tag,
                    content: Content::Body(delivery.data),
                });
            }
            Ok(messages)
        };
        self.link.wait(&format!("read the queue `{}`", self.queue), gets)
    }

    fn acknowledge(&self, tags: Vec<u64>) -> Result<(), ItemError> {
        let acks = async {
            let ack = |tag| self.link.channel.basic_ack(tag, BasicAckOptions::default());
            try_join_all(tags.into_iter().map(ack)).await?;
            self.declared().await
        };
        self.link.wait(&format!("acknowledge messages of `{}`", self.queue), acks)
    }

    fn give_back(&self, mut read: Vec<u64>, unread: Vec<u64>) -> Result<(), ItemError> {
        read.extend(unread);
        let backs = async {
            let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
            let back = |tag| self.link.channel.basic_nack(tag, options);
            try_join_all(read.into_iter().map(back)).await?;
            self.declared().await
        };
        self.link.wait(&format!("give messages of `{}` back", self.queue), backs)
    }

    fn close(&self) -> Result<(), ItemError> {
        self.link.close()
    }
}

/// The routing key of messages.
enum Routing {
    Key(ShortString),
    Field(String),
}

/// A connection that publishes.
struct AmqpSender {
    link: Link,
    exchange: ShortString,
    routing: Routing,
}

impl AmqpSender {
    /// Publishes `messages` with their routing keys, and waits until the broker has stored them.
    fn publish(&self, messages: &[Outgoing<'_>], keys: &[ShortString]) -> Result<(), ItemError> {
        let published = async {
            let mut confirms = Vec::with_capacity(messages.len());
            for (message, key) in messages.iter().zip(keys) {
                let properties = BasicProperties::default()
                    .with_message_id(message.key.as_str().into())
                    .with_content_type("application/json".into())
                    .with_delivery_mode(2);
                // A message that reaches no queue comes back.
                let options = BasicPublishOptions { mandatory: true, ..Default::default() };
                let (exchange, key) = (self.exchange.clone(), key.clone());
                let channel = &self.link.channel;
                let sent = channel.basic_publish(exchange, key, options, &message.body, properties);
                confirms.push(sent.await?);
            }
            let mut refused = None;
            for (confirm, key) in confirms.into_iter().zip(keys) {
                let why = match confirm.await? {
                    Confirmation::Ack(None) | Confirmation::NotRequested => continue,
                    Confirmation::Ack(Some(_)) => "it reaches no queue",
                    Confirmation::Nack(_) => "the broker rejects it",
                };
                refused.get_or_insert_with(|| (key.clone(), why));
            }
            Ok(refused)
        };
        match self.link.wait(&format!("publish to the exchange `{}`", self.exchange), published)? {
            None => Ok(()),
            Some((key, why)) => Err(ItemError::new(
                ErrorKind::DATA,
                format!("cannot send a message with the routing key `{key}`: {why}"),
            )),
        }
    }
}

impl Sender for AmqpSender {
    fn send(&mut self, messages: Vec<Outgoing<'_>>) -> Result<(), ItemError> {
        let keys = messages.iter().map(|message| match &self.routing {
            Routing::Key(key) => Ok(key.clone()),
            Routing::Field(field) => {
                let key = message.record.required("as a routing key", field)?.to_string();
                short(key, "the routing key").map_err(ItemError::data)
            }
        });
        let keys: Vec<ShortString> = keys.collect::<Result<_, ItemError>>()?;
        for (part, keys) in messages.chunks(UNCONFIRMED_MAX).zip(keys.chunks(UNCONFIRMED_MAX)) {
            self.publish(part, keys)?;
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Err(error) = self.link.close() {
            tracing::debug!(%error, "the connection of a writer was not closed in order");
        }
    }
}
