//! Partitions of a table by an integer column.

use batchwright::ItemError;
use batchwright::partition::{NumberRanges, Partitioner};
use batchwright::scope::{Partition, StepScope};

use crate::database::{Database, Sql};

/// Partitions a table by an integer column: at most `grid` ranges from its smallest to its largest value, and
/// the partition `null` if rows have no value.
///
/// Each partition has `where`, the SQL condition for its rows (`"v" >= 1 AND "v" < 6`, `"v" IS NULL`); a
/// range also has its inclusive bounds `min` and `max`.
#[derive(Debug, Clone)]
pub struct ColumnPartitions {
    /// The database of the table.
    pub database: Database,
    /// The name of the table.
    pub table: String,
    /// The name of the column.
    pub column: String,
    /// Number of ranges, at most one per number; 0 means 1.
    pub grid: u32,
}

/// The range of a column's values.
struct Extent {
    range: Option<(i64, i64)>,
    has_nulls: bool,
}

impl ColumnPartitions {
    fn extent(&self) -> Result<Extent, ItemError> {
        let (table, column) = (&self.table, &self.column);
        let failed = |error: crate::SqlError| {
            error.of_item(format!("cannot find the range of column `{column}` of table `{table}`"))
        };
        let dialect = self.database.dialect();
        let (table, column) = (dialect.table(table), dialect.quoted(column));
        let mut session = self.database.connect_read_only().map_err(failed)?;
        let range = format!("SELECT min({column}) AS low, max({column}) AS high FROM {table}");
        let range = session.one(&Sql::native(&range), &[], |row| {
            Ok((row.read::<Option<i64>>("low")?, row.read::<Option<i64>>("high")?))
        });
        let null = format!("SELECT 1 AS one FROM {table} WHERE {column} IS NULL LIMIT 1");
        let null = session.one(&Sql::native(&null), &[], |_| Ok(()));
        let (low, high) = range.map_err(failed)?.unwrap_or_default();
        Ok(Extent { range: low.zip(high), has_nulls: null.map_err(failed)?.is_some() })
    }

    /// Returns the partitions; none when the table is empty.
    ///
    /// # Errors
    ///
    /// Returns the error of the database; also fails if the column has no integers.
    pub fn cut(&self) -> Result<Vec<Partition>, ItemError> {
        let column = self.database.dialect().quoted(&self.column);
        let Extent { range, has_nulls } = self.extent()?;
        let mut partitions = Vec::new();
        if let Some((min, max)) = range {
            let ranges = NumberRanges { min, max, grid: self.grid }.cut()?;
            for partition in ranges {
                let low: i64 = partition.values.get("min")?;
                let high: i64 = partition.values.get("max")?;
                // The upper bound is exclusive except in the last range, so that there is no gap between
                // ranges.
                let until = match high.checked_add(1).filter(|_| high < max) {
                    Some(next) => format!("< {next}"),
                    None => format!("<= {high}"),
                };
                let rows = format!("{column} >= {low} AND {column} {until}");
                partitions.push(partition.with("where", &rows)?);
            }
        }
        if has_nulls {
            partitions.push(Partition::new("null").with("where", &format!("{column} IS NULL"))?);
        }
        Ok(partitions)
    }
}

impl Partitioner for ColumnPartitions {
    fn partitions(&self, _: &StepScope) -> Result<Vec<Partition>, ItemError> {
        self.cut()
    }
}
