//! The reader of a step: it checks the fields of its input at opening, and injects faults if there is a plan.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::fault::{FaultPlan, FaultyPosition, FaultyReader};
use batchwright::item::{ItemReader, Total};
use batchwright::step::StepScope;
use batchwright_items::{BoxedReader, Record};
use serde_json::value::RawValue;

use crate::stage::{Stage, check_fields};

/// A position as JSON.
type Position = Box<RawValue>;

/// The reader of a step.
pub(super) struct StepReader {
    inner: Inner,
    stages: Arc<[Stage]>,
}

enum Inner {
    Plain(BoxedReader),
    Faulty(Box<FaultyReader<BoxedReader>>),
}

/// Runs the same code for either kind of inner reader.
macro_rules! each {
    ($any:expr, $reader:ident => $code:expr) => {
        match $any {
            Inner::Plain($reader) => $code,
            Inner::Faulty($reader) => $code,
        }
    };
}

impl StepReader {
    pub(super) fn new(reader: BoxedReader, stages: Arc<[Stage]>, plan: Option<&FaultPlan>) -> Self {
        let inner = match plan {
            None => Inner::Plain(reader),
            Some(plan) => Inner::Faulty(Box::new(FaultyReader::new(reader, plan))),
        };
        Self { inner, stages }
    }

    fn check_fields(&self) -> Result<(), ItemError> {
        let fields = match &self.inner {
            Inner::Plain(reader) => reader.fields()?,
            Inner::Faulty(reader) => reader.inner().fields()?,
        };
        let Some(fields) = fields else { return Ok(()) };
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        check_fields(&self.stages, Some(&fields)).map_err(ItemError::fatal)
    }
}

impl ItemReader for StepReader {
    type Item = Record;
    type Position = Position;

    fn open(&mut self, position: Option<Position>, scope: &StepScope) -> Result<(), ItemError> {
        // A position that was stored while faults were injected also contains the number of the record. Version 0.1
        // stored every position in this form.
        let numbered = position.as_ref().and_then(|position| {
            serde_json::from_str::<FaultyPosition<Position>>(position.get()).ok()
        });
        match (&mut self.inner, position, numbered) {
            (Inner::Plain(reader), _, Some(numbered)) => {
                reader.open(Some(numbered.inner), scope)?
            }
            (Inner::Plain(reader), position, None) => reader.open(position, scope)?,
            (Inner::Faulty(_), Some(_), None) => {
                return Err(ItemError::fatal(
                    "inject faults: the checkpoint was stored without a plan, so the numbers of the records are \
                     unknown; start a new instance with --inject",
                ));
            }
            (Inner::Faulty(reader), _, numbered) => reader.open(numbered, scope)?,
        }
        self.check_fields()
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        each!(&mut self.inner, reader => reader.read())
    }

    fn position(&self) -> Position {
        match &self.inner {
            Inner::Plain(reader) => reader.position(),
            Inner::Faulty(reader) => serde_json::value::to_raw_value(&reader.position())
                .expect("a position is JSON by its contract"),
        }
    }

    fn rereads(&self) -> bool {
        each!(&self.inner, reader => reader.rereads())
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        each!(&mut self.inner, reader => reader.pass_over())
    }

    fn reads_ahead(&self) -> bool {
        each!(&self.inner, reader => reader.reads_ahead())
    }

    fn total(&self) -> Option<Total> {
        each!(&self.inner, reader => reader.total())
    }

    fn done(&self) -> u64 {
        each!(&self.inner, reader => reader.done())
    }

    fn close(&mut self) -> Result<(), ItemError> {
        each!(&mut self.inner, reader => reader.close())
    }
}
