//! Partitions of a table by a column of whole numbers.

use batchwright::{ItemError, NumberRanges, Partition, Partitioner, StepScope};

use crate::database::{Database, Sql};

/// Cuts a table by a column of whole numbers: at most `grid` ranges from its smallest to its largest value, and the
/// partition `null` when rows have none.
///
/// A worker finds `where`, the SQL condition for the rows of its partition (`"v" >= 1 AND "v" < 6`, `"v" IS NULL`), and
/// in a range its bounds `min` and `max`, both within it.
#[derive(Debug, Clone)]
pub struct ColumnPartitions {
    /// Where the table is.
    pub database: Database,
    /// Its name.
    pub table: String,
    /// The column.
    pub column: String,
    /// Ranges, at most one a number; zero is taken as one.
    pub grid: u32,
}

/// What a column holds.
struct Extent {
    range: Option<(i64, i64)>,
    has_nulls: bool,
}

impl ColumnPartitions {
    fn extent(&self) -> Result<Extent, ItemError> {
        let (table, column) = (&self.table, &self.column);
        let failed = |error: crate::SqlError| {
            error.of_item(format!("find the range of column `{column}` of table `{table}`"))
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

    /// The partitions; none when the table is empty.
    ///
    /// # Errors
    ///
    /// What the database reports; also when the column holds no whole numbers.
    pub fn cut(&self) -> Result<Vec<Partition>, ItemError> {
        let column = self.database.dialect().quoted(&self.column);
        let Extent { range, has_nulls } = self.extent()?;
        let mut partitions = Vec::new();
        if let Some((min, max)) = range {
            let ranges = NumberRanges { min, max, grid: self.grid }.cut()?;
            for partition in ranges {
                let low: i64 = partition.values.get("min")?;
                let high: i64 = partition.values.get("max")?;
                // Between two ranges nothing is left out.
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
