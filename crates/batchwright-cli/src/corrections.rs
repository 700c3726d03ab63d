//! Replays of corrected records by the server: the same as `replay` does.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use batchwright::JobOperator;
use batchwright::execution::ExecutionId;
use batchwright::launch::{Launch, LaunchOptions};
use batchwright::operator::{OperatorError, Refusal};
use batchwright::report;
use batchwright_jobfile::{
    JobFolder, ReplayError, Replayed, SkippedRecord, each_skip, is_replay_of,
};
use batchwright_server::{ReplayRefused, Replays};
use serde_json::value::{RawValue, to_raw_value};

use crate::context::App;

/// The replays of the jobs of job files.
pub(crate) struct Corrections {
    files: JobFolder,
    /// Held while a replay is prepared and started, so that of two requests the second one finds the replay of the first.
    one: Mutex<()>,
}

impl Corrections {
    pub(crate) fn of(app: &App) -> Self {
        Self { files: app.files.clone(), one: Mutex::default() }
    }
}

/// Ends the reading of skips early.
enum Read {
    Enough,
    Failed(OperatorError),
}

impl From<batchwright::error::RepositoryError> for Read {
    fn from(error: batchwright::error::RepositoryError) -> Self {
        Self::Failed(error.into())
    }
}

impl Replays for Corrections {
    fn is_replay(&self, job: &str, parameters: &mut dyn Iterator<Item = &str>) -> bool {
        is_replay_of(job, parameters)
    }

    fn open(
        &self,
        operator: &JobOperator,
        execution: ExecutionId,
        from: usize,
        limit: usize,
    ) -> Result<Vec<(usize, Box<RawValue>)>, ReplayRefused> {
        let row = operator.explorer().execution(execution)?;
        let replayed = Replayed::of(operator, &row).map_err(refused)?;
        let (mut next, mut open) = (0, Vec::new());
        let read = each_skip(operator.queries(), execution, |skip| {
            let index = next;
            next += 1;
            if index < from || replayed.has(execution, &skip) {
                return Ok(());
            }
            if open.len() == limit {
                return Err(Read::Enough);
            }
            open.extend(to_raw_value(&SkippedRecord::of(execution, &skip)).map(|it| (index, it)));
            Ok(())
        });
        match read {
            Ok(()) | Err(Read::Enough) => Ok(open),
            Err(Read::Failed(error)) => Err(error.into()),
        }
    }

    fn replay(
        &self,
        operator: &JobOperator,
        execution: ExecutionId,
        records: &[Box<RawValue>],
        options: LaunchOptions,
    ) -> Result<ExecutionId, ReplayRefused> {
        let lines: String = records.iter().map(|it| it.get().replace('\n', " ") + "\n").collect();
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        let named = options.triggered_by.clone().unwrap_or_default();
        let from = Path::new("the corrected records");
        let prepared =
            self.files.prepare_replay_of(operator, execution, &named, from, lines.as_bytes());
        let prepared = prepared.map_err(refused)?;
        // Silently they would wait, and the open ones of the earlier replay would be given up.
        if prepared.left_to_next > 0 {
            let count = prepared.left_to_next;
            return Err(ReplayRefused::Records(format!(
                "an earlier replay is not complete, and {count} of these records are not among its own: replay first what it has left, without others"
            )));
        }
        let launch = Launch::start(prepared.job.name(), prepared.parameters).options(options);
        match operator.launch_job(Arc::new(prepared.job), &launch) {
            Ok(started) => Ok(started.id()),
            Err(OperatorError::Refused(
                Refusal::AlreadyRunning { .. } | Refusal::AlreadyComplete { .. },
            )) => Err(ReplayRefused::Records(
                "another replay of this execution has just begun: look which records are left"
                    .to_owned(),
            )),
            Err(error) => Err(error.into()),
        }
    }
}

fn refused(error: ReplayError) -> ReplayRefused {
    match error {
        ReplayError::Operator(error) => ReplayRefused::Operator(error),
        other => ReplayRefused::Records(report(&other)),
    }
}
