//! Replays of corrected records by the server: the same as `replay` does.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use batchwright::JobOperator;
use batchwright::execution::ExecutionId;
use batchwright::launch::{Launch, LaunchOptions};
use batchwright::operator::OperatorError;
use batchwright::report;
use batchwright_jobfile::{JobFolder, ReplayError, Replayed, SkippedRecord, each_skip};
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
    fn open(
        &self,
        operator: &JobOperator,
        execution: ExecutionId,
        from: usize,
        limit: usize,
    ) -> Result<Vec<Box<RawValue>>, ReplayRefused> {
        let row = operator.explorer().execution(execution)?;
        let replayed = Replayed::of(operator, &row).map_err(refused)?;
        let (mut passed, mut open) = (0, Vec::new());
        let read = each_skip(operator.queries(), execution, |skip| {
            if replayed.has(execution, &skip) {
                return Ok(());
            }
            if passed < from {
                passed += 1;
                return Ok(());
            }
            if open.len() == limit {
                return Err(Read::Enough);
            }
            open.extend(to_raw_value(&SkippedRecord::of(execution, &skip)));
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
        triggered_by: String,
    ) -> Result<ExecutionId, ReplayRefused> {
        let lines: String = records.iter().map(|it| it.get().replace('\n', " ") + "\n").collect();
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        let (named, from) = (triggered_by.as_str(), Path::new("the corrected records"));
        let prepared =
            self.files.prepare_replay_of(operator, execution, named, from, lines.as_bytes());
        let prepared = prepared.map_err(refused)?;
        let options =
            LaunchOptions { triggered_by: Some(triggered_by), ..LaunchOptions::default() };
        let launch = Launch::start(prepared.job.name(), prepared.parameters).options(options);
        Ok(operator.launch_job(Arc::new(prepared.job), &launch)?.id())
    }
}

fn refused(error: ReplayError) -> ReplayRefused {
    match error {
        ReplayError::Operator(error) => ReplayRefused::Operator(error),
        other => ReplayRefused::Records(report(&other)),
    }
}
