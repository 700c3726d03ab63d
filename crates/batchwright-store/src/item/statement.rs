//! Turns items into changes of a table, in as few statements as the database allows.

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use batchwright::ItemError;
use batchwright::error::ErrorKind;

#[cfg(feature = "postgres")]
use crate::database::{ArrayColumn, PostgresSession};
use crate::database::{Dialect, Sql, SqlSession, SqlValue};
#[cfg(feature = "mysql")]
use crate::database::{MySqlSession, push_mysql, size_in_mysql};

/// How an item becomes a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqlMode {
    /// Inserts a row; an existing key is an error of kind `data.constraint`.
    Insert,
    /// Inserts a row, or updates the row with the same key. Of several items with one key the last one
    /// counts.
    Upsert {
        /// Bound columns that are a unique key of the table. MySQL uses every unique key of the table
        /// instead.
        key: Vec<String>,
    },
    /// Updates the row with the key; a missing row is an error of kind `data.missing`.
    Update {
        /// Bound columns that identify the row.
        key: Vec<String>,
    },
    /// Runs this statement once for every item; its parameters, in the syntax of the database, are bound in
    /// the order of the columns.
    Statement(String),
}

/// Binds the values of one item in the order of the columns.
pub struct RowBinder<'r, 's> {
    target: Target<'r, 's>,
    columns: &'r [String],
    next: usize,
}

enum Target<'r, 's> {
    #[cfg(feature = "sqlite")]
    Sqlite(&'r mut rusqlite::CachedStatement<'s>),
    #[cfg(feature = "postgres")]
    Arrays(&'r mut [ArrayColumn]),
    #[cfg(feature = "mysql")]
    Arguments {
        arguments: &'r mut sqlx::mysql::MySqlArguments,
        bytes: &'r mut usize,
    },
    Values(&'r mut Vec<SqlValue<'static>>, std::marker::PhantomData<&'s ()>),
}

impl RowBinder<'_, '_> {
    /// Binds the value of the next column.
    ///
    /// # Errors
    ///
    /// Fails if the value cannot be bound; the item then counts as failed.
    #[inline]
    pub fn bind<'v>(&mut self, value: impl Into<SqlValue<'v>>) -> Result<(), ItemError> {
        let value = value.into();
        let index = self.next;
        self.next += 1;
        match &mut self.target {
            #[cfg(feature = "sqlite")]
            Target::Sqlite(statement) => statement
                .raw_bind_parameter(index + 1, &value)
                .map_err(|error| crate::SqlError::from(error).of_item("cannot bind a value")),
            #[cfg(feature = "postgres")]
            Target::Arrays(columns) => match columns.get_mut(index) {
                Some(column) => column.push(&value).map_err(|problem| {
                    ItemError::data(format!(
                        "cannot write column `{}`: {problem}",
                        self.columns[index]
                    ))
                }),
                None => Ok(()),
            },
            #[cfg(feature = "mysql")]
            Target::Arguments { arguments, bytes } => {
                **bytes += size_in_mysql(&value);
                push_mysql(arguments, &value).map_err(|error| error.of_item("cannot bind a value"))
            }
            Target::Values(values, _) => {
                values.push(value.into_owned());
                Ok(())
            }
        }
    }
}

/// A function that binds the values of one item.
pub(super) type Bind<T> =
    std::sync::Arc<dyn Fn(&T, &mut RowBinder<'_, '_>) -> Result<(), ItemError> + Send + Sync>;

/// A kind of change of a table: its columns and mode.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) table: String,
    pub(super) columns: Vec<String>,
    pub(super) mode: SqlMode,
}

impl Change {
    /// Checks that the mode fits the columns.
    pub(super) fn check(&self) -> Result<(), ItemError> {
        let (SqlMode::Upsert { key } | SqlMode::Update { key }) = &self.mode else { return Ok(()) };
        if let Some(missing) = key.iter().find(|name| !self.columns.contains(name)) {
            let message = format!("cannot write by key `{missing}`: the column is not written");
            return Err(ItemError::fatal(message));
        }
        if key.is_empty() {
            return Err(ItemError::fatal("cannot write by key: no key column is named"));
        }
        if matches!(self.mode, SqlMode::Update { .. }) && self.rest(key).next().is_none() {
            let message = "cannot update rows: every column is a key, nothing would change";
            return Err(ItemError::fatal(message));
        }
        Ok(())
    }

    fn rest<'a>(&'a self, key: &'a [String]) -> impl Iterator<Item = &'a String> {
        self.columns.iter().filter(|name| !key.contains(name))
    }

    fn insert_into(&self, dialect: Dialect) -> String {
        let names = list(self.columns.iter().map(|name| dialect.quoted(name)));
        format!("INSERT INTO {} ({names})", dialect.table(&self.table))
    }

    /// Returns the statement for one row.
    fn of_row(&self, dialect: Dialect) -> String {
        let marks = list((1..=self.columns.len()).map(|index| dialect.parameter(index)));
        let equals = |name: &String| {
            let index = self.columns.iter().position(|one| one == name).unwrap_or_default() + 1;
            // Parameters are numbered, because an update does not use them in the order of the columns.
            let parameter = match dialect {
                Dialect::MySql => Dialect::Sqlite.parameter(index),
                _ => dialect.parameter(index),
            };
            format!("{} = {parameter}", dialect.quoted(name))
        };
        let insert = || format!("{} VALUES ({marks})", self.insert_into(dialect));
        match &self.mode {
            SqlMode::Statement(text) => text.clone(),
            SqlMode::Insert => insert(),
            SqlMode::Upsert { key } => format!("{}{}", insert(), self.conflict(dialect, key)),
            SqlMode::Update { key } => {
                let set = list(self.rest(key).map(equals));
                let found: Vec<_> = key.iter().map(equals).collect();
                let table = dialect.table(&self.table);
                format!("UPDATE {table} SET {set} WHERE {}", found.join(" AND "))
            }
        }
    }

    fn conflict(&self, dialect: Dialect, key: &[String]) -> String {
        let names = list(key.iter().map(|name| dialect.quoted(name)));
        let taken = |name: &String| {
            let name = dialect.quoted(name);
            match dialect {
                Dialect::MySql => format!("{name} = VALUES({name})"),
                Dialect::Sqlite | Dialect::Postgres => format!("{name} = excluded.{name}"),
            }
        };
        let set = list(self.rest(key).map(taken));
        match (dialect, set.is_empty()) {
            (Dialect::MySql, true) => {
                let first = dialect.quoted(&key[0]);
                format!(" ON DUPLICATE KEY UPDATE {first} = {first}")
            }
            (Dialect::MySql, false) => format!(" ON DUPLICATE KEY UPDATE {set}"),
            (_, true) => format!(" ON CONFLICT ({names}) DO NOTHING"),
            (_, false) => format!(" ON CONFLICT ({names}) DO UPDATE SET {set}"),
        }
    }
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// A [`Change`] prepared for one database.
pub(super) enum Prepared {
    /// One statement per row.
    Rows(Sql),
    /// PostgreSQL: one array per column.
    #[cfg(feature = "postgres")]
    Arrays { sql: Sql, columns: Vec<ArrayColumn> },
    /// MySQL: a list of rows.
    #[cfg(feature = "mysql")]
    Values { head: String, tail: String, rows_max: usize },
}

impl Prepared {
    /// Prepares `change`; reads the types of the table's columns where they are needed.
    pub(super) fn new(change: &Change, session: &mut SqlSession) -> Result<Self, ItemError> {
        #[cfg(feature = "sqlite")]
        if session.native().is::<rusqlite::Connection>() {
            return Ok(Self::Rows(Sql::native(&change.of_row(Dialect::Sqlite))));
        }
        #[cfg(feature = "postgres")]
        if let Some(session) = session.native().downcast_mut::<PostgresSession>() {
            return postgres::prepare(change, session);
        }
        #[cfg(feature = "mysql")]
        if session.native().is::<MySqlSession>() {
            return Ok(mysql::prepare(change));
        }
        Err(another_database())
    }

    /// Writes `items`.
    pub(super) fn write<T>(
        &mut self,
        change: &Change,
        session: &mut SqlSession,
        items: &[T],
        bind: &Bind<T>,
    ) -> Result<(), ItemError> {
        let is_update = matches!(change.mode, SqlMode::Update { .. });
        let rows = Rows { items, columns: &change.columns, bind, is_update };
        match self {
            Self::Rows(sql) => {
                #[cfg(feature = "sqlite")]
                if let Some(connection) = session.native().downcast_mut::<rusqlite::Connection>() {
                    return rows.write_to_sqlite(connection, sql);
                }
                rows.write_singly(session, sql)
            }
            #[cfg(feature = "postgres")]
            Self::Arrays { sql, columns } => {
                let postgres = session.native().downcast_mut::<PostgresSession>();
                rows.write_arrays(postgres.ok_or_else(another_database)?, sql, columns)
            }
            #[cfg(feature = "mysql")]
            Self::Values { head, tail, rows_max } => {
                let mysql = session.native().downcast_mut::<MySqlSession>();
                rows.write_values(mysql.ok_or_else(another_database)?, (head, tail), *rows_max)
            }
        }
    }
}

/// Items to write as rows.
struct Rows<'a, T> {
    items: &'a [T],
    columns: &'a [String],
    bind: &'a Bind<T>,
    is_update: bool,
}

impl<T> Rows<'_, T> {
    fn bind(&self, item: &T, target: Target<'_, '_>) -> Result<(), ItemError> {
        let mut row = RowBinder { target, columns: self.columns, next: 0 };
        (self.bind)(item, &mut row)?;
        match row.next == self.columns.len() {
            true => Ok(()),
            false => Err(ItemError::fatal(format!(
                "cannot bind a row: {} values for {} columns",
                row.next,
                self.columns.len()
            ))),
        }
    }

    fn write_singly(&self, session: &mut SqlSession, sql: &Sql) -> Result<(), ItemError> {
        let mut values = Vec::with_capacity(self.columns.len());
        for item in self.items {
            values.clear();
            self.bind(item, Target::Values(&mut values, std::marker::PhantomData))?;
            let changed = session
                .execute(sql, &values)
                .map_err(|error| error.of_item("cannot write a row"))?;
            if self.is_update && changed == 0 {
                return Err(no_row());
            }
        }
        Ok(())
    }
}

fn no_row() -> ItemError {
    ItemError::new(ErrorKind::new("data.missing"), "cannot update a row: no row has this key")
}

fn another_database() -> ItemError {
    ItemError::fatal("cannot write rows: the writer was opened on another database")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(columns: &[&str], mode: SqlMode) -> Change {
        let columns = columns.iter().map(ToString::to_string).collect();
        Change { table: "t".to_owned(), columns, mode }
    }

    #[test]
    fn every_mode_has_its_statement() {
        let key = || vec!["a".to_owned()];
        let row = |mode, dialect| change(&["b", "a"], mode).of_row(dialect);
        assert_eq!(
            row(SqlMode::Insert, Dialect::Sqlite),
            r#"INSERT INTO "t" ("b", "a") VALUES (?1, ?2)"#
        );
        assert_eq!(
            row(SqlMode::Upsert { key: key() }, Dialect::Postgres),
            r#"INSERT INTO "t" ("b", "a") VALUES ($1, $2) ON CONFLICT ("a") DO UPDATE SET "b" = excluded."b""#
        );
        assert_eq!(
            row(SqlMode::Update { key: key() }, Dialect::Sqlite),
            r#"UPDATE "t" SET "b" = ?1 WHERE "a" = ?2"#
        );
    }

    #[test]
    fn a_key_that_is_not_written_is_refused() {
        let mode = SqlMode::Update { key: vec!["c".to_owned()] };
        let refused = change(&["a"], mode).check().unwrap_err();
        assert_eq!(refused.to_string(), "cannot write by key `c`: the column is not written");
    }
}
