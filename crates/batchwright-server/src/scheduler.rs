//! Fires triggers when they are due: durable, on time, each slot once, whoever fires it.

pub(crate) mod dispatch;
mod explain;
pub(crate) mod group;
mod ledger;
mod plan;
mod rule;
pub(crate) mod runner;
pub(crate) mod time;
mod trigger;

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use batchwright::{Clock, RepositoryError};
use batchwright_store::ScheduleStore;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

pub use batchwright_store::{TriggerRow, TriggerStatus};
pub use dispatch::RunnerSettings;
pub use explain::{Explanation, explain};
pub use group::{Answer, LIST_MAX, Request};
pub use ledger::LedgerSettings;
pub use plan::{Due, Exclusion, Misfire, Overlap, Plan, Recurrence};
pub use rule::{Rule, RuleSettings, Runner, Secret};
pub use runner::JobStarter;
pub use time::show as show_time;
pub use trigger::{Refused, When, plan_of};

use dispatch::Dispatcher;
use group::Group;
use ledger::{Command, Ledger, Reply, ServerLease, State, Vitals};

/// Bytes of requests that wait for their answers, over all clients; then those who ask wait.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a request weighs besides its texts.
const REQUEST_BYTES: usize = 256;

/// The door to the schedule of a running server. Cloning shares it.
#[derive(Clone)]
pub struct Scheduler {
    commands: mpsc::Sender<Command>,
    bytes: Arc<Semaphore>,
    ledger: Arc<JoinHandle<()>>,
    vitals: Arc<Vitals>,
    jobs: JobStarter,
}

impl Scheduler {
    /// Takes over from servers that died and begins to fire.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub(crate) fn start(
        store: ScheduleStore,
        clock: Arc<dyn Clock>,
        settings: LedgerSettings,
        runners: RunnerSettings,
        jobs: JobStarter,
        runtime: Handle,
    ) -> Result<Self, StartError> {
        let (commands, asked) = mpsc::channel();
        let lease = Arc::new(ServerLease::new(Arc::clone(&clock)));
        let dispatcher =
            Dispatcher::new(runtime, runners, Arc::clone(&lease), jobs.clone(), commands.clone())
                .map_err(StartError::Runners)?;
        let vitals = Arc::new(Vitals::default());
        let mut ledger = Ledger {
            store,
            clock,
            settings,
            commands: asked,
            dispatcher,
            lease,
            vitals: Arc::clone(&vitals),
            state: State::default(),
        };
        ledger.open()?;
        let spawned = std::thread::Builder::new()
            .name("batchwright ledger".to_owned())
            .spawn(|| ledger.run());
        let ledger = spawned
            .map_err(|error| StartError::Runners(format!("no thread for the ledger: {error}")))?;
        let bytes = Arc::new(Semaphore::new(WAITING_BYTES_MAX));
        Ok(Self { commands, bytes, ledger: Arc::new(ledger), vitals, jobs })
    }

    /// Asks, and waits for the answer, which is durable then.
    ///
    /// # Errors
    ///
    /// [`Refused`]: nothing was changed, unless its code is `unavailable`; then look before asking again.
    pub async fn ask(&self, request: Request) -> Result<Answer, Refused> {
        let (reply, answer) = oneshot::channel();
        let told = Box::new(move |answer| drop(reply.send(answer)));
        self.ask_sized(request, 0, told).await;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Asks; `reply` is called with the answer. Waits while too much is under way.
    pub(crate) async fn ask_sized(&self, request: Request, size: usize, reply: Reply) {
        if let Err(refused) = self.check(&request).await {
            return reply(Err(refused));
        }
        let weight = u32::try_from(size + REQUEST_BYTES).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.bytes).acquire_many_owned(weight).await;
        let with_place: Reply = Box::new(move |answer| {
            drop(place);
            reply(answer);
        });
        if let Err(mpsc::SendError(Command::Ask(_, reply))) =
            self.commands.send(Command::Ask(request, with_place))
        {
            reply(Err(gone()));
        }
    }

    /// A rule names a job that can be started so. Job files are read for it, on a thread that may wait.
    async fn check(&self, request: &Request) -> Result<(), Refused> {
        let Request::SetRule { settings, .. } = request else { return Ok(()) };
        if !matches!(settings.runner, Runner::Job { .. }) {
            return Ok(());
        }
        let (jobs, settings) = (self.jobs.clone(), settings.clone());
        let checked = tokio::task::spawn_blocking(move || jobs.check_rule(&settings)).await;
        checked.map_err(|_| gone())?.map_err(Refused::invalid)
    }

    /// Whether it still works.
    pub(crate) fn is_alive(&self) -> bool {
        !self.ledger.is_finished()
    }

    /// Another process may have changed the store.
    pub(crate) fn look(&self) {
        let _ = self.commands.send(Command::Look);
    }

    /// Fires nothing more and waits until all that ran is recorded.
    pub(crate) async fn drain(&self) {
        let (told, drained) = oneshot::channel();
        if self.commands.send(Command::Drain(told)).is_ok() {
            let _ = drained.await;
        }
    }

    /// Ends at once, as a crash would: whoever comes next takes over.
    pub(crate) fn end(&self) {
        let _ = self.commands.send(Command::End);
    }

    /// What others may see of it.
    pub(crate) fn vitals(&self) -> &Vitals {
        &self.vitals
    }
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("vitals", &self.vitals).finish_non_exhaustive()
    }
}

/// Why the scheduler did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Store(#[from] RepositoryError),
    #[error("{0}")]
    Runners(String),
}

fn gone() -> Refused {
    Refused::new("unavailable", "the server ends")
}

/// Follows `requests` without a server, in one unit of work: for commands. A server that shares the store sees
/// the change within a second.
///
/// # Errors
///
/// [`RepositoryError`]: nothing holds. Each request that was refused says so by itself.
pub fn follow(
    store: &mut ScheduleStore,
    clock: &dyn Clock,
    requests: &[Request],
) -> Result<Vec<Result<Answer, Refused>>, RepositoryError> {
    let mut unit = store.begin()?;
    let keys = requests.iter().filter_map(Group::keys_of).collect();
    let mut group = Group::new(&mut unit, clock.now().as_microsecond(), keys, std::iter::empty())?;
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        answers.push(group.request(request)?);
    }
    group.flush()?;
    unit.commit()?;
    Ok(answers)
}
