//! Reads the elements of sets and hashes, and the values of keys, by SCAN: <https://redis.io/docs/latest/commands/scan/>.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::item::{ItemReader, Total, stable_hash};
use batchwright::scope::StepScope;
use redis::{Cmd, Pipeline, Value, cmd, from_redis_value};
use serde::{Deserialize, Serialize};

use super::Link;
use crate::kind::MakeReader;
use crate::queue::Content;
use crate::queue::body::Decode;
use crate::reader::Reads;
use crate::record::Record;

/// Number of elements that the server looks at for a page.
const PAGE: usize = 100;

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
    /// The cursor after [`Self::page`].
    next: Cursor,
    position: ScanPosition,
    total: Option<u64>,
    read: u64,
}

/// An element: its name or member, and its content.
type Element = (Vec<u8>, Content);

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
    /// The run of the server: another one has other cursors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Option<String>,
}

impl ScanReader {
    /// Returns what makes the reader for each step execution.
    pub(super) fn made(connect: ConnectScan, decode: Decode) -> MakeReader {
        MakeReader::new(move |_| {
            Ok(Reads::records(Self::new(Arc::clone(&connect), decode.clone())))
        })
    }

    fn new(connect: ConnectScan, decode: Decode) -> Self {
        Self {
            connect,
            decode,
            scan: None,
            page: VecDeque::new(),
            next: Cursor::Begin,
            position: ScanPosition::default(),
            total: None,
            read: 0,
        }
    }

    fn scan(&self) -> Result<&Scan, ItemError> {
        let unopened = || ItemError::fatal("cannot read from Redis before the reader is opened");
        self.scan.as_ref().ok_or_else(unopened)
    }

    /// Fetches the page at `cursor`, without the elements that were read.
    fn fetch(&mut self, cursor: Cursor) -> Result<(), ItemError> {
        let at = match &cursor {
            Cursor::Begin => "0",
            Cursor::At(cursor) => cursor,
            Cursor::End => return Ok(()),
        };
        let (next, page) = self.scan()?.page(at)?;
        self.next = if next == "0" { Cursor::End } else { Cursor::At(next) };
        if self.position.page != cursor {
            self.position.page = cursor;
            self.position.seen.clear();
        }
        let seen: HashSet<u64> = self.position.seen.iter().copied().collect();
        self.page = page.into();
        self.page.retain(|(name, _)| !seen.contains(&stable_hash(name)));
        Ok(())
    }
}

impl Scan {
    fn action(&self) -> String {
        format!("read {}", self.source.shown())
    }

    fn unexpected(&self, error: redis::ParsingError) -> ItemError {
        super::failed(&self.action(), &self.link.shown, error)
    }

    /// Returns what distinguishes this run of the server from others; `None` if it does not tell.
    fn server(&self) -> Result<Option<String>, ItemError> {
        let about: String = self.link.call("connect", cmd("INFO").arg("server"))?;
        Ok(about.lines().find_map(|line| line.strip_prefix("run_id:")).map(str::to_owned))
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
    fn page(&self, cursor: &str) -> Result<(String, Vec<Element>), ItemError> {
        let mut command = match &self.source {
            Source::Set(key) => with(cmd("SSCAN"), key),
            Source::Hash(key) => with(cmd("HSCAN"), key),
            Source::Keys(_) => cmd("SCAN"),
        };
        command.arg(cursor);
        if let Source::Keys(pattern) = &self.source {
            command.arg("MATCH").arg(pattern);
        }
        command.arg("COUNT").arg(PAGE);
        let (next, found): (String, Vec<Vec<u8>>) = self.link.call(&self.action(), &command)?;
        let mut page = match &self.source {
            Source::Set(_) => found.iter().map(|one| (one.clone(), body(one.clone()))).collect(),
            Source::Hash(_) => {
                found.chunks_exact(2).map(|pair| (pair[0].clone(), body(pair[1].clone()))).collect()
            }
            Source::Keys(_) => self.values(found)?,
        };
        // A server may return an element several times.
        let mut names = HashSet::new();
        page.retain(|(name, _): &Element| names.insert(stable_hash(name)));
        Ok((next, page))
    }

    /// Returns the values of keys. Those that vanished meanwhile are left out.
    fn values(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Element>, ItemError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
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
        self.position = position.unwrap_or_default();
        if self.position.server.is_some() && self.position.server != server {
            tracing::warn!(
                target: "batchwright::input",
                "{} is read again from its beginning: the server was restarted, and its cursors with it",
                scan.source.shown()
            );
            self.position = ScanPosition::default();
        }
        self.position.server = server;
        self.total = scan.count()?;
        self.read = 0;
        self.scan = Some(scan);
        self.next = self.position.page.clone();
        self.page.clear();
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        while self.page.is_empty() {
            if self.next == Cursor::End {
                return Ok(None);
            }
            let next = self.next.clone();
            self.fetch(next)?;
        }
        let Some((name, content)) = self.page.pop_front() else { return Ok(None) };
        self.position.seen.push(stable_hash(&name));
        self.read += 1;
        let id = String::from_utf8_lossy(&name);
        let record = self.decode.record(content, Some(&id));
        record.map(Some).map_err(|error| error.at(format!("element `{id}`")))
    }

    fn position(&self) -> ScanPosition {
        self.position.clone()
    }

    fn total(&self) -> Option<Total> {
        self.total.map(Total::Items)
    }

    fn done(&self) -> u64 {
        self.read
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.scan = None;
        Ok(())
    }
}
