//! Turns items into changes of a table, in as few statements as the database allows.

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use rusqlite::{CachedStatement, Connection};
use sqlx::mysql::MySqlArguments;

use crate::database::{
    ArrayColumn, ArrayKind, Dialect, MySqlSession, PostgresSession, Sql, SqlError, SqlSession,
    SqlValue, push_mysql, size_in_mysql, too_large,
};

/// Maximum number of rows in one statement of MySQL, and a tenth of the maximum of PostgreSQL, which gets
/// arrays.
const ROWS_MAX: usize = 1_000;
/// Maximum number of parameters in a statement of MySQL.
const MYSQL_PARAMETERS_MAX: usize = 65_535;
/// Number of bytes after which a list of values is sent, even if the server accepts more.
const MYSQL_BYTES_MAX: usize = 4 * 1024 * 1024;

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
    Sqlite(&'r mut CachedStatement<'s>),
    Arrays(&'r mut [ArrayColumn]),
    Arguments { arguments: &'r mut MySqlArguments, bytes: &'r mut usize },
    Values(&'r mut Vec<SqlValue<'static>>),
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
            Target::Sqlite(statement) => statement
                .raw_bind_parameter(index + 1, &value)
                .map_err(|error| SqlError::from(error).of_item("cannot bind a value")),
            Target::Arrays(columns) => match columns.get_mut(index) {
                Some(column) => column.push(&value).map_err(|problem| {
                    ItemError::data(format!(
                        "cannot write column `{}`: {problem}",
                        self.columns[index]
                    ))
                }),
                None => Ok(()),
            },
            Target::Arguments { arguments, bytes } => {
                **bytes += size_in_mysql(&value);
                push_mysql(arguments, &value).map_err(|error| error.of_item("cannot bind a value"))
            }
            Target::Values(values) => {
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

    /// Returns the statement of PostgreSQL for any number of rows: one array per column, cast to the column's
    /// type.
    fn of_arrays(&self, types: &[(ArrayKind, String)]) -> String {
        let quoted = |name: &String| Dialect::Postgres.quoted(name);
        let arrays = list(
            (1..).zip(types).map(|(index, (kind, _))| format!("${index}::{}", kind.array_type())),
        );
        let places = list((1..=types.len()).map(|index| format!("c{index}")));
        let casts =
            list((1..).zip(types).zip(&self.columns).map(|((index, (_, name)), column)| {
                format!("CAST(u.c{index} AS {name}) AS {}", quoted(column))
            }));
        let (SqlMode::Upsert { key } | SqlMode::Update { key }) = &self.mode else {
            let insert = self.insert_into(Dialect::Postgres);
            return format!("{insert} SELECT {casts} FROM unnest({arrays}) AS u({places})");
        };
        // Of several rows with one key the last one counts, as if they were written one by one.
        let names = list(key.iter().map(quoted));
        let newest = format!(
            "SELECT DISTINCT ON ({names}) * FROM (SELECT {casts}, u.bw_row FROM unnest({arrays}) \
             WITH ORDINALITY AS u({places}, bw_row)) AS r ORDER BY {names}, bw_row DESC"
        );
        if let SqlMode::Upsert { .. } = self.mode {
            let all = list(self.columns.iter().map(quoted));
            return format!(
                "{} SELECT {all} FROM ({newest}) AS bw_source{}",
                self.insert_into(Dialect::Postgres),
                self.conflict(Dialect::Postgres, key)
            );
        }
        let set = list(self.rest(key).map(|name| format!("{0} = bw_source.{0}", quoted(name))));
        let found: Vec<_> =
            key.iter().map(|name| format!("bw_target.{0} = bw_source.{0}", quoted(name))).collect();
        format!(
            "WITH bw_source AS MATERIALIZED ({newest}), bw_changed AS (UPDATE {} AS bw_target SET {set} \
             FROM bw_source WHERE {} RETURNING bw_source.bw_row) SELECT 1 FROM bw_source WHERE bw_row NOT IN \
             (SELECT bw_row FROM bw_changed)",
            Dialect::Postgres.table(&self.table),
            found.join(" AND ")
        )
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
    Arrays { sql: Sql, columns: Vec<ArrayColumn> },
    /// MySQL: a list of rows.
    Values { head: String, tail: String, rows_max: usize },
}

impl Prepared {
    /// Prepares `change`; reads the types of the table's columns where they are needed.
    pub(super) fn new(change: &Change, session: &mut SqlSession) -> Result<Self, ItemError> {
        let any = session.native();
        if any.is::<Connection>() {
            return Ok(Self::Rows(Sql::native(&change.of_row(Dialect::Sqlite))));
        }
        if let Some(postgres) = any.downcast_mut::<PostgresSession>() {
            if matches!(change.mode, SqlMode::Statement(_)) {
                return Ok(Self::Rows(Sql::native(&change.of_row(Dialect::Postgres))));
            }
            let types = column_types(change, postgres)?;
            let columns = types.iter().map(|(kind, _)| ArrayColumn::new(*kind)).collect();
            return Ok(Self::Arrays { sql: Sql::native(&change.of_arrays(&types)), columns });
        }
        match &change.mode {
            SqlMode::Statement(text) => Ok(Self::Rows(Sql::native(text))),
            // The text has numbered parameters, which `Sql` translates to MySQL's unnumbered ones.
            SqlMode::Update { .. } => {
                let text = change.of_row(Dialect::MySql);
                Ok(Self::Rows(Sql::new(Dialect::MySql, &text)))
            }
            SqlMode::Insert | SqlMode::Upsert { .. } => {
                let tail = match &change.mode {
                    SqlMode::Upsert { key } => change.conflict(Dialect::MySql, key),
                    _ => String::new(),
                };
                let head = format!("{} VALUES ", change.insert_into(Dialect::MySql));
                let columns = change.columns.len().max(1);
                Ok(Self::Values {
                    head,
                    tail,
                    rows_max: ROWS_MAX.min(MYSQL_PARAMETERS_MAX / columns),
                })
            }
        }
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
            Self::Rows(sql) => match session.native().downcast_mut::<Connection>() {
                Some(connection) => rows.write_to_sqlite(connection, sql),
                None => rows.write_singly(session, sql),
            },
            Self::Arrays { sql, columns } => {
                let postgres = session.native().downcast_mut::<PostgresSession>();
                rows.write_arrays(postgres.ok_or_else(another_database)?, sql, columns)
            }
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

    fn write_to_sqlite(&self, connection: &Connection, sql: &Sql) -> Result<(), ItemError> {
        let prepared = connection.prepare_cached(&sql.text);
        let mut statement = prepared.map_err(|error| {
            SqlError::from(error).of_item("cannot prepare the statement of the writer")
        })?;
        let (columns, wanted) = (self.columns.len(), statement.parameter_count());
        if wanted != columns {
            let what = format!("cannot bind {columns} columns: the statement takes {wanted}");
            return Err(ItemError::fatal(what));
        }
        for item in self.items {
            self.bind(item, Target::Sqlite(&mut statement))?;
            let changed = statement
                .raw_execute()
                .map_err(|error| SqlError::from(error).of_item("cannot write a row"))?;
            if self.is_update && changed == 0 {
                return Err(no_row());
            }
        }
        Ok(())
    }

    fn write_singly(&self, session: &mut SqlSession, sql: &Sql) -> Result<(), ItemError> {
        let mut values = Vec::with_capacity(self.columns.len());
        for item in self.items {
            values.clear();
            self.bind(item, Target::Values(&mut values))?;
            let changed = session
                .execute(sql, &values)
                .map_err(|error| error.of_item("cannot write a row"))?;
            if self.is_update && changed == 0 {
                return Err(no_row());
            }
        }
        Ok(())
    }

    fn write_arrays(
        &self,
        postgres: &mut PostgresSession,
        sql: &Sql,
        columns: &mut [ArrayColumn],
    ) -> Result<(), ItemError> {
        for rows in self.items.chunks(ROWS_MAX * 10) {
            columns.iter_mut().for_each(ArrayColumn::clear);
            for item in rows {
                self.bind(item, Target::Arrays(columns))?;
            }
            let count = postgres
                .execute_arrays(sql, columns)
                .map_err(|error| error.of_item("cannot write rows"))?;
            // The statement of an update returns the rows that it could not find.
            if self.is_update && count > 0 {
                return Err(no_row());
            }
        }
        Ok(())
    }

    fn write_values(
        &self,
        mysql: &mut MySqlSession,
        (head, tail): (&str, &str),
        rows_max: usize,
    ) -> Result<(), ItemError> {
        let marks = format!("({})", list(self.columns.iter().map(|_| "?".to_owned())));
        let packet_max = mysql.packet_max().map_err(|error| error.of_item("cannot write rows"))?;
        let (mut rest, mut most) = (self.items, rows_max);
        while !rest.is_empty() {
            let (mut arguments, mut bytes, mut rows) = (MySqlArguments::default(), 0, 0);
            while rows < most.min(rest.len()) && bytes < MYSQL_BYTES_MAX.min(packet_max / 2) {
                let (arguments, bytes) = (&mut arguments, &mut bytes);
                self.bind(&rest[rows], Target::Arguments { arguments, bytes })?;
                rows += 1;
            }
            let places = vec![marks.as_str(); rows].join(",");
            let sql = Sql::native(&format!("{head}{places}{tail}"));
            let whole = sql.text.len() + bytes;
            if whole >= packet_max {
                if rows == 1 {
                    return Err(ItemError::data(format!(
                        "cannot write a row: {}",
                        too_large(whole, packet_max)
                    )));
                }
                // The last row exceeds the limit, so it is sent alone.
                most = rows - 1;
                continue;
            }
            most = rows_max;
            mysql
                .execute_with(&sql, arguments)
                .map_err(|error| error.of_item("cannot write rows"))?;
            rest = &rest[rows..];
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

fn column_types(
    change: &Change,
    postgres: &mut PostgresSession,
) -> Result<Vec<(ArrayKind, String)>, ItemError> {
    let table = &change.table;
    let known = postgres
        .column_types(table)
        .map_err(|error| error.of_item(format!("cannot read the columns of table `{table}`")))?;
    if known.is_empty() {
        let message = format!("cannot write to table `{table}`: it does not exist");
        return Err(ItemError::new(ErrorKind::new("sql.no_table"), message));
    }
    let type_of = |column: &String| {
        let found = known.iter().find(|(name, _)| name == column);
        let (_, kind) = found.ok_or_else(|| {
            ItemError::fatal(format!(
                "cannot write column `{column}`: table `{table}` has no such column"
            ))
        })?;
        Ok((ArrayKind::of(kind), kind.clone()))
    };
    change.columns.iter().map(type_of).collect()
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
