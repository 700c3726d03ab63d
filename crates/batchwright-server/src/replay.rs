//! The seam to replays: the program that makes jobs of job files can replay records that people have corrected.

use batchwright::JobOperator;
use batchwright::execution::ExecutionId;
use batchwright::launch::LaunchOptions;
use batchwright::operator::OperatorError;
use serde_json::value::RawValue;

/// Replays skipped records after people have corrected them. The server offers it in the API and on its pages.
pub trait Replays: Send + Sync {
    /// Whether an execution of `job` with parameters of these names is a replay itself. It cannot be restarted or abandoned: a
    /// further replay continues it.
    fn is_replay(&self, job: &str, parameters: &mut dyn Iterator<Item = &str>) -> bool;

    /// Returns records that `execution` skipped and no replay has taken: those from the index `from` among all that it skipped, at
    /// most `limit`, each with its index.
    ///
    /// Each is a JSON object, as text because numbers may have more digits than a float, with `execution`, `step`, `phase`,
    /// `item`, `location`, `kind`, `message`, `record` (an object with the fields, or null) and `content` (what was read, when
    /// that is no record).
    ///
    /// # Errors
    ///
    /// [`ReplayRefused`].
    fn open(
        &self,
        operator: &JobOperator,
        execution: ExecutionId,
        from: usize,
        limit: usize,
    ) -> Result<Vec<(usize, Box<RawValue>)>, ReplayRefused>;

    /// Starts a replay of `records`, which have at least the fields `step`, `item` and `record` of [`open`](Self::open), with
    /// `options`; returns the execution that replays them. Records that a replay has taken are left out, so a request that is
    /// sent twice writes nothing twice.
    ///
    /// # Errors
    ///
    /// [`ReplayRefused`]: nothing was replayed.
    fn replay(
        &self,
        operator: &JobOperator,
        execution: ExecutionId,
        records: &[Box<RawValue>],
        options: LaunchOptions,
    ) -> Result<ExecutionId, ReplayRefused>;
}

/// Why records are not replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayRefused {
    /// The store failed, or the operator refuses.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The records, or the job, cannot be replayed: a sentence.
    #[error("{0}")]
    Records(String),
}
