//! Prepares a replay: finds the job file, the replays before this one, and what they have written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use batchwright::execution::{ExecutionId, InstanceId, JobExecution, Phase, SkipRecord};
use batchwright::parameters::{Parameter, ParameterValue};
use batchwright::query::ExecutionFilter;
use batchwright::{BatchStatus, Job, JobOperator, JobParameters};
use jiff::Timestamp;

use super::{
    Begun, ENDING, REPLAY_AFTER, REPLAY_FROM, REPLAY_NUMBER, REPLAY_OF_INSTANCE, Replay,
    ReplayError, Replayed, begun, each_skip, job_of_replays,
};
use crate::{JobFolder, Source};

/// A replay that can start: launch [`job`](Self::job) with [`parameters`](Self::parameters).
#[derive(Debug)]
pub struct PreparedReplay {
    /// The job. Its name is that of the replayed job with `.replay` at the end. `JobOperator::launch_job` starts it; it is made for
    /// these records, so it is not registered.
    pub job: Job,
    /// Its parameters: those of the replayed execution, and which instance is replayed for which time.
    pub parameters: JobParameters,
    /// Number of records of the file that earlier replays have written.
    pub left_out: usize,
    /// Number of records of the file that a replay which is continued did not begin with; the next replay can take them.
    pub left_to_next: usize,
    /// Number of records that a replay which is continued has not done yet; `None` when this is a new replay, which must be
    /// launched with `LaunchOptions::new_only`: another one, prepared at the same time, may have begun.
    pub unfinished: Option<usize>,
}

/// Whether `execution` is itself a replay.
pub fn is_replay(execution: &JobExecution) -> bool {
    is_replay_of(&execution.job, &mut execution.parameters.iter().map(|(name, _)| name))
}

/// Whether an execution of `job` with parameters of these names is itself a replay.
pub fn is_replay_of(job: &str, mut parameters: &mut dyn Iterator<Item = &str>) -> bool {
    job.ends_with(ENDING) && Iterator::any(&mut parameters, |name| name == REPLAY_OF_INSTANCE)
}

impl JobFolder {
    /// Prepares the replay of the records in the file `from`, which `execution` or other executions of its instance skipped.
    ///
    /// A replay that failed or was stopped is continued by the next one: records may be corrected once more, and those without
    /// a line are given up. Records that other replays of the instance have written are left out.
    ///
    /// # Errors
    ///
    /// When the file cannot be used, names records that were not skipped, or has none that are left to replay; when the job is
    /// not defined by a job file, a step cannot replay its records, or a replay was abandoned before it was complete. Nothing
    /// was stored.
    pub fn prepare_replay(
        &self,
        operator: &JobOperator,
        execution: ExecutionId,
        from: &Path,
    ) -> Result<PreparedReplay, ReplayError> {
        let failed = |source| ReplayError::Read { path: from.to_owned(), source };
        let file = File::open(from).map_err(failed)?;
        let named = std::path::absolute(from).unwrap_or_else(|_| from.to_owned());
        self.prepare_replay_of(operator, execution, &named.to_string_lossy(), from, file)
    }

    /// Prepares a replay as [`prepare_replay`](Self::prepare_replay) does, of the records in `lines`. `named` is stored as the
    /// place that they come from, and errors name `from`.
    ///
    /// # Errors
    ///
    /// As [`prepare_replay`](Self::prepare_replay).
    pub fn prepare_replay_of(
        &self,
        operator: &JobOperator,
        execution: ExecutionId,
        named: &str,
        from: &Path,
        lines: impl Read,
    ) -> Result<PreparedReplay, ReplayError> {
        let original = operator.explorer().execution(execution)?;
        let name = base_name(&original);
        let job = self.find(name, original.source.as_deref().map(Path::new))?;
        let source = job.as_ref().and_then(|job| job.source());
        let source = source.ok_or_else(|| ReplayError::NoJobFile { job: name.to_owned() })?;
        let skipped = Skipped::of(operator, original.instance_id)?;
        let mut replay =
            Replay::read(from, lines, |execution, step, item| skipped.find(execution, step, item))?;
        let replays = replays(operator, &job_of_replays(name), original.instance_id)?;
        refuse_abandoned(operator, &replays)?;
        let open = open_replay(&replays);
        let others = replays.iter().filter(|(other, _)| Some(**other) != open);
        let left_out = replay.leave_out(&Replayed::by(operator, others.map(|(_, all)| all))?);
        let attempts = open.and_then(|number| replays.get(&number)).map_or(&[][..], Vec::as_slice);
        let begun = begun_by(operator, attempts)?;
        let unfinished = open.map(|_| begun.values().map(Begun::left).sum());
        replay.carry_on(begun, attempts.len() + 1);
        let left_to_next = replay.leave_to_next();
        if replay.is_empty() {
            let message = match left_out {
                0 => ": it has no records".to_owned(),
                count => format!(": its records ({count}) are all replayed already"),
            };
            return Err(ReplayError::Content { path: from.to_owned(), message });
        }
        // A number that is not used again, even after `purge`: files have it in their names.
        let last = replays.keys().last().copied();
        let next = last.map_or(0, |last| last + 1);
        let number = open.unwrap_or_else(|| number_of(operator.clock().now()).max(next));
        let replay = replay.output_prefix(format!("replay-{}-{number}-", original.instance_id));
        let job = Source::read(Path::new(source))?.compile_replay(self.settings(), &replay)?;
        let mut parameters = original.parameters.clone();
        parameters.insert(REPLAY_OF_INSTANCE, Parameter::new(original.instance_id.0, true));
        // One that is continued keeps what identifies it.
        match attempts
            .last()
            .and_then(|one| Some((&one.parameters, one.parameters.get(REPLAY_NUMBER)?)))
        {
            Some((known, number)) => {
                parameters.insert(REPLAY_NUMBER, number.clone());
                if let Some(after) = known.get(REPLAY_AFTER) {
                    parameters.insert(REPLAY_AFTER, after.clone());
                }
            }
            None => {
                parameters.insert(REPLAY_AFTER, Parameter::new(last.unwrap_or(0), true));
                parameters.insert(REPLAY_NUMBER, Parameter::new(number, false));
            }
        }
        parameters.insert(REPLAY_FROM, Parameter::new(named, false));
        Ok(PreparedReplay { job, parameters, left_out, left_to_next, unfinished })
    }
}

/// Returns the digits of `now`, such as 20261129064300, as a number.
fn number_of(now: Timestamp) -> i64 {
    let digits: String = format!("{now:.0}").chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(i64::MAX)
}

/// The records that the executions of an instance skipped.
struct Skipped {
    /// The phases of the executions that skipped a record, newest first.
    phases: BTreeMap<(String, u64), Vec<(i64, Phase)>>,
}

impl Skipped {
    fn of(operator: &JobOperator, instance: InstanceId) -> Result<Self, ReplayError> {
        let mut phases: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for execution in operator.explorer().executions(instance)? {
            each_skip(operator.queries(), execution.id, |skip| {
                let SkipRecord { step, item, phase, .. } = skip;
                phases.entry((step, item)).or_default().push((execution.id.0, phase));
                Ok::<_, ReplayError>(())
            })?;
        }
        Ok(Self { phases })
    }

    fn find(&self, execution: Option<i64>, step: &str, item: u64) -> Option<(i64, Phase)> {
        let found = self.phases.get(&(step.to_owned(), item))?;
        found.iter().find(|(id, _)| execution.is_none_or(|wanted| wanted == *id)).copied()
    }
}

/// Refuses to go on after a replay that was abandoned with a step that is not complete: what it wrote to files or to another
/// database cannot be known.
fn refuse_abandoned(operator: &JobOperator, replays: &Replays) -> Result<(), ReplayError> {
    let newest = replays.values().filter_map(|all| all.first());
    for execution in newest.filter(|one| one.status == BatchStatus::Abandoned) {
        for step in operator.queries().steps(execution.id)? {
            if step.status != BatchStatus::Completed {
                let message = "it was abandoned before it was complete; give the other records to an instance of their own".to_owned();
                return Err(unknown(execution, message));
            }
        }
    }
    Ok(())
}

fn unknown(execution: &JobExecution, message: String) -> ReplayError {
    ReplayError::Unknown { execution: execution.id, message }
}

/// The executions of each replay of `instance`, newest first, by the number that the replay began with.
type Replays = BTreeMap<i64, Vec<JobExecution>>;

fn replays(
    operator: &JobOperator,
    job: &str,
    instance: InstanceId,
) -> Result<Replays, ReplayError> {
    let mut by_instance: BTreeMap<InstanceId, (i64, Vec<JobExecution>)> = BTreeMap::new();
    for one in operator.queries().executions(&ExecutionFilter::of_job(job))? {
        let integer = |name: &str| match one.parameters.get(name).map(|one| &one.value) {
            Some(ParameterValue::Integer(value)) => Some(*value),
            _ => None,
        };
        if integer(REPLAY_OF_INSTANCE) == Some(instance.0)
            && let Some(number) = integer(REPLAY_NUMBER)
        {
            // Newest first: the last number is the one of the oldest execution.
            let replay = by_instance.entry(one.instance_id).or_default();
            replay.0 = number;
            replay.1.push(one);
        }
    }
    Ok(by_instance.into_values().collect())
}

/// Returns the number of the replay to continue.
fn open_replay(replays: &Replays) -> Option<i64> {
    // When all its records were skipped once more, nothing is left of it to continue.
    let skipped_all = |one: &JobExecution| {
        one.failure.as_ref().is_some_and(|failure| failure.code == "all_skipped")
    };
    let ended = |one: &JobExecution| {
        matches!(one.status, BatchStatus::Completed | BatchStatus::Abandoned) || skipped_all(one)
    };
    let open = replays.iter().find(|(_, all)| all.first().is_some_and(|newest| !ended(newest)));
    open.map(|(number, _)| *number)
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
        Self::by(operator, replays.values())
    }

    fn by<'a>(
        operator: &JobOperator,
        replays: impl Iterator<Item = &'a Vec<JobExecution>>,
    ) -> Result<Self, ReplayError> {
        let mut replayed = Self::default();
        for executions in replays {
            replayed.add(&begun_by(operator, executions)?);
        }
        Ok(replayed)
    }
}

/// Returns what the steps of one replay have done; `executions` are all of it, newest first.
fn begun_by(
    operator: &JobOperator,
    executions: &[JobExecution],
) -> Result<BTreeMap<String, Begun>, ReplayError> {
    let mut steps = Vec::new();
    for execution in executions.iter().rev() {
        steps.push(operator.queries().steps(execution.id)?);
    }
    match executions.first() {
        Some(newest) => begun(&steps).map_err(|message| unknown(newest, message)),
        None => Ok(BTreeMap::new()),
    }
}

/// Returns the name of the job that a job file defines.
fn base_name(execution: &JobExecution) -> &str {
    match is_replay(execution) {
        true => execution.job.strip_suffix(ENDING).unwrap_or(&execution.job),
        false => &execution.job,
    }
}
