//! Rows of a query as items, resumable by key or by position.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use batchwright::{ErrorKind, ItemError, ItemReader, StepScope, StopToken};
use serde::{Deserialize, Serialize};

use super::interrupt::until_stopped;
use super::key::{Behind, Key, KeyColumns};
use crate::database::{Database, Readable, Sql, SqlError, SqlRow, SqlSession, SqlValue};

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
    key: Option<KeyColumns>,
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
    /// The columns of that key; none in checkpoints of version 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    columns: Option<KeyColumns>,
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

    /// Orders by `columns` of the query's result, `"id"` or `["day", "id"]`, which together must be unique and not null,
    /// and resumes behind the last key read. A key that comes twice, or out of order, fails the step before its row is
    /// read; so does a MySQL `ENUM` or `SET`, which sorts otherwise than it compares. At a restart the database itself is
    /// asked whether the last key is unique: its collation may take different texts for the same.
    #[must_use]
    pub fn keyset(mut self, columns: impl Into<KeyColumns>) -> Self {
        self.key = Some(columns.into());
        self
    }

    /// Names of the columns of the open query, in their order.
    pub fn columns(&self) -> Option<&[String]> {
        self.cursor.as_ref().map(|cursor| cursor.columns.as_slice())
    }

    fn start(&self, stop: StopToken) -> Result<Cursor<T>, ItemError> {
        let database = &self.database;
        let mut session = database
            .connect_read_only()
            .map_err(|error| error.of_item(format!("open `{database}`")))?;
        let query = self.query.trim().trim_end_matches(';');
        let (last, params) = (self.position.key.clone(), self.params.clone());
        let Behind { rest, params } = match &self.key {
            Some(key) => until_stopped(&mut session, &stop, |session| {
                key.behind(last.as_ref(), session, database.dialect(), query, params)
                    .map_err(|error| error.of_item("prepare the query"))
            })?,
            None => Behind { rest: String::new(), params },
        };
        // Wrong SQL is found at `open`, before anything is read.
        let readable =
            session.readable(query, &rest).map_err(|error| error.of_item("prepare the query"))?;
        let Readable { text, columns } = readable;
        let read_over = if self.key.is_some() { 0 } else { self.position.rows };
        let (key, map) = (self.key.clone(), Arc::clone(&self.map));
        let (sender, pages) = sync_channel(PAGES_AHEAD);
        let thread =
            std::thread::Builder::new().name("sql cursor".to_owned()).spawn(move || {
                let fetch = Fetch { sql: Sql::native(&text), params, key, last, read_over, map };
                let ran = until_stopped(&mut session, &stop, |session| {
                    let ran = fetch.run(session, &|page| sender.send(Ok(Some(page))).is_ok());
                    ran.map_err(|error| error.of_item("read the next row"))
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
                Ok(Err(error)) if error.is_stop() => return Err(error),
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
