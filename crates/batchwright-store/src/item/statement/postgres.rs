//! Rows of PostgreSQL: one array for each column, whatever the number of rows.

use batchwright::ItemError;
use batchwright::error::ErrorKind;

use super::{Change, Prepared, Rows, SqlMode, Target, list, no_row};
use crate::database::{ArrayColumn, ArrayKind, Dialect, PostgresSession, Sql};

/// Maximum number of rows in one statement.
const ROWS_MAX: usize = 10_000;
/// Number of bytes after which the rows are sent: a message of PostgreSQL has less than a gigabyte.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Prepares `change`; reads the types of the table's columns.
pub(super) fn prepare(
    change: &Change,
    postgres: &mut PostgresSession,
) -> Result<Prepared, ItemError> {
    if matches!(change.mode, SqlMode::Statement(_)) {
        return Ok(Prepared::Rows(Sql::native(&change.of_row(Dialect::Postgres))));
    }
    let types = column_types(change, postgres)?;
    let columns = types.iter().map(|(kind, _)| ArrayColumn::new(*kind)).collect();
    Ok(Prepared::Arrays { sql: Sql::native(&change.of_arrays(&types)), columns })
}

impl Change {
    /// Returns the statement of PostgreSQL for any number of rows: one array per column, cast to the column's
    /// type.
    pub(super) fn of_arrays(&self, types: &[(ArrayKind, String)]) -> String {
        let (SqlMode::Upsert { key } | SqlMode::Update { key }) = &self.mode else {
            // PostgreSQL stores the result of a function in FROM before it reads it; in the list of a SELECT it does not.
            let values = list((1..).zip(types).map(|(index, (kind, name))| {
                format!("CAST(unnest(${index}::{}) AS {name})", kind.array_type())
            }));
            return format!("{} SELECT {values}", self.insert_into(Dialect::Postgres));
        };
        let quoted = |name: &String| Dialect::Postgres.quoted(name);
        let arrays = list(
            (1..).zip(types).map(|(index, (kind, _))| format!("${index}::{}", kind.array_type())),
        );
        let places = list((1..=types.len()).map(|index| format!("c{index}")));
        let casts =
            list((1..).zip(types).zip(&self.columns).map(|((index, (_, name)), column)| {
                format!("CAST(u.c{index} AS {name}) AS {}", quoted(column))
            }));
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

impl<T> Rows<'_, T> {
    pub(super) fn write_arrays(
        &self,
        postgres: &mut PostgresSession,
        sql: &Sql,
        columns: &mut [ArrayColumn],
    ) -> Result<(), ItemError> {
        let mut rest = self.items;
        while !rest.is_empty() {
            columns.iter_mut().for_each(ArrayColumn::clear);
            let (mut rows, mut bytes) = (0, 0);
            while rows < ROWS_MAX.min(rest.len()) && bytes < BYTES_MAX {
                self.bind(&rest[rows], Target::Arrays(columns))?;
                rows += 1;
                bytes = columns.iter().map(ArrayColumn::size).sum();
            }
            let count = postgres
                .execute_arrays(sql, columns)
                .map_err(|error| error.of_item("cannot write rows"))?;
            // The statement of an update returns the rows that it could not find.
            if self.is_update && count > 0 {
                return Err(no_row());
            }
            rest = &rest[rows..];
        }
        Ok(())
    }
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
