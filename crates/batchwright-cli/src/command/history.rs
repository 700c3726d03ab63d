//! `abandon`, `recover`, `purge`: changes to what is remembered.

use batchwright::{ExecutionFilter, ExecutionId, JobExecution, RecoverMode};

use crate::args::{ExecutionArgs, Global, PurgeArgs, RecoverArgs};
use crate::context::App;
use crate::error::{self, CliError};
use crate::output;

/// Gives an execution up.
pub(super) fn abandon(
    app: &App<'_>,
    global: &Global,
    args: &ExecutionArgs,
) -> Result<u8, CliError> {
    let id = app.operator.abandon(ExecutionId(args.execution))?.id;
    output::document(global.format, &app.operator.summary(id)?, ToString::to_string)?;
    Ok(error::OK)
}

/// Closes executions whose owner is dead.
pub(super) fn recover(app: &App<'_>, global: &Global, args: &RecoverArgs) -> Result<u8, CliError> {
    let closed = match args.execution {
        Some(id) => vec![app.operator.recover(ExecutionId(id), RecoverMode::Detect)?],
        None => app.operator.recover_all()?,
    };
    tell(app, global, &closed)
}

/// Deletes ended executions.
pub(super) fn purge(app: &App<'_>, global: &Global, args: &PurgeArgs) -> Result<u8, CliError> {
    let age = jiff::SignedDuration::try_from(args.older_than)
        .map_err(|error| CliError::Usage(format!("use --older-than: {error}")))?;
    let before = app
        .operator
        .now()
        .checked_sub(age)
        .map_err(|error| CliError::Usage(format!("use --older-than: {error}")))?;
    let filter = ExecutionFilter {
        job: args.job.clone(),
        statuses: args.status.clone(),
        ended_before: Some(before),
        ..ExecutionFilter::default()
    };
    let purged = app.operator.purge(&filter, args.include_restartable, args.dry_run)?;
    output::list(
        global.format,
        &purged
            .iter()
            .map(|one| serde_json::json!({"id": one.id, "job": one.job}))
            .collect::<Vec<_>>(),
        [if args.dry_run { "WOULD PURGE" } else { "PURGED" }, "JOB"],
        |one| [one["id"].to_string(), one["job"].as_str().unwrap_or_default().to_owned()],
    )?;
    Ok(error::OK)
}

fn tell(app: &App<'_>, global: &Global, closed: &[JobExecution]) -> Result<u8, CliError> {
    let summaries: Vec<_> =
        closed.iter().map(|one| app.operator.summary(one.id)).collect::<Result<_, _>>()?;
    output::list(global.format, &summaries, ["RECOVERED", "JOB", "STATUS"], |one| {
        [one.id.to_string(), one.job.clone(), one.status.to_string()]
    })?;
    Ok(error::OK)
}
