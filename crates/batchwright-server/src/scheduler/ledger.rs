//! The thread that owns the schedule. The ledger groups requests of clients, outcomes of runners and due
//! triggers into transactions, each durable with one commit, and sleeps until the next one.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use batchwright::clock::Clock;
use batchwright::error::RepositoryError;
use batchwright::event::Events;
use batchwright::report;
use batchwright::store::owner::{Liveness, ProcessIdentity};
use batchwright::store::schedule::{ScheduleStore, TriggerKey, TriggerRow};
use tokio::sync::oneshot;

use super::JobStarter;
use super::dispatch::Dispatcher;
use super::group::{ClaimConditions, Claimed, Firing, Group, event_of};
use super::request::{Answer, Request};
use super::rule::Rulebook;
use super::time::{self, Micros};
use super::trigger::{self, Outcome, Refused};

/// Requests of one commit: enough to share its cost, few enough that none waits long.
const REQUESTS_MAX: usize = 1_000;
/// Outcomes of runners in one commit.
const OUTCOMES_MAX: usize = 250;
/// Due triggers claimed in one commit.
const CLAIMS_MAX: usize = 250;
/// Attempts of a transaction that conflicts with one of another server.
const CONFLICTS_MAX: usize = 16;
/// First and longest wait before the ledger retries a store that failed.
const STORE_RETRY_MIN: Duration = Duration::from_millis(100);
const STORE_RETRY_MAX: Duration = Duration::from_secs(5);
/// Renewals within one lease.
const RENEWALS_PER_LEASE: u32 = 3;
/// How often old ended rows are removed, and how many in one commit.
const RETENTION_INTERVAL: Duration = Duration::from_secs(3_600);
const RETENTION_BATCH: usize = 1_000;
/// Triggers that are planned anew in one commit.
const REPLAN_BATCH: usize = 250;
/// Longest wait of a retry, in microseconds.
const RUNNER_BACKOFF_MAX: Micros = 3_600_000_000;
/// Largest difference from the database's clock with which triggers still fire, in microseconds.
const CLOCK_BOUND: Micros = 2_000_000;
/// Smallest difference between two clocks' progress that counts as a clock that was set, in microseconds.
const CLOCK_STEP: Micros = 1_000_000;

/// The settings of the ledger.
#[derive(Debug, Clone)]
pub struct LedgerSettings {
    /// Time without a heartbeat after which another server takes over the triggers that this one fires.
    pub lease: Duration,
    /// Delay after which a slot counts as missed, and its misfire policy applies.
    pub misfire_after: Duration,
    /// Age after which ended rows are removed.
    pub keep_for: Duration,
    /// Number of newest ended rows that are kept.
    pub keep_count: usize,
    /// Longest pause of the loop, for a watchdog that checks it.
    pub pulse: Option<Duration>,
}

impl Default for LedgerSettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            misfire_after: Duration::from_secs(5),
            keep_for: Duration::from_secs(30 * 86_400),
            keep_count: 1_000_000,
            pulse: None,
        }
    }
}

/// A function that is called with the answer to a request, once the change is durable.
pub(crate) type Reply = Box<dyn FnOnce(Result<Answer, Refused>) + Send>;

/// Outcomes that runners report together.
pub(crate) type Outcomes = Vec<(Firing, Outcome)>;

pub(super) enum Command {
    Ask(Request, Reply),
    /// Records outcomes of runners.
    Record(Outcomes),
    /// Looks at the store, which another process may have changed.
    Refresh,
    /// Stops firing. The sender is used when the outcome of everything that ran is recorded.
    Drain(oneshot::Sender<()>),
    /// Ends the ledger at once.
    End,
}

/// The lease of this server, as far as it knows: the moment, on the monotonic clock, after which other
/// servers may take over.
#[derive(Debug)]
pub(crate) struct ServerLease {
    valid_until_us: AtomicU64,
    clock: Arc<dyn Clock>,
}

impl ServerLease {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { valid_until_us: AtomicU64::new(0), clock }
    }

    fn renewed(&self, asked_at: Duration, lease: Duration) {
        let until = u64::try_from((asked_at + lease).as_micros()).unwrap_or(u64::MAX);
        self.valid_until_us.store(until, Ordering::Release);
    }

    /// Returns the time in microseconds since 1970.
    pub(crate) fn now(&self) -> Micros {
        self.clock.now().as_microsecond()
    }

    /// Returns whether the lease still holds; every call of a runner checks it first.
    pub(crate) fn is_valid(&self) -> bool {
        let now = u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX);
        now < self.valid_until_us.load(Ordering::Acquire)
    }
}

/// The observable state of the ledger.
#[derive(Debug, Default)]
pub(crate) struct LedgerStatus {
    /// Whether the store answers and this machine's clock is within its bound, so that triggers can fire.
    pub(crate) ready: AtomicBool,
    /// Turns of the loop, for a watchdog.
    pub(crate) turns: AtomicU64,
    /// Number of triggers that are being fired.
    pub(crate) firing: AtomicUsize,
    /// Whether this machine's clock is too far from the database's; then no trigger is claimed.
    pub(crate) clock_off: AtomicBool,
    /// Number of triggers whose plans cannot be parsed here.
    pub(crate) unparsable: AtomicUsize,
}

pub(super) struct Ledger {
    pub(super) store: Box<dyn ScheduleStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: LedgerSettings,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) dispatcher: Dispatcher,
    /// The observers of changes of triggers; they are called after the commit.
    pub(super) events: Events,
    pub(super) jobs: JobStarter,
    pub(super) lease: Arc<ServerLease>,
    pub(super) status: Arc<LedgerStatus>,
    pub(super) state: State,
}

/// The state of the ledger between two turns.
#[derive(Default)]
pub(super) struct State {
    /// Number of this server; 0 before it is registered.
    server: i64,
    rules: Rulebook,
    /// Version of `rules`; `None` when they must be read again.
    rules_version: Option<i64>,
    next_due: Option<Micros>,
    /// Time of the next heartbeat on the monotonic clock, like `next_retention`.
    next_beat: Duration,
    next_retention: Duration,
    /// How far the database's clock is ahead of this machine's.
    offset: Micros,
    /// The monotonic and the wall clock at the last turn: when the wall clock was set, their progress
    /// differs.
    last_turn: Option<(Duration, Micros)>,
    /// Triggers with identifiers after this one must be planned anew.
    replan: Option<String>,
    /// Triggers whose plans cannot be parsed here, with the problem.
    unparsable: HashMap<String, String>,
    /// Outcomes that are not durable yet.
    outcomes: VecDeque<(Firing, Outcome)>,
    /// The rows that this server fires, as stored.
    in_flight: HashMap<TriggerKey, TriggerRow>,
    /// Whether a commit has an unknown outcome: the store may contain rows that this server owns and does not
    /// fire.
    commit_unknown: bool,
    /// After a failure of the store: the time of the next attempt, and the wait after that.
    retry: Option<(Duration, Duration)>,
    draining: Option<oneshot::Sender<()>>,
    drained: bool,
}

impl State {
    /// Returns the keys of the rows that a commit of `requests` and of the first `outcomes` must read, and the
    /// rows that it has in memory.
    fn touched(
        &self,
        requests: &[(Request, Reply)],
        outcome_count: usize,
        trusts_in_flight: bool,
    ) -> (Vec<TriggerKey>, Vec<TriggerRow>) {
        let asked = requests.iter().filter_map(|(request, _)| Group::key_of(request));
        let ended = || self.outcomes.iter().take(outcome_count).map(|(firing, _)| &firing.key);
        let (held, unknown): (Vec<_>, Vec<_>) =
            ended().partition(|key| trusts_in_flight && self.in_flight.contains_key(*key));
        // Also locks the trigger's own row, so that two servers that end slots of one trigger run one after
        // the other.
        let slots = ended().filter(|key| key.occurrence >= 0);
        let parents = slots.map(|key| TriggerKey::of(&key.identifier));
        let keys = asked.chain(unknown.into_iter().cloned()).chain(parents).collect();
        (keys, held.into_iter().filter_map(|key| self.in_flight.get(key).cloned()).collect())
    }
}

impl Ledger {
    /// Registers this server and takes over from dead ones; the ledger is ready then.
    pub(super) fn open(&mut self) -> Result<(), RepositoryError> {
        self.register()?;
        self.beat()?;
        // Slots may have been planned by a clock that was ahead, or before a change of time zone rules.
        self.state.replan = Some(String::new());
        self.status.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Runs until the ledger is drained, or all senders of commands are dropped.
    pub(super) fn run(mut self) {
        let mut asked = Vec::new();
        while !self.state.drained {
            if !self.wait(&mut asked) {
                return;
            }
            self.status.turns.fetch_add(1, Ordering::Relaxed);
            self.turn(&mut asked);
        }
    }

    /// Returns how long the ledger has nothing to do unless a command arrives.
    fn pause(&self) -> Duration {
        let now = self.now();
        let mut pause = self.state.next_beat.saturating_sub(self.clock.elapsed());
        if let Some(pulse) = self.settings.pulse {
            pause = pause.min(pulse);
        }
        match self.state.retry {
            Some((at, _)) => pause = at.saturating_sub(self.clock.elapsed()),
            None if !self.state.outcomes.is_empty() || self.is_to_replan() => {
                pause = Duration::ZERO
            }
            None => {
                if let Some(due) = self.state.next_due.filter(|_| self.claims()) {
                    pause = pause.min(micros(due - now));
                }
            }
        }
        pause
    }

    /// Returns the time of the database, computed from this machine's clock.
    fn now(&self) -> Micros {
        self.clock.now().as_microsecond() + self.state.offset
    }

    /// Returns whether this machine's clock is too far off to fire triggers.
    fn is_clock_off(&self) -> bool {
        self.state.offset.abs() > self.clock_bound()
    }

    fn clock_bound(&self) -> Micros {
        CLOCK_BOUND.min(time::micros_of(self.settings.lease / 3))
    }

    fn is_to_replan(&self) -> bool {
        self.state.replan.is_some() && self.state.draining.is_none() && !self.is_clock_off()
    }

    /// Returns whether due triggers are fired here.
    fn claims(&self) -> bool {
        self.state.draining.is_none() && !self.is_clock_off() && !self.jobs.is_drained()
    }

    /// Detects that this machine's clock was set; then the next turn reads the database's clock and plans
    /// anew.
    fn detect_clock_change(&mut self) {
        let (elapsed, now) = (self.clock.elapsed(), self.clock.now().as_microsecond());
        let step = self
            .state
            .last_turn
            .replace((elapsed, now))
            .map_or(0, |(then, was)| now - was - time::micros_of(elapsed.saturating_sub(then)));
        if step.abs() < CLOCK_STEP {
            return;
        }
        tracing::warn!(seconds = step / 1_000_000, "the clock of this machine was set");
        self.state.next_beat = elapsed;
        self.state.replan = Some(String::new());
    }

    /// Waits until a command arrives or work is due; `false` when all senders of commands are dropped.
    fn wait(&mut self, asked: &mut Vec<Command>) -> bool {
        let mut next = match self.commands.recv_timeout(self.pause()) {
            Ok(command) => Some(command),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => return false,
        };
        while let Some(command) = next {
            match command {
                Command::Record(outcomes) => self.record(outcomes),
                command => asked.push(command),
            }
            let is_full = asked.len() >= REQUESTS_MAX || self.state.outcomes.len() >= OUTCOMES_MAX;
            next = if is_full { None } else { self.commands.try_recv().ok() };
        }
        true
    }

    /// Keeps outcomes until they are durable, except those of a lost lease.
    fn record(&mut self, outcomes: Outcomes) {
        let server = self.state.server;
        self.state
            .outcomes
            .extend(outcomes.into_iter().filter(|(firing, _)| firing.server == server));
    }

    /// Does one turn: the periodic work, then one transaction for the requests, outcomes and claims.
    fn turn(&mut self, asked: &mut Vec<Command>) {
        self.detect_clock_change();
        let mut requests = Vec::with_capacity(asked.len());
        let mut refresh = false;
        for command in asked.drain(..) {
            match command {
                Command::Ask(request, reply) => requests.push((request, reply)),
                Command::Refresh => refresh = true,
                Command::Record(outcomes) => self.record(outcomes),
                Command::End => self.state.drained = true,
                Command::Drain(done) => {
                    self.state.draining = Some(done);
                    self.dispatcher.drain();
                }
            }
        }
        let waits_to_retry = self.state.retry.is_some_and(|(at, _)| self.clock.elapsed() < at);
        let done = match waits_to_retry {
            // During the wait after a failure only requests reach the store; their answers show whether it
            // still fails.
            true if requests.is_empty() => return,
            true => self.commit(self.now(), &requests, 0, false),
            false => self.upkeep(refresh).and_then(|()| {
                // The heartbeat may just have corrected the offset.
                let now = self.now();
                let outcome_count = self.state.outcomes.len().min(OUTCOMES_MAX);
                let is_due = self.state.next_due.is_some_and(|due| due <= now);
                let claim = is_due && self.claims();
                self.commit(now, &requests, outcome_count, claim)
            }),
        };
        match done {
            Ok((answers, claimed)) => {
                self.recovered();
                for ((_, reply), answer) in requests.into_iter().zip(answers) {
                    reply(answer);
                }
                self.fire(claimed);
            }
            Err(error) => {
                let refused = Refused::new("unavailable", report(&error));
                requests.into_iter().for_each(|(_, reply)| reply(Err(refused.clone())));
                self.failed(&error);
            }
        }
        self.end_drain();
    }

    fn recovered(&mut self) {
        if self.state.retry.take().is_some() {
            tracing::info!("the store is available again");
            self.status.ready.store(!self.is_clock_off(), Ordering::Release);
        }
    }

    fn failed(&mut self, error: &RepositoryError) {
        let wait =
            self.state.retry.map_or(STORE_RETRY_MIN, |(_, wait)| (wait * 2).min(STORE_RETRY_MAX));
        if self.state.retry.is_none() {
            tracing::error!(error = %report(error), "the store failed; the schedule waits until it is available");
        }
        self.state.retry = Some((self.clock.elapsed() + wait, wait));
        self.state.commit_unknown = true;
        self.state.rules_version = None;
        self.status.ready.store(false, Ordering::Release);
    }

    fn fire(&mut self, claimed: Claimed) {
        for key in &claimed.stops {
            self.dispatcher.stop(key);
        }
        for (trigger, problem) in claimed.unparsable {
            if self.state.unparsable.get(&trigger) != Some(&problem) {
                tracing::error!(
                    trigger,
                    problem,
                    "this server cannot parse the plan of the trigger, so the trigger does not fire here"
                );
                self.state.unparsable.insert(trigger, problem);
            }
        }
        for (firing, _) in &claimed.firings {
            self.state.unparsable.remove(&firing.key.identifier);
        }
        self.status.unparsable.store(self.state.unparsable.len(), Ordering::Relaxed);
        for (firing, row) in claimed.firings {
            self.state.in_flight.insert(firing.key.clone(), row);
            self.dispatcher.dispatch(firing);
        }
        self.status.firing.store(self.state.in_flight.len(), Ordering::Relaxed);
    }

    /// Removes this server from the store once a drain is requested, nothing runs and all outcomes are
    /// recorded.
    fn end_drain(&mut self) {
        let is_done = self.state.in_flight.is_empty() && self.state.outcomes.is_empty();
        if !is_done || self.state.draining.is_none() {
            return;
        }
        let removed = self.store.begin().and_then(|mut tx| {
            tx.remove_server(self.state.server, i64::MAX)?;
            tx.commit()
        });
        if let Err(error) = removed {
            tracing::warn!(error = %report(&error), "this server could not be removed from the store; its row expires with its lease");
        }
        self.state.drained = true;
        if let Some(done) = self.state.draining.take() {
            let _ = done.send(());
        }
    }

    /// Commits `requests`, the first `outcomes` outcomes and, with `claim`, the claims of due triggers.
    fn commit(
        &mut self,
        now: Micros,
        requests: &[(Request, Reply)],
        outcome_count: usize,
        claim: bool,
    ) -> Result<(Vec<Result<Answer, Refused>>, Claimed), RepositoryError> {
        if requests.is_empty() && outcome_count == 0 && !claim {
            return Ok(Default::default());
        }
        let mut attempt = 1;
        loop {
            // A lost lease discards the outcomes.
            let outcome_count = outcome_count.min(self.state.outcomes.len());
            // After a conflict, rows in memory may be stale.
            let is_first = attempt == 1;
            match self.try_commit(now, requests, outcome_count, claim, is_first) {
                Err(RepositoryError::Conflict { .. }) if attempt < CONFLICTS_MAX => {
                    attempt += 1;
                    self.state.rules_version = None;
                }
                Err(error) => return Err(error),
                Ok(stored) => {
                    for (firing, _) in self.state.outcomes.drain(..outcome_count) {
                        self.state.in_flight.remove(&firing.key);
                    }
                    return Ok(stored);
                }
            }
        }
    }

    fn try_commit(
        &mut self,
        now: Micros,
        requests: &[(Request, Reply)],
        outcome_count: usize,
        claim: bool,
        trusts_in_flight: bool,
    ) -> Result<(Vec<Result<Answer, Refused>>, Claimed), RepositoryError> {
        let (state, dispatcher) = (&mut self.state, &self.dispatcher);
        let asked_at = self.clock.elapsed();
        let lease_until = now + time::micros_of(self.settings.lease);
        let mut tx = self.store.begin()?;
        if claim {
            // The renewal ensures that other servers find the claimed triggers if this server dies.
            if !tx.renew_server(state.server, lease_until)? {
                drop(tx);
                self.lease_lost()?;
                return Err(RepositoryError::Conflict {
                    what: "the row of this server".to_owned(),
                });
            }
        }
        let (keys, held) = state.touched(requests, outcome_count, trusts_in_flight);
        let mut group = Group::new(&mut *tx, now, keys, held.into_iter())?;
        group.collect_events(self.events.is_observed());
        for (firing, outcome) in state.outcomes.iter().take(outcome_count) {
            group.outcome(firing, outcome.clone())?;
        }
        let mut answers = Vec::with_capacity(requests.len());
        for (request, _) in requests {
            answers.push(group.request(request)?);
        }
        let mut next_due = [state.next_due, group.earliest_due()].into_iter().flatten().min();
        let mut claimed = Claimed::default();
        if claim {
            // Includes the changes by requests of this same group.
            if let Some((version, rules)) = group.rules(state.rules_version)? {
                (state.rules, state.rules_version) = (rules, Some(version));
            }
            let claims = ClaimConditions {
                server: state.server,
                rules: &state.rules,
                misfire_after: self.settings.misfire_after,
                limit: CLAIMS_MAX,
            };
            let mut room = dispatcher.room();
            claimed = group.claim(&claims, &mut |rule| room.take(rule))?;
        }
        group.flush()?;
        let rules_changed = group.rules_changed();
        let events = group.take_events();
        if claim {
            next_due = if claimed.more { Some(now) } else { tx.next_due()? };
        }
        tx.commit()?;
        self.state.next_due = next_due;
        if claim {
            self.lease.renewed(asked_at, self.settings.lease);
        }
        if rules_changed {
            self.state.rules_version = None;
        }
        events.into_iter().for_each(|event| self.events.emit(|| event));
        Ok((answers, claimed))
    }

    /// Does the periodic work: the heartbeat, the check of other servers, replanning, the removal of old
    /// rows.
    fn upkeep(&mut self, refresh: bool) -> Result<(), RepositoryError> {
        if refresh {
            self.state.next_due = self.store.next_due()?;
        }
        if self.clock.elapsed() >= self.state.next_beat || self.state.commit_unknown {
            self.beat()?;
        }
        if self.is_to_replan() {
            self.replan()?;
        }
        if self.clock.elapsed() >= self.state.next_retention && !self.is_clock_off() {
            let now = self.now();
            let before = now - time::micros_of(self.settings.keep_for);
            let mut tx = self.store.begin()?;
            let removed = tx.forget_ended(before, self.settings.keep_count, RETENTION_BATCH)?;
            tx.commit()?;
            if removed < RETENTION_BATCH as u64 {
                self.state.next_retention = self.clock.elapsed() + RETENTION_INTERVAL;
                // The rules of a time zone may have changed since.
                self.state.replan = Some(String::new());
            }
        }
        Ok(())
    }

    /// Plans a batch of triggers anew: those whose stored slot differs from the one that their plan has now.
    fn replan(&mut self) -> Result<(), RepositoryError> {
        let Some(after) = self.state.replan.clone() else { return Ok(()) };
        let now = self.now();
        let mut tx = self.store.begin()?;
        if after.is_empty() {
            // A plan that still cannot be parsed is reported again at its next slot.
            self.state.unparsable.clear();
            self.status.unparsable.store(0, Ordering::Relaxed);
            tx.reset_late_retries(now, now + RUNNER_BACKOFF_MAX)?;
        }
        let rows = tx.recurring(&after, REPLAN_BATCH)?;
        let last = rows.last().filter(|_| rows.len() == REPLAN_BATCH);
        let next = last.map(|row| row.key.identifier.clone());
        let mut planned = Vec::new();
        for row in rows {
            let Ok(Some(plan)) = trigger::plan_of(&row) else { continue };
            // Few triggers need their slots to be read.
            if trigger::replanned(row.clone(), &plan, &[], now).is_none() {
                continue;
            }
            let known = tx.slots(&row.key.identifier)?;
            if let Some(row) = trigger::replanned(row, &plan, &known, now) {
                tracing::info!(
                    trigger = row.key.identifier,
                    slot = time::show(row.slot),
                    "the next slot of the trigger was computed anew"
                );
                tx.forget_future_slots(&row.key.identifier, now)?;
                tx.save(&[&row])?;
                planned.push(row);
            }
        }
        let next_due = tx.next_due()?;
        tx.commit()?;
        self.state.next_due = next_due;
        // Advance only after the commit.
        self.state.replan = next;
        planned.iter().for_each(|row| self.events.emit(|| event_of(row, now)));
        Ok(())
    }

    /// Compares this machine's clock with the database's.
    fn note_offset(&mut self, before: Micros, database: Option<Micros>, after: Micros) {
        let was_off = self.is_clock_off();
        self.state.offset = match database {
            Some(at) if at < before => at - before,
            Some(at) if at > after => at - after,
            _ => 0,
        };
        let is_off = self.is_clock_off();
        self.status.clock_off.store(is_off, Ordering::Release);
        if is_off == was_off {
            return;
        }
        let milliseconds = self.state.offset / 1_000;
        self.status.ready.store(!is_off, Ordering::Release);
        match is_off {
            true => tracing::error!(
                milliseconds,
                "the clock of this machine is too far from the database's: no trigger fires here until it is corrected"
            ),
            false => {
                tracing::info!(
                    milliseconds,
                    "the clock of this machine agrees with the database's again"
                );
                self.state.replan = Some(String::new());
            }
        }
    }

    fn beat(&mut self) -> Result<(), RepositoryError> {
        let asked_at = self.clock.elapsed();
        let mut tx = self.store.begin()?;
        let before = self.clock.now().as_microsecond();
        let database = tx.clock()?;
        let after = self.clock.now().as_microsecond();
        // Leases use the database's time, which is the same for all servers.
        let now = database.unwrap_or(after);
        let lease_until = now + time::micros_of(self.settings.lease);
        if !tx.renew_server(self.state.server, lease_until)? {
            drop(tx);
            return self.lease_lost();
        }
        for server in tx.servers()? {
            let is_dead = ProcessIdentity::liveness_of(&server.identity) == Liveness::Dead;
            let is_dead = is_dead || server.lease_until <= now;
            let max = if is_dead { i64::MAX } else { now };
            if server.id != self.state.server && is_dead && tx.remove_server(server.id, max)? {
                tracing::info!(
                    server = server.identity,
                    "this server took over the triggers of a dead server"
                );
            }
        }
        if self.state.commit_unknown {
            for row in tx.owned(self.state.server)? {
                if !self.state.in_flight.contains_key(&row.key) {
                    tx.give_back(&row)?;
                }
            }
        }
        let stops = tx.stop_requests(self.state.server)?;
        let next_due = tx.next_due()?;
        tx.commit()?;
        self.lease.renewed(asked_at, self.settings.lease);
        self.state.commit_unknown = false;
        self.state.next_due = next_due;
        self.state.next_beat = asked_at + self.settings.lease / RENEWALS_PER_LEASE;
        self.note_offset(before, database, after);
        stops.iter().for_each(|key| self.dispatcher.stop(key));
        Ok(())
    }

    /// Gives up all triggers after another server took over from this one, and registers again.
    fn lease_lost(&mut self) -> Result<(), RepositoryError> {
        tracing::error!(
            "the lease of this server was lost: another server has its triggers; this server registers again"
        );
        self.dispatcher.abandon();
        self.state.in_flight.clear();
        self.state.outcomes.clear();
        self.register()
    }

    fn register(&mut self) -> Result<(), RepositoryError> {
        let asked_at = self.clock.elapsed();
        let identity = ProcessIdentity::current().to_string();
        let mut tx = self.store.begin()?;
        let now = tx.clock()?.unwrap_or_else(|| self.clock.now().as_microsecond());
        let until = now + time::micros_of(self.settings.lease);
        self.state.server = tx.insert_server(&identity, until)?;
        tx.commit()?;
        self.lease.renewed(asked_at, self.settings.lease);
        // The next turn checks the other servers.
        self.state.next_beat = asked_at;
        Ok(())
    }
}

fn micros(length: Micros) -> Duration {
    Duration::from_micros(u64::try_from(length).unwrap_or(0))
}
