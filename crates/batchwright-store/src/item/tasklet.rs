//! A tasklet that runs SQL statements.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::scope::StepScope;
use batchwright::step::{Flow, Tasklet, TaskletCall};
use batchwright::store::Durability;

use super::interrupt::until_stopped;
use crate::database::{Database, SqlError, SqlSession};

type MakeDatabase = Arc<dyn Fn(&StepScope) -> Result<Database, ItemError> + Send + Sync>;
type Text = Arc<dyn Fn(&StepScope) -> Result<String, ItemError> + Send + Sync>;

/// Runs SQL statements in one transaction.
///
/// In the store's own database the statements commit with the step, exactly once. In another database they
/// commit before the step: after a crash in between, a restart runs them again, so they should be repeatable.
/// MySQL and MariaDB commit implicitly at every statement that changes a table's definition; there too a
/// restart may run the statements again.
pub struct SqlTasklet {
    database: Option<MakeDatabase>,
    text: Text,
}

impl SqlTasklet {
    /// A tasklet that runs the statements of `text` in the store's own database.
    pub fn in_store(
        text: impl Fn(&StepScope) -> Result<String, ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self { database: None, text: Arc::new(text) }
    }

    /// A tasklet that runs the statements of `text` in another database; both functions are called for each
    /// step execution.
    pub fn in_database(
        database: impl Fn(&StepScope) -> Result<Database, ItemError> + Send + Sync + 'static,
        text: impl Fn(&StepScope) -> Result<String, ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self { database: Some(Arc::new(database)), text: Arc::new(text) }
    }
}

impl Tasklet for SqlTasklet {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let text = (self.text)(call.scope())?;
        match &self.database {
            None => {
                let stop = call.scope().stop().clone();
                let session = call.transaction().resource::<SqlSession>()?;
                until_stopped(session, &stop, |session| run(session, &text))?;
            }
            Some(database) => {
                let failed = |error: SqlError| error.of_item("cannot run in the other database");
                let durability = match call.scope().durability() {
                    Durability::Power => Durability::Power,
                    Durability::Process | Durability::None => Durability::Process,
                };
                let database = database(call.scope())?.durability(durability);
                let mut session = database.connect().map_err(failed)?;
                session.begin().map_err(failed)?;
                until_stopped(&mut session, call.scope().stop(), |session| run(session, &text))?;
                // At least once: when the result of the commit is lost, a restart runs the statements again.
                session.commit().map_err(|error| match error.is_refusal() {
                    true => failed(error),
                    false => ItemError::commit_unknown(error),
                })?;
            }
        }
        Ok(Flow::Finished)
    }
}

fn run(session: &mut SqlSession, text: &str) -> Result<(), ItemError> {
    let ran = |error: SqlError| error.of_item("cannot run the statements");
    // The savepoint no longer exists if the statements ended the transaction themselves.
    session.run("SAVEPOINT batchwright_step").map_err(ran)?;
    session.run(text).map_err(ran)?;
    let released = session.run("RELEASE SAVEPOINT batchwright_step");
    if released.is_err() && session.commits_definitions() {
        // A statement that changed a table's definition committed implicitly, so a new transaction begins.
        return session.run("BEGIN").map_err(ran);
    }
    released.map_err(|error| {
        let message =
            "cannot run the statements: they ended the step's transaction; remove BEGIN and COMMIT";
        error.of_item(message).with_kind(batchwright::error::ErrorKind::FATAL)
    })
}
