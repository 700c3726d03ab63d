//! Reads the rows of a query as items; restarts continue by key or by position.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use batchwright::ItemError;
use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;
use batchwright::item::ItemReader;
use batchwright::scope::StepScope;
use serde::{Deserialize, Serialize};

use super::interrupt::until_stopped;
use super::key::{Continuation, Key, KeyColumns};
use crate::database::{Database, Readable, Sql, SqlError, SqlRow, SqlSession, SqlValue};

/// Rows that the cursor's thread sends at once: enough to make the cost of sending negligible per row.
const PAGE_ROWS: usize = 1_000;
/// Maximum number of pages that the cursor's thread reads ahead.
const PAGES_AHEAD: usize = 2;

type Map<T> = Arc<dyn Fn(&SqlRow<'_>) -> Result<T, ItemError> + Send + Sync>;

/// Yields a `T` for every row of a query.
///
/// One query runs from beginning to end on a thread and connection of its own. A restart continues by
/// key (the rows after the last one, found by the key's index; correct even when rows were added
/// meanwhile) or, without a key, by position (the first rows are read again and ignored).
pub struct SqlReader<T> {
    database: Database,
    query: String,
    params: Vec<SqlValue<'static>>,
    key: Option<KeyColumns>,
    map: Map<T>,
    cursor: Option<Cursor<T>>,
    position: SqlPosition,
}

/// The position of a [`SqlReader`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[doc(hidden)]
pub struct SqlPosition {
    /// Number of rows read.
    rows: u64,
    /// Key of the last row read.
    key: Option<Key>,
    /// The columns of the key; missing in checkpoints of version 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    columns: Option<KeyColumns>,
}

/// A row from the cursor's thread, with its key if the reader has key columns.
type Fetched<T> = (Result<T, ItemError>, Option<Key>);

struct Cursor<T> {
    /// Pages of rows; `None` is the end of the query. A channel that closes without it means that the thread
    /// died.
    pages: Receiver<Result<Option<Vec<Fetched<T>>>, ItemError>>,
    page: std::vec::IntoIter<Fetched<T>>,
    thread: Option<JoinHandle<()>>,
    ended: bool,
    columns: Vec<String>,
}

impl<T: Send + 'static> SqlReader<T> {
    /// A reader of the rows of `query` in `database`, in the order of the query; `map` makes each row into a
    /// `T`. The order must be the same on a restart: write `ORDER BY`.
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

    /// Sets the values for the parameters of the query: `?1`, `?2`, … on SQLite, `$1`, `$2`, … on PostgreSQL,
    /// `?` on MySQL and MariaDB.
    #[must_use]
    pub fn params<V: Into<SqlValue<'static>>>(
        mut self,
        params: impl IntoIterator<Item = V>,
    ) -> Self {
        self.params = params.into_iter().map(Into::into).collect();
        self
    }

    /// Orders by `columns` of the query's result, such as `"id"` or `["day", "id"]`, which together must be
    /// unique and not null, and continues a restart after the last key read.
    ///
    /// A key that occurs twice or is out of order fails the step before its row is read. A MySQL `ENUM` or
    /// `SET`, which sorts and compares differently, fails the step too. At a restart the reader checks in the
    /// database that the last key is unique, because a collation may treat different texts as equal.
    #[must_use]
    pub fn keyset(mut self, columns: impl Into<KeyColumns>) -> Self {
        self.key = Some(columns.into());
        self
    }

    /// Returns the names of the columns of the open query in order; `None` if it is not open.
    pub fn columns(&self) -> Option<&[String]> {
        self.cursor.as_ref().map(|cursor| cursor.columns.as_slice())
    }

    fn start(&self, stop: StopToken) -> Result<Cursor<T>, ItemError> {
        let database = &self.database;
        let mut session = database
            .connect_read_only()
            .map_err(|error| error.of_item(format!("cannot open `{database}`")))?;
        let query = self.query.trim().trim_end_matches(';');
        let (last, params) = (self.position.key.clone(), self.params.clone());
        let Continuation { rest, params } = match &self.key {
            Some(key) => until_stopped(&mut session, &stop, |session| {
                key.continue_after(last.as_ref(), session, database.dialect(), query, params)
                    .map_err(|error| error.of_item("cannot prepare the query"))
            })?,
            None => Continuation { rest: String::new(), params },
        };
        // Invalid SQL fails in `open`, before anything is read.
        let readable = session
            .readable(query, &rest)
            .map_err(|error| error.of_item("cannot prepare the query"))?;
        let Readable { text, columns } = readable;
        let read_over = if self.key.is_some() { 0 } else { self.position.rows };
        let (key, map) = (self.key.clone(), Arc::clone(&self.map));
        let (sender, pages) = sync_channel(PAGES_AHEAD);
        let thread =
            std::thread::Builder::new().name("sql cursor".to_owned()).spawn(move || {
                let fetch = Fetch { sql: Sql::native(&text), params, key, last, read_over, map };
                let ran = until_stopped(&mut session, &stop, |session| {
                    let ran = fetch.run(session, &|page| sender.send(Ok(Some(page))).is_ok());
                    ran.map_err(|error| error.of_item("cannot read the next row"))
                });
                let _ = sender.send(ran.map(|()| None));
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
    key: Option<KeyColumns>,
    /// The key after which the query begins.
    last: Option<Key>,
    read_over: u64,
    map: Map<T>,
}

impl<T> Fetch<T> {
    /// Sends page after page until `send` returns `false` because the receiver was closed.
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
            let key = self.key.as_ref().map(|key| key.of(row)).transpose()?;
            if let (Some(columns), Some(key)) = (&self.key, &key) {
                columns.check(last.as_ref(), key)?;
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

impl<T> Clone for SqlReader<T> {
    /// Returns a reader of the same query that is not open.
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

    fn open(&mut self, position: Option<SqlPosition>, scope: &StepScope) -> Result<(), ItemError> {
        self.position = position.unwrap_or_default();
        if let (Some(then), Some(now)) = (&self.position.columns, &self.key) {
            now.check_same(then)?;
        }
        self.position.columns.clone_from(&self.key);
        self.cursor = Some(self.start(scope.stop().clone())?);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        let cursor =
            self.cursor.as_mut().ok_or_else(|| ItemError::fatal("cannot read a closed query"))?;
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
                Ok(Err(error)) if error.is_stop() => return Err(error),
                // The query has ended, so a retry cannot succeed.
                Ok(Err(error)) => return Err(error.with_kind(ErrorKind::FATAL)),
                Err(_) => {
                    return Err(ItemError::fatal(
                        "cannot read the next row: the cursor's thread died",
                    ));
                }
            }
        }
    }

    fn position(&self) -> SqlPosition {
        self.position.clone()
    }

    fn reads_ahead(&self) -> bool {
        // The cursor's own thread already reads ahead.
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
