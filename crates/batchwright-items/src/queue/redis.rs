//! The kind `redis`: lists, streams, sets, hashes and keys of Redis, and of servers that speak its protocol.

mod list;
mod scan;
mod sender;
mod stream;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use batchwright::ItemError;
use redis::{Client, Cmd, Connection, FromRedisValue, RedisError, RedisResult};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use self::list::RedisList;
use self::scan::{ConnectScan, Scan, ScanReader, Source};
use self::sender::{RedisSender, Target};
use self::stream::RedisStream;
use super::body::BodyFormat;
use super::keys::{self, failed, format_of, shown, silent};
use super::reader::{Connect, QueueReader};
use super::reader_keys::{reader_keys, takes_outside};
use crate::key::{At, Keys, Problem, Text, duration};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make, MakeReader};
use crate::sent::{self, SendingWriter};
use crate::template::Template;
use crate::writer::BoxedWriter;

/// Time after which the entries of another reader are taken over, without `claim_after`.
const CLAIM_AFTER: Duration = Duration::from_secs(600);
const SCHEMES: &[&str] = &["redis", "rediss"];
const ONE_SOURCE: &str = "a reader has exactly one of `list`, `stream`, `set`, `hash` and `keys`";

/// The kind `redis`.
pub(crate) struct RedisKind;

reader_keys! {
    /// Reads a list from its head, or a stream, until it is empty: what was read is removed, or acknowledged, once it is committed.
    /// Or reads a set, a hash or the values of keys, which stay.
    struct ReaderKeys {
        /// The server, `redis://USER:PASSWORD@HOST:PORT/DATABASE` or `rediss://…`.
        server: Text,
        /// The key of the list.
        list: Option<Text>,
        /// The key of the set whose members are read.
        set: Option<Text>,
        /// The key of the hash whose values are read.
        hash: Option<Text>,
        /// A pattern such as `order:*`: the strings and hashes with such keys are read.
        keys: Option<Text>,
        /// The key of the stream, which exists. The fields of an entry are those of the record, as texts.
        stream: Option<Text>,
        /// The group of consumers of the stream; a new one begins at the first entry. Default: `batchwright`.
        group: Option<Text>,
        /// The time after which entries that another reader of the group holds are taken over. Default: `10m`.
        claim_after: Option<Text>,
        /// Whether entries of the stream are deleted when they are acknowledged. Default: false.
        delete: Option<bool>,
        /// What an element, or a string, is: `json`, an object, or `text`, the field `body`. Default: `json`.
        format: Option<At<BodyFormat>>,
    }
}

/// Writes each record to a list, a stream, a set or a hash.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriterKeys {
    /// The server, `redis://USER:PASSWORD@HOST:PORT/DATABASE` or `rediss://…`.
    server: Text,
    /// The key of the list, whose tail gets the records as JSON.
    list: Option<Text>,
    /// The key of the stream, whose entries get the fields of the records as texts; nulls are left out.
    stream: Option<Text>,
    /// The key of the set, which gets the records as JSON.
    set: Option<Text>,
    /// The key of the hash, which gets the records as JSON by the value of `field`.
    hash: Option<Text>,
    /// The field with the name in the hash.
    field: Option<String>,
    /// Time after which an unanswered request fails. Default: `30s`.
    timeout: Option<Text>,
}

/// Returns `text` as a pattern that matches only itself.
fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '^' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// What the name of a key is made into.
type MakeSource = fn(String) -> Source;

impl ReaderKeys {
    /// Returns the key or the pattern of what is read and stays, and what it is.
    fn scanned(&self, cx: &BuildContext<'_>) -> Result<Option<(Template, MakeSource)>, Problem> {
        let all: [(_, MakeSource); 3] =
            [(&self.set, Source::Set), (&self.hash, Source::Hash), (&self.keys, Source::Keys)];
        let mut given = all.into_iter().filter_map(|(key, source)| Some((key.as_ref()?, source)));
        let Some((key, source)) = given.next() else { return Ok(None) };
        match given.next() {
            Some((second, _)) => Err(Problem::at(second, ONE_SOURCE)),
            None => Ok(Some((cx.template(key)?, source))),
        }
    }
}

impl ItemKind for RedisKind {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .reader::<ReaderKeys>()
            .reader_restarts("Exact for a list and a stream: elements of a list are kept in a list of the instance, and entries of a stream by their group, until they are acknowledged; what was committed is known by its number or id. Of a set, a hash and keys, what is there all the time is read at least once, and the server may tell an element twice.")
            .writer::<WriterKeys>()
            .writer_restarts("At least once; exact for a set and a hash, which have the same record once.")
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let parsed: ReaderKeys = keys.parse()?;
        let scanned = parsed.scanned(cx)?;
        if cx.inside_only && scanned.is_none() {
            return Err(keys.problem(takes_outside()));
        }
        let of_stream = [
            ("group", parsed.group.is_some()),
            ("claim_after", parsed.claim_after.is_some()),
            ("delete", parsed.delete.is_some()),
        ];
        let settings = parsed.settings(format_of(parsed.format.as_ref()))?;
        let server = keys::server(&parsed.server, SCHEMES, cx)?;
        let timeout = keys::timeout(parsed.timeout.as_ref())?;
        match (&parsed.list, &parsed.stream, scanned) {
            (None, None, Some((key, source))) => {
                let of_queue = [("wait", parsed.wait.is_some()), ("limit", parsed.limit.is_some())];
                let mut others = of_stream.iter().chain(&of_queue);
                if let Some((name, _)) = others.find(|(_, is_given)| *is_given) {
                    return Err(keys.problem_at(name, format!("`{name}` needs a list or a stream")));
                }
                let is_pattern = parsed.keys.is_some();
                let connect: ConnectScan = Arc::new(move |scope| {
                    let link = Link::open(&server(scope)?, timeout)?;
                    // A value within a pattern matches itself.
                    let key = key.render_with(scope, |_, value| match is_pattern {
                        true => literal(&value),
                        false => value,
                    })?;
                    Ok(Scan { link, source: source(key) })
                });
                Ok(ScanReader::made(connect, settings.decode))
            }
            (Some(list), None, None) => {
                if let Some((name, _)) = of_stream.iter().find(|(_, is_given)| *is_given) {
                    return Err(keys.problem_at(name, format!("`{name}` needs `stream`")));
                }
                let list = cx.template(list)?;
                let connect: Connect<RedisList> = Arc::new(move |scope| {
                    let link = Link::open(&server(scope)?, timeout)?;
                    Ok(RedisList::of(link, list.render(scope)?, scope))
                });
                Ok(QueueReader::made(connect, settings))
            }
            (None, Some(stream), None) => {
                if parsed.format.is_some() {
                    return Err(keys.problem_at(
                        "format",
                        "a stream has no `format`: its entries have fields",
                    ));
                }
                let stream = cx.template(stream)?;
                let group = parsed.group.as_ref().map(|group| cx.template(group)).transpose()?;
                let claim_after = parsed.claim_after.as_ref().map_or(Ok(CLAIM_AFTER), duration)?;
                let deletes = parsed.delete.unwrap_or_default();
                let connect: Connect<RedisStream> = Arc::new(move |scope| {
                    let link = Link::open(&server(scope)?, timeout)?;
                    let group = group
                        .as_ref()
                        .map_or(Ok("batchwright".to_owned()), |group| group.render(scope))?;
                    let consumer = sent::key(&[sent::identity(scope).as_bytes()]);
                    let names = stream::Names { stream: stream.render(scope)?, group, consumer };
                    RedisStream::open(link, names, claim_after, deletes)
                });
                Ok(QueueReader::made(connect, settings))
            }
            _ => Err(keys.problem(ONE_SOURCE)),
        }
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let parsed: WriterKeys = keys.parse()?;
        if cx.inside_only {
            return Err(keys.problem(BuildContext::sends_outside()));
        }
        if parsed.hash.is_some() != parsed.field.is_some() {
            return Err(keys.problem("`hash` and `field` need each other"));
        }
        let server = keys::server(&parsed.server, SCHEMES, cx)?;
        let timeout = keys::timeout(parsed.timeout.as_ref())?;
        let (key, target) = match (&parsed.list, &parsed.stream, &parsed.set, &parsed.hash) {
            (Some(key), None, None, None) => (key, Target::List),
            (None, Some(key), None, None) => (key, Target::Stream),
            (None, None, Some(key), None) => (key, Target::Set),
            (None, None, None, Some(key)) => {
                (key, Target::Hash(parsed.field.clone().unwrap_or_default()))
            }
            _ => {
                let what = "a writer has exactly one of `list`, `stream`, `set` and `hash`";
                return Err(keys.problem(what));
            }
        };
        let key = cx.template(key)?;
        let connect: sent::Connect<RedisSender> = Arc::new(move |scope| {
            let link = Link::open(&server(scope)?, timeout)?;
            Ok(RedisSender { link, key: key.render(scope)?, target: target.clone() })
        });
        Ok(Box::new(move |_| Ok(BoxedWriter::new(SendingWriter::new(Arc::clone(&connect))))))
    }
}

/// A connection, which threads use one after the other. It is not used after a failure: an answer could be that to an earlier
/// command.
struct Link {
    connection: Mutex<Option<Connection>>,
    /// The address, for messages.
    shown: String,
    timeout: Duration,
}

impl Link {
    fn open(url: &Url, timeout: Duration) -> Result<Self, ItemError> {
        let shown = shown(url);
        // The cryptography of all TLS of this program. An error means that the program has chosen it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let connect = || {
            let client = Client::open(url.as_str())?;
            let connection = client.get_connection_with_timeout(timeout)?;
            connection.set_read_timeout(Some(timeout))?;
            connection.set_write_timeout(Some(timeout))?;
            Ok(connection)
        };
        let connection = connect().map_err(|error: RedisError| failed("connect", &shown, error))?;
        Ok(Self { connection: Mutex::new(Some(connection)), shown, timeout })
    }

    /// Sends a command and returns its answer.
    fn call<T: FromRedisValue>(&self, action: &str, command: &Cmd) -> Result<T, ItemError> {
        self.answer(action, |connection| command.query(connection))
    }

    /// Returns what `ask` returns. The connection is closed if the server did not answer.
    fn answer<T>(
        &self,
        action: &str,
        ask: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, ItemError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = connection.as_mut() else {
            return Err(failed(action, &self.shown, "the connection broke before"));
        };
        ask(open).map_err(|error| {
            let is_answer =
                matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension);
            if !is_answer {
                *connection = None;
            }
            match error.is_timeout() {
                true => silent(action, &self.shown, self.timeout),
                false => failed(action, &self.shown, error),
            }
        })
    }
}
