//! Rows of MySQL and MariaDB: a list of rows in one statement.

use batchwright::ItemError;
use sqlx::mysql::MySqlArguments;

use super::{Change, Prepared, Rows, SqlMode, Target, list};
use crate::database::{Dialect, MySqlSession, Sql, too_large};

/// Maximum number of rows in one statement.
const ROWS_MAX: usize = 1_000;
/// Maximum number of parameters in a statement.
const PARAMETERS_MAX: usize = 65_535;
/// Number of bytes after which a list of values is sent, even if the server accepts more.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Prepares `change`.
pub(super) fn prepare(change: &Change) -> Prepared {
    match &change.mode {
        SqlMode::Statement(text) => Prepared::Rows(Sql::native(text)),
        // The text has numbered parameters, which `Sql` translates to MySQL's unnumbered ones.
        SqlMode::Update { .. } => {
            Prepared::Rows(Sql::new(Dialect::MySql, &change.of_row(Dialect::MySql)))
        }
        SqlMode::Insert | SqlMode::Upsert { .. } => {
            let tail = match &change.mode {
                SqlMode::Upsert { key } => change.conflict(Dialect::MySql, key),
                _ => String::new(),
            };
            let head = format!("{} VALUES ", change.insert_into(Dialect::MySql));
            let columns = change.columns.len().max(1);
            Prepared::Values { head, tail, rows_max: ROWS_MAX.min(PARAMETERS_MAX / columns) }
        }
    }
}

impl<T> Rows<'_, T> {
    pub(super) fn write_values(
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
            while rows < most.min(rest.len()) && bytes < BYTES_MAX.min(packet_max / 2) {
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
