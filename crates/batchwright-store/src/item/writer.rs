//! Writes items to a table: of the store's own database, in the chunk's transaction, or of another database,
//! which then also stores a copy of the checkpoint.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::item::{ChunkTransaction, Ending, ItemWriter, PreparedCommit};
use batchwright::scope::StepScope;

use super::sink::Sink;
use super::statement::{Bind, Change, Prepared, RowBinder, SqlMode};
use crate::database::{Database, SqlSession};

/// Number of rows in a chunk if the step sets none: on a server, the commit of a thousand costs as much as their rows.
const CHUNK_ITEMS: usize = 5_000;

/// Writes each output as a row.
///
/// In the store's own database the rows commit with the checkpoint. In another database they commit
/// with a copy of the checkpoint in the table `batchwright_checkpoint` there; if a crash separates the two
/// commits, the restart completes the missing one. Either way every row is written exactly once.
///
/// A chunk is written in as few statements as the database allows: one prepared statement per row on SQLite,
/// one array per column on PostgreSQL, lists of up to a thousand rows on MySQL and MariaDB.
pub struct SqlWriter<T> {
    target: Target,
    change: Change,
    bind: Bind<T>,
    prepared: Option<Prepared>,
}

enum Target {
    Store,
    Other { database: Database, open: Option<Box<Sink>> },
}

impl<T> SqlWriter<T> {
    /// A writer that inserts into `table` of the store's own database; `bind` binds the values of `columns`.
    pub fn in_store<S: Into<String>>(
        table: &str,
        columns: impl IntoIterator<Item = S>,
        bind: impl Fn(&T, &mut RowBinder<'_, '_>) -> Result<(), ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Target::Store, table, columns, bind)
    }

    /// A writer that inserts into `table` of another database; `bind` binds the values of `columns`.
    pub fn in_database<S: Into<String>>(
        database: impl Into<Database>,
        table: &str,
        columns: impl IntoIterator<Item = S>,
        bind: impl Fn(&T, &mut RowBinder<'_, '_>) -> Result<(), ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Target::Other { database: database.into(), open: None }, table, columns, bind)
    }

    fn new<S: Into<String>>(
        target: Target,
        table: &str,
        columns: impl IntoIterator<Item = S>,
        bind: impl Fn(&T, &mut RowBinder<'_, '_>) -> Result<(), ItemError> + Send + Sync + 'static,
    ) -> Self {
        let columns: Vec<String> = columns.into_iter().map(Into::into).collect();
        let change = Change { table: table.to_owned(), columns, mode: SqlMode::Insert };
        Self { target, change, bind: Arc::new(bind), prepared: None }
    }

    /// Sets how items become changes.
    ///
    /// # Errors
    ///
    /// Fails if a key column is not among the columns, or if an update has no column to change.
    pub fn mode(mut self, mode: SqlMode) -> Result<Self, ItemError> {
        self.change.mode = mode;
        self.change.check()?;
        Ok(self)
    }

    /// Replaces the columns that are bound, in order.
    ///
    /// # Errors
    ///
    /// Fails as [`mode`](Self::mode) does.
    pub fn set_columns(&mut self, columns: &[String]) -> Result<(), ItemError> {
        self.change.columns = columns.to_vec();
        self.prepared = None;
        self.change.check()
    }
}

impl<T> Clone for SqlWriter<T> {
    /// Returns a writer to the same table that is not open.
    fn clone(&self) -> Self {
        let target = match &self.target {
            Target::Store => Target::Store,
            Target::Other { database, .. } => {
                Target::Other { database: database.clone(), open: None }
            }
        };
        let (change, bind) = (self.change.clone(), Arc::clone(&self.bind));
        Self { target, change, bind, prepared: None }
    }
}

fn closed() -> ItemError {
    ItemError::fatal("cannot write to a closed database")
}

impl<T: Send + Sync> ItemWriter<T> for SqlWriter<T> {
    type Position = ();

    fn open(
        &mut self,
        _: Option<()>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        match &mut self.target {
            Target::Store => Ok(None),
            Target::Other { database, open } => {
                let (sink, held) = Sink::open(database, scope)?;
                *open = Some(Box::new(sink));
                Ok(Some(held))
            }
        }
    }

    fn write(&mut self, items: &[T], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        let session = match &mut self.target {
            Target::Store => chunk.resource::<SqlSession>()?,
            Target::Other { open, .. } => open.as_mut().ok_or_else(closed)?.session()?,
        };
        let prepared = match &mut self.prepared {
            Some(prepared) => prepared,
            None => self.prepared.insert(Prepared::new(&self.change, session)?),
        };
        prepared.write(&self.change, session, items, &self.bind)
    }

    fn position(&mut self) -> Result<(), ItemError> {
        Ok(())
    }

    fn chunk_items(&self) -> usize {
        CHUNK_ITEMS
    }

    fn prepares(&self) -> bool {
        matches!(self.target, Target::Other { .. })
    }

    fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
        match &mut self.target {
            Target::Other { open: Some(sink), .. } => sink.prepare(commit),
            _ => Ok(()),
        }
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        match &mut self.target {
            Target::Other { open: Some(sink), .. } => sink.roll_back(),
            _ => Ok(()),
        }
    }

    fn close(&mut self, _: Ending) -> Result<(), ItemError> {
        match &mut self.target {
            Target::Other { open, .. } => match open.take() {
                Some(mut sink) => sink.roll_back(),
                None => Ok(()),
            },
            Target::Store => Ok(()),
        }
    }
}
