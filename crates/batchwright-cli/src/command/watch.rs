//! `watch`: shows an execution that any process runs, until it ends.

use std::io::IsTerminal;
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright::execution::{ExecutionSummary, StepSummary};
use batchwright_server::Shutdown;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;

use super::launch::{exit_code, target, tell};
use crate::args::{ExecutionArgs, Global};
use crate::context::App;
use crate::error::CliError;
use crate::output;

/// How often progress is a line of its own where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// How often the store is read.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Shows the execution until it ends; returns the exit code that `run` would have.
pub(super) fn watch(app: &App, global: &Global, args: &ExecutionArgs) -> Result<u8, CliError> {
    let id = target(app, &args.execution)?;
    let stop = StopToken::default();
    let asked = stop.clone();
    let shutdown = Shutdown::listen_in_terminal(global.grace, move || asked.request())?;
    let bar = match std::io::stderr().is_terminal() && !global.quiet {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let (mut shown, mut shown_at) = (String::new(), None);
    let summary = loop {
        let summary = app.operator.explorer().summary(id)?;
        if !summary.status.is_running() || stop.is_requested() {
            break summary;
        }
        let line = line(&summary, app.operator.clock().now());
        // Without a terminal, a change of status or step is a line, and other changes are one each ten seconds.
        let (key, at) = (key(&summary), app.operator.clock().elapsed());
        let is_time = shown_at.is_none_or(|before| at.saturating_sub(before) >= LINE_INTERVAL);
        if bar.is_hidden() && !global.quiet && (key != shown || (is_time && !summary.stale)) {
            output::note(&line);
            (shown, shown_at) = (key, Some(at));
        }
        bar.set_message(line);
        bar.tick();
        stop.wait(POLL_INTERVAL);
    };
    bar.finish_and_clear();
    let goes_on = summary.status.is_running();
    let advice = goes_on
        .then(|| format!("The execution goes on. Watch it with: batchwright watch {}", summary.id));
    let code = match shutdown.exit_code() {
        Some(code) if goes_on => code,
        _ => exit_code(summary.status),
    };
    output::after(tell(global.format, &summary, advice), code)
}

/// Returns what makes a new line without a terminal: status, running steps, and whether the owner is lost.
fn key(one: &ExecutionSummary) -> String {
    let running = one.steps.iter().filter(|step| step.status.is_running());
    let names: Vec<_> = running.map(|step| step.name.as_str()).collect();
    format!("{} {} {}", one.status, one.stale, names.join(" "))
}

/// Returns what the execution does now: its running steps with their progress and probable ends.
fn line(one: &ExecutionSummary, now: Timestamp) -> String {
    let running = one.steps.iter().filter(|step| step.status.is_running());
    let steps: Vec<_> = running.map(|step| step_line(step, now)).collect();
    let what = match steps.is_empty() {
        true => one.status.to_string(),
        false => steps.join(" | "),
    };
    let stale = match one.stale {
        true => {
            format!(" (stale: its process is lost; close it with `batchwright recover {}`)", one.id)
        }
        false => String::new(),
    };
    format!("execution {} of {}: {what}{stale}", one.id, batchwright::text::shown(&one.job))
}

fn step_line(step: &StepSummary, now: Timestamp) -> String {
    let mut line =
        format!("{} {} read, {} written", step.name, step.counters.read, step.counters.write);
    if step.counters.skips() > 0 {
        line.push_str(&format!(", {} skipped", step.counters.skips()));
    }
    if let Some(progress) = step.progress.filter(|progress| progress.total > 0) {
        line.push_str(&format!(", {} %", progress.done.saturating_mul(100) / progress.total));
    }
    if let Some(ends_at) = step.estimate.and_then(|estimate| estimate.ends_at) {
        let left = ends_at.duration_since(now).as_secs().max(0);
        line.push_str(&format!(", {left} s left"));
    }
    batchwright::text::shown(&line).into_owned()
}
