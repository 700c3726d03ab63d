//! Runs one step execution from its beginning to its end, and stores its row.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::SPANS;
use crate::clock::StopToken;
use crate::error::{ItemError, ItemErrorText, RepositoryError, StepError};
use crate::execution::{BatchStatus, Counters, ExitStatus, StatusEvent, StepExecution};
use crate::host::Host;
use crate::item::guarded;
use crate::lifecycle;
use crate::retry::{self, Backoff, FailedAttempts};
use crate::scope::{JobScope, Partition, StepScope, StepStart};
use crate::step::{Step, StepEnd, StepKind, StepRun};
use crate::store::{JobRepository, Lease};
use crate::threads;

/// A step to run.
pub(crate) struct StepOrder<'a> {
    pub(crate) step: &'a dyn Step,
    /// Name of its row: the step's name, followed by the key of the partition, if it has one.
    pub(crate) name: String,
    pub(crate) partition: Option<Partition>,
    pub(crate) scope: &'a JobScope,
    pub(crate) lease: Lease,
    /// The step execution from which it resumes.
    pub(crate) resumed: Option<StepExecution>,
    pub(crate) past: Past,
    /// Number of earlier executions of the step in this instance.
    pub(crate) runs: u32,
    /// Returns whether the flow handles a failure with that exit code.
    pub(crate) handles: &'a dyn Fn(&str) -> bool,
}

/// The facts about earlier executions of a step that the resumed row does not contain.
pub(crate) struct Past {
    /// Number of committed skips of each kind of error.
    skips: BTreeMap<String, u64>,
    /// Whether an earlier execution was taken from its owner, which may still have files open.
    was_taken: bool,
}

impl Past {
    /// Returns the past of the step `name` from its executions `history`: the rows of the round to which
    /// `resumed` belongs. A step that begins anew has no past.
    pub(crate) fn of(
        repository: &dyn JobRepository,
        history: &[StepExecution],
        name: &str,
        resumed: Option<&StepExecution>,
    ) -> Result<Self, RepositoryError> {
        let Some(resumed) = resumed else {
            return Ok(Self { skips: BTreeMap::new(), was_taken: false });
        };
        let round: Vec<_> = history.iter().filter(|row| row.round() == resumed.round()).collect();
        // The stored skips are read, because counters include the skips of chunks that were rolled back.
        let executions: BTreeSet<_> = round
            .iter()
            .filter(|row| row.counters.skips() > 0)
            .map(|row| row.execution_id)
            .collect();
        let mut skips = BTreeMap::new();
        for execution in executions {
            let recorded = repository.skips(execution)?;
            for skip in recorded.into_iter().filter(|skip| skip.step == name) {
                *skips.entry(skip.kind).or_default() += 1;
            }
        }
        let was_taken = |row: &&StepExecution| {
            row.failure.as_ref().is_some_and(|failure| failure.code == "recovered")
        };
        Ok(Self { skips, was_taken: round.iter().any(was_taken) })
    }
}

/// Runs one step, again after failures that its options retry, and stores a row for each run; returns the last one. The
/// error is a repository that could not store the end of the step, or a lost lease: nothing more may be written.
pub(crate) fn run_step(
    host: &Host,
    mut order: StepOrder<'_>,
) -> Result<StepExecution, RepositoryError> {
    let (mut failed, mut earlier) = (FailedAttempts::default(), Counters::default());
    loop {
        let (mut row, backoff) = run_once(host, &mut order, &mut failed)?;
        let Some(backoff) = backoff else {
            // For the sum of a partitioned step; the stored row has its own counters.
            row.counters += earlier;
            return Ok(row);
        };
        earlier += row.counters;
        tracing::warn!(
            step = row.name,
            failed = failed.count,
            failure = row.failure.as_ref().map(|failure| &*failure.message),
            "the step failed and runs again"
        );
        let stop = order.scope.stop();
        let waited = retry::wait(backoff, failed.count, &*host.clock, stop);
        if waited.is_err() || stop.is_requested() {
            // The stored row stays failed; the flow stops instead of failing.
            row.status = BatchStatus::Stopped;
            return Ok(row);
        }
        let history = {
            let mut tx = host.store.begin()?;
            tx.history_of(order.scope.instance_id(), &order.name)?
        };
        order.past = Past::of(&*host.store, &history, &order.name, Some(&row))?;
        order.resumed = Some(row);
        order.runs = order.runs.saturating_add(1);
    }
}

/// Runs one step once and stores its row. Also returns the wait before the next run, if the step is to run again.
fn run_once<'o>(
    host: &Host,
    order: &mut StepOrder<'o>,
    failed: &mut FailedAttempts,
) -> Result<(StepExecution, Option<&'o Backoff>), RepositoryError> {
    // A partition runs on a thread of its own, so that its span names the execution, too.
    let span = tracing::info_span!(
        target: SPANS,
        "step",
        job = order.scope.job(),
        execution = order.lease.execution.0,
        step = order.name,
    );
    let _within = span.enter();
    let StepOrder { step, name, partition, scope, lease, resumed, past, .. } = order;
    let (step, lease, resumed) = (*step, *lease, resumed.take());
    let was_taken = past.was_taken;
    let start = match (&resumed, was_taken) {
        (None, _) => StepStart::Fresh,
        (Some(_), true) => StepStart::TakenOver,
        (Some(_), false) => StepStart::Resumed,
    };
    let row = begin_step(host, lease, name.clone(), partition.as_ref(), resumed)?;
    // A step that only waits for other steps takes no permit, so that it cannot block them.
    let permit = match step.kind() {
        StepKind::Work | StepKind::Progressive => host.step_permits.acquire(scope.stop()).map(Some),
        StepKind::Partitions | StepKind::Job => Some(None),
    };
    let mut step_run = StepRun {
        host,
        lease,
        scope: StepScope::new((*scope).clone(), &row, partition.clone(), &*host.store, start),
        step: row,
        earlier_skips: std::mem::take(&mut past.skips),
        prepared_skips: BTreeMap::new(),
    };
    let result = match permit {
        Some(_) => catch_unwind(AssertUnwindSafe(|| start_and_run(host, step, &mut step_run)))
            .unwrap_or_else(|payload| {
                let source = ItemErrorText(ItemError::from_panic(&*payload));
                Err(StepError::Tasklet { step: step.name().to_owned(), source })
            }),
        None => Ok(StepEnd::Stopped),
    };
    drop(permit);
    let backoff = next_run(host, order, &result, failed);
    let handles = |code: &str| backoff.is_none() && (order.handles)(code);
    Ok((end_step(host, step, step_run, result, &handles)?, backoff))
}

/// Returns the wait before the step runs again after `result`; `None` when it does not.
fn next_run<'o>(
    host: &Host,
    order: &StepOrder<'o>,
    result: &Result<StepEnd, StepError>,
    failed: &mut FailedAttempts,
) -> Option<&'o Backoff> {
    let options = order.step.options();
    let policy = options.retry.as_ref()?;
    let error = result.as_ref().err()?.for_retry()?;
    let is_last = options.start_limit.is_some_and(|limit| order.runs + 1 >= limit);
    if is_last { None } else { failed.add(policy, &*host.clock, &error) }
}

fn begin_step(
    host: &Host,
    lease: Lease,
    name: String,
    partition: Option<&Partition>,
    resumed: Option<StepExecution>,
) -> Result<StepExecution, RepositoryError> {
    let now = host.clock.now();
    let begun_by = resumed.as_ref().map(StepExecution::round);
    let (checkpoint, context) =
        resumed.map(|earlier| (earlier.checkpoint, earlier.context)).unwrap_or_default();
    let row = StepExecution {
        execution_id: lease.execution,
        partition: partition.map(|partition| partition.key.clone()),
        checkpoint,
        context,
        begun_by,
        ..StepExecution::new_unsaved(&name, now)
    };
    let row = lifecycle::begin_step(&host.store, lease, row)?;
    Ok(row)
}

fn start_and_run(
    host: &Host,
    step: &dyn Step,
    run: &mut StepRun<'_>,
) -> Result<StepEnd, StepError> {
    run.step.status = BatchStatus::Started;
    lifecycle::update_step(&host.store, run.lease, &run.step, host.clock.now())
        .map_err(|source| run.commit_failed(source))?;
    for listener in &step.options().listeners {
        guarded(|| listener.before_step(&run.scope))
            .map_err(|error| listener_error(step, "before_step", error))?;
    }
    match step.options().timeout {
        None => step.run(run),
        Some(timeout) => run_within(host, timeout, step, run),
    }
}

/// Runs the step, and requests it to stop once `timeout` has passed; then it fails.
fn run_within(
    host: &Host,
    timeout: Duration,
    step: &dyn Step,
    run: &mut StepRun<'_>,
) -> Result<StepEnd, StepError> {
    let (whole, of_job) = (run.scope.clone(), run.scope.stop().clone());
    let (stop, ended, is_late) = (of_job.child(), StopToken::default(), AtomicBool::new(false));
    let deadline = host.clock.elapsed().saturating_add(timeout);
    run.scope = whole.with_stop(stop.clone());
    let result = std::thread::scope(|threads| {
        let watch = || {
            host.clock.wait_until(deadline, &ended);
            if !ended.is_requested() {
                is_late.store(true, Ordering::SeqCst);
                stop.request();
            }
        };
        // A timeout that is not watched must not pass for one that is kept.
        if threads::start(threads, "batchwright timeout", watch).is_none() {
            let source = ItemErrorText(ItemError::fatal("cannot start a thread for the timeout"));
            return Err(StepError::Tasklet { step: step.name().to_owned(), source });
        }
        let result = catch_unwind(AssertUnwindSafe(|| step.run(run)));
        ended.request();
        result.unwrap_or_else(|panic| resume_unwind(panic))
    });
    run.scope = whole;
    let is_late = is_late.into_inner();
    if stop.is_requested() && !is_late {
        // The step's own code requested the stop, as it may without a timeout.
        of_job.request();
    }
    match result {
        Ok(StepEnd::Stopped) if is_late && !of_job.is_requested() => {
            Err(StepError::Timeout { step: step.name().to_owned(), timeout })
        }
        result => result,
    }
}

fn end_step(
    host: &Host,
    step: &dyn Step,
    run: StepRun<'_>,
    result: Result<StepEnd, StepError>,
    handles: &dyn Fn(&str) -> bool,
) -> Result<StepExecution, RepositoryError> {
    let StepRun { lease, scope, step: mut row, earlier_skips, .. } = run;
    let event = match result {
        Ok(StepEnd::Completed(exit)) => {
            row.exit = exit.with_skips(!earlier_skips.is_empty() || row.counters.skips() > 0);
            StatusEvent::Complete
        }
        Ok(StepEnd::Stopped) => {
            row.exit = ExitStatus::stopped();
            StatusEvent::ConfirmStop
        }
        Err(StepError::Commit { source, .. }) if source.is_lease_lost() => return Err(source),
        Err(error) => fail_row(&mut row, &error),
    };
    set_status(&mut row, event);
    row.ended_at = Some(host.clock.now());
    // Context changes that no commit stored belong to a failed transaction, unless the step completed.
    if row.status != BatchStatus::Completed {
        scope.context().roll_back();
        scope.job().context().roll_back();
    }
    after_step(step, &scope, &mut row);
    let parameters = scope.job().parameters();
    row.failure = row.failure.map(|failure| failure.map_message(|text| parameters.mask_in(text)));
    row.exit = row.exit.map_message(|text| parameters.mask_in(text));
    row.handled = row.status == BatchStatus::Failed && handles(&row.exit.code);
    let now = host.clock.now();
    row.updated_at = now;
    let contexts = lifecycle::Contexts { step: scope.context(), job: scope.job().context() };
    lifecycle::end_step(&host.store, lease, &mut row, contexts, now)?;
    Ok(row)
}

/// Calls every `after_step`. Their exit statuses are combined, and an error fails the step.
fn after_step(step: &dyn Step, scope: &StepScope, row: &mut StepExecution) {
    let mut errors = Vec::new();
    for listener in step.options().listeners.iter().rev() {
        match guarded(|| listener.after_step(scope, row)) {
            Ok(Some(exit)) => row.exit = row.exit.clone().and(exit),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    if let Some(error) = errors.into_iter().next() {
        let exit = row.exit.clone();
        fail_row(row, &listener_error(step, "after_step", error));
        row.exit = row.exit.clone().and(exit);
        row.status = BatchStatus::Failed;
    }
}

fn listener_error(step: &dyn Step, call: &'static str, error: ItemError) -> StepError {
    StepError::Listener { step: step.name().to_owned(), call, source: ItemErrorText(error) }
}

fn fail_row(row: &mut StepExecution, error: &StepError) -> StatusEvent {
    row.exit = error.exit();
    row.failure = Some(error.failure());
    StatusEvent::Fail
}

/// Applies `event` to the status of a step, which has the same state machine as a job; an event that is not
/// allowed is ignored, since a step never waits for the stop that it confirms.
fn set_status(row: &mut StepExecution, event: StatusEvent) {
    if let Ok(status) = row.status.after(event) {
        row.status = status;
    }
}
