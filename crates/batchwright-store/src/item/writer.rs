//! Items into a table: of the store's own database, in the chunk's transaction; or of another SQLite
//! database, which then keeps the checkpoint too.

use std::sync::Arc;

use batchwright::{
    ChunkTransaction, Durability, ErrorKind, ItemError, ItemWriter, PreparedCommit, StepScope,
    StepStart,
};
use rusqlite::{CachedStatement, Connection, OptionalExtension, ToSql};

use super::{item_error, quoted};
use crate::sqlite::SqliteDatabase;

/// How an item becomes a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqlMode {
    /// A new row; a taken key is an error of kind `data.constraint`.
    Insert,
    /// A new row, or the row with the same key changed.
    Upsert {
        /// Columns of a unique key of the table, among those that are bound.
        key: Vec<String>,
    },
    /// The row with that key changed; it is an error of kind `data.missing` when there is none.
    Update {
        /// Columns that find the row, among those that are bound.
        key: Vec<String>,
    },
    /// This statement; its parameters are bound in the order of the columns.
    Statement(String),
}

/// Binds the values of one item, in the order of the columns.
pub struct RowBinder<'r, 's> {
    statement: &'r mut CachedStatement<'s>,
    next: usize,
}

impl RowBinder<'_, '_> {
    /// The value of the next column.
    ///
    /// # Errors
    ///
    /// When it cannot be bound; the item counts as failed.
    #[inline]
    pub fn bind(&mut self, value: impl ToSql) -> rusqlite::Result<()> {
        self.next += 1;
        self.statement.raw_bind_parameter(self.next, value)
    }
}

type Bind<T> = Arc<dyn Fn(&T, &mut RowBinder<'_, '_>) -> rusqlite::Result<()> + Send + Sync>;

/// Writes each output as a row.
///
/// In the store's own database the rows commit with the checkpoint. In another database they commit
/// with a copy of it in the table `batchwright_checkpoint` there; whatever of the two commits a crash
/// leaves undone, the restart finishes. Either way every row is written exactly once.
pub struct SqlWriter<T> {
    target: Target,
    sql: String,
    update: bool,
    columns: usize,
    bind: Bind<T>,
}

enum Target {
    Store,
    Other { database: SqliteDatabase, open: Option<Box<Other>> },
}

/// The other database, open.
struct Other {
    connection: Connection,
    key: CheckpointKey,
    writing: bool,
}

/// Whose checkpoint a row of `batchwright_checkpoint` is.
struct CheckpointKey {
    store: String,
    instance: i64,
    step: String,
    execution: i64,
}

impl<T> SqlWriter<T> {
    /// Inserts into `table` of the store's own database: `bind` binds the values of `columns`.
    pub fn in_store<S: Into<String>>(
        table: &str,
        columns: impl IntoIterator<Item = S>,
        bind: impl Fn(&T, &mut RowBinder<'_, '_>) -> rusqlite::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Target::Store, table, columns, bind)
    }

    /// Inserts into `table` of another SQLite database: `bind` binds the values of `columns`.
    pub fn in_database<S: Into<String>>(
        database: SqliteDatabase,
        table: &str,
        columns: impl IntoIterator<Item = S>,
        bind: impl Fn(&T, &mut RowBinder<'_, '_>) -> rusqlite::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Target::Other { database, open: None }, table, columns, bind)
    }

    fn new<S: Into<String>>(
        target: Target,
        table: &str,
        columns: impl IntoIterator<Item = S>,
        bind: impl Fn(&T, &mut RowBinder<'_, '_>) -> rusqlite::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let columns: Vec<String> = columns.into_iter().map(Into::into).collect();
        let sql = insert(table, &columns);
        Self { target, sql, update: false, columns: columns.len(), bind: Arc::new(bind) }
    }

    /// Says anew how items become changes of `table`: the values that are bound are those of `columns`,
    /// in their order.
    ///
    /// # Errors
    ///
    /// When a key column is not among the columns, or there is nothing to change.
    pub fn set_mode(
        &mut self,
        table: &str,
        columns: &[String],
        mode: &SqlMode,
    ) -> Result<(), ItemError> {
        self.sql = statement(table, columns, mode)?;
        self.update = matches!(mode, SqlMode::Update { .. });
        self.columns = columns.len();
        Ok(())
    }
}

fn insert(table: &str, columns: &[String]) -> String {
    let names: Vec<_> = columns.iter().map(|name| quoted(name)).collect();
    let marks: Vec<_> = (1..=columns.len()).map(|index| format!("?{index}")).collect();
    format!("INSERT INTO {} ({}) VALUES ({})", quoted(table), names.join(", "), marks.join(", "))
}

fn statement(table: &str, columns: &[String], mode: &SqlMode) -> Result<String, ItemError> {
    let (SqlMode::Upsert { key } | SqlMode::Update { key }) = mode else {
        return Ok(match mode {
            SqlMode::Statement(sql) => sql.clone(),
            _ => insert(table, columns),
        });
    };
    if let Some(missing) = key.iter().find(|name| !columns.contains(name)) {
        return Err(ItemError::fatal(format!(
            "write by key `{missing}`: no such column is written"
        )));
    }
    if key.is_empty() {
        return Err(ItemError::fatal("write by key: no key column is named"));
    }
    let rest: Vec<_> = (1..).zip(columns).filter(|(_, name)| !key.contains(name)).collect();
    if let SqlMode::Upsert { .. } = mode {
        let names: Vec<_> = key.iter().map(|name| quoted(name)).collect();
        let set: Vec<_> =
            rest.iter().map(|(_, name)| format!("{0} = excluded.{0}", quoted(name))).collect();
        let action = match set.is_empty() {
            true => "NOTHING".to_owned(),
            false => format!("UPDATE SET {}", set.join(", ")),
        };
        return Ok(format!(
            "{} ON CONFLICT ({}) DO {action}",
            insert(table, columns),
            names.join(", ")
        ));
    }
    if rest.is_empty() {
        return Err(ItemError::fatal("update rows: every column is a key, nothing would change"));
    }
    let equals = |(index, name): &(usize, &String)| format!("{} = ?{index}", quoted(name));
    let set: Vec<_> = rest.iter().map(equals).collect();
    let found: Vec<_> =
        (1..).zip(columns).filter(|(_, name)| key.contains(name)).map(|one| equals(&one)).collect();
    Ok(format!("UPDATE {} SET {} WHERE {}", quoted(table), set.join(", "), found.join(" AND ")))
}

impl<T> Clone for SqlWriter<T> {
    /// The same table, not open.
    fn clone(&self) -> Self {
        let target = match &self.target {
            Target::Store => Target::Store,
            Target::Other { database, .. } => {
                Target::Other { database: database.clone(), open: None }
            }
        };
        Self {
            target,
            sql: self.sql.clone(),
            update: self.update,
            columns: self.columns,
            bind: Arc::clone(&self.bind),
        }
    }
}

impl<T> SqlWriter<T> {
    fn write_rows(&self, connection: &Connection, items: &[T]) -> Result<(), ItemError> {
        let mut statement = connection
            .prepare_cached(&self.sql)
            .map_err(|error| item_error("prepare the statement of the writer", error))?;
        let wanted = statement.parameter_count();
        if wanted != self.columns {
            let what = format!("bind {} columns: the statement takes {wanted}", self.columns);
            return Err(ItemError::fatal(what));
        }
        for item in items {
            let mut row = RowBinder { statement: &mut statement, next: 0 };
            (self.bind)(item, &mut row).map_err(|error| item_error("bind a row", error))?;
            let changed =
                statement.raw_execute().map_err(|error| item_error("write a row", error))?;
            if self.update && changed == 0 {
                let kind = ErrorKind::new("data.missing");
                return Err(ItemError::new(kind, "update a row: there is none with that key"));
            }
        }
        Ok(())
    }
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
                let (other, held) = Other::open(database, scope)?;
                *open = Some(Box::new(other));
                Ok(Some(held))
            }
        }
    }

    fn write(&mut self, items: &[T], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        if let Target::Other { open, .. } = &mut self.target {
            let other =
                open.as_mut().ok_or_else(|| ItemError::fatal("write to a closed database"))?;
            other.begin()?;
        }
        match &self.target {
            Target::Store => self.write_rows(chunk.resource::<Connection>()?, items),
            Target::Other { open: Some(other), .. } => self.write_rows(&other.connection, items),
            Target::Other { open: None, .. } => Err(ItemError::fatal("write to a closed database")),
        }
    }

    fn position(&mut self) -> Result<(), ItemError> {
        Ok(())
    }

    fn prepares(&self) -> bool {
        matches!(self.target, Target::Other { .. })
    }

    fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
        match &mut self.target {
            Target::Other { open: Some(other), .. } => other.prepare(commit),
            _ => Ok(()),
        }
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        match &mut self.target {
            Target::Other { open: Some(other), .. } => other.roll_back(),
            _ => Ok(()),
        }
    }

    fn close(&mut self, _: batchwright::Ending) -> Result<(), ItemError> {
        if let Target::Other { open, .. } = &mut self.target
            && let Some(mut other) = open.take()
        {
            other.roll_back()?;
        }
        Ok(())
    }
}

impl Other {
    /// Opens `database`, takes over the checkpoint of this step's instance there, and returns the last
    /// commit that it holds.
    fn open(
        database: &SqliteDatabase,
        scope: &StepScope,
    ) -> Result<(Self, PreparedCommit), ItemError> {
        let failed = |error| item_error(format!("open `{}`", database.path().display()), error);
        let durability = match scope.durability() {
            Durability::Power => Durability::Power,
            Durability::Process | Durability::None => Durability::Process,
        };
        let connection = database.clone().durability(durability).connect().map_err(failed)?;
        let key = CheckpointKey {
            store: scope.store_id().to_owned(),
            instance: scope.job().instance_id().0,
            step: scope.step().to_owned(),
            execution: scope.job().execution_id().0,
        };
        let other = Self { connection, key, writing: false };
        let held = other.take_over(scope.start() == StepStart::Fresh).map_err(failed)?;
        let held = held.ok_or_else(ItemError::lease_lost)?;
        let held = match held {
            Some(text) => serde_json::from_str(&text).map_err(|error| {
                ItemError::wrap(ErrorKind::FATAL, "understand the checkpoint in the sink", error)
            })?,
            None => PreparedCommit {
                sequence: 0,
                checkpoint: String::new(),
                counters: batchwright::Counters::default(),
                skips: Vec::new(),
                step_context: None,
                job_context: None,
            },
        };
        Ok((other, held))
    }

    /// Writes this execution into the row, so that an older one can commit nothing more.
    ///
    /// `None`: a newer execution stands there already; this one woke up too late.
    fn take_over(&self, fresh: bool) -> rusqlite::Result<Option<Option<String>>> {
        self.connection.execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS batchwright_checkpoint (
                 store     TEXT    NOT NULL,
                 instance  INTEGER NOT NULL,
                 step      TEXT    NOT NULL,
                 execution INTEGER NOT NULL,
                 prepared  TEXT,
                 PRIMARY KEY (store, instance, step)
             ) STRICT, WITHOUT ROWID",
        )?;
        let CheckpointKey { store, instance, step, execution } = &self.key;
        let reset = if fresh { "prepared = NULL," } else { "" };
        let sql = format!(
            "INSERT INTO batchwright_checkpoint VALUES (?1, ?2, ?3, ?4, NULL)
             ON CONFLICT DO UPDATE SET {reset} execution = excluded.execution
             WHERE execution <= excluded.execution RETURNING prepared"
        );
        let key = (store, instance, step, execution);
        let held = self.connection.query_row(&sql, key, |row| row.get(0)).optional();
        let end = if held.is_ok() { "COMMIT" } else { "ROLLBACK" };
        self.connection.execute_batch(end)?;
        held
    }

    fn begin(&mut self) -> Result<(), ItemError> {
        if !self.writing {
            self.connection
                .execute_batch("BEGIN IMMEDIATE")
                .map_err(|error| item_error("begin in the sink", error))?;
            self.writing = true;
        }
        Ok(())
    }

    fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
        self.begin()?;
        let text = serde_json::to_string(commit)
            .map_err(|error| ItemError::wrap(ErrorKind::FATAL, "store the checkpoint", error))?;
        let CheckpointKey { store, instance, step, execution } = &self.key;
        let saved = self
            .connection
            .prepare_cached(
                "UPDATE batchwright_checkpoint SET prepared = ?5
                 WHERE store = ?1 AND instance = ?2 AND step = ?3 AND execution = ?4",
            )
            .and_then(|mut statement| statement.execute((store, instance, step, execution, text)))
            .map_err(|error| item_error("store the checkpoint in the sink", error))?;
        if saved == 0 {
            return Err(ItemError::lease_lost());
        }
        self.connection
            .execute_batch("COMMIT")
            .map_err(|error| item_error("commit in the sink", error))?;
        self.writing = false;
        Ok(())
    }

    fn roll_back(&mut self) -> Result<(), ItemError> {
        if std::mem::take(&mut self.writing) && !self.connection.is_autocommit() {
            self.connection
                .execute_batch("ROLLBACK")
                .map_err(|error| item_error("roll back in the sink", error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(columns: &[&str], mode: SqlMode) -> Result<String, String> {
        let columns: Vec<_> = columns.iter().map(ToString::to_string).collect();
        statement("t", &columns, &mode).map_err(|error| error.to_string())
    }

    #[test]
    fn every_mode_has_its_statement() {
        let key = || vec!["a".to_owned()];
        assert_eq!(
            sql(&["a", "b"], SqlMode::Insert).unwrap(),
            r#"INSERT INTO "t" ("a", "b") VALUES (?1, ?2)"#
        );
        assert_eq!(
            sql(&["a", "b"], SqlMode::Upsert { key: key() }).unwrap(),
            r#"INSERT INTO "t" ("a", "b") VALUES (?1, ?2) ON CONFLICT ("a") DO UPDATE SET "b" = excluded."b""#
        );
        assert_eq!(
            sql(&["b", "a"], SqlMode::Update { key: key() }).unwrap(),
            r#"UPDATE "t" SET "b" = ?1 WHERE "a" = ?2"#
        );
    }

    #[test]
    fn a_key_that_is_not_written_is_refused() {
        let mode = SqlMode::Update { key: vec!["c".to_owned()] };
        assert_eq!(sql(&["a"], mode).unwrap_err(), "write by key `c`: no such column is written");
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert_eq!(quoted(r#"a"; DROP TABLE t; --"#), r#""a""; DROP TABLE t; --""#);
    }
}
