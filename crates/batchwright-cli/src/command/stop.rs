//! `stop`: asks executions to stop.

use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright::execution::ExecutionId;
use batchwright::operator::OperatorError;
use batchwright::query::{ExecutionFilter, ExecutionSearch};

use super::launch::target;
use crate::args::{Format, Global, StopArgs};
use crate::context::App;
use crate::error::{self, CliError};
use crate::output;

/// How often `--wait` reads the status of the execution.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Asks executions to stop; with `--wait` returns when they have ended.
pub(super) fn stop(app: &App, global: &Global, args: &StopArgs) -> Result<u8, CliError> {
    let ids = match (&args.target, &args.filter) {
        (Some(named), _) => vec![target(app, named)?],
        (None, words) => matching(app, words.as_deref().unwrap_or_default())?,
    };
    let (mut stopped, mut failed) = (Vec::new(), None);
    for id in ids {
        if !args.dry_run {
            match app.operator.stop(id) {
                Ok(_) => {}
                // Of those that a search has found, some may have ended meanwhile.
                Err(OperatorError::Refused(_)) if args.filter.is_some() => continue,
                // What was stopped before is shown, and then the failure.
                Err(error) => {
                    failed = Some(CliError::from(error));
                    break;
                }
            }
        }
        stopped.push(id);
        if !args.dry_run
            && let Err(error) = app.audit("stop", &format!("execution {id}"))
        {
            failed = Some(error);
            break;
        }
    }
    for id in stopped.iter().filter(|_| args.wait && !args.dry_run) {
        while app.operator.explorer().execution(*id)?.status.is_running() {
            StopToken::default().wait(POLL_INTERVAL);
        }
    }
    for id in &stopped {
        output::document(
            global.format,
            &app.operator.explorer().summary(*id)?,
            ToString::to_string,
        )?;
    }
    if args.filter.is_some() && global.format == Format::Text {
        let what = if args.dry_run { "would be asked to stop" } else { "were asked to stop" };
        output::note(&format!("{} executions {what}", stopped.len()));
    }
    failed.map_or(Ok(error::OK), Err)
}

/// Returns the running executions that match `words`.
fn matching(app: &App, words: &str) -> Result<Vec<ExecutionId>, CliError> {
    // A variable without a value in a script must not end all work.
    if words.trim().is_empty() {
        let what = "--filter has no condition; `status:running` stops everything";
        return Err(CliError::Usage(what.to_owned()));
    }
    let now = app.operator.clock().now();
    let search = ExecutionSearch::parse(words, now);
    let search = search.map_err(|problem| CliError::Usage(format!("--filter: {problem}")))?;
    let Some(search) = search.and(&ExecutionFilter::default().running()) else {
        return Ok(Vec::new());
    };
    let (ids, _) = search.find_all(app.operator.queries(), usize::MAX, now, |_| true)?;
    Ok(ids)
}
