//! The reader of what a processor makes of the records of another reader.

use std::collections::VecDeque;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;
use batchwright::item::{ItemProcessor, ItemReader, Total};
use batchwright::scope::StepScope;
use batchwright_items::{BoxedReader, Make, Record, RecordReader};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::regroup::{Clean, Regroup, Regrouping};
use crate::stage::Stages;

/// Returns what makes a reader of the outputs of `regrouping` for the records of the reader that `make` makes, which `stages`
/// process first.
pub(crate) fn regrouped(
    make: Make<BoxedReader>,
    stages: Make<Stages>,
    regrouping: Regrouping,
) -> Make<BoxedReader> {
    let make: Arc<Make<BoxedReader>> = Arc::new(make);
    Box::new(move |scope| {
        Ok(BoxedReader::new(Regrouped {
            reader: make(scope)?,
            make: Arc::clone(&make),
            stages: stages(scope)?,
            regroup: regrouping.start(),
            outputs: VecDeque::new(),
            begin: Begin::default(),
            next_begin: None,
            read: 0,
            given: 0,
            failed: Vec::new(),
            ended: false,
            stop: StopToken::default(),
        }))
    })
}

/// Where a restart begins to read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Begin {
    /// The position of the inner reader; `None` is its beginning.
    position: Option<Box<RawValue>>,
    /// Number of records before it, and of outputs that were given before it.
    read: u64,
    given: u64,
}

/// A restart reads from `begin` on and makes the outputs once more: their number tells which are new.
#[derive(Debug, Serialize, Deserialize)]
struct Position {
    begin: Begin,
    /// The position of the inner reader, with the identity of its input.
    inner: Box<RawValue>,
    read: u64,
    given: u64,
    /// The numbers of the records since `begin` that failed; a restart does not take them.
    #[serde(default)]
    failed: Vec<u64>,
    /// Whether the end of the input was reached.
    #[serde(default)]
    ended: bool,
    /// What the processor remembers beyond `begin`.
    #[serde(default)]
    note: String,
}

struct Regrouped {
    reader: BoxedReader,
    make: Arc<Make<BoxedReader>>,
    stages: Stages,
    regroup: Box<dyn Regroup>,
    /// Outputs that were not given yet.
    outputs: VecDeque<Record>,
    begin: Begin,
    /// The place that is [`begin`](Self::begin) once all outputs are given.
    next_begin: Option<Begin>,
    /// Number of records that were read, and of outputs that were given.
    read: u64,
    given: u64,
    /// The numbers of records since the beginning of a restart that failed.
    failed: Vec<u64>,
    ended: bool,
    stop: StopToken,
}

impl Regrouped {
    /// Reads the next record and adds its outputs; `false` at the end of the input. A record of `known_failures` is not taken.
    fn advance(&mut self, known_failures: &[u64]) -> Result<bool, ItemError> {
        if self.stop.is_requested() {
            return Err(ItemError::stopped("a stop was requested while records were regrouped"));
        }
        let before = self.regroup.is_clean_before().then(|| self.here());
        let next = self.read + 1;
        let record = match self.reader.read() {
            Ok(Some(record)) => record,
            Ok(None) => {
                self.ended = true;
                return Ok(false);
            }
            Err(error) => {
                if self.reader.rereads() {
                    // What is no bad record is read again by the next call.
                    if !error.kind().is_a("data") {
                        return Err(error);
                    }
                    self.reader.pass_over()?;
                }
                self.read = next;
                self.failed.push(next);
                return if known_failures.contains(&next) { Ok(true) } else { Err(error) };
            }
        };
        self.read = next;
        if known_failures.contains(&next) {
            self.failed.push(next);
            return Ok(true);
        }
        let result = match self.stages.process(&record) {
            Ok(Some(processed)) => self.regroup.take(&processed, &mut self.outputs),
            Ok(None) => Ok(Clean::No),
            Err(error) => Err(error),
        };
        let result = result.map_err(|error| {
            self.failed.push(next);
            // Dead letters have what was read.
            match error.raw() {
                Some(_) => error,
                None => error.with_raw(serde_json::to_vec(&record).unwrap_or_default()),
            }
        })?;
        let begin = match result {
            Clean::No => return Ok(true),
            Clean::Before => before,
            Clean::After => Some(self.here()),
        };
        let given = self.given + self.outputs.len() as u64;
        self.next_begin = begin.map(|begin| Begin { given, ..begin });
        Ok(true)
    }

    fn here(&self) -> Begin {
        Begin { position: Some(self.reader.position()), read: self.read, given: self.given }
    }

    /// Moves the place where a restart begins, if all outputs before the new one are given.
    fn move_begin(&mut self) {
        if self.outputs.is_empty()
            && let Some(begin) = self.next_begin.take()
        {
            self.failed.retain(|number| *number > begin.read);
            self.begin = begin;
        }
    }

    /// Returns the next output; `None` at the end.
    fn next(&mut self) -> Result<Option<Record>, ItemError> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                self.given += 1;
                return Ok(Some(output));
            }
            self.move_begin();
            if self.ended || !self.advance(&[])? {
                self.regroup.end(&mut self.outputs)?;
                if self.outputs.is_empty() {
                    return Ok(None);
                }
            }
        }
    }

    /// Makes the outputs before `position` once more.
    fn catch_up(&mut self, position: &Position) -> Result<(), ItemError> {
        let changed = || {
            let what = "cannot restart: the records before the position are others than before";
            ItemError::new(ErrorKind::INPUT_CHANGED, what)
        };
        while self.read < position.read {
            if !self.advance(&position.failed)? {
                return Err(changed());
            }
            self.drop_given(position.given);
            self.move_begin();
        }
        // The end of the input may be after bytes that are no records.
        if position.ended && self.advance(&[])? {
            return Err(changed());
        }
        while self.given < position.given {
            self.regroup.end(&mut self.outputs)?;
            if self.outputs.is_empty() {
                break;
            }
            self.drop_given(position.given);
        }
        self.regroup.recall(&position.note);
        let is_same = self.reader.position().get() == position.inner.get();
        if self.given == position.given && is_same { Ok(()) } else { Err(changed()) }
    }

    /// Drops outputs until `given` are given.
    fn drop_given(&mut self, given: u64) {
        while self.given < given && self.outputs.pop_front().is_some() {
            self.given += 1;
        }
    }
}

impl ItemReader for Regrouped {
    type Item = Record;
    type Position = Box<RawValue>;

    fn open(
        &mut self,
        position: Option<Box<RawValue>>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        self.stop = scope.stop().clone();
        let Some(position) = position else { return self.reader.open(None, scope) };
        let position: Position = serde_json::from_str(position.get()).map_err(|error| {
            ItemError::fatal(format!("cannot interpret the stored position: {error}"))
        })?;
        // The inner reader compares its input with the one before.
        self.reader.open(Some(position.inner.clone()), scope)?;
        if position.begin.read < position.read || position.begin.given < position.given {
            self.reader.close()?;
            self.reader = (self.make)(scope)?;
            self.reader.open(position.begin.position.clone(), scope)?;
        }
        self.begin = position.begin.clone();
        (self.read, self.given) = (self.begin.read, self.begin.given);
        self.catch_up(&position)
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        self.next()
    }

    fn position(&self) -> Box<RawValue> {
        let begin = match &self.next_begin {
            Some(begin) if self.outputs.is_empty() => begin.clone(),
            _ => self.begin.clone(),
        };
        let failed = self.failed.iter().copied().filter(|number| *number > begin.read).collect();
        let position = Position {
            begin,
            inner: self.reader.position(),
            read: self.read,
            given: self.given,
            failed,
            ended: self.ended,
            note: self.regroup.note(),
        };
        serde_json::value::to_raw_value(&position).expect("a position is plain JSON")
    }

    fn total(&self) -> Option<Total> {
        self.reader.total()
    }

    fn done(&self) -> u64 {
        self.reader.done()
    }

    fn reads_ahead(&self) -> bool {
        self.reader.reads_ahead()
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.reader.close()
    }
}

impl RecordReader for Regrouped {
    fn fields(&self) -> Result<Option<Vec<String>>, ItemError> {
        self.reader.fields()
    }
}
