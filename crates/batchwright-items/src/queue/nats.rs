//! The kind `nats`: streams of NATS JetStream.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, Consumer};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::AckKind;
use async_nats::{Client, ConnectOptions, HeaderMap, Subject};
use batchwright::ItemError;
use batchwright::clock::{Clock as _, SystemClock};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
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
use crate::transport::runtime;
use crate::writer::BoxedWriter;

/// Messages that are sent before the first of them is confirmed.
const UNCONFIRMED_MAX: usize = 256;
/// The time after which the server answers a request for messages that it cannot deliver now, because too many are not
/// acknowledged.
const EXPIRES: Duration = Duration::from_millis(100);
/// Number of bytes that the header of a message adds to its body.
const HEADER_BYTES: usize = 128;
/// The time that the server may take to deliver a message again.
const LATE: Duration = Duration::from_millis(500);
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
            return Err(keys.problem(takes_outside()));
        }
        let settings = parsed.settings(format_of(parsed.format.as_ref()))?;
        let server = keys::server(&parsed.server, SCHEMES, cx)?;
        let (stream, consumer) = (cx.template(&parsed.stream)?, cx.template(&parsed.consumer)?);
        let subject = parsed.subject.as_ref().map(|subject| cx.template(subject)).transpose()?;
        let timeout = keys::timeout(parsed.timeout.as_ref())?;
        let connect: Connect<NatsQueue> = Arc::new(move |scope| {
            let link = Link::open(&server(scope)?, timeout)?;
            let subject = subject.as_ref().map(|subject| subject.render(scope)).transpose()?;
            NatsQueue::open(link, stream.render(scope)?, consumer.render(scope)?, subject)
        });
        Ok(QueueReader::made(connect, settings))
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let parsed: WriterKeys = keys.parse()?;
        if cx.inside_only {
            return Err(keys.problem(BuildContext::sends_outside()));
        }
        let server = keys::server(&parsed.server, SCHEMES, cx)?;
        let subject = cx.template(&parsed.subject)?;
        let timeout = keys::timeout(parsed.timeout.as_ref())?;
        let connect: sent::Connect<NatsSender> = Arc::new(move |scope| {
            let link = Link::open(&server(scope)?, timeout)?;
            Ok(NatsSender { link, subject: subject.render(scope)? })
        });
        Ok(Box::new(move |_| Ok(BoxedWriter::new(SendingWriter::new(Arc::clone(&connect))))))
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
            // All that is sent is confirmed one by one, so that a new connection loses nothing; one that cannot be made is a
            // failure.
            let options = options.max_reconnects(Some(1));
            let client = options.connect(shown.as_str()).await?;
            let context = ContextBuilder::new().timeout(timeout).ack_timeout(timeout);
            Ok::<_, Failure>((client.clone(), context.build(client)))
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

/// When something was done last.
struct Times {
    /// Messages were delivered, or the consumer opened.
    delivered: Duration,
    /// The time for the messages of the reader was extended.
    extended: Duration,
}

/// A durable consumer of a stream.
struct NatsQueue {
    link: Link,
    stream: String,
    /// When the stream was created.
    created: Arc<str>,
    consumer: Consumer<Config>,
    clock: SystemClock,
    times: Mutex<Times>,
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
        let (created, consumer) = link.wait(&action, async {
            let found = link.context.get_stream(&stream).await?;
            let created = found.cached_info().created.unix_timestamp_nanos().to_string().into();
            Ok((created, found.get_or_create_consumer(&name, wanted).await?))
        })?;
        if consumer.cached_info().config.ack_policy != AckPolicy::Explicit {
            return Err(ItemError::fatal(format!(
                "cannot {action}: it does not acknowledge each message (`ack_policy` is not `explicit`)"
            )));
        }
        let clock = SystemClock::default();
        let now = clock.elapsed();
        let times = Mutex::new(Times { delivered: now, extended: now });
        Ok(Self { link, stream, created, consumer, clock, times })
    }

    fn action(&self) -> String {
        format!("read the stream `{}`", self.stream)
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers `messages`, by their reply subjects, and waits until the server has all answers.
    fn answer(&self, action: &str, messages: Vec<Subject>, kind: AckKind) -> Result<(), ItemError> {
        for part in messages.chunks(UNCONFIRMED_MAX) {
            self.link.wait(action, async {
                let answers =
                    part.iter().map(|reply| self.link.client.request(reply.clone(), kind.into()));
                try_join_all(answers).await?;
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Broker for NatsQueue {
    type Tag = Subject;

    const KEYS_ARE_UNIQUE: bool = true;

    fn identity(&self) -> Option<Arc<str>> {
        Some(Arc::clone(&self.created))
    }

    fn room(&self) -> Option<usize> {
        usize::try_from(self.consumer.cached_info().config.max_ack_pending)
            .ok()
            .filter(|max| *max > 0)
    }

    fn fetch(&self, max: usize) -> Result<Vec<Message<Subject>>, ItemError> {
        let fetched = self.link.wait(&self.action(), async {
            let mut batch =
                self.consumer.fetch().max_messages(max).expires(EXPIRES).messages().await?;
            let mut messages = Vec::new();
            while let Some(message) = batch.next().await {
                let message = message?;
                let (redelivered, number, stored) = {
                    let info = message.info()?;
                    let stored = i64::try_from(info.published.unix_timestamp_nanos())?;
                    (info.delivered > 1, info.stream_sequence, stored)
                };
                let message = message.message;
                messages.push(Message {
                    key: Some(Key::Number(number, stored)),
                    id: Some(number.to_string().into()),
                    redelivered,
                    content: Content::Body(message.payload.into()),
                    tag: message.reply.ok_or("a message has no subject for its answer")?,
                });
            }
            Ok(messages)
        })?;
        if !fetched.is_empty() {
            self.times().delivered = self.clock.elapsed();
        }
        Ok(fetched)
    }

    fn extend(&self, held: &dyn Fn() -> Vec<Subject>) -> Result<(), ItemError> {
        let now = self.clock.elapsed();
        let mut times = self.times();
        if now - times.extended <= self.consumer.cached_info().config.ack_wait / 4 {
            return Ok(());
        }
        times.extended = now;
        self.link.wait(&self.action(), async {
            for reply in held() {
                self.link.client.publish(reply, AckKind::Progress.into()).await?;
            }
            Ok(self.link.client.flush().await?)
        })
    }

    fn can_come(&self, held: usize) -> Result<bool, ItemError> {
        let info = self
            .link
            .wait(&self.action(), async { Ok(self.consumer.clone().info().await?.clone()) })?;
        // After that time, what others held was delivered again, or is held by one that works on it.
        let since = self.clock.elapsed() - self.times().delivered;
        Ok(info.num_ack_pending > held && since <= info.config.ack_wait + LATE)
    }

    fn acknowledge(&self, tags: Vec<Subject>) -> Result<(), ItemError> {
        let action = format!("acknowledge messages of the stream `{}`", self.stream);
        self.answer(&action, tags, AckKind::Ack)
    }

    fn give_back(&self, mut read: Vec<Subject>, unread: Vec<Subject>) -> Result<(), ItemError> {
        read.extend(unread);
        let action = format!("give messages of the stream `{}` back", self.stream);
        self.answer(&action, read, AckKind::Nak(None))
    }

    fn close(&self) -> Result<(), ItemError> {
        Ok(())
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
        let bytes_max = self.link.client.server_info().max_payload;
        if let Some(message) =
            messages.iter().find(|message| message.body.len() + HEADER_BYTES > bytes_max)
        {
            let what = format!(
                "cannot {action}: a message of {} bytes is above the server's maximum, {bytes_max}",
                message.body.len()
            );
            return Err(ItemError::data(what));
        }
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
}
