//! `stop`: asks an execution to stop.

use std::time::Duration;

use batchwright::clock::StopToken;

use super::launch::target;
use crate::args::{Global, StopArgs};
use crate::context::App;
use crate::error::{self, CliError};
use crate::output;

/// How often `--wait` reads the status of the execution.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Asks an execution to stop; with `--wait` returns when it has ended.
pub(super) fn stop(app: &App, global: &Global, args: &StopArgs) -> Result<u8, CliError> {
    let id = target(app, &args.target)?;
    app.operator.stop(id)?;
    app.audit("stop", &format!("execution {id}"))?;
    while args.wait && app.operator.explorer().execution(id)?.status.is_running() {
        StopToken::default().wait(POLL_INTERVAL);
    }
    output::document(global.format, &app.operator.explorer().summary(id)?, ToString::to_string)?;
    Ok(error::OK)
}
