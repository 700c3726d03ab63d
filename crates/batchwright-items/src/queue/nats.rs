//! The kind `nats`: streams of NATS JetStream.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, Consumer};
use async_nats::jetstream::message::AckKind;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, HeaderMap};
use batchwright::ItemError;
use batchwright::error::ErrorKind;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::runtime::Runtime;
use url::Url;

use super::body::BodyFormat;
use super::keys::{self, failed, format_of, reader_keys, shown, silent};
use super::reader::{Connect, QueueReader};
use super::writer::{self, Outgoing, QueueWriter, Sender};
use super::{Broker, Content, Message};
use crate::key::{At, Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make, MakeReader};
use crate::reader::Reads;
use crate::transport::runtime;
use crate::writer::BoxedWriter;

/// Messages that are sent before the first of them is confirmed.
const UNCONFIRMED_MAX: usize = 256;
const SCHEMES: &[&str] = &["nats", "tls"];

/// The kind `nats`.
pub(crate) struct NatsKind;

reader_keys! {
    /// Reads the messages of a stream by a durable consumer, until there are none. A message is acknowledged once it is committed.
    struct ReaderKeys {
        /// The server, `nats://USER:PASSWORD@HOST:PORT`, `nats://TOKEN@HOST:PORT` or `tls://…`.
        server: Text,
        /// The stream, which exists.
        stream: Text,
        /// The durable consumer; a new one begins at the first message of the stream.
        consumer: Text,
        /// The subject of the messages, for a new consumer. Default: all of the stream.
        subject: Option<Text>,
        /// What a message is: `json`, an object, or `text`, the field `body`. Default: `json`.
        format: Option<At<BodyFormat>>,
    }
}

/// Sends each record as a message of JSON, and waits until the stream has stored it. A message that is sent again has the same
/// `Nats-Msg-Id`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriterKeys {
    /// The server, `nats://USER:PASSWORD@HOST:PORT`, `nats://TOKEN@HOST:PORT` or `tls://…`.
    server: Text,
    /// The subject, which belongs to a stream.
    subject: Text,
    /// Time after which an unanswered request fails. Default: `30s`.
    timeout: Option<Text>,
}

impl ItemKind for NatsKind {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .reader::<ReaderKeys>()
            .reader_restarts("Exact: the stream delivers again what was not acknowledged, once the consumer's time for it (30 s) is over; what was committed is recognized by its number in the stream.")
            .writer::<WriterKeys>()
            .writer_restarts("Messages that are sent again have the same `Nats-Msg-Id`, so exact within the time in which the stream refuses duplicates (2 minutes), and else at least once.")
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let parsed: ReaderKeys = keys.parse()?;
        if cx.inside_only {
            return Err(keys.problem(keys::takes_outside()));
        }
        let settings = parsed.settings(format_of(parsed.format.as_ref()))?;
        let server = keys::server(&parsed.server, SCHEMES, cx)?;
        let (stream, consumer) = (cx.template(&parsed.stream)?, cx.template(&parsed.consumer)?);
        let subject = parsed.subject.as_ref().map(|subject| cx.template(subject)).transpose()?;
        let timeout = keys::timeout(parsed.timeout.as_ref())?;
        let connect: Connect<NatsQueue> = Arc::new(move |scope, _| {
            let link = Link::open(&server(scope)?, timeout)?;
            let subject = subject.as_ref().map(|subject| subject.render(scope)).transpose()?;
            NatsQueue::open(link, stream.render(scope)?, consumer.render(scope)?, subject)
        });
        Ok(MakeReader::new(move |_| {
            Ok(Reads::records(QueueReader::new(Arc::clone(&connect), settings.clone())))
        })
        .queue())
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let parsed: WriterKeys = keys.parse()?;
        if cx.inside_only {
            return Err(keys.problem(BuildContext::sends_outside()));
        }
        let server = keys::server(&parsed.server, SCHEMES, cx)?;
        let subject = cx.template(&parsed.subject)?;
        let timeout = keys::timeout(parsed.timeout.as_ref())?;
        let connect: writer::Connect<NatsSender> = Arc::new(move |scope| {
            let link = Link::open(&server(scope)?, timeout)?;
            Ok(NatsSender { link, subject: subject.render(scope)? })
        });
        Ok(Box::new(move |_| Ok(BoxedWriter::new(QueueWriter::new(Arc::clone(&connect))))))
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A connection.
struct Link {
    runtime: &'static Runtime,
    client: Client,
    context: Context,
    /// The address, for messages.
    shown: String,
    timeout: Duration,
}

impl Link {
    fn open(url: &Url, timeout: Duration) -> Result<Self, ItemError> {
        let (runtime, shown) = (runtime()?, shown(url));
        // The cryptography of all TLS of this program. An error means that the program has chosen it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let connecting = async {
            let options = options(url)?.connection_timeout(timeout).request_timeout(Some(timeout));
            // A connection that breaks fails the step, which is restartable: what it holds is delivered again.
            let options = options.max_reconnects(Some(1));
            let client = options.connect(shown.as_str()).await?;
            Ok::<_, Failure>((client.clone(), jetstream::new(client)))
        };
        match runtime.block_on(async { tokio::time::timeout(timeout, connecting).await }) {
            Ok(Ok((client, context))) => Ok(Self { runtime, client, context, shown, timeout }),
            Ok(Err(error)) => Err(failed("connect", &shown, error)),
            Err(_) => Err(silent("connect", &shown, timeout)),
        }
    }

    /// Waits for an answer of the server.
    fn wait<T>(
        &self,
        action: &str,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, ItemError> {
        let timed = async { tokio::time::timeout(self.timeout, answer).await };
        match self.runtime.block_on(timed) {
            Ok(answer) => answer.map_err(|error| failed(action, &self.shown, error)),
            Err(_) => Err(silent(action, &self.shown, self.timeout)),
        }
    }
}

/// Returns the options for the user and the password, or the token, of `url`.
fn options(url: &Url) -> Result<ConnectOptions, Failure> {
    let decoded = |text: &str| {
        let text = percent_encoding::percent_decode_str(text).decode_utf8();
        text.map(std::borrow::Cow::into_owned)
    };
    let user = decoded(url.username())?;
    let options = ConnectOptions::new().require_tls(url.scheme() == "tls");
    Ok(match url.password() {
        Some(password) => options.user_and_password(user, decoded(password)?),
        None if user.is_empty() => options,
        None => options.token(user),
    })
}

/// A durable consumer of a stream.
struct NatsQueue {
    link: Link,
    stream: String,
    consumer: Consumer<Config>,
}

impl NatsQueue {
    fn open(
        link: Link,
        stream: String,
        name: String,
        subject: Option<String>,
    ) -> Result<Self, ItemError> {
        let wanted = Config {
            durable_name: Some(name.clone()),
            ack_policy: AckPolicy::Explicit,
            filter_subject: subject.unwrap_or_default(),
            // A chunk can be of any size.
            max_ack_pending: -1,
            ..Config::default()
        };
        let action = format!("read the stream `{stream}` by the consumer `{name}`");
        let consumer = link.wait(&action, async {
            let found = link.context.get_stream(&stream).await?;
            Ok(found.get_or_create_consumer(&name, wanted).await?)
        })?;
        if consumer.cached_info().config.ack_policy != AckPolicy::Explicit {
            return Err(ItemError::fatal(format!(
                "cannot {action}: it does not acknowledge each message (`ack_policy` is not `explicit`)"
            )));
        }
        Ok(Self { link, stream, consumer })
    }

    fn action(&self) -> String {
        format!("read the stream `{}`", self.stream)
    }

    fn answer(
        &self,
        action: &str,
        tags: Vec<jetstream::Message>,
        kind: AckKind,
    ) -> Result<(), ItemError> {
        self.link.wait(action, async {
            // Answers arrive in their order, so that the last one shows that all did.
            let Some((last, others)) = tags.split_last() else { return Ok(()) };
            for message in others {
                message.ack_with(kind).await?;
            }
            last.double_ack_with(kind).await
        })
    }
}

impl Broker for NatsQueue {
    type Tag = jetstream::Message;

    const IDS_ARE_UNIQUE: bool = true;

    fn fetch(&self, max: usize) -> Result<Vec<Message<jetstream::Message>>, ItemError> {
        self.link.wait(&self.action(), async {
            let mut batch = self.consumer.fetch().max_messages(max).messages().await?;
            let mut messages = Vec::new();
            while let Some(message) = batch.next().await {
                let message = message?;
                let info = message.info()?;
                messages.push(Message {
                    id: Some(info.stream_sequence.to_string().into()),
                    redelivered: info.delivered > 1,
                    content: Content::Body(message.payload.to_vec()),
                    tag: message,
                });
            }
            Ok(messages)
        })
    }

    fn is_held_elsewhere(&self, held: usize) -> Result<bool, ItemError> {
        let info = self.link.wait(&self.action(), async {
            let mut consumer = self.consumer.clone();
            Ok(consumer.info().await?.clone())
        })?;
        if info.num_pending > 0 && info.config.max_ack_pending > 0 {
            let (name, max) = (&info.name, info.config.max_ack_pending);
            return Err(ItemError::new(
                ErrorKind::IO,
                format!(
                    "cannot {}: the consumer `{name}` delivers no more than {max} messages before an acknowledgement \
                     (`max_ack_pending`); a chunk must be smaller, or the number larger",
                    self.action()
                ),
            ));
        }
        Ok(info.num_ack_pending > held || info.num_pending > 0)
    }

    fn acknowledge(&self, tags: Vec<jetstream::Message>) -> Result<(), ItemError> {
        let action = format!("acknowledge messages of the stream `{}`", self.stream);
        self.answer(&action, tags, AckKind::Ack)
    }

    fn give_back(&self, tags: Vec<jetstream::Message>) -> Result<(), ItemError> {
        let action = format!("give messages of the stream `{}` back", self.stream);
        self.answer(&action, tags, AckKind::Nak(None))
    }

    fn close(&self) -> Result<(), ItemError> {
        self.link.wait("close the connection", async { Ok(self.link.client.flush().await?) })
    }
}

/// A connection that publishes.
struct NatsSender {
    link: Link,
    subject: String,
}

impl Sender for NatsSender {
    fn send(&mut self, messages: Vec<Outgoing<'_>>) -> Result<(), ItemError> {
        let action = format!("publish to the subject `{}`", self.subject);
        for part in messages.chunks(UNCONFIRMED_MAX) {
            self.link.wait(&action, async {
                let mut confirms = Vec::with_capacity(part.len());
                for message in part {
                    let mut headers = HeaderMap::new();
                    headers.insert(async_nats::header::NATS_MESSAGE_ID, message.key.as_str());
                    let body = message.body.clone().into();
                    let sent =
                        self.link.context.publish_with_headers(self.subject.clone(), headers, body);
                    confirms.push(sent.await?.into_future());
                }
                try_join_all(confirms).await?;
                Ok(())
            })?;
        }
        Ok(())
    }

    fn close(&mut self) {}
}
