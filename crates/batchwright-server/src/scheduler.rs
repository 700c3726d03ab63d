//! Fires triggers when they are due: durably, on time, and each slot once over all servers.

pub(crate) mod condition;
mod dispatch;
mod explain;
pub(crate) mod group;
mod ledger;
mod plan;
mod request;
mod rule;
pub(crate) mod runner;
pub(crate) mod time;
mod trigger;

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use batchwright::clock::Clock;
use batchwright::error::RepositoryError;
use batchwright::store::schedule::ScheduleStore;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

pub use batchwright::store::schedule::{TriggerRow, TriggerStatus};
pub(crate) use condition::{Condition, rule_tag, trigger_tag};
pub use dispatch::RunnerSettings;
pub use explain::{Explanation, explain};
pub use ledger::LedgerSettings;
pub use plan::{Due, Exclusion, Misfire, Overlap, Plan, Recurrence};
pub use request::{Answer, LIST_MAX, Request, ScheduleCommand};
pub(crate) use rule::Rulebook;
pub use rule::{Rule, RuleSettings, Runner, Secret};
pub use runner::JobStarter;
pub(crate) use runner::job::POLL_INTERVAL;
pub use time::show as show_time;
pub use trigger::{Refused, When, plan_of};

use dispatch::Dispatcher;
use group::Group;
use ledger::{Command, Ledger, LedgerStatus, Reply, ServerLease, State};

/// Bytes of requests that wait for their answers, over all clients; beyond that, new requests wait.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that a request counts in addition to its texts.
const REQUEST_BYTES: usize = 256;

/// The schedule of a running server: answers requests. Clones share it.
#[derive(Clone)]
pub struct Scheduler {
    commands: mpsc::Sender<Command>,
    bytes: Arc<Semaphore>,
    ledger: Arc<JoinHandle<()>>,
    status: Arc<LedgerStatus>,
    jobs: JobStarter,
    clock: Arc<dyn Clock>,
    /// A connection of its own for questions, which must not wait for the ledger, nor the ledger for them.
    reading: Arc<tokio::sync::Mutex<Box<dyn ScheduleStore>>>,
}

impl Scheduler {
    /// Takes over from dead servers and begins to fire.
    ///
    /// # Errors
    ///
    /// When the store does not answer, or the system refuses a thread.
    pub(crate) fn start(
        store: Box<dyn ScheduleStore>,
        clock: Arc<dyn Clock>,
        settings: LedgerSettings,
        runners: RunnerSettings,
        jobs: JobStarter,
        runtime: Handle,
    ) -> Result<Self, StartError> {
        let (commands, asked) = mpsc::channel();
        let reading = Arc::new(tokio::sync::Mutex::new(store.open_another()?));
        let lease = Arc::new(ServerLease::new(Arc::clone(&clock)));
        let dispatcher =
            Dispatcher::new(runtime, runners, Arc::clone(&lease), jobs.clone(), commands.clone())
                .map_err(StartError::Runners)?;
        let status = Arc::new(LedgerStatus::default());
        let mut ledger = Ledger {
            store,
            clock: Arc::clone(&clock),
            settings,
            commands: asked,
            dispatcher,
            events: jobs.operator.events().clone(),
            jobs: jobs.clone(),
            lease,
            status: Arc::clone(&status),
            state: State::default(),
        };
        ledger.open()?;
        let spawned = std::thread::Builder::new()
            .name("batchwright ledger".to_owned())
            .spawn(|| ledger.run());
        let ledger = spawned.map_err(|error| {
            StartError::Runners(format!("cannot start the thread of the ledger: {error}"))
        })?;
        let bytes = Arc::new(Semaphore::new(WAITING_BYTES_MAX));
        let ledger = Arc::new(ledger);
        Ok(Self { commands, bytes, ledger, status, jobs, clock, reading })
    }

    /// Sends a request and waits for the answer; the change is durable then.
    ///
    /// # Errors
    ///
    /// [`Refused`]: nothing was changed, unless its code is `unavailable`; then check before sending the
    /// request again.
    pub async fn ask(&self, request: Request) -> Result<Answer, Refused> {
        let (reply, answer) = oneshot::channel();
        let send = Box::new(move |answer| drop(reply.send(answer)));
        self.ask_sized(request, 0, send).await;
        answer.await.unwrap_or_else(|_| Err(ending()))
    }

    /// Answers a question from what is stored, without the ledger.
    ///
    /// # Errors
    ///
    /// [`Refused`], with the code `unavailable` when the store does not answer.
    pub(crate) async fn read(&self, question: Request) -> Result<Answer, Refused> {
        // Those who wait have no thread.
        let mut store = Arc::clone(&self.reading).lock_owned().await;
        let clock = Arc::clone(&self.clock);
        let answered =
            tokio::task::spawn_blocking(move || answer_question(&mut **store, &*clock, &question));
        match answered.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::warn!(error = %batchwright::report(&error), "the schedule cannot be read");
                Err(Refused::new("unavailable", "the store does not answer"))
            }
            Err(_) => Err(ending()),
        }
    }

    /// Sends a request; `reply` is called with the answer. Waits while requests of too many bytes are
    /// pending.
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
            reply(Err(ending()));
        }
    }

    /// Checks that the job of a rule can be started with the rule's parameters. Reads job files for it, on a
    /// thread that may block.
    async fn check(&self, request: &Request) -> Result<(), Refused> {
        let Request::SetRule { settings, .. } = request.change() else { return Ok(()) };
        if !matches!(settings.runner, Runner::Job { .. }) {
            return Ok(());
        }
        let (jobs, settings) = (self.jobs.clone(), settings.clone());
        let checked = tokio::task::spawn_blocking(move || jobs.check_rule(&settings)).await;
        checked.map_err(|_| ending())?.map_err(Refused::invalid)
    }

    /// Returns whether the thread of the ledger is alive.
    pub(crate) fn is_alive(&self) -> bool {
        !self.ledger.is_finished()
    }

    /// Notifies the ledger that another process may have changed the store.
    pub(crate) fn look(&self) {
        let _ = self.commands.send(Command::Refresh);
    }

    /// Stops firing and waits until the outcome of everything that ran is recorded.
    pub(crate) async fn drain(&self) {
        let (done, drained) = oneshot::channel();
        if self.commands.send(Command::Drain(done)).is_ok() {
            let _ = drained.await;
        }
    }

    /// Ends at once, as a crash would; another server, or the next one, takes over.
    pub(crate) fn end(&self) {
        let _ = self.commands.send(Command::End);
    }

    /// Returns the observable state of the ledger.
    pub(crate) fn status(&self) -> &LedgerStatus {
        &self.status
    }
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("status", &self.status).finish_non_exhaustive()
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

fn ending() -> Refused {
    Refused::new("unavailable", "the server is ending")
}

/// Answers a question that changes nothing.
fn answer_question(
    store: &mut dyn ScheduleStore,
    clock: &dyn Clock,
    question: &Request,
) -> Result<Result<Answer, Refused>, RepositoryError> {
    let mut tx = store.begin_reading()?;
    let keys = Group::key_of(question).into_iter().collect();
    let mut group = Group::new(&mut *tx, clock.now().as_microsecond(), keys, std::iter::empty())?;
    group.request(question)
}

/// Executes `requests` without a server, in one transaction, for commands. A server that shares the store
/// sees the changes within a second.
///
/// # Errors
///
/// [`RepositoryError`]: nothing was changed. A refused request has its own error in the list.
pub fn follow(
    store: &mut dyn ScheduleStore,
    clock: &dyn Clock,
    requests: &[Request],
) -> Result<Vec<Result<Answer, Refused>>, RepositoryError> {
    let mut tx = store.begin()?;
    let keys = requests.iter().filter_map(Group::key_of).collect();
    let mut group = Group::new(&mut *tx, clock.now().as_microsecond(), keys, std::iter::empty())?;
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        answers.push(group.request(request)?);
    }
    group.flush()?;
    tx.commit()?;
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright::store::schedule::MemorySchedule;
    use batchwright::testing::SimClock;

    #[test]
    fn changes_of_one_trigger_in_one_transaction_follow_each_other() {
        let clock = SimClock::at("2026-11-30T12:00:00Z".parse().unwrap());
        let now = clock.now().as_microsecond();
        let plan = |words: &[&str]| When::Recurring(Box::new(Plan::parse(words, now).unwrap()));
        let set = |words: &[&str]| Request::Set { identifier: "a".to_owned(), when: plan(words) };
        let christmas = plan(&["cron", "0 2 24 12 *"]);
        let When::Recurring(ref yearly) = christmas else { panic!("it is a plan") };
        let slot = yearly.next(now).unwrap();
        let mut store = MemorySchedule::default();
        let answers = follow(
            &mut store,
            &clock,
            &[
                set(&["cron", "0 2 * * *"]),
                Request::Skip { identifier: "a".to_owned(), slot },
                set(&["cron", "0 3 * * *"]),
                set(&["cron", "0 2 24 12 *"]),
                Request::Get { identifier: "a".to_owned() },
            ],
        )
        .unwrap();
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        let row = answers.into_iter().next_back().unwrap().unwrap().triggers().remove(0);
        assert_eq!(row.slot, yearly.next(slot).unwrap(), "the skipped time is left out");
    }
}
