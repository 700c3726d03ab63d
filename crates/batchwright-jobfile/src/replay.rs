//! Replays: skipped records, corrected by people, go through the processors and the writer of the step that skipped them.

mod prepare;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::RepositoryError;
use batchwright::execution::{ExecutionId, Phase, SkipRecord, StepExecution};
use batchwright::item::{ItemReader, Total};
use batchwright::operator::OperatorError;
use batchwright::scope::StepScope;
use batchwright::testing::fault::{FaultyPosition, Numbered as _};
use batchwright_items::{MakeReader, Reads, Record, Value};
use serde::{Deserialize, Serialize};

/// Maximum size of a file of corrected records in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Maximum number of records of one replay.
const RECORDS_MAX: usize = 100_000;

pub use prepare::{PreparedReplay, is_replay};

use crate::JobFileError;

/// The parameters of a replay: the number of the instance whose records it corrects, its own number among the replays of that
/// instance, and the file of the corrected records.
pub(crate) const REPLAY_OF_INSTANCE: &str = "replay_of_instance";
pub(crate) const REPLAY_NUMBER: &str = "replay_number";
pub(crate) const REPLAY_FROM: &str = "replay_from";

/// The end of the name of a job of replays.
const ENDING: &str = ".replay";

/// Returns the name of the job that replays records of job `name`; replays of replays have the same name.
pub(crate) fn job_of_replays(name: &str) -> String {
    format!("{name}{ENDING}")
}

/// Why corrected records cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason that the system gives.
        source: std::io::Error,
    },
    /// The content of the file is wrong.
    #[error("cannot replay `{}`{message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line in front.
        message: String,
    },
    /// The job is not defined by a job file.
    #[error("cannot replay records of job `{job}`: no job file defines it")]
    NoJobFile {
        /// The name of the job.
        job: String,
    },
    /// The job file cannot be used.
    #[error(transparent)]
    JobFile(#[from] JobFileError),
    /// It is unknown what an earlier replay has written.
    #[error("cannot find out what the replay in execution {execution} has written: {message}")]
    Unknown {
        /// The execution of that replay.
        execution: ExecutionId,
        /// What is wrong with its checkpoint.
        message: String,
    },
    /// The store failed, or there is no such execution.
    #[error(transparent)]
    Operator(#[from] OperatorError),
}

impl From<RepositoryError> for ReplayError {
    fn from(error: RepositoryError) -> Self {
        Self::Operator(error.into())
    }
}

/// A line of the file: a skip as `skips --export` and dead letters have it.
#[derive(Deserialize)]
struct Line {
    execution: Option<i64>,
    step: String,
    phase: Phase,
    item: u64,
    record: Option<Record>,
    content: Option<String>,
}

/// A skipped record: the execution and the step that skipped it, and its number in reading order.
type Key = (i64, String, u64);

/// The corrected records of one file, in the order of the records that they correct.
///
/// The job that replays them writes each record once: what other replays have written is [left out](Self::leave_out), and a restart
/// continues after the last commit although records were corrected once more.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    corrections: BTreeMap<Key, Correction>,
    prefix: String,
}

#[derive(Debug, Clone)]
struct Correction {
    is_unread: bool,
    /// A record that could not be written went through the processors before.
    is_processed: bool,
    record: Record,
}

impl Replay {
    /// Reads the file at `path`: a JSON object on each line, with `step`, `phase`, `item` and `record` (the corrected fields), as
    /// `batchwright skips --export` writes them. `execution` is that of a line that names none. The lines of a dead-letter
    /// file, whose `content` is the record as JSON, are accepted as well.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, a line is wrong, has no corrected record or corrects a record for the second time, or there
    /// are more than 256 MiB or 100,000 lines.
    pub(crate) fn read(path: &Path, execution: ExecutionId) -> Result<Self, ReplayError> {
        let failed = |source| ReplayError::Read { path: path.to_owned(), source };
        let wrong = |message: String| ReplayError::Content { path: path.to_owned(), message };
        let file = File::open(path).map_err(failed)?;
        let mut lines = BufReader::new(file.take(FILE_BYTES_MAX + 1));
        let (mut corrections, mut bytes, mut line, mut number) =
            (BTreeMap::new(), 0, Vec::new(), 0);
        loop {
            line.clear();
            let count = lines.read_until(b'\n', &mut line).map_err(failed)?;
            if count == 0 {
                break;
            }
            (number, bytes) = (number + 1, bytes + count as u64);
            if bytes > FILE_BYTES_MAX {
                return Err(wrong(format!(": it has more than {FILE_BYTES_MAX} bytes; divide it")));
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let at = |message: String| wrong(format!(", line {number}: {message}"));
            let (key, correction) = correction(&line, execution).map_err(at)?;
            if let Some(earlier) = corrections.insert(key, (number, correction)) {
                return Err(at(format!("line {} corrects the same record", earlier.0)));
            }
            if corrections.len() > RECORDS_MAX {
                return Err(wrong(format!(": it has more than {RECORDS_MAX} records; divide it")));
            }
        }
        let corrections = corrections.into_iter().map(|(key, (_, one))| (key, one)).collect();
        Ok(Self { corrections, prefix: String::new() })
    }

    /// Sets the text that begins the names of the files that the replay writes, so that it replaces none.
    #[must_use]
    pub(crate) fn output_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Leaves out the records of `replayed`; returns how many.
    pub(crate) fn leave_out(&mut self, replayed: &Replayed) -> usize {
        let before = self.corrections.len();
        self.corrections.retain(|key, _| !replayed.items.contains(key));
        before - self.corrections.len()
    }

    /// Returns the executions whose records are corrected.
    pub(crate) fn executions(&self) -> BTreeSet<ExecutionId> {
        self.corrections.keys().map(|(execution, ..)| ExecutionId(*execution)).collect()
    }

    /// Whether there is no record.
    pub(crate) fn is_empty(&self) -> bool {
        self.corrections.is_empty()
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the records that the step `name` of the job skipped, or its partitions, whose names begin with `name` and a colon.
    pub(crate) fn of_step(&self, name: &str, has_partitions: bool) -> Corrections {
        let mut groups: Vec<Group> = Vec::new();
        let (mut records, mut is_processed) = (Vec::<Record>::new(), Vec::new());
        let mut has_unread = false;
        for ((execution, step, item), correction) in &self.corrections {
            let is_partition = step.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
            if step != name && !(has_partitions && is_partition) {
                continue;
            }
            match groups
                .last_mut()
                .filter(|last| (last.execution, &last.step) == (*execution, step))
            {
                Some(group) => group.items.push(*item),
                None => {
                    let (execution, step, items) = (*execution, step.clone(), vec![*item]);
                    groups.push(Group { execution, step, items });
                }
            }
            let mut record = correction.record.clone();
            record.set_number(records.len() as u64 + 1);
            records.push(record);
            is_processed.push(correction.is_processed);
            has_unread |= correction.is_unread;
        }
        let (records, is_processed) = (records.into(), is_processed.into());
        Corrections { groups, records, is_processed, has_unread }
    }

    /// Returns the names of the steps and partitions whose records are corrected.
    pub(crate) fn steps(&self) -> BTreeSet<&str> {
        self.corrections.keys().map(|(_, step, _)| step.as_str()).collect()
    }
}

/// Parses a line of the file.
fn correction(line: &[u8], execution: ExecutionId) -> Result<(Key, Correction), String> {
    let parsed: Line = serde_json::from_slice(line).map_err(|error| {
        format!("it is no skipped record as `skips --export` writes it: {error}")
    })?;
    // What could not be read is no record.
    let content = parsed.content.filter(|_| parsed.phase != Phase::Read);
    let record = parsed.record.or_else(|| serde_json::from_str(&content?).ok());
    let record = record.ok_or(
        "`record` has no fields: the record could not be read; write its fields there, or delete the line",
    )?;
    // The text of a source without types can stand for a number.
    let values = record.values().iter().map(|value| match value {
        Value::Text(text) => Value::Field(text.clone()),
        value => value.clone(),
    });
    let record = record.with(Arc::clone(record.names()), values.collect());
    let is_unread = parsed.phase == Phase::Read;
    let correction = Correction { is_unread, is_processed: parsed.phase == Phase::Write, record };
    let key = (parsed.execution.unwrap_or(execution.0), parsed.step, parsed.item);
    Ok((key, correction))
}

/// The records that replays have written, or skipped once more.
#[derive(Debug, Clone, Default)]
pub struct Replayed {
    items: BTreeSet<Key>,
}

/// The part of the engine's checkpoint that says how far a replay came.
#[derive(Deserialize)]
struct Checkpoint {
    #[serde(default)]
    resolved: u64,
    reader: Option<FaultyPosition<Position>>,
}

impl Replayed {
    /// Whether a replay has written the record that `execution` skipped, or skipped it once more.
    pub fn has(&self, execution: ExecutionId, skip: &SkipRecord) -> bool {
        self.items.contains(&(execution.0, skip.step.clone(), skip.item))
    }

    /// Adds the records that a step of a replay has committed.
    ///
    /// # Errors
    ///
    /// A sentence when the checkpoint of the step is none of a replay.
    pub(crate) fn add(&mut self, step: &StepExecution) -> Result<(), String> {
        let Some(text) = &step.checkpoint else { return Ok(()) };
        let wrong = |why: String| format!("the checkpoint of step `{}`: {why}", step.name);
        let Checkpoint { resolved, reader } =
            serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let Some(FaultyPosition { inner: Position { groups, read }, .. }) = reader else {
            return Ok(());
        };
        let items = groups.into_iter().flat_map(|Group { execution, step, items }| {
            items.into_iter().map(move |item| (execution, step.clone(), item))
        });
        let count = usize::try_from(read.saturating_add(resolved)).unwrap_or(usize::MAX);
        self.items.extend(items.take(count));
        Ok(())
    }
}

/// The corrected records of one step.
#[derive(Debug, Clone)]
pub(crate) struct Corrections {
    /// Which records are corrected, in their order.
    groups: Vec<Group>,
    records: Arc<[Record]>,
    /// By the number of the record less one: whether it went through the processors before.
    pub(crate) is_processed: Arc<[bool]>,
    has_unread: bool,
}

impl Corrections {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether there are records that could not be read.
    pub(crate) fn has_unread(&self) -> bool {
        self.has_unread
    }

    /// Returns the names of the steps and partitions that skipped the records.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().map(|group| group.step.as_str())
    }

    /// Returns the reader of the records.
    pub(crate) fn make_reader(&self) -> MakeReader {
        let corrections = self.clone();
        MakeReader::new(move |_| {
            Ok(Reads::records(Reader { corrections: corrections.clone(), read: 0 }))
        })
    }
}

/// The records of the replay, and how many of them, in their order, are done.
#[derive(Debug, Serialize, Deserialize)]
struct Position {
    groups: Vec<Group>,
    read: u64,
}

/// Records that one execution of a step skipped, by their numbers in reading order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    execution: i64,
    step: String,
    items: Vec<u64>,
}

struct Reader {
    corrections: Corrections,
    read: usize,
}

impl ItemReader for Reader {
    type Item = Record;
    type Position = Position;

    fn open(&mut self, position: Option<Position>, _: &StepScope) -> Result<(), ItemError> {
        let Some(Position { groups, read }) = position else { return Ok(()) };
        // The values of records may have changed; which records they are may not.
        if groups != self.corrections.groups {
            return Err(ItemError::fatal(
                "cannot continue the replay: the file has lines for other records than when the replay began; \
                 bring those lines back, or abandon the execution and replay the rest",
            ));
        }
        self.read = usize::try_from(read).unwrap_or(usize::MAX).min(self.corrections.records.len());
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        let record = self.corrections.records.get(self.read).cloned();
        self.read += usize::from(record.is_some());
        Ok(record)
    }

    fn position(&self) -> Position {
        Position { groups: self.corrections.groups.clone(), read: self.read as u64 }
    }

    fn total(&self) -> Option<Total> {
        Some(Total::Items(self.corrections.records.len() as u64))
    }

    fn done(&self) -> u64 {
        self.read as u64
    }
}
