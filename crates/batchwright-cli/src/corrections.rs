//! Replays of corrected records by the server: the same as `replay` does.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use batchwright::JobOperator;
use batchwright::execution::ExecutionId;
use batchwright::launch::{Launch, LaunchOptions};
use batchwright::operator::{JobHandle, OperatorError, Refusal};
use batchwright::report;
use batchwright_jobfile::{
    JobFolder, PreparedReplay, ReplayError, Replayed, SkippedRecord, each_skip, is_replay_of,
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
        let prepare = || {
            let lines = lines.as_bytes();
            self.files.prepare_replay_of(operator, execution, &named, from, lines).map_err(refused)
        };
        let mut prepared = prepare()?;
        // An earlier replay that has done all its records, but did not end, is ended first.
        if prepared.left_to_next > 0 && prepared.unfinished == Some(0) {
            let ending = LaunchOptions { request: None, ..options.clone() };
            launched(operator, prepared, ending)?.wait().map_err(OperatorError::from)?;
            prepared = prepare()?;
        }
        // Silently they would wait, and the open ones of the earlier replay would be given up.
        if prepared.left_to_next > 0 {
            let count = prepared.left_to_next;
            return Err(ReplayRefused::Records(format!(
                "an earlier replay is not complete, and {count} of these records are not among its own: replay first what it has left, without others"
            )));
        }
        Ok(launched(operator, prepared, options)?.id())
    }
}

/// Launches a replay.
fn launched(
    operator: &JobOperator,
    prepared: PreparedReplay,
    options: LaunchOptions,
) -> Result<JobHandle, ReplayRefused> {
    let is_new = prepared.unfinished.is_none();
    let options = LaunchOptions { new_only: is_new, ..options };
    let launch = Launch::start(prepared.job.name(), prepared.parameters).options(options);
    match operator.launch_job(Arc::new(prepared.job), &launch) {
        Err(OperatorError::Refused(
            Refusal::AlreadyRunning { .. }
            | Refusal::AlreadyComplete { .. }
            | Refusal::NotRestartable { .. },
        )) => {
            let message =
                "another replay of this execution has begun meanwhile: look which records are left";
            Err(ReplayRefused::Records(message.to_owned()))
        }
        launched => Ok(launched?),
    }
}

fn refused(error: ReplayError) -> ReplayRefused {
    match error {
        ReplayError::Operator(error) => ReplayRefused::Operator(error),
        other => ReplayRefused::Records(report(&other)),
    }
}
