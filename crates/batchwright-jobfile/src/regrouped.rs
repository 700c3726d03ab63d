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
/// process
/// first.
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
            failed: false,
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
    /// Whether the last read of a reader that reads again failed.
    failed: bool,
    stop: StopToken,
}

impl Regrouped {
    /// Reads the next record and adds its outputs; `false` at the end of the input.
    fn advance(&mut self) -> Result<bool, ItemError> {
        if self.stop.is_requested() {
            return Err(ItemError::stopped("a stop was requested while records were regrouped"));
        }
        if std::mem::take(&mut self.failed) {
            self.reader.pass_over()?;
            self.read += 1;
        }
        let before = self.regroup.is_clean_before().then(|| self.here(None));
        let record = match self.reader.read() {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(false),
            Err(error) => {
                self.failed = self.reader.rereads();
                self.read += u64::from(!self.failed);
                return Err(error);
            }
        };
        self.read += 1;
        let result = match self.stages.process(&record) {
            Ok(Some(processed)) => self.regroup.take(&processed, &mut self.outputs),
            Ok(None) => Ok(Clean::No),
            Err(error) => Err(error),
        };
        // Dead letters have what was read.
        let result = result.map_err(|error| match error.raw() {
            Some(_) => error,
            None => error.with_raw(serde_json::to_vec(&record).unwrap_or_default()),
        })?;
        match result {
            Clean::No => {}
            Clean::Before => self.next_begin = before.map(|begin| self.after_outputs(begin)),
            Clean::After => {
                let here = self.here(Some(self.reader.position()));
                self.next_begin = Some(self.after_outputs(here));
            }
        }
        Ok(true)
    }

    fn here(&self, position: Option<Box<RawValue>>) -> Begin {
        let position = Some(position.unwrap_or_else(|| self.reader.position()));
        Begin { position, read: self.read, given: self.given }
    }

    fn after_outputs(&self, begin: Begin) -> Begin {
        Begin { given: self.given + self.outputs.len() as u64, ..begin }
    }

    /// Returns the next output; `None` at the end.
    fn next(&mut self) -> Result<Option<Record>, ItemError> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                self.given += 1;
                return Ok(Some(output));
            }
            if let Some(begin) = self.next_begin.take() {
                self.begin = begin;
            }
            if !self.advance()? {
                self.regroup.end(&mut self.outputs);
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
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return Err(changed()),
                // Bad records were bad before.
                Err(error) if error.kind().is_a("data") => {}
                Err(error) => return Err(error),
            }
            // Those that are given already, except the ones of the last record, which may be in parts.
            while self.given < position.given && self.outputs.pop_front().is_some() {
                self.given += 1;
            }
            if self.outputs.is_empty()
                && let Some(begin) = self.next_begin.take()
            {
                self.begin = begin;
            }
        }
        if self.given < position.given {
            self.regroup.end(&mut self.outputs);
            while self.given < position.given && self.outputs.pop_front().is_some() {
                self.given += 1;
            }
        }
        let is_same = self.reader.position().get() == position.inner.get();
        if self.given == position.given && is_same { Ok(()) } else { Err(changed()) }
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
        let (inner, read, given) = (self.reader.position(), self.read, self.given);
        let position = Position { begin, inner, read, given };
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
