//! The kind `kafka`: topics of Apache Kafka, and of what speaks its protocol.
//!
//! A topic is read by offsets, which are in the checkpoint, so no broker has to know what was read.

mod cluster;
mod connection;
mod reader;
mod records;
mod scram;
mod sender;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, SystemClock};
use batchwright::scope::StepScope;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use self::cluster::Cluster;
use self::connection::{Login, Mechanism, Settings};
use self::reader::{ConnectTopic, Fields, Selection, TopicReader};
use self::sender::TopicSender;
use super::body::{BodyFormat, Decode};
use super::keys;
use crate::key::{At, Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make, MakeReader};
use crate::reader::Reads;
use crate::sent::{self, SendingWriter};
use crate::template::Template;
use crate::transport::trusted;
use crate::writer::BoxedWriter;

const SCHEMES: &[&str] = &["kafka", "kafkas"];
const PORT: u16 = 9092;

/// The kind `kafka`.
pub(crate) struct KafkaKind;

/// Reads the messages of a topic, partition by partition, up to those that are there when the instance begins.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReaderKeys {
    /// A server of the cluster, `kafka://HOST:PORT`, or `kafkas://…` with TLS; `USER:PASSWORD@` logs in, by the mechanism `?sasl=`:
    /// `plain`, `scram-sha-256` or `scram-sha-512`.
    server: Text,
    /// Further servers of the cluster, `HOST:PORT`, for the time when the first one is down. Default: none.
    #[serde(default)]
    more_servers: Vec<Text>,
    /// The topic, which exists.
    topic: Text,
    /// The partitions that are read. Default: all.
    partitions: Option<At<Vec<i32>>>,
    /// The time of the first message, such as `2026-11-29T00:00:00Z`. Default: the first message that is there.
    from: Option<Text>,
    /// The time after the last message. Default: the last message that is there when the instance begins.
    until: Option<Text>,
    /// What a message is: `json`, an object, or `text`, the field `body`. Default: `json`.
    format: Option<At<BodyFormat>>,
    /// The field that gets the id of the message, its partition and its offset: `0/17`. Default: none gets it.
    id_field: Option<String>,
    /// The field that gets the key of the message, a text or null. Default: none gets it.
    key_field: Option<String>,
    /// The field that gets the time of the message. Default: none gets it.
    time_field: Option<String>,
    /// Time after which an unanswered request fails. Default: `30s`.
    timeout: Option<Text>,
}

/// Sends each record as a message of JSON, and waits until all copies of it are stored.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriterKeys {
    /// A server of the cluster, as of the reader.
    server: Text,
    /// Further servers of the cluster, `HOST:PORT`, for the time when the first one is down. Default: none.
    #[serde(default)]
    more_servers: Vec<Text>,
    /// The topic, which exists.
    topic: Text,
    /// The field whose value is the key of the message; messages with the same key are in the same partition, as other clients
    /// choose it. Default: no key, and one partition after another.
    key_field: Option<String>,
    /// Time after which an unanswered request fails. Default: `30s`.
    timeout: Option<Text>,
}

impl ItemKind for KafkaKind {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .reader::<ReaderKeys>()
            .reader_restarts("Exact: at the next offset of each partition, up to the offset that the first execution found. Messages that were deleted before they were read fail the step.")
            .writer::<WriterKeys>()
            .writer_restarts("At least once: messages that are sent again have the same header `batchwright-id`.")
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let parsed: ReaderKeys = keys.parse()?;
        let timeout = keys::timeout(parsed.timeout.as_ref())?;
        let topic = Topic::of(cx, &parsed.server, &parsed.more_servers, &parsed.topic, timeout)?;
        let [from, until] = [&parsed.from, &parsed.until]
            .map(|time| time.as_ref().map(|time| cx.template(time)).transpose());
        let (from, until) = (from?, until?);
        let partitions = parsed.partitions.as_ref().map(chosen).transpose()?;
        let connect: ConnectTopic = Arc::new(move |scope| {
            let [from, until] = [("from", &from), ("until", &until)]
                .map(|(key, time)| time.as_ref().map(|time| instant(key, time, scope)).transpose());
            let selection =
                Selection { partitions: partitions.clone(), from: from?, until: until? };
            Ok((topic.open(scope)?, selection))
        });
        let decode =
            Decode::new(keys::format_of(parsed.format.as_ref()), parsed.id_field.as_deref());
        let [key, time] = [parsed.key_field, parsed.time_field].map(|field| field.map(Arc::from));
        let fields = Fields { key, time };
        let make = move |_: &StepScope| {
            let (connect, decode) = (Arc::clone(&connect), decode.clone());
            Ok(Reads::records(TopicReader::new(connect, decode, fields.clone(), timeout)))
        };
        // Another opening without a position finds other messages.
        Ok(MakeReader::new(make).queue())
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let parsed: WriterKeys = keys.parse()?;
        if cx.inside_only {
            return Err(keys.problem(BuildContext::sends_outside()));
        }
        let timeout = keys::timeout(parsed.timeout.as_ref())?;
        let topic = Topic::of(cx, &parsed.server, &parsed.more_servers, &parsed.topic, timeout)?;
        let key_field = parsed.key_field;
        let connect: sent::Connect<TopicSender> = Arc::new(move |scope| {
            let (cluster, key_field) = (topic.open(scope)?, key_field.clone());
            // Less than the answer may take.
            let store_wait_ms = i32::try_from(timeout.as_millis() / 2).unwrap_or(i32::MAX);
            // Another partition than the last time.
            let now = SystemClock::default().now().as_millisecond();
            let batches = usize::try_from(now).unwrap_or_default();
            Ok(TopicSender { cluster, key_field, store_wait_ms, batches })
        });
        Ok(Box::new(move |_| Ok(BoxedWriter::new(SendingWriter::new(Arc::clone(&connect))))))
    }
}

/// Returns the partitions that a job file names.
fn chosen(partitions: &At<Vec<i32>>) -> Result<Vec<i32>, Problem> {
    let numbers = partitions.get_ref();
    let different: BTreeSet<&i32> = numbers.iter().collect();
    match !numbers.is_empty()
        && different.len() == numbers.len()
        && numbers.iter().all(|one| *one >= 0)
    {
        true => Ok(numbers.clone()),
        false => Err(Problem::at(partitions, "name at least one partition, each once, from 0 on")),
    }
}

/// Returns the instant that `time` is for the step of `scope`.
fn instant(key: &str, time: &Template, scope: &StepScope) -> Result<Timestamp, ItemError> {
    let text = time.render(scope)?;
    text.parse().map_err(|_| {
        ItemError::fatal(format!(
            "`{key}` is `{text}`: write an instant with its offset, such as 2026-11-29T00:00:00Z"
        ))
    })
}

/// A topic that a job file names.
struct Topic {
    server: Make<Url>,
    more_servers: Vec<Template>,
    topic: Template,
    folder: PathBuf,
    timeout: Duration,
}

impl Topic {
    fn of(
        cx: &BuildContext<'_>,
        server: &Text,
        more_servers: &[Text],
        topic: &Text,
        timeout: Duration,
    ) -> Result<Self, Problem> {
        Ok(Self {
            server: keys::server(server, SCHEMES, cx)?,
            more_servers: more_servers
                .iter()
                .map(|text| cx.template(text))
                .collect::<Result<_, _>>()?,
            topic: cx.template(topic)?,
            folder: cx.folder.to_owned(),
            timeout,
        })
    }

    fn open(&self, scope: &StepScope) -> Result<Cluster, ItemError> {
        let url = (self.server)(scope)?;
        let settings = self.settings(&url)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut servers = vec![(host, url.port().unwrap_or(PORT))];
        for template in &self.more_servers {
            let text = template.render(scope)?;
            // An address of IPv6 is in brackets. A user would be that of another server.
            let is_host = |host: &str| {
                let is_bracketed = host.starts_with('[') && host.ends_with(']');
                !host.is_empty()
                    && !host.contains(['@', '/'])
                    && (is_bracketed || !host.contains(':'))
            };
            let parts = text.rsplit_once(':').filter(|(host, _)| is_host(host));
            let parts = parts.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
            let wrong = || ItemError::fatal("a text of `more_servers` is not HOST:PORT");
            servers.push(parts.ok_or_else(wrong)?);
        }
        Cluster::open(settings, servers, self.topic.render(scope)?, scope.stop().clone())
    }

    fn settings(&self, url: &Url) -> Result<Settings, ItemError> {
        let wrong = |what: String| {
            ItemError::fatal(format!("cannot use the address of the server: {what}"))
        };
        let decoded = |text: &str| {
            let text = percent_encoding::percent_decode_str(text).decode_utf8();
            text.map(|text| text.into_owned()).map_err(|error| wrong(error.to_string()))
        };
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(wrong("a topic is not a part of it".to_owned()));
        }
        let (mut mechanism, mut certificates) = (None, None);
        for (name, value) in url.query_pairs() {
            match &*name {
                "sasl" => {
                    let unknown = || wrong(format!("`sasl` is one of {}", Mechanism::NAMES));
                    mechanism = Some(Mechanism::of(&value).ok_or_else(unknown)?);
                }
                "ca" if url.scheme() == "kafkas" => certificates = Some(self.folder.join(&*value)),
                other => return Err(wrong(format!("`{other}` is no option"))),
            }
        }
        let login = match url.username() {
            "" if url.password().is_some() || mechanism.is_some() => {
                return Err(wrong("it has no user".to_owned()));
            }
            "" => None,
            user => {
                let mechanism = mechanism.unwrap_or(Mechanism::Plain);
                let password = decoded(url.password().unwrap_or_default())?;
                Some(Login { mechanism, user: decoded(user)?, password })
            }
        };
        let tls =
            (url.scheme() == "kafkas").then(|| trusted(certificates.as_deref())).transpose()?;
        Ok(Settings { tls: tls.map(Arc::new), login, timeout: self.timeout })
    }
}
