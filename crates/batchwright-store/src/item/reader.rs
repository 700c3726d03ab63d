//! Rows of a query as items, resumable by key or by position.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use batchwright::{ItemError, ItemReader, StepScope};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row, params_from_iter};
use serde::{Deserialize, Serialize};

use super::{item_error, quoted};
use crate::sqlite::SqliteDatabase;

/// Rows handed from the cursor's thread at once: enough that the hand-over costs nothing a row.
const PAGE_ROWS: usize = 1_000;
/// Pages that the cursor's thread may be ahead.
const PAGES_AHEAD: usize = 2;

type Map<T> = Arc<dyn Fn(&Row<'_>) -> Result<T, ItemError> + Send + Sync>;

/// Yields a `T` for every row of a query.
///
/// One query runs from beginning to end on a thread and connection of its own. A restart continues by
/// key (the rows behind the last one, found by the key's index: right even when rows were added
/// meanwhile) or, without a key, by position (the first rows are read over).
pub struct SqlReader<T> {
    database: SqliteDatabase,
    query: String,
    params: Vec<Value>,
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

/// A key's value, by the types that SQLite has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Key {
    Integer(i64),
    Real(f64),
    Text(String),
}

impl From<&Key> for Value {
    fn from(key: &Key) -> Self {
        match key {
            Key::Integer(value) => Self::Integer(*value),
            Key::Real(value) => Self::Real(*value),
            Key::Text(value) => Self::Text(value.clone()),
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
}

impl<T: Send + 'static> SqlReader<T> {
    /// The rows of `query` in `database`, in the order that the query gives them; each made into a `T`
    /// by `map`. The order must be the same on a restart: say `ORDER BY`.
    pub fn new(
        database: SqliteDatabase,
        query: impl Into<String>,
        map: impl Fn(&Row<'_>) -> Result<T, ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            database,
            query: query.into(),
            params: Vec::new(),
            key: None,
            map: Arc::new(map),
            cursor: None,
            position: SqlPosition::default(),
        }
    }

    /// Values for `?1`, `?2`, … of the query.
    #[must_use]
    pub fn params(mut self, params: impl IntoIterator<Item = Value>) -> Self {
        self.params = params.into_iter().collect();
        self
    }

    /// Orders by `column` of the query's result, which must be unique and not null, and resumes behind
    /// the last value read.
    #[must_use]
    pub fn keyset(mut self, column: impl Into<String>) -> Self {
        self.key = Some(column.into());
        self
    }

    /// The statement that runs, and its parameters.
    fn statement(&self) -> (String, Vec<Value>) {
        let mut params = self.params.clone();
        let query = self.query.trim().trim_end_matches(';');
        let Some(key) = &self.key else { return (query.to_owned(), params) };
        let key = quoted(key);
        let behind = match &self.position.key {
            Some(last) => {
                params.push(last.into());
                format!("WHERE {key} > ?{} ", params.len())
            }
            None => String::new(),
        };
        (format!("SELECT * FROM ({query}) {behind}ORDER BY {key}"), params)
    }

    fn start(&self) -> Result<Cursor<T>, ItemError> {
        let (sql, params) = self.statement();
        let connection = self.database.connect_read_only().map_err(|error| {
            item_error(format!("open `{}`", self.database.path().display()), error)
        })?;
        // Wrong SQL is told at `open`, before anything is read.
        connection.prepare(&sql).map_err(|error| item_error("prepare the query", error))?;
        let read_over = if self.key.is_some() { 0 } else { self.position.rows };
        let (key, map) = (self.key.clone(), Arc::clone(&self.map));
        let (sender, pages) = sync_channel(PAGES_AHEAD);
        let thread =
            std::thread::Builder::new().name("sql cursor".to_owned()).spawn(move || {
                let fetch = Fetch { sql, params, key, read_over, map };
                let _ = match fetch.run(&connection, &|page| sender.send(Ok(Some(page))).is_ok()) {
                    Ok(()) => sender.send(Ok(None)),
                    Err(error) => sender.send(Err(item_error("read the next row", error))),
                };
            })?;
        Ok(Cursor { pages, page: Vec::new().into_iter(), thread: Some(thread), ended: false })
    }
}

/// One run of the query.
struct Fetch<T> {
    sql: String,
    params: Vec<Value>,
    key: Option<String>,
    read_over: u64,
    map: Map<T>,
}

impl<T> Fetch<T> {
    /// Hands page after page to `send`, until it says that nobody listens any more.
    fn run(
        &self,
        connection: &Connection,
        send: &dyn Fn(Vec<Fetched<T>>) -> bool,
    ) -> rusqlite::Result<()> {
        let mut statement = connection.prepare(&self.sql)?;
        let key = self.key.as_deref().map(|key| statement.column_index(key)).transpose()?;
        let mut rows = statement.query(params_from_iter(&self.params))?;
        for _ in 0..self.read_over {
            rows.next()?;
        }
        let mut page = Vec::with_capacity(PAGE_ROWS);
        while let Some(row) = rows.next()? {
            let key = key.map(|index| key_of(row, index)).transpose()?;
            let item = catch_unwind(AssertUnwindSafe(|| (self.map)(row)))
                .unwrap_or_else(|payload| Err(ItemError::from_panic(&*payload)));
            page.push((item, key));
            if page.len() == PAGE_ROWS
                && !send(std::mem::replace(&mut page, Vec::with_capacity(PAGE_ROWS)))
            {
                return Ok(());
            }
        }
        send(page);
        Ok(())
    }
}

fn key_of(row: &Row<'_>, index: usize) -> rusqlite::Result<Key> {
    match row.get_ref(index)? {
        ValueRef::Integer(value) => Ok(Key::Integer(value)),
        ValueRef::Real(value) if value.is_finite() => Ok(Key::Real(value)),
        ValueRef::Text(_) => row.get(index).map(Key::Text),
        other => Err(rusqlite::Error::InvalidColumnType(
            index,
            "a key is a finite number or text".to_owned(),
            other.data_type(),
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
                Ok(Err(error)) => return Err(error.with_kind(batchwright::ErrorKind::FATAL)),
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
