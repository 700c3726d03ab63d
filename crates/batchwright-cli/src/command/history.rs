//! `abandon`, `recover`, `purge`: change stored executions.

use batchwright::execution::JobExecution;
use batchwright::launch::RecoverMode;
use batchwright::operator::Retention;

use super::launch::target;
use crate::args::{ExecutionArgs, Global, PurgeArgs, RecoverArgs};
use crate::context::App;
use crate::error::{self, CliError};
use crate::output;

/// Abandons an execution.
pub(super) fn abandon(app: &App, global: &Global, args: &ExecutionArgs) -> Result<u8, CliError> {
    let id = app.operator.abandon(target(app, &args.execution)?)?.id;
    output::document(global.format, &app.operator.explorer().summary(id)?, ToString::to_string)?;
    Ok(error::OK)
}

/// Closes executions whose owner is dead.
pub(super) fn recover(app: &App, global: &Global, args: &RecoverArgs) -> Result<u8, CliError> {
    let closed = match &args.execution {
        Some(text) => vec![app.operator.recover(target(app, text)?, RecoverMode::Detect)?],
        None => app.operator.recover_all()?,
    };
    tell(app, global, &closed)
}

/// Deletes ended instances with all their executions.
pub(super) fn purge(app: &App, global: &Global, args: &PurgeArgs) -> Result<u8, CliError> {
    let ended_before = args.older_than.map(|age| before(app, age)).transpose()?;
    let retention = Retention {
        job: args.job.clone(),
        statuses: args.status.clone(),
        ended_before,
        keep: args.keep,
        include_restartable: args.include_restartable,
    };
    let mut purged = Vec::new();
    app.operator.purge(&retention, args.dry_run, |one| {
        purged.push(serde_json::json!({"id": one.id, "job": one.job}));
    })?;
    output::list(
        global.format,
        &purged,
        [if args.dry_run { "WOULD PURGE" } else { "PURGED" }, "JOB"],
        |one| [one["id"].to_string(), one["job"].as_str().unwrap_or_default().to_owned()],
    )?;
    Ok(error::OK)
}

/// Returns the time `age` ago.
fn before(app: &App, age: std::time::Duration) -> Result<jiff::Timestamp, CliError> {
    let wrong = |error: jiff::Error| CliError::Usage(format!("use --older-than: {error}"));
    let age = jiff::SignedDuration::try_from(age).map_err(wrong)?;
    app.operator.clock().now().checked_sub(age).map_err(wrong)
}

fn tell(app: &App, global: &Global, closed: &[JobExecution]) -> Result<u8, CliError> {
    let summaries: Vec<_> = closed
        .iter()
        .map(|one| app.operator.explorer().summary(one.id))
        .collect::<Result<_, _>>()?;
    output::list(global.format, &summaries, ["RECOVERED", "JOB", "STATUS"], |one| {
        [one.id.to_string(), one.job.clone(), one.status.to_string()]
    })?;
    Ok(error::OK)
}
