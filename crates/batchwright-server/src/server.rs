//! The server: scheduler, listener, worker, put together and taken down.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use batchwright::{Clock, RepositoryError, StopToken};
use batchwright_store::ScheduleStore;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::api::{Api, HttpListener, HttpSettings};
use crate::config::SchedulerSettings;
use crate::kcp::Listener;
use crate::scheduler::{JobStarter, Scheduler, StartError};
use crate::worker::Worker;

/// Threads of the runtime: sockets and runners; the ledger and the jobs have their own.
const RUNTIME_THREADS: usize = 2;
/// How often the server says that it is alive and what it does.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The store does not answer, or cannot be used.
    #[error(transparent)]
    Store(#[from] RepositoryError),
    /// An address that cannot be had, or must not be had without protection.
    #[error("{0}")]
    Listen(String),
    /// No thread, no runtime.
    #[error("{0}")]
    System(String),
}

impl From<StartError> for ServerError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => Self::Store(error),
            StartError::Runners(told) => Self::System(told),
        }
    }
}

/// A running server. Dropping it without [`stop`](Self::stop) ends it as a crash would.
pub struct Server {
    runtime: Runtime,
    scheduler: Option<Scheduler>,
    address: Option<SocketAddr>,
    http_address: Option<SocketAddr>,
    end: watch::Sender<bool>,
    listening: Vec<tokio::task::JoinHandle<()>>,
    worker: Option<thread::JoinHandle<()>>,
    worker_stop: StopToken,
    jobs: JobStarter,
}

impl Server {
    /// Takes over from servers that died, listens, fires and carries forward what was handed over.
    ///
    /// `schedule` is what the scheduler does and its two connections to the store: one to fire, one to look.
    /// Without it there is no scheduler. `http` is where the REST API is; without it there is none.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: nothing runs.
    pub fn start(
        jobs: JobStarter,
        clock: Arc<dyn Clock>,
        lease: Duration,
        schedule: Option<(SchedulerSettings, [ScheduleStore; 2])>,
        http: Option<&HttpSettings>,
    ) -> Result<Self, ServerError> {
        // Webhooks and brokers speak TLS by this provider; a program that chose another one keeps it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        allow_many_descriptors();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("batchwright server")
            .enable_all()
            .build()
            .map_err(|error| ServerError::System(format!("start the runtime: {error}")))?;
        let (end, ended) = watch::channel(false);
        let (mut scheduler, mut address, mut looking) = (None, None, None);
        let mut listening = Vec::new();
        // Before the scheduler, which begins to fire: an address that cannot be had ends the start.
        let http = match http {
            Some(settings) => {
                let bound = runtime.block_on(HttpListener::bind(settings));
                Some(bound.map_err(ServerError::Listen)?)
            }
            None => None,
        };
        let http_address = http.as_ref().and_then(|http| http.address().ok());
        if let Some((settings, [store, look_store])) = schedule {
            let started = Scheduler::start(
                store,
                Arc::clone(&clock),
                settings.ledger,
                settings.runners,
                jobs.clone(),
                runtime.handle().clone(),
            )?;
            let binding = Listener::bind(&settings.kcp, started.clone(), clock);
            let listener = match runtime.block_on(binding) {
                Ok(listener) => listener,
                Err(told) => {
                    runtime.block_on(started.drain());
                    return Err(ServerError::Listen(told));
                }
            };
            address = listener.address().ok();
            listening.push(runtime.spawn(listener.serve(ended.clone())));
            looking = Some((started.clone(), look_store));
            scheduler = Some(started);
        }
        if let Some(http) = http {
            let stop = StopToken::default();
            let api = Api::new(jobs.clone(), scheduler.clone(), stop.clone());
            listening.push(runtime.spawn(http.serve(api, stop, ended)));
        }
        let worker_stop = StopToken::default();
        let (worker, stop) = (Worker::new(jobs.clone(), lease), worker_stop.clone());
        let worker =
            thread::Builder::new().name("batchwright worker".to_owned()).spawn(move || {
                let mut seen = None;
                worker.run(&stop, || match &mut looking {
                    None => true,
                    Some((scheduler, store)) => {
                        let version = store.file_version().ok().flatten();
                        let changed = version.is_none() || version != seen;
                        seen = version;
                        if changed {
                            scheduler.look();
                        }
                        changed
                    }
                });
            });
        let worker =
            worker.map_err(|error| ServerError::System(format!("start the worker: {error}")))?;
        let worker = Some(worker);
        Ok(Self {
            runtime,
            scheduler,
            address,
            http_address,
            end,
            listening,
            worker,
            worker_stop,
            jobs,
        })
    }

    /// The address that clients of the line protocol reach it at.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The address that the REST API is reached at.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// The schedule, for the program that embeds the server.
    pub fn scheduler(&self) -> Option<&Scheduler> {
        self.scheduler.as_ref()
    }

    /// Tells systemd that the server is ready, and from then on that it is alive, until `stop` is requested.
    /// `false`: the scheduler died of a fault of ours, and the process should end.
    pub fn attend(&self, stop: &StopToken) -> bool {
        notify(&[sd_notify::NotifyState::Ready]);
        let mut turns = 0;
        while !stop.is_requested() {
            if self.scheduler.as_ref().is_some_and(|scheduler| !scheduler.is_alive()) {
                tracing::error!("the scheduler died");
                return false;
            }
            let status = self.status();
            let mut said = vec![sd_notify::NotifyState::Status(&status)];
            let now = self.turns();
            // The ledger beats three times within a lease: a watchdog longer than that sees it move.
            if now != turns || self.scheduler.is_none() {
                said.push(sd_notify::NotifyState::Watchdog);
            }
            turns = now;
            notify(&said);
            stop.wait(STATUS_INTERVAL);
        }
        true
    }

    fn turns(&self) -> u64 {
        self.scheduler.as_ref().map_or(0, |one| one.vitals().turns.load(Ordering::Relaxed))
    }

    fn status(&self) -> String {
        match &self.scheduler {
            None => "carrying executions forward".to_owned(),
            Some(scheduler) => {
                let vitals = scheduler.vitals();
                let firing = vitals.firing.load(Ordering::Relaxed);
                match vitals.ready.load(Ordering::Relaxed) {
                    true => format!("{firing} triggers being fired"),
                    false => "the store does not take what is to be stored".to_owned(),
                }
            }
        }
    }

    /// Ends it: nothing more is accepted, taken or fired; what runs ends at its next chunk boundary; what
    /// clients asked is answered; what did not run is given back.
    pub fn stop(mut self) {
        notify(&[sd_notify::NotifyState::Stopping]);
        self.end.send_replace(true);
        self.worker_stop.request();
        for listening in self.listening.drain(..) {
            let _ = self.runtime.block_on(listening);
        }
        if let Some(scheduler) = &self.scheduler {
            self.runtime.block_on(scheduler.drain());
        }
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
        let served = self.jobs.operator.served().unwrap_or_default();
        self.jobs.operator.stop_all();
        self.jobs.operator.wait_all();
        Worker::pass_on(&self.jobs, &served);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.worker_stop.request();
        if let Some(scheduler) = &self.scheduler {
            scheduler.end();
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Under systemd; elsewhere it does nothing.
fn notify(said: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(said) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Ten thousand clients are as many descriptors: as many as the system allows this process.
fn allow_many_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the number of descriptors stays as it is");
    }
}
