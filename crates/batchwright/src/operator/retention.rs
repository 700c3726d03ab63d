//! Retention: what is remembered how long.

use super::{JobOperator, OperatorError};
use crate::execution::{BatchStatus, ExecutionId, InstanceId, JobExecution};
use crate::query::{ExecutionFilter, InstancePage};
use crate::repository::lifecycle::contended;

/// Which instances may be forgotten. All that is said must hold; a running instance never goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Only of this job.
    pub job: Option<String>,
    /// Only those whose newest execution has one of these statuses; none means any.
    pub statuses: Vec<BatchStatus>,
    /// Only those whose executions all ended before this moment.
    pub ended_before: Option<jiff::Timestamp>,
    /// Only those behind so many newer instances of their job.
    pub keep: Option<usize>,
    /// Also those that `FAILED` or `STOPPED`, which then can no longer be restarted.
    pub include_restartable: bool,
}

/// Instances deleted in one unit of work: small, so that nobody waits long behind a large purge.
const BATCH: usize = 100;

impl JobOperator {
    /// Deletes instances with all their executions and everything that belongs to them, in many small units of
    /// work. An instance goes as a whole, because what was left of it could be restarted from an old
    /// checkpoint. `each` is told of every execution that goes, or would with `dry_run`. Returns their number.
    ///
    /// # Errors
    ///
    /// When the store fails; what was deleted until then stays deleted.
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

    /// Only instances below this one may go; `None`: none at all.
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
            let gone = contended(|| self.purge_batch(&candidates, below, retention, dry_run))?;
            purged += gone.len() as u64;
            gone.iter().for_each(&mut *each);
        }
    }

    /// One unit of work; returns what goes.
    fn purge_batch(
        &self,
        candidates: &[JobExecution],
        below: InstanceId,
        retention: &Retention,
        dry_run: bool,
    ) -> Result<Vec<JobExecution>, OperatorError> {
        let mut unit = self.inner.repository.begin()?;
        let mut gone = Vec::new();
        for candidate in candidates.iter().filter(|one| one.instance_id < below) {
            let history = unit.executions_of(candidate.instance_id)?;
            if may_go(&history, candidate.id, retention) {
                if !dry_run {
                    history.iter().try_for_each(|one| unit.delete_execution(one.id))?;
                }
                gone.extend(history);
            }
        }
        if !dry_run {
            unit.commit()?;
        }
        Ok(gone)
    }
}

/// Whether an instance with this history, newest first, may be forgotten; asked of its newest execution alone,
/// so that it is counted once.
fn may_go(history: &[JobExecution], asked: ExecutionId, retention: &Retention) -> bool {
    let Some(newest) = history.first().filter(|newest| newest.id == asked) else { return false };
    let is_old = |one: &JobExecution| {
        retention.ended_before.is_none_or(|at| one.ended_at.is_some_and(|ended| ended < at))
    };
    history.iter().all(|one| !one.status.is_running() && is_old(one))
        && (retention.include_restartable || !newest.status.is_restartable())
}
