//! Retention: which instances are deleted, and when.

use super::{JobOperator, OperatorError};
use crate::event::{Change, Event};
use crate::execution::{BatchStatus, ExecutionId, InstanceId, JobExecution};
use crate::lifecycle::{Tx, subject_of, transact};
use crate::query::{ExecutionFilter, InstancePage};

/// Selects the instances to delete. All conditions must hold; a running instance is never deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Deletes only instances of this job.
    pub job: Option<String>,
    /// Deletes only instances whose newest execution has one of these statuses; an empty list means any.
    pub statuses: Vec<BatchStatus>,
    /// Deletes only instances whose executions all ended before this time.
    pub ended_before: Option<jiff::Timestamp>,
    /// Keeps the newest `keep` instances of each job.
    pub keep: Option<usize>,
    /// Also deletes instances that `FAILED` or `STOPPED`, which then can no longer be restarted.
    pub include_restartable: bool,
}

/// Instances deleted in one transaction. The number is small, so that a large purge delays other transactions
/// little.
const BATCH: usize = 100;

impl JobOperator {
    /// Deletes instances with all their executions and everything that belongs to them, in many small
    /// transactions, and returns the number of executions. An instance is deleted as a whole, because a
    /// remaining part could be restarted from an old checkpoint. `each` is called with every deleted
    /// execution; with `dry_run` nothing is deleted, and `each` is called with the executions that would be.
    ///
    /// # Errors
    ///
    /// When the store fails; instances that were already deleted stay deleted.
    pub fn purge(
        &self,
        retention: &Retention,
        dry_run: bool,
        mut each: impl FnMut(&JobExecution),
    ) -> Result<u64, OperatorError> {
        let jobs = match &retention.job {
            Some(job) => vec![job.clone()],
            None => self.queries().job_names()?,
        };
        let mut purged = 0;
        for job in jobs {
            let Some(below) = self.oldest_kept(&job, retention.keep)? else { continue };
            purged += self.purge_job(&job, below, retention, dry_run, &mut each)?;
        }
        Ok(purged)
    }

    /// Returns the id below which instances may be deleted; `None`: no instance may be.
    fn oldest_kept(
        &self,
        job: &str,
        keep: Option<usize>,
    ) -> Result<Option<InstanceId>, OperatorError> {
        let everything = InstanceId(i64::MAX);
        let Some(keep) = keep.filter(|keep| *keep > 0) else { return Ok(Some(everything)) };
        let kept = self.queries().instances(job, InstancePage::first(keep))?;
        Ok(kept.last().filter(|_| kept.len() == keep).map(|oldest| oldest.id))
    }

    fn purge_job(
        &self,
        job: &str,
        below: InstanceId,
        retention: &Retention,
        dry_run: bool,
        each: &mut dyn FnMut(&JobExecution),
    ) -> Result<u64, OperatorError> {
        let mut filter = ExecutionFilter {
            statuses: retention.statuses.clone(),
            ended_before: retention.ended_before,
            ..ExecutionFilter::of_job(job).limit(BATCH)
        };
        let mut purged = 0;
        loop {
            let candidates = self.queries().executions(&filter)?;
            let Some(last) = candidates.last() else { return Ok(purged) };
            filter.before = Some(last.id);
            let deleted = transact(self.store(), |tx| {
                purge_in(tx, &candidates, below, retention, dry_run, self.now())
            })?;
            purged += deleted.len() as u64;
            deleted.iter().for_each(&mut *each);
        }
    }
}

/// Deletes the instances of `candidates` that `retention` allows, and returns their executions.
fn purge_in(
    tx: &mut Tx<'_>,
    candidates: &[JobExecution],
    below: InstanceId,
    retention: &Retention,
    dry_run: bool,
    now: jiff::Timestamp,
) -> Result<Vec<JobExecution>, OperatorError> {
    let mut deleted = Vec::new();
    for candidate in candidates.iter().filter(|one| one.instance_id < below) {
        let history = tx.executions_of(candidate.instance_id)?;
        if may_delete(&history, candidate.id, retention) {
            if !dry_run {
                for one in &history {
                    tx.delete_execution(one.id)?;
                    tx.after_commit(|| Event {
                        at: now,
                        subject: subject_of(one),
                        change: Change::Deleted,
                    });
                }
            }
            deleted.extend(history);
        }
    }
    Ok(deleted)
}

/// Returns whether an instance with this history, newest first, may be deleted. Returns `true` only for the
/// newest execution, so that each instance is counted once.
fn may_delete(history: &[JobExecution], asked: ExecutionId, retention: &Retention) -> bool {
    let Some(newest) = history.first().filter(|newest| newest.id == asked) else { return false };
    let is_old = |one: &JobExecution| {
        retention.ended_before.is_none_or(|at| one.ended_at.is_some_and(|ended| ended < at))
    };
    history.iter().all(|one| !one.status.is_running() && is_old(one))
        && (retention.include_restartable || !newest.status.is_restartable())
}
