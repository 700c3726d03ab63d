//! Rows of a query as items, resumable by key or by position.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use batchwright::{ErrorKind, ItemError, ItemReader, StepScope};
use serde::{Deserialize, Serialize};

use crate::database::{
    Database, Readable, Sql, SqlError, SqlErrorClass, SqlRow, SqlSession, SqlValue,
};

/// Rows handed from the cursor's thread at once: enough that the hand-over costs nothing a row.
const PAGE_ROWS: usize = 1_000;
/// Pages that the cursor's thread may be ahead.
const PAGES_AHEAD: usize = 2;

type Map<T> = Arc<dyn Fn(&SqlRow<'_>) -> Result<T, ItemError> + Send + Sync>;

/// Yields a `T` for every row of a query.
///
/// One query runs from beginning to end on a thread and connection of its own. A restart continues by
/// key (the rows behind the last one, found by the key's index: right even when rows were added
/// meanwhile) or, without a key, by position (the first rows are read over).
pub struct SqlReader<T> {
    database: Database,
    query: String,
    params: Vec<SqlValue<'static>>,
    key: Option<String>,
    map: Map<T>,
    cursor: Option<Cursor<T>>,
    position: SqlPosition,
}

/// Where a [`SqlReader`] stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[doc(hidden)]
pub struct SqlPosition {
    /// Rows read.
    rows: u64,
    /// Key of the last of them.
    key: Option<Key>,
}

/// A key's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Key {
    Integer(i64),
    Real(f64),
    Text(String),
}

impl From<&Key> for SqlValue<'static> {
    fn from(key: &Key) -> Self {
        match key {
            Key::Integer(value) => Self::Integer(*value),
            Key::Real(value) => Self::Float(*value),
            Key::Text(value) => value.clone().into(),
        }
    }
}

impl Key {
    /// A restart begins behind the last key. A row with that key again would be lost, one with a smaller key would
    /// come twice: both are refused before they are read.
    fn check_behind(&self, last: Option<&Self>, column: &str) -> Result<(), SqlError> {
        let what = match (last, self) {
            (Some(last), now) if last == now => "occurs in two rows",
            (Some(Self::Integer(last)), Self::Integer(now)) if now < last => "comes too late",
            (Some(Self::Real(last)), Self::Real(now)) if now < last => "comes too late",
            _ => return Ok(()),
        };
        Err(SqlError::new(
            SqlErrorClass::Data,
            format!(
                "key `{column}`: {self} {what}, so a restart could lose rows or repeat them; name a column that \
                 is unique and sorts as it compares, or leave the key out and write ORDER BY into the query"
            ),
        ))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Real(value) => write!(f, "{value}"),
            Self::Text(value) => write!(f, "`{}`", value.escape_debug()),
        }
    }
}

/// A row as the cursor's thread hands it over, with its key when the reader has one.
type Fetched<T> = (Result<T, ItemError>, Option<Key>);

struct Cursor<T> {
    /// `None` is the end; a channel that merely falls silent is a thread that died.
    pages: Receiver<Result<Option<Vec<Fetched<T>>>, ItemError>>,
    page: std::vec::IntoIter<Fetched<T>>,
    thread: Option<JoinHandle<()>>,
    ended: bool,
    columns: Vec<String>,
}

impl<T: Send + 'static> SqlReader<T> {
    /// The rows of `query` in `database`, in the order that the query gives them; each made into a `T`
    /// by `map`. The order must be the same on a restart: say `ORDER BY`.
    pub fn new(
        database: impl Into<Database>,
        query: impl Into<String>,
        map: impl Fn(&SqlRow<'_>) -> Result<T, ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            database: database.into(),
            query: query.into(),
            params: Vec::new(),
            key: None,
            map: Arc::new(map),
            cursor: None,
            position: SqlPosition::default(),
        }
    }

    /// Values for the parameters of the query: `?1`, `?2`, … on SQLite, `$1`, `$2`, … on PostgreSQL, `?` on
    /// MySQL and MariaDB.
    #[must_use]
    pub fn params<V: Into<SqlValue<'static>>>(
        mut self,
        params: impl IntoIterator<Item = V>,
    ) -> Self {
        self.params = params.into_iter().map(Into::into).collect();
        self
    }

    /// Orders by `column` of the query's result, which must be unique and not null, and resumes behind
    /// the last value read. A value that comes twice, or out of order, fails the step before its row is read; so
    /// does a MySQL `ENUM` or `SET`, which sorts otherwise than it compares.
    #[must_use]
    pub fn keyset(mut self, column: impl Into<String>) -> Self {
        self.key = Some(column.into());
        self
    }

    /// Names of the columns of the open query, in their order.
    pub fn columns(&self) -> Option<&[String]> {
        self.cursor.as_ref().map(|cursor| cursor.columns.as_slice())
    }

    /// What stands behind the query, and the parameters of both.
    fn rest(
        &self,
        session: &mut SqlSession,
        query: &str,
    ) -> Result<(String, Vec<SqlValue<'static>>), SqlError> {
        let mut params = self.params.clone();
        let Some(column) = &self.key else { return Ok((String::new(), params)) };
        let key = format!("q.{}", self.database.dialect().quoted(column));
        // Also without a position: a column that cannot be a key is refused before anything is read.
        let parameter = session.key_parameter(query, column, params.len() + 1)?;
        let behind = match &self.position.key {
            Some(last) => {
                params.push(last.into());
                format!("WHERE {key} > {parameter} ")
            }
            None => String::new(),
        };
        Ok((format!("{behind}ORDER BY {key}"), params))
    }

    fn start(&self) -> Result<Cursor<T>, ItemError> {
        let database = &self.database;
        let mut session = database
            .connect_read_only()
            .map_err(|error| error.of_item(format!("open `{database}`")))?;
        let query = self.query.trim().trim_end_matches(';');
        let (rest, params) =
            self.rest(&mut session, query).map_err(|error| error.of_item("prepare the query"))?;
        // Wrong SQL is found at `open`, before anything is read.
        let readable =
            session.readable(query, &rest).map_err(|error| error.of_item("prepare the query"))?;
        let Readable { text, columns } = readable;
        let read_over = if self.key.is_some() { 0 } else { self.position.rows };
        let (key, map) = (self.key.clone(), Arc::clone(&self.map));
        let last = self.position.key.clone();
        let (sender, pages) = sync_channel(PAGES_AHEAD);
        let thread =
            std::thread::Builder::new().name("sql cursor".to_owned()).spawn(move || {
                let fetch = Fetch { sql: Sql::native(&text), params, key, last, read_over, map };
                let ran = fetch.run(&mut session, &|page| sender.send(Ok(Some(page))).is_ok());
                let _ = match ran {
                    Ok(()) => sender.send(Ok(None)),
                    Err(error) => sender.send(Err(error.of_item("read the next row"))),
                };
            })?;
        Ok(Cursor {
            pages,
            page: Vec::new().into_iter(),
            thread: Some(thread),
            ended: false,
            columns,
        })
    }
}

/// One run of the query.
struct Fetch<T> {
    sql: Sql,
    params: Vec<SqlValue<'static>>,
    key: Option<String>,
    /// The key behind which it begins.
    last: Option<Key>,
    read_over: u64,
    map: Map<T>,
}

impl<T> Fetch<T> {
    /// Hands page after page to `send`, until it says that nobody listens any more.
    fn run(
        &self,
        session: &mut SqlSession,
        send: &dyn Fn(Vec<Fetched<T>>) -> bool,
    ) -> Result<(), SqlError> {
        let (mut read_over, mut last) = (self.read_over, self.last.clone());
        let mut page = Vec::with_capacity(PAGE_ROWS);
        session.stream(&self.sql, &self.params, &mut |row| {
            if read_over > 0 {
                read_over -= 1;
                return Ok(true);
            }
            let key = self.key.as_deref().map(|key| key_of(row, key)).transpose()?;
            if let (Some(column), Some(key)) = (&self.key, &key) {
                key.check_behind(last.as_ref(), column)?;
                last = Some(key.clone());
            }
            let item = catch_unwind(AssertUnwindSafe(|| (self.map)(row)))
                .unwrap_or_else(|payload| Err(ItemError::from_panic(&*payload)));
            page.push((item, key));
            if page.len() < PAGE_ROWS {
                return Ok(true);
            }
            Ok(send(std::mem::replace(&mut page, Vec::with_capacity(PAGE_ROWS))))
        })?;
        send(page);
        Ok(())
    }
}

fn key_of(row: &SqlRow<'_>, column: &str) -> Result<Key, SqlError> {
    match row.read::<SqlValue<'static>>(column)? {
        SqlValue::Integer(value) => Ok(Key::Integer(value)),
        SqlValue::Float(value) if value.is_finite() => Ok(Key::Real(value)),
        SqlValue::Text(text) => Ok(Key::Text(text.into_owned())),
        other => Err(SqlError::new(
            SqlErrorClass::Data,
            format!("key `{column}`: expected a finite number or text, found {}", other.kind()),
        )),
    }
}

impl<T> Clone for SqlReader<T> {
    /// The same query, not running.
    fn clone(&self) -> Self {
        Self {
            database: self.database.clone(),
            query: self.query.clone(),
            params: self.params.clone(),
            key: self.key.clone(),
            map: Arc::clone(&self.map),
            cursor: None,
            position: SqlPosition::default(),
        }
    }
}

impl<T: Send + Sync + 'static> ItemReader for SqlReader<T> {
    type Item = T;
    type Position = SqlPosition;

    fn open(&mut self, position: Option<SqlPosition>, _: &StepScope) -> Result<(), ItemError> {
        self.position = position.unwrap_or_default();
        self.cursor = Some(self.start()?);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        let cursor = self.cursor.as_mut().ok_or_else(|| ItemError::fatal("read a closed query"))?;
        loop {
            if let Some((item, key)) = cursor.page.next() {
                self.position.rows += 1;
                self.position.key = key;
                let row = self.position.rows;
                return item.map(Some).map_err(|error| error.at(format!("row {row}")));
            }
            match cursor.pages.recv() {
                Ok(Ok(Some(page))) => cursor.page = page.into_iter(),
                Ok(Ok(None)) => {
                    cursor.ended = true;
                    return Ok(None);
                }
                Err(_) if cursor.ended => return Ok(None),
                // The query is over: no other read would go better.
                Ok(Err(error)) => return Err(error.with_kind(ErrorKind::FATAL)),
                Err(_) => {
                    return Err(ItemError::fatal("read the next row: the cursor's thread died"));
                }
            }
        }
    }

    fn position(&self) -> SqlPosition {
        self.position.clone()
    }

    fn reads_ahead(&self) -> bool {
        // The cursor's own thread is ahead already.
        false
    }

    fn close(&mut self) -> Result<(), ItemError> {
        if let Some(Cursor { pages, thread, .. }) = self.cursor.take() {
            drop(pages);
            if let Some(thread) = thread {
                let _ = thread.join();
            }
        }
        Ok(())
    }
}
