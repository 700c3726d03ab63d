//! `drive`: works on an open progressive execution.

use batchwright::clock::StopToken;
use batchwright::progressive::SliceError;
use batchwright_server::Shutdown;

use super::launch::{exit_code, target, tell};
use crate::args::{DriveArgs, Global};
use crate::context::App;
use crate::error::CliError;
use crate::progress::showing_units;
use crate::{output, telemetry};

/// Works on all lanes, or on `--lanes` of them, until the execution ends; a signal leaves the execution open.
pub(super) fn drive(app: &App, global: &Global, args: &DriveArgs) -> Result<u8, CliError> {
    let id = target(app, &args.execution)?;
    app.job_of(id)?;
    let stop = StopToken::default();
    let asked = stop.clone();
    let shutdown = Shutdown::listen_in_terminal(global.grace, move || asked.request())?;
    let (lanes, wanted) = (args.lanes.unwrap_or(u32::MAX), !args.no_progress && !global.quiet);
    telemetry::observe(&app.operator);
    let driven = showing_units(&app.operator, id, wanted, || {
        app.operator.progressive().drive(id, lanes, &stop)
    });
    shutdown.done();
    let execution = driven.map_err(|error| match error {
        SliceError::Operator(error) => CliError::Operator(error),
        other => CliError::Slice(other),
    })?;
    let summary = app.operator.explorer().summary(id)?;
    let is_open = summary.status.is_running();
    let advice = is_open.then(|| format!("Continue with: batchwright drive {id}"));
    let code = match shutdown.exit_code() {
        Some(code) if execution.status.is_running() => code,
        _ => exit_code(execution.status),
    };
    output::after(tell(global.format, &summary, advice), code)
}
