//! SQL text as a step.

use batchwright::{Durability, Flow, ItemError, StepScope, Tasklet, TaskletCall};
use rusqlite::Connection;
use std::sync::Arc;

use super::item_error;
use crate::sqlite::SqliteDatabase;

type Database = Arc<dyn Fn(&StepScope) -> Result<SqliteDatabase, ItemError> + Send + Sync>;
type Text = Arc<dyn Fn(&StepScope) -> Result<String, ItemError> + Send + Sync>;

/// Runs SQL statements, all or none of them.
///
/// In the store's own database they commit with the step: exactly once. In another database they
/// commit first: a crash in between runs them again on restart, so they should bear that.
pub struct SqlTasklet {
    database: Option<Database>,
    text: Text,
}

impl SqlTasklet {
    /// The statements of `text` in the store's own database.
    pub fn in_store(
        text: impl Fn(&StepScope) -> Result<String, ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self { database: None, text: Arc::new(text) }
    }

    /// The statements of `text` in another SQLite database; both are made for each step execution.
    pub fn in_database(
        database: impl Fn(&StepScope) -> Result<SqliteDatabase, ItemError> + Send + Sync + 'static,
        text: impl Fn(&StepScope) -> Result<String, ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self { database: Some(Arc::new(database)), text: Arc::new(text) }
    }
}

impl Tasklet for SqlTasklet {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let text = (self.text)(call.scope())?;
        match &self.database {
            None => run(call.transaction().resource::<Connection>()?, &text)?,
            Some(database) => {
                let failed = |error| item_error("run in the other database", error);
                let durability = match call.scope().durability() {
                    Durability::Power => Durability::Power,
                    Durability::Process | Durability::None => Durability::Process,
                };
                let database = database(call.scope())?.durability(durability);
                let connection = database.connect().map_err(failed)?;
                connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
                run(&connection, &text)?;
                connection.execute_batch("COMMIT").map_err(failed)?;
            }
        }
        Ok(Flow::Finished)
    }
}

fn run(connection: &Connection, text: &str) -> Result<(), ItemError> {
    connection.execute_batch(text).map_err(|error| item_error("run the statements", error))?;
    if connection.is_autocommit() {
        return Err(ItemError::fatal(
            "run the statements: they ended the step's transaction; leave BEGIN and COMMIT to the step",
        ));
    }
    Ok(())
}
