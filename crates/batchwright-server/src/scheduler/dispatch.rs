//! Dispatches claimed triggers to the runners of their rules. Each target has its own queue and bound, so
//! that a slow target does not delay the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use batchwright::event::{Change, Event, Subject};
use batchwright::execution::TraceContext;
use batchwright::store::schedule::TriggerKey;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};

use super::group::Firing;
use super::ledger::{Command, Outcomes, ServerLease};
use super::rule::{Rule, Runner};
use super::runner::{self, JobStarter, amqp};
use super::time::{self, Micros};
use super::trigger::Outcome;

/// Triggers that wait for one target; further ones stay in the store and are deferred.
const WAITING_MAX: usize = 20_000;

/// Maximum of calls at once, for each kind of runner.
#[derive(Debug, Clone)]
pub struct RunnerSettings {
    /// Shell commands.
    pub shell_max: usize,
    /// HTTP requests to one host.
    pub http_max: usize,
    /// Batch jobs.
    pub job_max: usize,
}

impl Default for RunnerSettings {
    fn default() -> Self {
        Self { shell_max: 16, http_max: 32, job_max: 8 }
    }
}

/// Why a runner is asked to stop early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stop {
    /// No stop is requested.
    #[default]
    No,
    /// A later slot replaces this one.
    Replaced,
    /// This server ends; the trigger fires again.
    Shutdown,
    /// The trigger belongs to another server after this one lost its lease.
    Lost,
}

/// The context that all runners share.
pub(crate) struct Shared {
    pub(crate) lease: Arc<ServerLease>,
    pub(crate) http: runner::http::Client,
    pub(crate) jobs: JobStarter,
    ledger: std::sync::mpsc::Sender<Command>,
    stops: Mutex<HashMap<TriggerKey, watch::Sender<Stop>>>,
    /// Asks all runners to stop.
    all: watch::Sender<Stop>,
}

impl Shared {
    fn new(
        lease: Arc<ServerLease>,
        http: runner::http::Client,
        jobs: JobStarter,
        ledger: std::sync::mpsc::Sender<Command>,
    ) -> Self {
        Self { lease, http, jobs, ledger, stops: Mutex::default(), all: watch::Sender::default() }
    }

    fn stops(&self) -> MutexGuard<'_, HashMap<TriggerKey, watch::Sender<Stop>>> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a receiver of requests to stop all runners.
    pub(crate) fn everybody(&self) -> watch::Receiver<Stop> {
        self.all.subscribe()
    }

    /// Returns the span of this call, the parent of what the runner calls.
    pub(crate) fn trace(&self, firing: &Firing) -> TraceContext {
        let store = self.jobs.operator().store_id();
        let (slot, fired_at) = (firing.slot.to_string(), firing.fired_at.to_string());
        TraceContext::root(&["call", store, &firing.key.identifier, &slot, &fired_at])
    }

    /// Emits that a call which began at `began` has ended. One that was given up, or never began, has no event: it fires again.
    pub(crate) fn ended(&self, firing: &Firing, began: Micros, outcome: &Outcome) {
        let (outcome, reason) = match outcome {
            Outcome::Executed(_) => ("executed", None),
            Outcome::Failed { reason, .. } => ("failed", Some(reason.clone())),
            Outcome::Released | Outcome::Postponed(_) => return,
        };
        self.jobs.operator().events().emit(|| {
            let now = self.lease.now();
            let (runner, call) = firing.rule.settings.runner.call();
            Event {
                at: time::timestamp(now),
                subject: Subject::Trigger {
                    identifier: firing.key.identifier.as_str().into(),
                    slot: time::timestamp(firing.slot),
                },
                change: Change::RunnerEnded {
                    runner,
                    call: call.into(),
                    attempt: firing.attempt,
                    trace: self.trace(firing),
                    took: Duration::from_micros(u64::try_from(now - began).unwrap_or(0)),
                    outcome,
                    reason,
                },
            }
        });
    }

    /// Sends outcomes to the ledger. When the ledger has ended they are lost, and the triggers fire again.
    pub(crate) fn report(&self, outcomes: Outcomes) {
        let _ = self.ledger.send(Command::Record(outcomes));
    }
}

/// The target of a rule's calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Shell,
    Broker(String),
    Host(String),
    Jobs,
}

impl Place {
    fn of(rule: &Rule) -> Self {
        match &rule.settings.runner {
            Runner::Shell { .. } => Self::Shell,
            Runner::Amqp { dsn, .. } => Self::Broker(dsn.expose().to_owned()),
            Runner::Http { url, .. } => Self::Host(runner::http::host(url.expose())),
            Runner::Job { .. } => Self::Jobs,
        }
    }
}

struct Target {
    queue: mpsc::UnboundedSender<Firing>,
    /// Number of triggers that wait for the target or run on it.
    waiting: Arc<AtomicUsize>,
}

/// How many more triggers each target accepts.
pub(super) struct Room<'a> {
    targets: &'a HashMap<Place, Target>,
    taken: HashMap<Place, usize>,
}

impl Room<'_> {
    /// Reserves room for one more trigger of `rule`; `false` when its target is full.
    pub(super) fn take(&mut self, rule: &Rule) -> bool {
        let place = Place::of(rule);
        let target = self.targets.get(&place);
        let waiting = target.map_or(0, |target| target.waiting.load(Ordering::Relaxed));
        let taken = self.taken.entry(place).or_default();
        *taken += 1;
        waiting + *taken <= WAITING_MAX
    }
}

/// Dispatches claimed triggers to runners.
pub(super) struct Dispatcher {
    runtime: Handle,
    settings: RunnerSettings,
    shared: Arc<Shared>,
    targets: HashMap<Place, Target>,
}

impl Dispatcher {
    pub(super) fn new(
        runtime: Handle,
        settings: RunnerSettings,
        lease: Arc<ServerLease>,
        jobs: JobStarter,
        ledger: std::sync::mpsc::Sender<Command>,
    ) -> Result<Self, String> {
        let shared = Shared::new(lease, runner::http::client()?, jobs, ledger);
        Ok(Self { runtime, settings, shared: Arc::new(shared), targets: HashMap::new() })
    }

    /// Returns the room that is left, for claims that are dispatched later.
    pub(super) fn room(&self) -> Room<'_> {
        Room { targets: &self.targets, taken: HashMap::new() }
    }

    pub(super) fn dispatch(&mut self, firing: Firing) {
        let place = Place::of(&firing.rule);
        if !matches!(place, Place::Broker(_)) {
            self.shared.stops().insert(firing.key.clone(), watch::Sender::default());
        }
        let target = match self.targets.entry(place) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let (queue, work) = mpsc::unbounded_channel();
                let waiting = Arc::new(AtomicUsize::new(0));
                let shared = Arc::clone(&self.shared);
                let done = Arc::clone(&waiting);
                match new.key() {
                    Place::Broker(dsn) => {
                        self.runtime.spawn(amqp::publish_all(shared, dsn.clone(), work, done));
                    }
                    Place::Shell => {
                        self.runtime.spawn(pool(shared, self.settings.shell_max, work, done));
                    }
                    Place::Host(_) => {
                        self.runtime.spawn(pool(shared, self.settings.http_max, work, done));
                    }
                    Place::Jobs => {
                        self.runtime.spawn(pool(shared, self.settings.job_max, work, done));
                    }
                }
                new.insert(Target { queue, waiting })
            }
        };
        target.waiting.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = target.queue.send(firing) {
            // This happens only when the runtime ends: the trigger fires again once the lease ends.
            tracing::error!(trigger = error.0.key.identifier, "its runner has ended");
        }
    }

    /// Asks the runner of a slot to stop.
    pub(super) fn stop(&self, key: &TriggerKey) {
        if let Some(stop) = self.shared.stops().get(key) {
            stop.send_replace(Stop::Replaced);
        }
    }

    /// Asks all runners to stop; triggers that have not started are released.
    pub(super) fn drain(&self) {
        self.shared.all.send_replace(Stop::Shutdown);
    }

    /// Stops everything that runs or waits, because it belongs to another server now.
    pub(super) fn abandon(&mut self) {
        self.shared.all.send_replace(Stop::Lost);
        // Runners that subscribe from now on belong to the next lease.
        self.targets.clear();
        let Shared { lease, http, jobs, ledger, .. } = &*self.shared;
        let fresh = Shared::new(Arc::clone(lease), http.clone(), jobs.clone(), ledger.clone());
        self.shared = Arc::new(fresh);
    }
}

/// Calls runners, at most `running_max` at once.
async fn pool(
    shared: Arc<Shared>,
    running_max: usize,
    mut work: mpsc::UnboundedReceiver<Firing>,
    waiting: Arc<AtomicUsize>,
) {
    let permits = Arc::new(Semaphore::new(running_max));
    let mut stop_all = shared.everybody();
    while let Some(firing) = work.recv().await {
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit.ok(),
            _ = stop_all.wait_for(|stop| *stop != Stop::No) => None,
        };
        let own = shared.stops().get(&firing.key).map(watch::Sender::subscribe);
        let (shared, waiting) = (Arc::clone(&shared), Arc::clone(&waiting));
        tokio::spawn(async move {
            let outcome = match (own, permit.is_some()) {
                (Some(own), true) => {
                    let began = shared.lease.now();
                    let outcome = call(&shared, &firing, own).await;
                    shared.ended(&firing, began, &outcome);
                    outcome
                }
                _ => Outcome::Released,
            };
            drop(permit);
            shared.stops().remove(&firing.key);
            waiting.fetch_sub(1, Ordering::Relaxed);
            shared.report(vec![(firing, outcome)]);
        });
    }
}

async fn call(shared: &Shared, firing: &Firing, mut own: watch::Receiver<Stop>) -> Outcome {
    let mut stop_all = shared.everybody();
    let stop = async {
        tokio::select! {
            Ok(stop) = own.wait_for(|stop| *stop != Stop::No) => *stop,
            Ok(stop) = stop_all.wait_for(|stop| *stop != Stop::No) => *stop,
            else => Stop::Lost,
        }
    };
    // After a pause longer than the lease, another server may have taken this trigger over.
    if !shared.lease.is_valid() {
        return Outcome::Released;
    }
    match &firing.rule.settings.runner {
        Runner::Shell { command } => runner::shell::run(shared, firing, command, stop).await,
        Runner::Http { url, secret } => {
            runner::http::call(shared, firing, url, secret.as_ref(), stop).await
        }
        Runner::Job { name, parameters } => {
            runner::job::run(&shared.jobs, firing, name, &parameters.0, stop).await
        }
        Runner::Amqp { .. } => Outcome::Released,
    }
}
