//! Replays: skipped records, corrected by people, go through the processors and the writer of the step that skipped them.

mod prepare;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwright::error::RepositoryError;
use batchwright::execution::{ExecutionId, Phase, SkipRecord, StepExecution};
use batchwright::item::{ItemReader, Total, stable_hash};
use batchwright::operator::OperatorError;
use batchwright::query::Queries;
use batchwright::scope::StepScope;
use batchwright::step::{Flow, TaskletCall};
use batchwright::testing::fault::{FaultyPosition, Numbered as _};
use batchwright::{BatchStatus, ItemError};
use batchwright_items::{MakeReader, Reads, Record, Value};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Maximum size of a file of corrected records in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Maximum number of records of one replay.
const RECORDS_MAX: usize = 100_000;

pub use prepare::{PreparedReplay, is_replay, is_replay_of};

use crate::JobFileError;

/// The parameters of a replay: the number of the instance whose records it corrects, its own number among the replays of that
/// instance, and the file of the corrected records.
pub(crate) const REPLAY_OF_INSTANCE: &str = "replay_of_instance";
pub(crate) const REPLAY_NUMBER: &str = "replay_number";
/// The number of the replay before: two replays that are prepared at once follow the same one, so that they are one instance.
pub(crate) const REPLAY_AFTER: &str = "replay_after";
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

/// A skipped record for correction: what `skips --export` writes, and a replay reads.
#[derive(Debug, Serialize)]
pub struct SkippedRecord<'a> {
    execution: ExecutionId,
    step: &'a str,
    phase: Phase,
    item: u64,
    location: Option<&'a str>,
    kind: &'a str,
    message: &'a str,
    /// The fields of the record; null when it could not be read.
    record: Option<&'a RawValue>,
    /// What was read, when that is no record.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

impl<'a> SkippedRecord<'a> {
    /// Returns the record that `execution` skipped.
    pub fn of(execution: ExecutionId, skip: &'a SkipRecord) -> Self {
        let content = skip.content.as_deref();
        // What could not be read is no record.
        let record = content.filter(|text| skip.phase != Phase::Read && text.starts_with('{'));
        let record = record.and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
        Self {
            execution,
            step: &skip.step,
            phase: skip.phase,
            item: skip.item,
            location: skip.location.as_deref(),
            kind: &skip.kind,
            message: &skip.message,
            record,
            content: content.filter(|_| record.is_none()),
        }
    }
}

/// A line of the file: a skip as `skips --export` and dead letters have it.
#[derive(Deserialize)]
struct Line {
    execution: Option<i64>,
    step: String,
    item: u64,
    record: Option<Record>,
    content: Option<String>,
}

/// A skipped record: the execution and the step that skipped it, and its number in reading order.
type Key = (i64, String, u64);

/// The corrected records of one file.
///
/// The job that replays them writes each record once: what other replays have written is [left out](Self::leave_out), and a replay
/// that is [continued](Self::carry_on) keeps the order of its records although some were corrected once more or given up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replay {
    corrections: BTreeMap<Key, Correction>,
    /// What steps of the replay have done so far, by their names.
    begun: BTreeMap<String, Begun>,
    /// The number of the attempt, from 1.
    attempt: usize,
    prefix: String,
}

#[derive(Debug, Clone)]
struct Correction {
    /// The number of the line, from 1.
    line: usize,
    phase: Phase,
    record: Record,
}

/// What a step of a replay has done so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Begun {
    /// All records, in their order.
    order: Vec<Key>,
    /// Number of those that are written, skipped or passed over.
    done: usize,
    /// Those that were passed over.
    passed: BTreeSet<Key>,
}

/// The records of a step of a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct List {
    /// All records, in their order.
    groups: Vec<Group>,
    /// Those that are passed over, because the file has no line for them any more.
    given_up: Vec<Group>,
}

/// The name of the first step of a replay, followed by the number of the attempt: it stores the lists of the other steps.
pub(crate) const LISTS_STEP: &str = "replayed-records-";
/// The name in the job's context of the hashes of these lists, by the names of their steps.
const HASHES: &str = "replayed-records";
/// The name of the lists in its context.
const LISTS: &str = "lists";

/// The lists of the steps of a replay, by their names.
pub(crate) type Lists = BTreeMap<String, List>;

/// Records that one execution of a step skipped, by their numbers in reading order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    execution: i64,
    step: String,
    items: Vec<u64>,
}

fn hash(part: &impl Serialize) -> u64 {
    stable_hash(serde_json::to_string(part).unwrap_or_default().as_bytes())
}

/// Returns `keys` in groups, in their order.
fn grouped<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (execution, step, item) in keys {
        match groups.last_mut() {
            Some(last) if last.execution == *execution && last.step == *step => {
                last.items.push(*item);
            }
            _ => {
                groups.push(Group { execution: *execution, step: step.clone(), items: vec![*item] })
            }
        }
    }
    groups
}

/// Returns the records of `groups`, in their order.
fn keys(groups: &[Group]) -> impl Iterator<Item = Key> {
    groups.iter().flat_map(|Group { execution, step, items }| {
        items.iter().map(move |item| (*execution, step.clone(), *item))
    })
}

impl Replay {
    /// Reads `file`, which errors name `path`: a JSON object on each line, with `step`, `item` and `record` (the corrected
    /// fields), as `batchwright skips --export` writes them. The lines of a dead-letter file, whose `content` is the record
    /// as JSON, are accepted as well. `skipped` returns the execution and the phase in which the record was skipped: of the
    /// execution that the line names, or of any.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, a line is wrong, names no skipped record, has no corrected record or corrects a record for
    /// the second time, or there are more than 256 MiB or 100,000 lines.
    pub(crate) fn read(
        path: &Path,
        file: impl Read,
        skipped: impl Fn(Option<i64>, &str, u64) -> Option<(i64, Phase)>,
    ) -> Result<Self, ReplayError> {
        let failed = |source| ReplayError::Read { path: path.to_owned(), source };
        let wrong = |message: String| ReplayError::Content { path: path.to_owned(), message };
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
            let (key, correction) = correction(&line, number, &skipped).map_err(at)?;
            if let Some(earlier) = corrections.insert(key, correction) {
                return Err(at(format!("line {} corrects the same record", earlier.line)));
            }
            if corrections.len() > RECORDS_MAX {
                return Err(wrong(format!(": it has more than {RECORDS_MAX} records; divide it")));
            }
        }
        Ok(Self { corrections, ..Self::default() })
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

    /// Continues what an earlier attempt has done; its records without a line in the file are given up.
    pub(crate) fn carry_on(&mut self, begun: BTreeMap<String, Begun>, attempt: usize) {
        (self.begun, self.attempt) = (begun, attempt);
    }

    /// Returns the name of the first step.
    pub(crate) fn lists_step(&self) -> String {
        format!("{LISTS_STEP}{}", self.attempt)
    }

    /// Leaves out the lines that the replay that is continued cannot take; returns how many.
    pub(crate) fn leave_to_next(&mut self) -> usize {
        let before = self.corrections.len();
        for (name, begun) in &self.begun {
            let open: BTreeSet<&Key> = begun.order.iter().skip(begun.done).collect();
            self.corrections.retain(|key, _| !belongs(key, name, true) || open.contains(key));
        }
        before - self.corrections.len()
    }

    /// Whether there is no record.
    pub(crate) fn is_empty(&self) -> bool {
        self.corrections.is_empty() && self.begun.is_empty()
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the records that the step `name` of the job skipped, or its partitions, whose names begin with `name` and a
    /// colon. Texts are of a source without types if the reader of the step `has_no_types`.
    pub(crate) fn of_step(
        &self,
        name: &str,
        has_partitions: bool,
        has_no_types: bool,
    ) -> Corrections {
        let all = || {
            let keys = self.corrections.keys();
            keys.filter(|key| belongs(key, name, has_partitions)).cloned().collect()
        };
        let Begun { order, done, passed } = self
            .begun
            .get(name)
            .cloned()
            .unwrap_or_else(|| Begun { order: all(), ..Begun::default() });
        let mut given_up = Vec::new();
        let mut records = Vec::new();
        let mut is_processed = Vec::new();
        let mut has_unread = false;
        for (index, key) in order.iter().enumerate() {
            let correction = self.corrections.get(key);
            let phase = correction.map(|one| one.phase);
            is_processed.push(phase == Some(Phase::Write));
            has_unread |= phase == Some(Phase::Read);
            let record = match correction {
                Some(one) if has_no_types => untyped(&one.record),
                Some(one) => one.record.clone(),
                // The engine drops records that are done; those that were passed over it never had.
                None if index < done && !passed.contains(key) => {
                    Record::new(Arc::default(), Vec::new())
                }
                None => {
                    given_up.push(key.clone());
                    records.push(None);
                    continue;
                }
            };
            let mut record = record;
            record.set_number(index as u64 + 1);
            records.push(Some(record));
        }
        let list = List { groups: grouped(&order), given_up: grouped(&given_up) };
        let (records, is_processed) = (records.into(), is_processed.into());
        let order_hash = hash(&list.groups);
        Corrections { list, records, is_processed, has_unread, order_hash }
    }

    /// Returns the names of the steps and partitions whose records are corrected.
    pub(crate) fn steps(&self) -> BTreeSet<&str> {
        self.corrections.keys().map(|(_, step, _)| step.as_str()).collect()
    }
}

/// Number of skips that are read from the store at once.
const PAGE: usize = 1_000;

/// Calls `take` with each record that `execution` skipped, in the order of the commits.
///
/// # Errors
///
/// Those of `take`, and of the store.
pub fn each_skip<E: From<RepositoryError>>(
    queries: &dyn Queries,
    execution: ExecutionId,
    mut take: impl FnMut(SkipRecord) -> Result<(), E>,
) -> Result<(), E> {
    let mut begin = 0;
    loop {
        let page = queries.skips_page(execution, begin, PAGE)?;
        begin += page.len();
        let is_last = page.len() < PAGE;
        page.into_iter().try_for_each(&mut take)?;
        if is_last {
            return Ok(());
        }
    }
}

/// The end of the name of the partition that replays the records of all partitions.
const PARTITION: &str = ":replay";

/// Whether the step `name`, or one of its partitions, skipped the record `key`.
fn belongs(key: &Key, name: &str, has_partitions: bool) -> bool {
    let is_partition = key.1.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
    key.1 == name || (has_partitions && is_partition)
}

/// Returns the record as one of a source without types, whose texts can stand for numbers.
fn untyped(record: &Record) -> Record {
    let values = record.values().iter().map(|value| match value {
        Value::Text(text) => Value::Field(text.clone()),
        value => value.clone(),
    });
    record.with(Arc::clone(record.names()), values.collect())
}

/// Parses a line of the file.
fn correction(
    line: &[u8],
    number: usize,
    skipped: &impl Fn(Option<i64>, &str, u64) -> Option<(i64, Phase)>,
) -> Result<(Key, Correction), String> {
    let Line { execution, step, item, record, content } =
        serde_json::from_slice(line).map_err(|error| {
            format!("it is no skipped record as `skips --export` writes it: {error}")
        })?;
    let (execution, phase) = skipped(execution, &step, item).ok_or_else(|| {
        format!("no execution of the instance skipped the record {item} of step `{step}`")
    })?;
    // What could not be read is no record.
    let content = content.filter(|_| phase != Phase::Read);
    let record = record.or_else(|| serde_json::from_str(&content?).ok());
    let record = record.ok_or(
        "`record` has no fields: the record could not be read; write its fields there, or delete the line",
    )?;
    Ok(((execution, step, item), Correction { line: number, phase, record }))
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

    /// Adds the records that a replay has committed.
    pub(crate) fn add(&mut self, begun: &BTreeMap<String, Begun>) {
        for Begun { order, done, passed } in begun.values() {
            self.items.extend(order[..*done].iter().filter(|key| !passed.contains(*key)).cloned());
        }
    }
}

/// Returns what the steps of a replay have done, by their names. `executions` are the steps of each of its executions, oldest
/// first.
///
/// # Errors
///
/// A sentence when a context or a checkpoint is none of a replay.
pub(crate) fn begun(executions: &[Vec<StepExecution>]) -> Result<BTreeMap<String, Begun>, String> {
    let mut all: BTreeMap<String, Begun> = BTreeMap::new();
    let mut lists = Lists::new();
    for steps in executions {
        let is_list =
            |step: &&StepExecution| step.name.starts_with(LISTS_STEP) && step.context.has(LISTS);
        // An execution that ran a job which was prepared before the last one began has the lists of that one.
        if let Some(first) = steps.iter().find(is_list) {
            lists = first.context.get(LISTS).map_err(|error| error.to_string())?;
        }
        for (name, list) in &lists {
            let begun = all.entry(name.clone()).or_default();
            if begun.done == 0 {
                begun.order = keys(&list.groups).collect();
            }
            let is_row = |step: &&StepExecution| {
                step.name.strip_suffix(PARTITION).unwrap_or(&step.name) == *name
            };
            let given_up: BTreeSet<Key> = keys(&list.given_up).collect();
            for step in steps.iter().filter(is_row) {
                begun.move_on(step, &given_up)?;
            }
        }
    }
    Ok(all)
}

impl Begun {
    /// Returns the number of records that are not done.
    fn left(&self) -> usize {
        self.order.len() - self.done
    }

    /// Moves on to what `step` has committed, which passed over the records `given_up`.
    fn move_on(&mut self, step: &StepExecution, given_up: &BTreeSet<Key>) -> Result<(), String> {
        let Some(text) = &step.checkpoint else { return Ok(()) };
        let checkpoint: Checkpoint = serde_json::from_str(text)
            .map_err(|error| format!("the checkpoint of step `{}`: {error}", step.name))?;
        let read = checkpoint.reader.map_or(0, |reader| reader.inner.read);
        let mut done = usize::try_from(read).unwrap_or(usize::MAX).min(self.order.len());
        // A step that completed passed over the records at its end too.
        if step.status == BatchStatus::Completed {
            done = self.order.len();
        }
        // Of a chunk that was cut short, the engine counts those records that it had.
        let mut resolved = checkpoint.resolved;
        while resolved > 0 && done < self.order.len() {
            resolved -= u64::from(!given_up.contains(&self.order[done]));
            done += 1;
        }
        for key in self.order.iter().take(done).skip(self.done) {
            if given_up.contains(key) {
                self.passed.insert(key.clone());
            }
        }
        self.done = self.done.max(done);
        Ok(())
    }
}

/// The work of the first step of a replay.
pub(crate) fn keep_lists(
    lists: Lists,
) -> impl Fn(&mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> + Send + Sync {
    move |call| {
        let scope = call.scope();
        scope.context().put(LISTS, &lists)?;
        let hashes = lists.iter().map(|(name, list)| (name, hash(list)));
        scope.job().context().put(HASHES, &hashes.collect::<BTreeMap<_, _>>())?;
        Ok(Flow::Finished)
    }
}

/// The corrected records of one step.
#[derive(Debug, Clone)]
pub(crate) struct Corrections {
    list: List,
    /// The records of the list; `None` for those that are given up.
    records: Arc<[Option<Record>]>,
    /// By the number of the record less one: whether it went through the processors before.
    pub(crate) is_processed: Arc<[bool]>,
    has_unread: bool,
    /// Hash of the order of the records, which each position has.
    order_hash: u64,
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
        self.list.groups.iter().map(|group| group.step.as_str())
    }

    /// Returns the reader of the records.
    pub(crate) fn make_reader(&self) -> MakeReader {
        let corrections = self.clone();
        MakeReader::new(move |_| {
            Ok(Reads::records(Reader { corrections: corrections.clone(), read: 0 }))
        })
    }

    pub(crate) fn list(&self) -> &List {
        &self.list
    }
}

/// How many records of the list, in their order, are read.
#[derive(Debug, Serialize, Deserialize)]
struct Position {
    read: u64,
    /// Hash of the list.
    list: u64,
}

struct Reader {
    corrections: Corrections,
    read: usize,
}

impl ItemReader for Reader {
    type Item = Record;
    type Position = Position;

    fn open(&mut self, position: Option<Position>, scope: &StepScope) -> Result<(), ItemError> {
        let stored: BTreeMap<String, u64> = scope.job().context().get(HASHES)?;
        let step = scope.step().strip_suffix(PARTITION).unwrap_or(scope.step());
        if stored.get(step) != Some(&hash(&self.corrections.list)) {
            return Err(ItemError::fatal(
                "cannot replay: the stored list of records is another one",
            ));
        }
        if let Some(Position { read, list }) = position {
            if list != self.corrections.order_hash {
                return Err(ItemError::fatal(
                    "cannot continue the replay: it began with other lines; bring them back",
                ));
            }
            let read = usize::try_from(read).unwrap_or(usize::MAX);
            self.read = read.min(self.corrections.records.len());
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        while let Some(record) = self.corrections.records.get(self.read) {
            self.read += 1;
            if let Some(record) = record {
                return Ok(Some(record.clone()));
            }
        }
        Ok(None)
    }

    fn position(&self) -> Position {
        Position { read: self.read as u64, list: self.corrections.order_hash }
    }

    fn total(&self) -> Option<Total> {
        Some(Total::Items(self.corrections.records.len() as u64))
    }

    fn done(&self) -> u64 {
        self.read as u64
    }
}
