//! The reader of a step: counts its records, checks the fields of its input when it is opened, and injects faults when
//! there is a plan.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::item::{Acknowledge, Block, ItemReader, Total};
use batchwright::scope::StepScope;
use batchwright::testing::fault::{FaultPlan, FaultyPosition, FaultyReader};
use batchwright_items::{BoxedReader, Record};
use serde_json::value::RawValue;

use crate::stage::{Stage, check_fields};

/// The reader of a step. Its position contains the number of the record with a plan and without one, so that a restart
/// can continue with or without a plan.
pub(super) struct StepReader {
    inner: Inner,
    stages: Arc<[Stage]>,
}

enum Inner {
    Plain { reader: BoxedReader, number: u64 },
    Faulty(Box<FaultyReader<BoxedReader>>),
}

/// Runs the same code for the reader inside.
macro_rules! each {
    ($any:expr, $reader:ident => $code:expr) => {
        match $any {
            Inner::Plain { reader: $reader, .. } => $code,
            Inner::Faulty($reader) => $code,
        }
    };
}

impl StepReader {
    pub(super) fn new(reader: BoxedReader, stages: Arc<[Stage]>, plan: Option<&FaultPlan>) -> Self {
        let inner = match plan {
            None => Inner::Plain { reader, number: 0 },
            Some(plan) => Inner::Faulty(Box::new(FaultyReader::new(reader, plan))),
        };
        Self { inner, stages }
    }

    fn check_fields(&self) -> Result<(), ItemError> {
        let fields = match &self.inner {
            Inner::Plain { reader, .. } => reader.fields()?,
            Inner::Faulty(reader) => reader.inner().fields()?,
        };
        let Some(fields) = fields else { return Ok(()) };
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        check_fields(&self.stages, Some(&fields)).map_err(ItemError::fatal)
    }
}

impl ItemReader for StepReader {
    type Item = Record;
    type Position = FaultyPosition<Box<RawValue>>;

    fn open(
        &mut self,
        position: Option<Self::Position>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        match &mut self.inner {
            Inner::Plain { reader, number } => {
                *number = position.as_ref().map_or(0, |position| position.number);
                reader.open(position.map(|position| position.inner), scope)?;
            }
            Inner::Faulty(reader) => reader.open(position, scope)?,
        }
        self.check_fields()
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        match &mut self.inner {
            Inner::Plain { reader, number } => match reader.read() {
                Ok(Some(record)) => {
                    *number += 1;
                    Ok(Some(record))
                }
                Ok(None) => Ok(None),
                Err(error) => {
                    *number += u64::from(!reader.rereads());
                    Err(error)
                }
            },
            Inner::Faulty(reader) => reader.read(),
        }
    }

    fn position(&self) -> Self::Position {
        match &self.inner {
            Inner::Plain { reader, number } => {
                FaultyPosition { inner: reader.position(), number: *number }
            }
            Inner::Faulty(reader) => reader.position(),
        }
    }

    fn acknowledger(&self) -> Option<Box<dyn Acknowledge<Self::Position>>> {
        match &self.inner {
            Inner::Plain { reader, .. } => reader.acknowledger().map(FaultyPosition::acknowledger),
            Inner::Faulty(reader) => reader.acknowledger(),
        }
    }

    fn rereads(&self) -> bool {
        each!(&self.inner, reader => reader.rereads())
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        if let Inner::Plain { number, .. } = &mut self.inner {
            *number += 1;
        }
        each!(&mut self.inner, reader => reader.pass_over())
    }

    fn reads_ahead(&self) -> bool {
        each!(&self.inner, reader => reader.reads_ahead())
    }

    fn reads_blocks(&self) -> bool {
        each!(&self.inner, reader => reader.reads_blocks())
    }

    fn read_block(&mut self, records: usize) -> Result<Box<dyn Block<Record>>, ItemError> {
        match &mut self.inner {
            Inner::Plain { reader, number } => {
                let block = reader.read_block(records)?;
                *number += block.records() as u64;
                Ok(block)
            }
            Inner::Faulty(reader) => reader.read_block(records),
        }
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
