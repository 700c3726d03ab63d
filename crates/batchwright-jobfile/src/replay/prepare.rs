//! Prepares a replay: finds the job file, the replays before this one, and what they have written.

use std::collections::BTreeMap;
use std::path::Path;

use batchwright::execution::{ExecutionId, InstanceId, JobExecution};
use batchwright::parameters::{Parameter, ParameterValue};
use batchwright::query::ExecutionFilter;
use batchwright::{BatchStatus, Job, JobOperator, JobParameters};

use super::{
    ENDING, REPLAY_FROM, REPLAY_NUMBER, REPLAY_OF_INSTANCE, Replay, ReplayError, Replayed,
    job_of_replays,
};
use crate::{JobFolder, Source};

/// A replay that can start: launch [`job`](Self::job) with [`parameters`](Self::parameters).
#[derive(Debug)]
pub struct PreparedReplay {
    /// The job. Its name is that of the replayed job with `.replay` at the end; it must be registered before it is launched.
    pub job: Job,
    /// Its parameters: those of the replayed execution, and which instance is replayed for which time.
    pub parameters: JobParameters,
    /// Number of records of the file that earlier replays have written.
    pub left_out: usize,
}

/// Whether `execution` is itself a replay.
pub fn is_replay(execution: &JobExecution) -> bool {
    execution.job.ends_with(ENDING) && execution.parameters.get(REPLAY_OF_INSTANCE).is_some()
}

impl JobFolder {
    /// Prepares the replay of the records in the file `from`, which `execution` or other executions of its instance skipped.
    ///
    /// A replay that failed or was stopped is continued by the next one, which must have lines for the same records; their fields
    /// may have changed. Records that other replays of the instance have written are left out.
    ///
    /// # Errors
    ///
    /// When the file cannot be used, has no records that are left to replay, or names executions of other instances;
    /// when the job is
    /// not defined by a job file, or the step that skipped a record cannot replay it. Nothing was stored.
    pub fn prepare_replay(
        &self,
        operator: &JobOperator,
        execution: ExecutionId,
        from: &Path,
    ) -> Result<PreparedReplay, ReplayError> {
        let original = operator.explorer().execution(execution)?;
        let name = base_name(&original);
        let job = self.find(name, original.source.as_deref().map(Path::new))?;
        let source = job.as_ref().and_then(|job| job.source());
        let source = source.ok_or_else(|| ReplayError::NoJobFile { job: name.to_owned() })?;
        let mut replay = Replay::read(from, execution)?;
        let known = operator.explorer().executions(original.instance_id)?;
        let foreign = replay.executions();
        if let Some(one) = foreign.iter().find(|id| known.iter().all(|one| one.id != **id)) {
            let message =
                format!(": execution {one} is not one of execution {execution} and its restarts");
            return Err(ReplayError::Content { path: from.to_owned(), message });
        }
        let replays = replays(operator, &job_of_replays(name), original.instance_id)?;
        let number = next_number(&replays);
        let others = replays.iter().filter(|(other, _)| **other != number);
        let replayed = Replayed::by(operator, others.flat_map(|(_, all)| all))?;
        let left_out = replay.leave_out(&replayed);
        if replay.is_empty() {
            let message = match left_out {
                0 => ": it has no records".to_owned(),
                count => format!(": its records ({count}) are all replayed already"),
            };
            return Err(ReplayError::Content { path: from.to_owned(), message });
        }
        let replay = replay.output_prefix(format!("replay-{}-{number}-", original.instance_id));
        let job = Source::read(Path::new(source))?.compile_replay(self.settings(), &replay)?;
        let mut parameters = original.parameters.clone();
        let path = std::path::absolute(from).unwrap_or_else(|_| from.to_owned());
        let path = path.to_string_lossy().into_owned();
        parameters.insert(REPLAY_OF_INSTANCE, Parameter::new(original.instance_id.0, true));
        parameters.insert(REPLAY_NUMBER, Parameter::new(number, true));
        parameters.insert(REPLAY_FROM, Parameter::new(path, false));
        Ok(PreparedReplay { job, parameters, left_out })
    }
}

/// The executions of each replay of `instance`, newest first, by the number of the replay.
type Replays = BTreeMap<i64, Vec<JobExecution>>;

fn replays(
    operator: &JobOperator,
    job: &str,
    instance: InstanceId,
) -> Result<Replays, ReplayError> {
    let mut replays = Replays::new();
    for one in operator.queries().executions(&ExecutionFilter::of_job(job))? {
        let integer = |name: &str| match one.parameters.get(name).map(|one| &one.value) {
            Some(ParameterValue::Integer(value)) => Some(*value),
            _ => None,
        };
        if integer(REPLAY_OF_INSTANCE) == Some(instance.0)
            && let Some(number) = integer(REPLAY_NUMBER)
        {
            replays.entry(number).or_default().push(one);
        }
    }
    Ok(replays)
}

/// Returns the number of the replay to continue, or of the next one.
fn next_number(replays: &Replays) -> i64 {
    let ended =
        |one: &JobExecution| matches!(one.status, BatchStatus::Completed | BatchStatus::Abandoned);
    let open = replays.iter().find(|(_, all)| all.first().is_some_and(|newest| !ended(newest)));
    let next = || replays.keys().last().map_or(1, |last| last + 1);
    open.map_or_else(next, |(number, _)| *number)
}

impl Replayed {
    /// Returns the records of the instance of `execution` that replays have written, or skipped once more.
    ///
    /// # Errors
    ///
    /// When the store fails, or the checkpoint of a replay cannot be understood.
    pub fn of(operator: &JobOperator, execution: &JobExecution) -> Result<Self, ReplayError> {
        let name = job_of_replays(base_name(execution));
        let replays = replays(operator, &name, execution.instance_id)?;
        Self::by(operator, replays.values().flatten())
    }

    fn by<'a>(
        operator: &JobOperator,
        executions: impl Iterator<Item = &'a JobExecution>,
    ) -> Result<Self, ReplayError> {
        let mut replayed = Self::default();
        for execution in executions {
            for step in operator.queries().steps(execution.id)? {
                replayed
                    .add(&step)
                    .map_err(|message| ReplayError::Unknown { execution: execution.id, message })?;
            }
        }
        Ok(replayed)
    }
}

/// Returns the name of the job that a job file defines.
fn base_name(execution: &JobExecution) -> &str {
    match is_replay(execution) {
        true => execution.job.strip_suffix(ENDING).unwrap_or(&execution.job),
        false => &execution.job,
    }
}
