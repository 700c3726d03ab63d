//! `serve`: reads the configuration and runs the server until a signal arrives.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use batchwright::clock::StopToken;
use batchwright::error::RepositoryError;
use batchwright::report;
use batchwright_server::{Config, Server, ServerError, Settings, Shutdown};
use batchwright_store::SqlSchedule;

use crate::Program;
use crate::args::{Global, ServeArgs};
use crate::context::App;
use crate::corrections::Corrections;
use crate::error::{self, CliError};
use crate::output;
use crate::store::{self, Store};
use crate::telemetry;

/// The configuration file when no other one is named.
const CONFIG_DEFAULT: &str = "batchwright.toml";
/// Maximum number of attempts, one per second, to reach the database server at start: both servers may start
/// with the machine.
const STORE_TRIES: u32 = 30;

/// Runs the server until a signal ends it.
pub(super) fn serve(global: Global, program: &Program, args: &ServeArgs) -> Result<u8, CliError> {
    serve_after(global, program, args, false, |_| Ok(()))
}

/// Runs the server until a signal ends it, and if it is `in_terminal`, the end of that; calls `ready` once it listens.
pub(super) fn serve_after(
    global: Global,
    program: &Program,
    args: &ServeArgs,
    in_terminal: bool,
    ready: impl FnOnce(&Server) -> Result<(), CliError>,
) -> Result<u8, CliError> {
    let read = settings(&global);
    let level = read.as_ref().ok().and_then(|settings| settings.log_level.clone());
    output::init_log(
        &global,
        Some(&level.unwrap_or_else(|| "info".to_owned()).to_lowercase()),
        true,
    );
    let mut settings = read?;
    settings.notes.iter().for_each(|note| tracing::warn!("{note}"));
    if let (Some(listen), Some(scheduler)) = (args.listen, &mut settings.scheduler) {
        scheduler.kcp.listen = listen;
    }
    if let Some(http) = &mut settings.http {
        http.listen = args.http.unwrap_or(http.listen);
        http.insecure |= args.insecure;
    }
    let stop = StopToken::default();
    let asked = stop.clone();
    let grace = settings.grace.unwrap_or(global.grace);
    let on_first = move || asked.request();
    let shutdown = match in_terminal {
        true => Shutdown::listen_in_terminal(grace, on_first)?,
        false => Shutdown::listen(grace, on_first)?,
    };
    let operator = Arc::new(OnceLock::new());
    Shutdown::log_on_signals(Arc::clone(&operator), in_terminal)?;
    let store = open(&global, &stop)?;
    let scheduler = match settings.scheduler.take() {
        Some(settings) => Some((settings, schedule(&store)?)),
        None => None,
    };
    let app = App::on(store, &global, program, None, settings.jobs_max)?;
    let _ = operator.set(app.operator.clone());
    let mut server = Server::builder(app.operator.clone());
    if let Some((settings, schedule)) = scheduler {
        server = server.scheduler(settings, schedule);
    }
    if let Some(http) = settings.http.take() {
        server = server.http(http).replays(Corrections::of(&app));
    }
    // Before the server begins: it may at once close executions of processes that died.
    telemetry::observe(&app.operator);
    let server = server.start()?;
    telemetry::observe_schedule(server.scheduler());
    if let Some(http) = server.http_address() {
        tracing::info!(%http, "listening for HTTP");
    }
    if let Some(metrics) = server.metrics_address() {
        tracing::info!(%metrics, "listening for requests of metrics");
    }
    match server.address() {
        Some(address) => tracing::info!(%address, "listening for clients"),
        None => tracing::info!("running queued executions; the scheduler is not enabled"),
    }
    ready(&server)?;
    let is_well = server.supervise(&stop);
    tracing::info!(signal = shutdown.signal(), "ending");
    server.stop();
    shutdown.done();
    tracing::info!("ended");
    Ok(if is_well { error::OK } else { error::INTERNAL })
}

/// Opens the schedule of the store; its failures are those of the server.
fn schedule(store: &Store) -> Result<SqlSchedule, CliError> {
    let database = store.schedule_database()?;
    Ok(SqlSchedule::open(database, &store.options).map_err(ServerError::from)?)
}

fn settings(global: &Global) -> Result<Settings, CliError> {
    let default = PathBuf::from(CONFIG_DEFAULT);
    Ok(match &global.config {
        Some(file) => Config::read(file)?,
        None if default.is_file() => Config::read(&default)?,
        None => Config::parse("", &default)
            .unwrap_or_else(|error| unreachable!("an empty configuration is valid: {error}")),
    })
}

/// Opens the store; waits for a database server that does not answer yet.
fn open(global: &Global, stop: &StopToken) -> Result<Store, CliError> {
    let is_server = global.is_server();
    let mut tries = 0;
    loop {
        tries += 1;
        match store::open(global.store_url()) {
            Err(CliError::Operator(batchwright::operator::OperatorError::Repository(
                error @ RepositoryError::Unavailable { .. },
            ))) => {
                if !is_server || tries == STORE_TRIES || stop.is_requested() {
                    return Err(ServerError::Store(error).into());
                }
                if tries == 1 {
                    tracing::warn!(error = %report(&error), "waiting for the store");
                }
                stop.wait(std::time::Duration::from_secs(1));
            }
            opened => return opened,
        }
    }
}
