//! Reads the elements of sets and hashes, and the values of keys, by SCAN: <https://redis.io/docs/latest/commands/scan/>.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use batchwright::ItemError;
use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;
use batchwright::item::{Acknowledge, ItemReader, Total, stable_hash};
use batchwright::scope::StepScope;
use redis::{Cmd, Pipeline, Value, cmd, from_redis_value};
use serde::{Deserialize, Serialize};

use super::Link;
use crate::kind::MakeReader;
use crate::queue::Content;
use crate::queue::body::Decode;
use crate::reader::Reads;
use crate::record::Record;

/// Number of elements that the server looks at for a page, and of keys whose values are asked for together.
const PAGE: usize = 100;
/// Size of what is fetched together, in bytes, above which the next fetch is of fewer.
const BYTES_MANY: usize = 4 * 1024 * 1024;
/// Maximum number of characters of a name in a message.
const SHOWN_MAX: usize = 60;

/// What is read.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// The members of the set.
    Set(String),
    /// The values of the hash.
    Hash(String),
    /// The strings and hashes whose keys match a pattern.
    Keys(String),
}

impl Source {
    fn shown(&self) -> String {
        match self {
            Self::Set(key) => format!("the set `{key}`"),
            Self::Hash(key) => format!("the hash `{key}`"),
            Self::Keys(pattern) => format!("the keys `{pattern}`"),
        }
    }
}

/// The connection of a reader, and what it reads.
pub(super) struct Scan {
    pub(super) link: Link,
    pub(super) source: Source,
}

/// Makes the connection for a step.
pub(super) type ConnectScan = Arc<dyn Fn(&StepScope) -> Result<Scan, ItemError> + Send + Sync>;

/// A reader of elements that stay where they are. What is there from the beginning to the end is read at least once.
pub(super) struct ScanReader {
    connect: ConnectScan,
    decode: Decode,
    scan: Option<Scan>,
    page: VecDeque<Element>,
    /// Keys of the page whose values are not fetched yet.
    keys: VecDeque<Vec<u8>>,
    /// Number of elements of the next fetch.
    count: usize,
    /// The cursor after the page.
    next: Cursor,
    position: ScanPosition,
    /// What was read since the last commit, and of its page.
    log: Arc<Mutex<VecDeque<Read>>>,
    total: Option<u64>,
    stop: StopToken,
}

/// An element: its name or member, and its content.
type Element = (Vec<u8>, Content);

/// An element that was read.
struct Read {
    page: Cursor,
    hash: u64,
    /// Its number in the instance.
    number: u64,
}

/// Where a page begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Cursor {
    #[default]
    Begin,
    At(String),
    End,
}

/// The page that is read, and the hashes of its elements that were read: the order within a page may change.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct ScanPosition {
    page: Cursor,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    seen: Vec<u64>,
    /// Number of elements that were read.
    #[serde(default)]
    read: u64,
    /// The run of the server: another one has other cursors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Option<String>,
}

impl ScanPosition {
    fn add(&mut self, read: &Read) {
        if self.page != read.page {
            self.page = read.page.clone();
            self.seen.clear();
        }
        self.seen.push(read.hash);
        self.read = read.number;
    }
}

impl ScanReader {
    /// Returns what makes the reader for each step execution. Another reading has another order, as that of a queue.
    pub(super) fn made(connect: ConnectScan, decode: Decode) -> MakeReader {
        let make = move |_: &StepScope| {
            Ok(Reads::records(Self::new(Arc::clone(&connect), decode.clone())))
        };
        MakeReader::new(make).queue()
    }

    fn new(connect: ConnectScan, decode: Decode) -> Self {
        Self {
            connect,
            decode,
            scan: None,
            page: VecDeque::new(),
            keys: VecDeque::new(),
            count: PAGE,
            next: Cursor::Begin,
            position: ScanPosition::default(),
            log: Arc::default(),
            total: None,
            stop: StopToken::default(),
        }
    }

    fn log(&self) -> MutexGuard<'_, VecDeque<Read>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the next elements; `false` at the end.
    fn fetch(&mut self) -> Result<bool, ItemError> {
        let unopened = || ItemError::fatal("cannot read from Redis before the reader is opened");
        let scan = self.scan.as_ref().ok_or_else(unopened)?;
        if !self.keys.is_empty() {
            let count = self.count.min(self.keys.len());
            self.page = scan.values(self.keys.iter().take(count).cloned().collect())?.into();
            self.keys.drain(..count);
        } else {
            let cursor = match &self.next {
                Cursor::Begin => "0",
                Cursor::At(cursor) => cursor,
                Cursor::End => return Ok(false),
            };
            let (next, mut found) = scan.page(cursor, self.count)?;
            let page = std::mem::replace(
                &mut self.next,
                if next == "0" { Cursor::End } else { Cursor::At(next) },
            );
            if self.position.page != page {
                self.position.page = page;
                self.position.seen.clear();
            }
            let seen: HashSet<u64> = self.position.seen.iter().copied().collect();
            let is_new = |name: &Vec<u8>| !seen.contains(&stable_hash(name));
            match &mut found {
                Found::Elements(elements) => elements.retain(|(name, _)| is_new(name)),
                Found::Keys(keys) => keys.retain(is_new),
            }
            match found {
                Found::Elements(elements) => self.page = elements.into(),
                Found::Keys(keys) => self.keys = keys.into(),
            }
        }
        let bytes: usize = self.page.iter().map(|(_, content)| content.bytes()).sum();
        self.count = match bytes {
            bytes if bytes > BYTES_MANY => (self.count / 2).max(1),
            _ => (self.count * 2).min(PAGE),
        };
        Ok(true)
    }
}

/// What a page has.
enum Found {
    Elements(Vec<Element>),
    /// Keys, whose values are still to be fetched.
    Keys(Vec<Vec<u8>>),
}

impl Scan {
    fn action(&self) -> String {
        format!("read {}", self.source.shown())
    }

    fn unexpected(&self, error: redis::ParsingError) -> ItemError {
        super::failed(&self.action(), &self.link.shown, error)
    }

    /// Returns what distinguishes this run of the server from others; `None` if it does not tell.
    ///
    /// # Errors
    ///
    /// When it has only a part of the keys that are to be read.
    fn server(&self) -> Result<Option<String>, ItemError> {
        let about = match self.link.call::<String>("connect", cmd("INFO").arg("server")) {
            Ok(about) => about,
            // A user may be without the permission. A connection that broke fails the next call.
            Err(error) => {
                return match self.source {
                    Source::Keys(_) => Err(error),
                    _ => Ok(None),
                };
            }
        };
        let value = |name: &str| about.lines().find_map(|line| line.strip_prefix(name));
        let modes = ["redis_mode:", "server_mode:"];
        let is_cluster = modes.into_iter().any(|name| value(name) == Some("cluster"));
        if matches!(self.source, Source::Keys(_)) && is_cluster {
            let what = "cannot read keys by a pattern from a cluster, of which each server has a part; read a set or a hash";
            return Err(ItemError::fatal(what));
        }
        Ok(value("run_id:").map(str::to_owned))
    }

    /// Returns the number of elements; of keys it is unknown.
    fn count(&self) -> Result<Option<u64>, ItemError> {
        let (command, key) = match &self.source {
            Source::Set(key) => ("SCARD", key),
            Source::Hash(key) => ("HLEN", key),
            Source::Keys(_) => return Ok(None),
        };
        self.link.call(&self.action(), cmd(command).arg(key)).map(Some)
    }

    /// Returns the page at `cursor`, and the cursor of the next one.
    fn page(&self, cursor: &str, count: usize) -> Result<(String, Found), ItemError> {
        let mut command = match &self.source {
            Source::Set(key) => with(cmd("SSCAN"), key),
            Source::Hash(key) => with(cmd("HSCAN"), key),
            Source::Keys(_) => cmd("SCAN"),
        };
        command.arg(cursor);
        if let Source::Keys(pattern) = &self.source {
            command.arg("MATCH").arg(pattern);
        }
        command.arg("COUNT").arg(count);
        let (next, mut found): (String, Vec<Vec<u8>>) = self.link.call(&self.action(), &command)?;
        // A server may return an element several times.
        let mut names = HashSet::new();
        let mut is_first = |name: &Vec<u8>| names.insert(stable_hash(name));
        let page = match &self.source {
            Source::Keys(_) => {
                found.retain(is_first);
                Found::Keys(found)
            }
            Source::Set(_) => {
                found.retain(is_first);
                Found::Elements(found.into_iter().map(|one| (one.clone(), body(one))).collect())
            }
            Source::Hash(_) => {
                let mut elements: Vec<Element> = Vec::with_capacity(found.len() / 2);
                let mut found = found.into_iter();
                while let (Some(name), Some(value)) = (found.next(), found.next()) {
                    elements.push((name, body(value)));
                }
                elements.retain(|(name, _)| is_first(name));
                Found::Elements(elements)
            }
        };
        Ok((next, page))
    }

    /// Returns the values of keys. Those that vanished meanwhile are left out.
    fn values(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Element>, ItemError> {
        let ask = |pipeline: Pipeline| {
            self.link.answer::<Vec<Value>>(&self.action(), |link| pipeline.query(link))
        };
        let mut types = redis::pipe();
        for key in &keys {
            types.cmd("TYPE").arg(key);
        }
        let mut named = Vec::with_capacity(keys.len());
        for (key, kind) in keys.into_iter().zip(ask(types)?) {
            let kind: String = from_redis_value(kind).map_err(|error| self.unexpected(error))?;
            match kind.as_str() {
                "none" => {}
                "string" | "hash" => named.push((key, kind == "hash")),
                other => {
                    let key = String::from_utf8_lossy(&key);
                    let what = format!(
                        "cannot read the key `{key}`: it is a {other}, and strings and hashes can be read"
                    );
                    return Err(ItemError::fatal(what));
                }
            }
        }
        let mut values = redis::pipe();
        for (key, is_hash) in &named {
            values.cmd(if *is_hash { "HGETALL" } else { "GET" }).arg(key);
        }
        if named.is_empty() {
            return Ok(Vec::new());
        }
        let mut page = Vec::with_capacity(named.len());
        for ((key, is_hash), value) in named.into_iter().zip(ask(values)?) {
            let content = match is_hash {
                true => {
                    let fields = from_redis_value::<Vec<(Vec<u8>, Vec<u8>)>>(value);
                    let fields = fields.map_err(|error| self.unexpected(error))?;
                    Some(fields).filter(|fields| !fields.is_empty()).map(Content::Fields)
                }
                false => from_redis_value::<Option<Vec<u8>>>(value)
                    .map_err(|error| self.unexpected(error))?
                    .map(body),
            };
            page.extend(content.map(|content| (key, content)));
        }
        Ok(page)
    }
}

fn with(mut command: Cmd, key: &str) -> Cmd {
    command.arg(key);
    command
}

fn body(bytes: Vec<u8>) -> Content {
    Content::Body(bytes)
}

impl ItemReader for ScanReader {
    type Item = Record;
    type Position = ScanPosition;

    fn open(&mut self, position: Option<ScanPosition>, scope: &StepScope) -> Result<(), ItemError> {
        let scan = (self.connect)(scope)?;
        let server = scan.server()?;
        let mut position = position.unwrap_or_default();
        if (position.page != Cursor::Begin || !position.seen.is_empty())
            && (server.is_none() || position.server != server)
        {
            tracing::warn!(
                target: "batchwright::input",
                "{} is read again from its beginning: the server was restarted, or does not tell that it was not",
                scan.source.shown()
            );
            position = ScanPosition { read: position.read, ..ScanPosition::default() };
        }
        position.server = server;
        self.total = scan.count()?;
        self.scan = Some(scan);
        self.next = position.page.clone();
        self.position = position;
        self.page.clear();
        self.keys.clear();
        self.log().clear();
        self.stop = scope.stop().clone();
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        while self.page.is_empty() {
            if self.stop.is_requested() {
                return Err(ItemError::stopped("a stop was requested while Redis was read"));
            }
            // An error is not the fault of an element, so that nothing is skipped.
            let fetched = self.fetch().map_err(|error| {
                let what = "cannot read the next elements of Redis";
                ItemError::wrap(ErrorKind::FATAL, what, error.into_boxed())
            });
            if !fetched? {
                return Ok(None);
            }
        }
        let Some((name, content)) = self.page.pop_front() else { return Ok(None) };
        let read = Read {
            page: self.position.page.clone(),
            hash: stable_hash(&name),
            number: self.position.read + 1,
        };
        self.position.add(&read);
        self.log().push_back(read);
        let id = String::from_utf8_lossy(&name);
        let shown: String = id.chars().take(SHOWN_MAX).collect();
        if self.decode.has_id() && std::str::from_utf8(&name).is_err() {
            let what = format!("the name `{shown}` is no text in UTF-8, and cannot be an id");
            return Err(ItemError::data(what).with_raw(name));
        }
        let record = self.decode.record(content, Some(&id));
        record.map(Some).map_err(|error| error.at(format!("element `{shown}`")))
    }

    fn position(&self) -> ScanPosition {
        self.position.clone()
    }

    fn acknowledger(&self) -> Option<Box<dyn Acknowledge<ScanPosition>>> {
        let (log, server) = (Arc::clone(&self.log), self.position.server.clone());
        Some(Box::new(Committed { log, server }))
    }

    fn total(&self) -> Option<Total> {
        self.total.map(Total::Items)
    }

    fn done(&self) -> u64 {
        self.position.read
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.scan = None;
        Ok(())
    }
}

/// Finds positions between those of the reader. There is nothing to acknowledge.
struct Committed {
    log: Arc<Mutex<VecDeque<Read>>>,
    server: Option<String>,
}

impl Acknowledge<ScanPosition> for Committed {
    fn acknowledge(&mut self, position: ScanPosition) -> Result<(), ItemError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // Positions within the page need all that was read of it.
        log.retain(|read| read.number > position.read || read.page == position.page);
        Ok(())
    }

    fn position_after(&self, position: Option<ScanPosition>, records: u64) -> ScanPosition {
        let mut position = position.unwrap_or_default();
        let (from, to) = (position.read, position.read + records);
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        for read in log.iter().filter(|read| read.number > from && read.number <= to) {
            position.add(read);
        }
        position.read = to;
        // The position before the first commit has none.
        position.server.clone_from(&self.server);
        position
    }
}
