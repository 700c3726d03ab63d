//! Starts, supervises and stops the parts of a server: scheduler, listeners and worker.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright::error::RepositoryError;
use batchwright::event::{Event, Subject};
use batchwright::store::schedule::ScheduleStore;
use batchwright::{BatchStatus, JobOperator};
use tokio::runtime::{Handle, Runtime, RuntimeFlavor};
use tokio::sync::watch;

use crate::api::{Api, HttpListener, HttpSettings};
use crate::config::SchedulerSettings;
use crate::kcp::Listener;
use crate::replay::Replays;
use crate::scheduler::{JobStarter, Scheduler, StartError};
use crate::worker::Worker;

/// Threads of the runtime: sockets and runners; the ledger and the jobs have their own.
const RUNTIME_THREADS: usize = 2;
/// How long the end of the server waits before it stops executions that have begun meanwhile.
const STOP_AGAIN: Duration = Duration::from_secs(1);
/// How often the end of the server looks whether executions still run.
const IDLE_INTERVAL: Duration = Duration::from_millis(10);
/// How often the server reports its state to the service manager.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The store does not answer, or cannot be used.
    #[error(transparent)]
    Store(#[from] RepositoryError),
    /// An address cannot be bound, or must not be bound without protection.
    #[error("{0}")]
    Listen(String),
    /// The system refuses a thread or the runtime.
    #[error("{0}")]
    System(String),
}

impl From<StartError> for ServerError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => Self::Store(error),
            StartError::Runners(message) => Self::System(message),
        }
    }
}

/// The runtime of a server.
enum ServerRuntime {
    /// That of the program.
    Given(Handle),
    /// One that only this server uses.
    Own(Runtime),
}

impl ServerRuntime {
    fn own() -> Result<Self, ServerError> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("batchwright server")
            .enable_all()
            .build()
            .map(Self::Own)
            .map_err(|error| ServerError::System(format!("cannot start the runtime: {error}")))
    }

    fn handle(&self) -> &Handle {
        match self {
            Self::Given(handle) => handle,
            Self::Own(runtime) => runtime.handle(),
        }
    }
}

/// A running server. Dropping it without [`stop`](Self::stop) or [`shutdown`](Self::shutdown) ends it as a
/// crash would.
pub struct Server {
    /// `None` once the server is stopped or dropped.
    runtime: Option<ServerRuntime>,
    scheduler: Option<Scheduler>,
    address: Option<std::net::SocketAddr>,
    http_address: Option<std::net::SocketAddr>,
    metrics_address: Option<std::net::SocketAddr>,
    end: watch::Sender<bool>,
    listening: Vec<tokio::task::JoinHandle<()>>,
    worker: Option<thread::JoinHandle<()>>,
    worker_stop: StopToken,
    api: Api,
    /// Requested when the API shall answer its waiting requests.
    api_stop: StopToken,
    jobs: JobStarter,
    /// Failures are logged as long as it is there.
    _logged: Arc<JobOperator>,
}

/// Describes a [`Server`].
pub struct ServerBuilder {
    operator: JobOperator,
    schedule: Option<Schedule>,
    http: Option<HttpSettings>,
    replays: Option<Arc<dyn Replays>>,
    is_read_only: bool,
}

impl ServerBuilder {
    /// Only shows what is stored: no executions are run or closed, and without tokens everyone may only read. Default: `false`.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.is_read_only = true;
        self
    }

    /// Offers replays of skipped records in the API and on its pages. Default: none.
    #[must_use]
    pub fn replays(mut self, replays: impl Replays + 'static) -> Self {
        self.replays = Some(Arc::new(replays));
        self
    }

    /// Runs a scheduler whose triggers and rules are in `schedule`. Default: no scheduler.
    #[must_use]
    pub fn scheduler(
        mut self,
        settings: SchedulerSettings,
        schedule: impl ScheduleStore + 'static,
    ) -> Self {
        self.schedule = Some((settings, Box::new(schedule)));
        self
    }

    /// Listens for the REST API and its pages. Default: no HTTP.
    #[must_use]
    pub fn http(mut self, settings: HttpSettings) -> Self {
        self.http = Some(settings);
        self
    }

    /// Starts the server: it takes over from servers that died, listens, fires triggers, and runs queued executions.
    ///
    /// The server has a runtime of its own. An asynchronous program may call this function, which blocks the
    /// calling thread; [`serve`](Self::serve) does not.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: nothing runs.
    pub fn start(self) -> Result<Server, ServerError> {
        off_runtime(move || Server::start_here(self, ServerRuntime::own()?))?
    }

    /// Starts the server as [`start`](Self::start) does, within the runtime of the calling program, which needs
    /// `enable_all`. [`Server::shutdown`] ends it.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: nothing runs.
    pub async fn serve(self) -> Result<Server, ServerError> {
        let runtime = ServerRuntime::Given(Handle::current());
        blocking(move || Server::start_here(self, runtime)).await?
    }
}

impl Server {
    /// Describes a server that runs the jobs of `operator`, with its clock and its lease.
    pub fn builder(operator: JobOperator) -> ServerBuilder {
        ServerBuilder { operator, schedule: None, http: None, replays: None, is_read_only: false }
    }

    fn start_here(description: ServerBuilder, place: ServerRuntime) -> Result<Self, ServerError> {
        let ServerBuilder { operator, schedule, http, replays, is_read_only } = description;
        let lease = operator.lease_timeout();
        let logged = log_failures(&operator);
        let jobs = JobStarter::new(operator);
        // Webhooks and brokers use TLS by this provider, unless the program has installed another one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        allow_many_descriptors();
        let runtime = place.handle();
        let (end, ended) = watch::channel(false);
        let mut listening = Vec::new();
        // Bind before the scheduler begins to fire: an address that cannot be bound ends the start.
        let http = match http {
            Some(mut settings) => {
                settings.access.read_only |= is_read_only;
                Some(bind_http(runtime, &settings)?)
            }
            None => None,
        };
        let (http, metrics) = http.unzip();
        let metrics = metrics.flatten();
        let address_of = |http: Option<&HttpListener>| http.and_then(|http| http.address().ok());
        let (http_address, metrics_address) =
            (address_of(http.as_ref()), address_of(metrics.as_ref()));
        let started = match schedule {
            Some(schedule) => Some(StartedSchedule::start(runtime, schedule, &jobs, lease)?),
            None => None,
        };
        let (mut scheduler, mut address, mut store) = (None, None, None);
        if let Some(started) = started {
            address = started.listener.address().ok();
            listening.push(runtime.spawn(started.listener.serve(ended.clone())));
            scheduler = Some(started.scheduler);
            store = Some(started.store);
        }
        // The worker exists before the API listens: without a worker the API refuses to start jobs.
        let worker = (!is_read_only).then(|| Worker::new(jobs.clone(), lease));
        let api_stop = StopToken::default();
        let mut api = Api::new(jobs.clone(), scheduler.clone(), api_stop.clone());
        api.replays = replays;
        api.has_own_metrics = metrics.is_some();
        if let Some(http) = http {
            let pages = api.clone().with_dashboard();
            listening.push(runtime.spawn(http.serve(pages, api_stop.clone(), ended.clone())));
        }
        if let Some(metrics) = metrics {
            let served = metrics.serve_metrics(api.clone(), api_stop.clone(), ended);
            listening.push(runtime.spawn(served));
        }
        let worker_stop = StopToken::default();
        let looking = scheduler.clone().zip(store);
        let worker = worker.map(|worker| start_worker(worker, worker_stop.clone(), looking));
        let worker = worker.transpose()?;
        Ok(Self {
            runtime: Some(place),
            scheduler,
            address,
            http_address,
            metrics_address,
            end,
            listening,
            worker,
            worker_stop,
            api,
            api_stop,
            jobs,
            _logged: logged,
        })
    }

    /// Returns the address of the line protocol.
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.address
    }

    /// Returns the address of the REST API.
    pub fn http_address(&self) -> Option<std::net::SocketAddr> {
        self.http_address
    }

    /// Returns the address of the metrics, if they have one of their own.
    pub fn metrics_address(&self) -> Option<std::net::SocketAddr> {
        self.metrics_address
    }

    /// Returns the REST API, for a program that serves it among its own routes.
    pub fn api(&self) -> Api {
        self.api.clone()
    }

    /// Returns the scheduler, for the program that embeds the server.
    pub fn scheduler(&self) -> Option<&Scheduler> {
        self.scheduler.as_ref()
    }

    /// Reports to systemd that the server is ready, and then that it is alive, until `stop` is requested.
    /// Returns `false` when the scheduler's thread died because of a bug; the process should then end.
    pub fn supervise(&self, stop: &StopToken) -> bool {
        notify("READY=1");
        let beat = watchdog().map_or(STATUS_INTERVAL, |limit| STATUS_INTERVAL.min(limit / 3));
        let mut turns = 0;
        while !stop.is_requested() {
            if self.scheduler.as_ref().is_some_and(|scheduler| !scheduler.is_alive()) {
                tracing::error!("the scheduler died");
                return false;
            }
            let mut state = format!("STATUS={}", self.status());
            let now = self.turns();
            // The ledger turns three times within the watchdog's limit, even when it has nothing to do.
            if now != turns || self.scheduler.is_none() {
                state.push_str("\nWATCHDOG=1");
            }
            turns = now;
            notify(&state);
            stop.wait(beat);
        }
        true
    }

    fn turns(&self) -> u64 {
        self.scheduler.as_ref().map_or(0, |one| one.status().turns.load(Ordering::Relaxed))
    }

    /// Returns what the server does, in one line for the service manager.
    fn status(&self) -> String {
        let running = self.jobs.operator.queue().running();
        if self.jobs.is_drained() {
            return format!("drained: {running} executions go on, nothing begins");
        }
        let Some(scheduler) = &self.scheduler else { return format!("{running} executions run") };
        let status = scheduler.status();
        if status.clock_off.load(Ordering::Relaxed) {
            format!(
                "the clock of this machine is too far from the database's: no trigger fires; {running} executions run"
            )
        } else if !status.ready.load(Ordering::Relaxed) {
            format!("the store does not accept writes; {running} executions run")
        } else {
            let firing = status.firing.load(Ordering::Relaxed);
            format!("{running} executions run, {firing} triggers are being fired")
        }
    }

    /// Stops the server gracefully: it accepts, claims and fires nothing more, answers pending requests,
    /// stops running executions at their next chunk boundary, and releases or queues again what can run
    /// elsewhere.
    ///
    /// The function blocks the calling thread until everything has ended; see [`shutdown`](Self::shutdown). A
    /// runtime of one thread cannot stop a server of [`ServerBuilder::serve`] by this function: the server
    /// logs that and ends as a crash would.
    pub fn stop(self) {
        let is_given = matches!(self.runtime, Some(ServerRuntime::Given(_)));
        let flavor = Handle::try_current().ok().filter(|_| is_given).map(|it| it.runtime_flavor());
        let stopped = match flavor {
            Some(RuntimeFlavor::CurrentThread) => Err(ServerError::System(
                "`Server::stop` blocks the only thread of its runtime; use `shutdown().await`"
                    .to_owned(),
            )),
            // The other tasks of this thread, which may be those of the server, go on elsewhere.
            Some(_) => {
                tokio::task::block_in_place(|| self.stop_here());
                Ok(())
            }
            None => off_runtime(move || self.stop_here()),
        };
        log_failure(stopped);
    }

    /// Stops the server as [`stop`](Self::stop) does, without blocking a thread of the runtime.
    pub async fn shutdown(self) {
        log_failure(blocking(move || self.stop_here()).await);
    }

    /// Stops all executions, also those that a handler of the program starts meanwhile.
    fn stop_executions(&self) {
        let operator = &self.jobs.operator;
        while operator.stop_all() > 0 {
            let mut waited = Duration::ZERO;
            while waited < STOP_AGAIN && operator.queue().running() > 0 {
                StopToken::default().wait(IDLE_INTERVAL);
                waited += IDLE_INTERVAL;
            }
        }
    }

    fn stop_here(mut self) {
        notify("STOPPING=1");
        self.end.send_replace(true);
        self.worker_stop.request();
        self.api_stop.request();
        if let Some(runtime) = self.runtime.as_ref().map(ServerRuntime::handle) {
            for listening in self.listening.drain(..) {
                let _ = runtime.block_on(listening);
            }
            runtime.block_on(self.api.operations_end());
            if let Some(scheduler) = &self.scheduler {
                runtime.block_on(scheduler.drain());
            }
        }
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
        let served = self.jobs.operator.queue().claimed().unwrap_or_default();
        self.stop_executions();
        Worker::requeue(&self.jobs, &served);
    }
}

/// Does `work` on another thread when the caller is in an asynchronous runtime, whose threads must not block.
fn off_runtime<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, ServerError> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Ok(work());
    }
    thread::scope(|threads| {
        let working =
            thread::Builder::new().name("batchwright".to_owned()).spawn_scoped(threads, work);
        let working = working
            .map_err(|error| ServerError::System(format!("cannot start a thread: {error}")))?;
        Ok(working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Does `work`, which blocks, without blocking a thread of the runtime.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ServerError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServerError::System(format!("the work of the server failed: {error}")))
}

fn log_failure(stopped: Result<(), ServerError>) {
    if let Err(error) = stopped {
        tracing::error!(%error, "cannot stop the server gracefully");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.worker_stop.request();
        self.api_stop.request();
        for listening in self.listening.drain(..) {
            listening.abort();
        }
        if let Some(scheduler) = &self.scheduler {
            scheduler.end();
        }
        // A server may be dropped within an asynchronous runtime, where waiting for another one panics.
        if let Some(ServerRuntime::Own(runtime)) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Sends `state` to the service manager, if one listens; see `sd_notify(3)`.
fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = || -> std::io::Result<()> {
        let bytes = socket.as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&socket)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
    };
    if let Err(error) = sent() {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// Returns how long the service manager waits for a sign of life, if it watches this process; see
/// `sd_watchdog_enabled(3)`.
fn watchdog() -> Option<Duration> {
    let watched = std::env::var("WATCHDOG_PID").ok();
    if watched.is_some_and(|process| process != std::process::id().to_string()) {
        return None;
    }
    let limit: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (limit > 0).then(|| Duration::from_micros(limit))
}

/// The settings of a scheduler, and its schedule.
type Schedule = (SchedulerSettings, Box<dyn ScheduleStore>);

/// A scheduler that fires, with the listener of its line protocol.
struct StartedSchedule {
    scheduler: Scheduler,
    listener: Listener,
    /// A connection of its own, which looks for changes by other processes.
    store: Box<dyn ScheduleStore>,
}

impl StartedSchedule {
    fn start(
        runtime: &Handle,
        (mut settings, store): Schedule,
        jobs: &JobStarter,
        lease: Duration,
    ) -> Result<Self, ServerError> {
        let clock = jobs.operator.clock();
        let look_store = store.open_another()?;
        if !settings.has_lease {
            settings.ledger.lease = lease;
        }
        settings.ledger.pulse = watchdog().map(|limit| limit / 3);
        let scheduler = Scheduler::start(
            store,
            Arc::clone(&clock),
            settings.ledger,
            settings.runners,
            jobs.clone(),
            runtime.clone(),
        )?;
        let binding = Listener::bind(&settings.kcp, scheduler.clone(), clock);
        match runtime.block_on(binding) {
            Ok(listener) => Ok(Self { scheduler, listener, store: look_store }),
            Err(message) => {
                runtime.block_on(scheduler.drain());
                Err(ServerError::Listen(message))
            }
        }
    }
}

/// Logs each execution that fails in this process, with the cause that the store has, until the returned operator is dropped.
fn log_failures(operator: &JobOperator) -> Arc<JobOperator> {
    let logged = Arc::new(operator.clone());
    // The operator has its observers, so an observer must not keep the operator.
    let observed = Arc::downgrade(&logged);
    operator.events().observe(move |event: &Event| {
        let (Subject::Execution { id, job }, Some((BatchStatus::Failed, _))) =
            (&event.subject, event.status())
        else {
            return;
        };
        let Some(operator) = observed.upgrade() else { return };
        let row = operator.queries().execution(*id).ok().flatten();
        let failure = row.and_then(|row| row.failure);
        let (code, message) = failure.map_or_else(Default::default, |it| (it.code, it.message));
        tracing::error!(execution = id.0, job = &**job, code, message, "the execution failed");
    });
    logged
}

/// Binds the listener of the API, and that of the metrics if they have one of their own.
fn bind_http(
    runtime: &Handle,
    settings: &HttpSettings,
) -> Result<(HttpListener, Option<HttpListener>), ServerError> {
    let bind = |settings: &HttpSettings| {
        runtime.block_on(HttpListener::bind(settings)).map_err(ServerError::Listen)
    };
    Ok((bind(settings)?, settings.of_metrics().as_ref().map(bind).transpose()?))
}

/// Starts the thread of the worker. It asks the scheduler to look, and looks itself, when the store has changed.
fn start_worker(
    worker: Worker,
    stop: StopToken,
    mut looking: Option<(Scheduler, Box<dyn ScheduleStore>)>,
) -> Result<thread::JoinHandle<()>, ServerError> {
    let mut seen = None;
    let changed = move || match &mut looking {
        None => true,
        Some((scheduler, store)) => {
            let version = store.change_number().ok().flatten();
            let changed = version.is_none() || version != seen;
            seen = version;
            if changed {
                scheduler.look();
            }
            changed
        }
    };
    let named = thread::Builder::new().name("batchwright worker".to_owned());
    named
        .spawn(move || worker.run(&stop, changed))
        .map_err(|error| ServerError::System(format!("cannot start the worker: {error}")))
}

/// Raises the limit of open descriptors to the maximum of this process: each client needs one.
fn allow_many_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "cannot raise the limit of open descriptors");
    }
}
