//! The thread that owns the schedule: it groups what clients ask, what runners did and what is due into units
//! of work, each made durable by one commit, and sleeps until the next of them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use batchwright::{Clock, Liveness, ProcessIdentity, RepositoryError, report};
use batchwright_store::{ScheduleStore, TriggerKey, TriggerRow};
use tokio::sync::oneshot;

use super::dispatch::Dispatcher;
use super::group::{Answer, Claimed, Claims, Firing, Group, Request};
use super::rule::Rulebook;
use super::time::{self, Micros};
use super::trigger::{self, Outcome, Refused};

/// Requests of one commit: what a commit costs is shared, and none waits long behind the others.
const REQUESTS_MAX: usize = 1_000;
/// Results of runners in one commit.
const OUTCOMES_MAX: usize = 250;
/// Due triggers of one commit.
const CLAIMS_MAX: usize = 250;
/// Tries of a unit of work that another server's stood in the way of.
const CONFLICTS_MAX: usize = 16;
/// Wait before a store that failed is asked again by the ledger itself: first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Renewals within one lease.
const RENEWALS_PER_LEASE: u32 = 3;
/// How often what has ended long ago is removed, and how much in one commit.
const RETENTION_INTERVAL: Duration = Duration::from_secs(3_600);
const RETENTION_BATCH: usize = 1_000;
/// Triggers that are planned anew in one commit, after the clock was corrected.
const REPLAN_BATCH: usize = 250;
/// No retry waits longer, in microseconds.
const RETRY_WAIT_MAX: Micros = 3_600_000_000;
/// A clock that is off by more from the database's says nothing about what is due, in microseconds.
const CLOCK_BOUND: Micros = 2_000_000;
/// A clock that moved by so much more or less than time passed was set, in microseconds.
const CLOCK_STEP: Micros = 1_000_000;

/// How the ledger works.
#[derive(Debug, Clone)]
pub struct LedgerSettings {
    /// Silence after which another server takes over what this one fires.
    pub lease: Duration,
    /// A slot that is later than so was missed: its misfire policy decides.
    pub misfire_after: Duration,
    /// Rows that ended longer ago are removed.
    pub keep_for: Duration,
    /// Rows that ended are removed behind so many newer ones.
    pub keep_count: usize,
    /// The loop turns at least so often: a watchdog wants to see it move.
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

/// Called with what became of a request, once that is durable.
pub(crate) type Reply = Box<dyn FnOnce(Result<Answer, Refused>) + Send>;

/// What runners report: several at once.
pub(crate) type Outcomes = Vec<(Firing, Outcome)>;

pub(super) enum Command {
    Ask(Request, Reply),
    /// What runners did.
    Record(Outcomes),
    /// Another process may have changed the store.
    Look,
    /// Nothing more is fired. Told when everything that ran is recorded.
    Drain(oneshot::Sender<()>),
    /// Nothing more is done at all.
    End,
}

/// The right of this server to fire, as far as it knows: the moment, on the clock that never goes back, at
/// which others may take over.
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

    /// The time, in microseconds since 1970.
    pub(crate) fn now(&self) -> Micros {
        self.clock.now().as_microsecond()
    }

    /// Asked before anything is done that nobody else may do.
    pub(crate) fn is_valid(&self) -> bool {
        let now = u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX);
        now < self.valid_until_us.load(Ordering::Acquire)
    }
}

/// What others may see of the ledger.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    /// Whether the last unit of work was stored.
    pub(crate) ready: AtomicBool,
    /// Turns of its loop: a watchdog sees it move.
    pub(crate) turns: AtomicU64,
    /// Triggers that are being fired.
    pub(crate) firing: AtomicUsize,
    /// Whether this machine's clock is too far from the database's: then nothing is claimed.
    pub(crate) astray: AtomicBool,
    /// Triggers whose plans cannot be understood here.
    pub(crate) puzzles: AtomicUsize,
}

pub(super) struct Ledger {
    pub(super) store: ScheduleStore,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: LedgerSettings,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) dispatcher: Dispatcher,
    pub(super) lease: Arc<ServerLease>,
    pub(super) vitals: Arc<Vitals>,
    pub(super) state: State,
}

/// What the ledger remembers between two turns.
#[derive(Default)]
pub(super) struct State {
    /// This server; 0 before it is registered.
    server: i64,
    rules: Rulebook,
    /// Of `rules`; `None`: they are to be read again.
    rules_version: Option<i64>,
    next_due: Option<Micros>,
    /// On the clock that never goes back, as is the next one.
    next_beat: Duration,
    next_retention: Duration,
    /// How far the database's clock is ahead of ours.
    offset: Micros,
    /// Both clocks at the last turn: when one was set, they disagree about how long it took.
    last_turn: Option<(Duration, Micros)>,
    /// The triggers behind this name are to be planned anew.
    replan: Option<String>,
    /// Triggers whose plans cannot be understood here.
    puzzles: HashMap<String, String>,
    /// Results that are not durable yet.
    results: VecDeque<(Firing, Outcome)>,
    /// What this server fires, as it is stored.
    in_flight: HashMap<TriggerKey, TriggerRow>,
    /// After a commit whose outcome is unknown: rows may be ours that nobody fires.
    doubtful: bool,
    /// The store failed: when it is asked again, and the wait after that.
    retry: Option<(Duration, Duration)>,
    draining: Option<oneshot::Sender<()>>,
    drained: bool,
}

impl Ledger {
    /// Registers this server, takes over from dead ones, and says when it is ready.
    pub(super) fn open(&mut self) -> Result<(), RepositoryError> {
        self.register()?;
        self.beat()?;
        // What a clock that was ahead left behind, and what zones with new rules change.
        self.state.replan = Some(String::new());
        self.vitals.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Works until it is drained, or nobody can ask it any more.
    pub(super) fn run(mut self) {
        let mut asked = Vec::new();
        while !self.state.drained {
            if !self.wait(&mut asked) {
                return;
            }
            self.vitals.turns.fetch_add(1, Ordering::Relaxed);
            self.turn(&mut asked);
        }
    }

    /// How long nothing is to be done unless somebody asks.
    fn pause(&self) -> Duration {
        let now = self.now();
        let mut pause = self.state.next_beat.saturating_sub(self.clock.elapsed());
        if let Some(pulse) = self.settings.pulse {
            pause = pause.min(pulse);
        }
        match self.state.retry {
            Some((at, _)) => pause = at.saturating_sub(self.clock.elapsed()),
            None if !self.state.results.is_empty() || self.is_to_replan() => pause = Duration::ZERO,
            None => {
                let claims = self.state.draining.is_none() && !self.is_astray();
                if let Some(due) = self.state.next_due.filter(|_| claims) {
                    pause = pause.min(micros(due - now));
                }
            }
        }
        pause
    }

    /// The time of the database, as far as this machine's clock tells it.
    fn now(&self) -> Micros {
        self.clock.now().as_microsecond() + self.state.offset
    }

    /// Whether our clock is so far off that nothing may be fired by it.
    fn is_astray(&self) -> bool {
        self.state.offset.abs() > self.clock_bound()
    }

    fn clock_bound(&self) -> Micros {
        CLOCK_BOUND.min(time::micros_of(self.settings.lease / 3))
    }

    fn is_to_replan(&self) -> bool {
        self.state.replan.is_some() && self.state.draining.is_none() && !self.is_astray()
    }

    /// Notices that this machine's clock was set: the database is asked at once, and plans are made again.
    fn notice_step(&mut self) {
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

    /// Waits until somebody asks or reports, or something is to be done; `false` when nobody can any more.
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
            let is_full = asked.len() >= REQUESTS_MAX || self.state.results.len() >= OUTCOMES_MAX;
            next = if is_full { None } else { self.commands.try_recv().ok() };
        }
        true
    }

    /// Keeps results until they are durable; not those of a lease that was lost.
    fn record(&mut self, outcomes: Outcomes) {
        let server = self.state.server;
        self.state
            .results
            .extend(outcomes.into_iter().filter(|(firing, _)| firing.server == server));
    }

    /// One unit of work: one look at the clock, one commit.
    fn turn(&mut self, asked: &mut Vec<Command>) {
        self.notice_step();
        let mut requests = Vec::with_capacity(asked.len());
        let mut look = false;
        for command in asked.drain(..) {
            match command {
                Command::Ask(request, reply) => requests.push((request, reply)),
                Command::Look => look = true,
                Command::Record(outcomes) => self.record(outcomes),
                Command::End => self.state.drained = true,
                Command::Drain(told) => {
                    self.state.draining = Some(told);
                    self.dispatcher.drain();
                }
            }
        }
        let resting = self.state.retry.is_some_and(|(at, _)| self.clock.elapsed() < at);
        let done = match resting {
            // Only what clients ask reaches a store that just failed: they learn whether it still does.
            true if requests.is_empty() => return,
            true => self.commit(self.now(), &requests, 0, false),
            false => self.upkeep(look).and_then(|()| {
                // The sign of life may just have told how far our clock is off.
                let now = self.now();
                let results = self.state.results.len().min(OUTCOMES_MAX);
                let is_due = self.state.next_due.is_some_and(|due| due <= now);
                let claim = is_due && self.state.draining.is_none() && !self.is_astray();
                self.commit(now, &requests, results, claim)
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
            tracing::info!("the store answers again");
            self.vitals.ready.store(!self.is_astray(), Ordering::Release);
        }
    }

    fn failed(&mut self, error: &RepositoryError) {
        let wait = self.state.retry.map_or(RETRY_MIN, |(_, wait)| (wait * 2).min(RETRY_MAX));
        if self.state.retry.is_none() {
            tracing::error!(error = %report(error), "the schedule cannot be stored");
        }
        self.state.retry = Some((self.clock.elapsed() + wait, wait));
        self.state.doubtful = true;
        self.state.rules_version = None;
        self.vitals.ready.store(false, Ordering::Release);
    }

    fn fire(&mut self, claimed: Claimed) {
        for key in &claimed.stops {
            self.dispatcher.stop(key);
        }
        for (trigger, problem) in claimed.puzzles {
            if self.state.puzzles.get(&trigger) != Some(&problem) {
                tracing::error!(trigger, problem, "its plan cannot be understood here: it waits");
                self.state.puzzles.insert(trigger, problem);
            }
        }
        for (firing, _) in &claimed.firings {
            self.state.puzzles.remove(&firing.key.identifier);
        }
        self.vitals.puzzles.store(self.state.puzzles.len(), Ordering::Relaxed);
        for (firing, row) in claimed.firings {
            self.state.in_flight.insert(firing.key.clone(), row);
            self.dispatcher.dispatch(firing);
        }
        self.vitals.firing.store(self.state.in_flight.len(), Ordering::Relaxed);
    }

    /// When nothing runs any more and everything is recorded, this server is no more.
    fn end_drain(&mut self) {
        let is_done = self.state.in_flight.is_empty() && self.state.results.is_empty();
        if !is_done || self.state.draining.is_none() {
            return;
        }
        let removed = self.store.begin().and_then(|mut unit| {
            unit.remove_server(self.state.server, i64::MAX)?;
            unit.commit()
        });
        if let Err(error) = removed {
            tracing::warn!(error = %report(&error), "this server stays in the store until its lease ends");
        }
        self.state.drained = true;
        if let Some(told) = self.state.draining.take() {
            let _ = told.send(());
        }
    }

    /// Stores `requests`, the first `results` results, and what is due when `claim` says so.
    fn commit(
        &mut self,
        now: Micros,
        requests: &[(Request, Reply)],
        results: usize,
        claim: bool,
    ) -> Result<(Vec<Result<Answer, Refused>>, Claimed), RepositoryError> {
        if requests.is_empty() && results == 0 && !claim {
            return Ok(Default::default());
        }
        let mut attempt = 1;
        loop {
            // A lost lease takes the results with it.
            let results = results.min(self.state.results.len());
            // After a conflict what was read before is not believed any more.
            let is_first = attempt == 1;
            match self.try_commit(now, requests, results, claim, is_first) {
                Err(RepositoryError::Conflict { .. }) if attempt < CONFLICTS_MAX => {
                    attempt += 1;
                    self.state.rules_version = None;
                }
                Err(error) => return Err(error),
                Ok(stored) => {
                    for (firing, _) in self.state.results.drain(..results) {
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
        results: usize,
        claim: bool,
        believe: bool,
    ) -> Result<(Vec<Result<Answer, Refused>>, Claimed), RepositoryError> {
        let (state, dispatcher) = (&mut self.state, &self.dispatcher);
        let asked_at = self.clock.elapsed();
        let lease_until = now + time::micros_of(self.settings.lease);
        let mut unit = self.store.begin()?;
        if claim {
            // The proof that what is claimed will be found by others, should this server die.
            if !unit.renew_server(state.server, lease_until)? {
                drop(unit);
                self.lost()?;
                return Err(RepositoryError::Conflict { what: "this server".to_owned() });
            }
        }
        let touched = requests.iter().filter_map(|(request, _)| Group::keys_of(request));
        let ended = state.results.iter().take(results).map(|(firing, _)| &firing.key);
        let (held, unknown): (Vec<_>, Vec<_>) =
            ended.partition(|key| believe && state.in_flight.contains_key(*key));
        // The row of the trigger itself stands for all its slots: two servers that end two of them wait for each
        // other here, in one order.
        let slots =
            state.results.iter().take(results).filter(|(firing, _)| firing.key.occurrence >= 0);
        let parents = slots.map(|(firing, _)| TriggerKey::of(&firing.key.identifier));
        let keys = touched.chain(unknown.into_iter().cloned()).chain(parents).collect();
        let held = held.into_iter().filter_map(|key| state.in_flight.get(key).cloned());
        let mut group = Group::new(&mut unit, now, keys, held)?;
        for (firing, outcome) in state.results.iter().take(results) {
            group.outcome(firing, outcome.clone())?;
        }
        let mut answers = Vec::with_capacity(requests.len());
        for (request, _) in requests {
            answers.push(group.request(request)?);
        }
        let mut next_due = [state.next_due, group.earliest_due()].into_iter().flatten().min();
        let mut claimed = Claimed::default();
        if claim {
            // As the requests of this very group leave them.
            if let Some((version, rules)) = group.rules(state.rules_version)? {
                (state.rules, state.rules_version) = (rules, Some(version));
            }
            let claims = Claims {
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
        if claim {
            next_due = if claimed.more { Some(now) } else { unit.next_due()? };
        }
        unit.commit()?;
        self.state.next_due = next_due;
        if claim {
            self.lease.renewed(asked_at, self.settings.lease);
        }
        if rules_changed {
            self.state.rules_version = None;
        }
        Ok((answers, claimed))
    }

    /// What is to be done now and then: the sign of life, a look at the other servers, the old rows.
    fn upkeep(&mut self, look: bool) -> Result<(), RepositoryError> {
        if look {
            self.state.next_due = self.store.next_due()?;
        }
        if self.clock.elapsed() >= self.state.next_beat || self.state.doubtful {
            self.beat()?;
        }
        if self.is_to_replan() {
            self.replan()?;
        }
        if self.clock.elapsed() >= self.state.next_retention && !self.is_astray() {
            let now = self.now();
            let before = now - time::micros_of(self.settings.keep_for);
            let mut unit = self.store.begin()?;
            let removed = unit.forget_ended(before, self.settings.keep_count, RETENTION_BATCH)?;
            unit.commit()?;
            if removed < RETENTION_BATCH as u64 {
                self.state.next_retention = self.clock.elapsed() + RETENTION_INTERVAL;
                // The rules of a zone may have changed since.
                self.state.replan = Some(String::new());
            }
        }
        Ok(())
    }

    /// Plans some triggers anew whose next slot is not the one that their plan has now.
    fn replan(&mut self) -> Result<(), RepositoryError> {
        let Some(after) = self.state.replan.clone() else { return Ok(()) };
        let now = self.now();
        let mut unit = self.store.begin()?;
        if after.is_empty() {
            // Whoever still cannot be understood says so again at its next slot.
            self.state.puzzles.clear();
            self.vitals.puzzles.store(0, Ordering::Relaxed);
            unit.bring_forward(now, now + RETRY_WAIT_MAX)?;
        }
        let rows = unit.recurring(&after, REPLAN_BATCH)?;
        let last = rows.last().filter(|_| rows.len() == REPLAN_BATCH);
        let next = last.map(|row| row.key.identifier.clone());
        for row in rows {
            let Ok(Some(plan)) = trigger::plan_of(&row) else { continue };
            if let Some(row) = trigger::replanned(row, &plan, now) {
                tracing::info!(
                    trigger = row.key.identifier,
                    slot = time::show(row.slot),
                    "planned anew"
                );
                unit.forget_future_slots(&row.key.identifier, now)?;
                unit.save(&[&row])?;
            }
        }
        let next_due = unit.next_due()?;
        unit.commit()?;
        self.state.next_due = next_due;
        // Only what is stored moves on.
        self.state.replan = next;
        Ok(())
    }

    /// Compares our clock with the database's.
    fn note_offset(&mut self, before: Micros, database: Option<Micros>, after: Micros) {
        let was_astray = self.is_astray();
        self.state.offset = match database {
            Some(at) if at < before => at - before,
            Some(at) if at > after => at - after,
            _ => 0,
        };
        let is_astray = self.is_astray();
        self.vitals.astray.store(is_astray, Ordering::Release);
        if is_astray == was_astray {
            return;
        }
        let milliseconds = self.state.offset / 1_000;
        self.vitals.ready.store(!is_astray, Ordering::Release);
        match is_astray {
            true => tracing::error!(
                milliseconds,
                "the clock of this machine is too far from the database's: nothing is fired here until it is set right"
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
        let mut unit = self.store.begin()?;
        let before = self.clock.now().as_microsecond();
        let database = unit.clock()?;
        let after = self.clock.now().as_microsecond();
        // The database's time decides about leases: it is the same for all servers.
        let now = database.unwrap_or(after);
        let lease_until = now + time::micros_of(self.settings.lease);
        if !unit.renew_server(self.state.server, lease_until)? {
            drop(unit);
            return self.lost();
        }
        for server in unit.servers()? {
            let is_gone = ProcessIdentity::liveness_of(&server.identity) == Liveness::Gone;
            let is_dead = is_gone || server.lease_until <= now;
            let max = if is_gone { i64::MAX } else { now };
            if server.id != self.state.server && is_dead && unit.remove_server(server.id, max)? {
                tracing::info!(server = server.identity, "took over from a server that is gone");
            }
        }
        if self.state.doubtful {
            for row in unit.owned(self.state.server)? {
                if !self.state.in_flight.contains_key(&row.key) {
                    unit.give_back(&row)?;
                }
            }
        }
        let stops = unit.stop_requests(self.state.server)?;
        let next_due = unit.next_due()?;
        unit.commit()?;
        self.lease.renewed(asked_at, self.settings.lease);
        self.state.doubtful = false;
        self.state.next_due = next_due;
        self.state.next_beat = asked_at + self.settings.lease / RENEWALS_PER_LEASE;
        self.note_offset(before, database, after);
        stops.iter().for_each(|key| self.dispatcher.stop(key));
        Ok(())
    }

    /// Another server took this one for dead: what it fired is theirs, and it begins anew.
    fn lost(&mut self) -> Result<(), RepositoryError> {
        tracing::error!("the lease of this server was lost: what it was firing is given up");
        self.dispatcher.abandon();
        self.state.in_flight.clear();
        self.state.results.clear();
        self.register()
    }

    fn register(&mut self) -> Result<(), RepositoryError> {
        let asked_at = self.clock.elapsed();
        let identity = ProcessIdentity::current().to_string();
        let mut unit = self.store.begin()?;
        let now = unit.clock()?.unwrap_or_else(|| self.clock.now().as_microsecond());
        let until = now + time::micros_of(self.settings.lease);
        self.state.server = unit.insert_server(&identity, until)?;
        unit.commit()?;
        self.lease.renewed(asked_at, self.settings.lease);
        // A look at the others follows with the next turn.
        self.state.next_beat = asked_at;
        Ok(())
    }
}

fn micros(length: Micros) -> Duration {
    Duration::from_micros(u64::try_from(length).unwrap_or(0))
}
