//! The range of a column, to cut it into partitions.

use batchwright::ItemError;

use crate::database::{Database, Sql};

/// The smallest and the largest value of whole-number `column` in `table`; `None` when it has none.
///
/// Cut it with [`NumberRanges`](batchwright::NumberRanges).
///
/// # Errors
///
/// What the database reports; also when the column holds no whole numbers.
pub fn column_range(
    database: &Database,
    table: &str,
    column: &str,
) -> Result<Option<(i64, i64)>, ItemError> {
    let failed = |error: crate::SqlError| {
        error.of_item(format!("find the range of column `{column}` of table `{table}`"))
    };
    let dialect = database.dialect();
    let (table, column) = (dialect.table(table), dialect.quoted(column));
    let sql = format!("SELECT min({column}) AS low, max({column}) AS high FROM {table}");
    let mut session = database.connect_read_only().map_err(failed)?;
    let found = session.one(&Sql::native(&sql), &[], |row| {
        Ok((row.read::<Option<i64>>("low")?, row.read::<Option<i64>>("high")?))
    });
    Ok(match found.map_err(failed)? {
        Some((Some(low), Some(high))) => Some((low, high)),
        _ => None,
    })
}
