//! `run`, `next`, `restart`, `replay`, `start`, `validate`: start an execution, or check that it could start.

use std::sync::Arc;

use batchwright::execution::{ExecutionId, ExecutionSummary, Failure, JobExecution};
use batchwright::launch::{Launch, LaunchOptions};
use batchwright::operator::Refusal;
use batchwright::testing::fault::FaultPlan;
use batchwright::{BatchStatus, Job, JobParameters};
use batchwright_jobfile::PreparedReplay;
use batchwright_server::Shutdown;
use serde_json::json;

use crate::Program;
use crate::args::{
    Format, Global, LaunchArgs, ReplayArgs, RestartArgs, RunArgs, StartArgs, ValidateArgs,
};
use crate::context::{self, App};
use crate::error::{self, CliError};
use crate::progress::{Bar, showing_units};
use crate::{output, parameters, telemetry};

/// Runs a job in the foreground.
pub(super) fn run(global: &Global, program: &Program, args: &RunArgs) -> Result<u8, CliError> {
    let app = App::launching(global, program, faults(&args.launch)?, &args.job)?;
    let job = app.job(&args.job)?;
    let json = args.launch.params_json.as_deref();
    let given = parameters::parse(&args.parameters, json, job.parameters())?;
    foreground(global, &app, &args.launch, &job, Launch::start(job.name(), given), None)
}

/// Runs the next instance of a job in the foreground.
pub(super) fn next(global: &Global, program: &Program, args: &RunArgs) -> Result<u8, CliError> {
    let app = App::launching(global, program, faults(&args.launch)?, &args.job)?;
    let job = app.job(&args.job)?;
    let json = args.launch.params_json.as_deref();
    let given = parameters::parse(&args.parameters, json, job.parameters())?;
    let launch = Launch::next(job.name()).parameters(given);
    foreground(global, &app, &args.launch, &job, launch, None)
}

/// Restarts an execution in the foreground, or queues the restart for a server.
pub(super) fn restart(
    global: &Global,
    program: &Program,
    args: &RestartArgs,
) -> Result<u8, CliError> {
    let app = App::look(global, program, faults(&args.launch)?)?;
    let id = target(&app, &args.execution)?;
    let job = app.job_of(id)?;
    let json = args.launch.params_json.as_deref();
    let given = parameters::parse(&args.parameters, json, job.parameters())?;
    if args.detach {
        let launch = Launch::restart(id).parameters(given).options(options(&args.launch));
        let execution = app.operator.enqueue(&launch)?;
        return accepted(global, &execution);
    }
    let launch = Launch::restart(id).parameters(given);
    foreground(global, &app, &args.launch, &job, launch, None)
}

/// Replays corrected records in the foreground.
pub(super) fn replay(
    global: &Global,
    program: &Program,
    args: &ReplayArgs,
) -> Result<u8, CliError> {
    let app = App::look(global, program, faults(&args.launch)?)?;
    let id = target(&app, &args.execution)?;
    let prepared = app.prepare_replay(id, &args.from)?;
    let PreparedReplay { job, mut parameters, left_out, left_to_next, unfinished } = prepared;
    let json = args.launch.params_json.as_deref();
    for (name, given) in parameters::parse(&args.parameters, json, job.parameters())?.iter() {
        if parameters.get(name).is_some_and(|known| known.identifying)
            || ["replay_from", "replay_number"].contains(&name)
        {
            let what = format!(
                "a replay cannot change the parameter `{name}`, which identifies what it replays"
            );
            return Err(CliError::Usage(what));
        }
        parameters.insert(name, given.clone());
    }
    if left_out > 0 {
        output::note(&format!("{left_out} records are replayed already and left out"));
    }
    if left_to_next > 0 {
        output::note(&format!(
            "{left_to_next} records are not part of the replay that is continued: replay the file again after it"
        ));
    }
    let launch = Launch::start(job.name(), parameters);
    let new_only = args.launch.new_only || unfinished.is_none();
    let launch_args = LaunchArgs { new_only, ..args.launch.clone() };
    let job = Arc::new(job);
    let again = format!("batchwright replay {id} --from {}", args.from.display());
    foreground(global, &app, &launch_args, &job, launch, Some(again))
}

/// Queues an execution for a server that shares the store.
pub(super) fn start(app: &App, global: &Global, args: &StartArgs) -> Result<u8, CliError> {
    let job = app.job(&args.job)?;
    let given = parameters::parse(&args.parameters, args.params_json.as_deref(), job.parameters())?;
    let options = LaunchOptions { new_only: args.new_only, ..context::options() };
    let launch = Launch::start(job.name(), given).options(options);
    let execution = app.operator.enqueue(&launch)?;
    accepted(global, &execution)
}

fn accepted(global: &Global, execution: &JobExecution) -> Result<u8, CliError> {
    let (id, status) = (execution.id, execution.status);
    output::document(global.format, &json!({"id": id, "status": status}), |_| {
        format!("execution {id} waits for a server that shares this store")
    })?;
    Ok(error::OK)
}

/// Checks a job, and its parameters if any are given; stores and runs nothing.
pub(super) fn validate(app: &App, global: &Global, args: &ValidateArgs) -> Result<u8, CliError> {
    let job = app.job(&args.job)?;
    let given = parameters::parse(&args.parameters, args.params_json.as_deref(), job.parameters())?;
    if given != JobParameters::new() {
        job.accept(given)?;
    }
    let steps: Vec<_> = job.step_names().collect();
    let result = json!({"job": job.name(), "valid": true, "steps": steps});
    output::document(global.format, &result, |_| {
        format!("job {} is valid; its steps: {}", job.name(), steps.join(", "))
    })?;
    Ok(error::OK)
}

fn faults(args: &LaunchArgs) -> Result<Option<FaultPlan>, CliError> {
    let Some(plan) = &args.inject else { return Ok(None) };
    let text = parameters::text_or_file(plan)?;
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| CliError::Usage(format!("the plan of --inject is malformed: {error}")))
}

fn options(args: &LaunchArgs) -> LaunchOptions {
    LaunchOptions {
        new_only: args.new_only,
        recover: args.recover.into(),
        accept_changed_definition: args.accept_changed_definition,
        ..context::options()
    }
}

/// Starts an execution of `job`, shows its progress, waits for its end and prints its summary. `restart` is the command that
/// restarts it. Default: `restart` with its number.
///
/// A signal asks the execution to stop at its next chunk boundary.
fn foreground(
    global: &Global,
    app: &App,
    args: &LaunchArgs,
    job: &Arc<Job>,
    launch: Launch,
    restart: Option<String>,
) -> Result<u8, CliError> {
    let wanted = !args.no_progress && !global.quiet;
    let bar = Bar::follow(app.operator.events(), wanted);
    let operator = app.operator.clone();
    // Listening starts first: a signal between start and listening would kill the process at once.
    let shutdown = Shutdown::listen_in_terminal(global.grace, move || {
        operator.stop_all();
    })?;
    telemetry::observe(&app.operator);
    let handle = app.operator.launch_job(Arc::clone(job), &launch.options(options(args)))?;
    if shutdown.signal().is_some() {
        app.operator.stop_all();
    }
    let ended = showing_units(&app.operator, handle.id(), wanted, || handle.wait());
    bar.clear();
    ended?;
    shutdown.done();
    let summary = app.operator.explorer().summary(handle.id())?;
    // A store in memory ends with this process, so the execution cannot be restarted.
    let lasts = !global.is_memory();
    // A restart of these fails again.
    let is_final = |failure: &Failure| {
        ["all_skipped", "start_limit_exceeded"].contains(&failure.code.as_str())
    };
    let helps = job.is_restartable() && !summary.failure.as_ref().is_some_and(is_final);
    let advice = (summary.status.is_restartable() && lasts && helps)
        .then(|| restart.unwrap_or_else(|| format!("batchwright restart {}", summary.id)))
        .map(|command| format!("Continue with: {command}"));
    let code = match (summary.status, shutdown.exit_code()) {
        (BatchStatus::Stopped, Some(code)) => code,
        (status, _) => exit_code(status),
    };
    output::after(tell(global.format, &summary, advice), code)
}

/// Prints the summary of an execution, with `advice` on what to do next.
pub(super) fn tell(
    format: Format,
    summary: &ExecutionSummary,
    advice: Option<String>,
) -> Result<(), CliError> {
    output::document(format, summary, |summary| {
        let mut text = summary.to_string();
        text.push_str(&output::step_lines(summary));
        if let Some(advice) = advice {
            text.push_str(&format!("\n{advice}"));
        }
        text
    })?;
    Ok(())
}

/// The exit code for an execution with this status.
pub(super) fn exit_code(status: BatchStatus) -> u8 {
    match status {
        BatchStatus::Completed => error::OK,
        BatchStatus::Stopped => error::STOPPED,
        BatchStatus::Abandoned => error::NOT_RESTARTABLE,
        _ => error::FAILED,
    }
}

/// Returns the execution that `text` names by its number, or the newest execution of the job `text`.
pub(super) fn target(app: &App, text: &str) -> Result<ExecutionId, CliError> {
    if let Ok(number) = text.parse() {
        return Ok(ExecutionId(number));
    }
    let newest = |name: &str| -> Result<Option<ExecutionId>, CliError> {
        let filter = batchwright::query::ExecutionFilter::of_job(name).limit(1);
        Ok(app.operator.queries().executions(&filter)?.first().map(|execution| execution.id))
    };
    // The history may have a job whose file no longer exists.
    if let Some(id) = newest(text)? {
        return Ok(id);
    }
    let job = app.job(text)?;
    let never = || Refusal::NeverStarted { job: job.name().to_owned() };
    Ok(newest(job.name())?.ok_or_else(never)?)
}
