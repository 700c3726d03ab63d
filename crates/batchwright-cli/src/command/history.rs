//! `abandon`, `recover`, `purge`: change stored executions.

use batchwright::execution::JobExecution;
use batchwright::launch::RecoverMode;
use batchwright::operator::Retention;
use batchwright_jobfile::is_replay;

use super::launch::target;
use crate::args::{ExecutionArgs, Format, Global, PurgeArgs, RecoverArgs};
use crate::context::App;
use crate::error::{self, CliError};
use crate::output;

/// Abandons an execution.
pub(super) fn abandon(app: &App, global: &Global, args: &ExecutionArgs) -> Result<u8, CliError> {
    let id = target(app, &args.execution)?;
    if is_replay(&app.operator.explorer().execution(id)?) {
        return Err(CliError::Usage(format!(
            "execution {id} is a replay, and nothing knows what an abandoned replay wrote: delete lines of its file to give records up, and continue it with `batchwright replay`"
        )));
    }
    let id = app.operator.abandon(id)?.id;
    app.audit("abandon", &format!("execution {id}"))?;
    output::document(global.format, &app.operator.explorer().summary(id)?, ToString::to_string)?;
    Ok(error::OK)
}

/// Closes executions whose owner is dead.
pub(super) fn recover(app: &App, global: &Global, args: &RecoverArgs) -> Result<u8, CliError> {
    crate::telemetry::observe(&app.operator);
    let Some(text) = &args.execution else {
        return tell(app, global, &app.operator.recover_all()?);
    };
    let before = app.operator.explorer().execution(target(app, text)?)?;
    if !before.status.is_running() {
        return not_recovered(global, &before);
    }
    tell(app, global, &[app.operator.recover(before.id, RecoverMode::Detect)?])
}

/// Prints that an execution that has ended was not recovered. As JSON, the list of recovered executions is empty.
fn not_recovered(global: &Global, ended: &JobExecution) -> Result<u8, CliError> {
    let text =
        format!("nothing was recovered: execution {} has ended, it is {}", ended.id, ended.status);
    match global.format {
        Format::Json => tracing::info!(target: "batchwright::output", "{text}"),
        format => output::document(format, &text, String::clone)?,
    }
    Ok(error::OK)
}

/// Deletes ended instances with all their executions.
pub(super) fn purge(app: &App, global: &Global, args: &PurgeArgs) -> Result<u8, CliError> {
    if args.older_than.is_none() && args.keep.is_none() {
        return Err(CliError::Usage(
            "`purge` needs a condition and deleted nothing: pass `--older-than DURATION`, `--keep N` or both"
                .to_owned(),
        ));
    }
    if let Some(status) = args.status.iter().find(|status| status.is_restartable())
        && !args.include_restartable
    {
        let status = status.name().to_lowercase();
        return Err(CliError::Usage(format!(
            "`--status {status}` deletes nothing without `--include-restartable`, because such instances can be restarted"
        )));
    }
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
    if !args.dry_run && !purged.is_empty() {
        app.audit("purge", &format!("{} executions", purged.len()))?;
    }
    output::list(
        global.format,
        &purged,
        [if args.dry_run { "EXECUTION TO PURGE" } else { "PURGED EXECUTION" }, "JOB"],
        |one| [one["id"].to_string(), one["job"].as_str().unwrap_or_default().to_owned()],
    )?;
    Ok(error::OK)
}

/// Returns the time `age` ago.
fn before(app: &App, age: std::time::Duration) -> Result<jiff::Timestamp, CliError> {
    let wrong =
        |error: jiff::Error| CliError::Usage(format!("--older-than is out of range: {error}"));
    let age = jiff::SignedDuration::try_from(age).map_err(wrong)?;
    app.operator.clock().now().checked_sub(age).map_err(wrong)
}

fn tell(app: &App, global: &Global, closed: &[JobExecution]) -> Result<u8, CliError> {
    for one in closed {
        app.audit("recover", &format!("execution {}", one.id))?;
    }
    let summaries: Vec<_> = closed
        .iter()
        .map(|one| app.operator.explorer().summary(one.id))
        .collect::<Result<_, _>>()?;
    output::list(global.format, &summaries, ["RECOVERED EXECUTION", "JOB", "STATUS"], |one| {
        [one.id.to_string(), one.job.clone(), one.status.to_string()]
    })?;
    Ok(error::OK)
}
