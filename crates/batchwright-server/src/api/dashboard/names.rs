//! The names of all jobs, which the search completes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use batchwright::JobOperator;

use super::super::Problem;

/// How long names that were read are shown: to find all of them, a database looks each one up.
const KEPT: Duration = Duration::from_secs(5);

/// Clones share what was read.
#[derive(Clone, Default)]
pub(in super::super) struct JobNames(Arc<Mutex<Option<Read>>>);

/// The names, and when they were read.
type Read = (Duration, Arc<[String]>);

impl JobNames {
    /// Returns the names of the jobs that have executions, as they were at most some seconds ago.
    pub(super) fn read(&self, operator: &JobOperator) -> Result<Arc<[String]>, Problem> {
        let now = operator.clock().elapsed();
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, names)) = kept
            && now.saturating_sub(at) < KEPT
        {
            return Ok(names);
        }
        let names: Arc<[String]> = operator.queries().job_names()?.into();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, Arc::clone(&names)));
        Ok(names)
    }
}
