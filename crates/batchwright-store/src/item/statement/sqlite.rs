//! Rows of SQLite: one prepared statement for all.

use batchwright::ItemError;
use rusqlite::Connection;

use super::{Rows, Target, no_row};
use crate::database::{Sql, SqlError};

impl<T> Rows<'_, T> {
    pub(super) fn write_to_sqlite(
        &self,
        connection: &Connection,
        sql: &Sql,
    ) -> Result<(), ItemError> {
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
}
