//! Sequences of numbers, for rehearsals and measurements.

use super::{ItemReader, Total};
use crate::error::ItemError;
use crate::scope::StepScope;

/// A reader that yields `1, 2, … count`.
#[derive(Debug, Clone)]
pub struct Sequence {
    count: u64,
    last: u64,
}

impl Sequence {
    /// Creates a reader of the numbers from 1 to `count`.
    pub fn to(count: u64) -> Self {
        Self { count, last: 0 }
    }
}

impl ItemReader for Sequence {
    type Item = u64;
    type Position = u64;

    fn open(&mut self, position: Option<u64>, _: &StepScope) -> Result<(), ItemError> {
        self.last = position.unwrap_or(0);
        Ok(())
    }

    #[inline]
    fn read(&mut self) -> Result<Option<u64>, ItemError> {
        if self.last >= self.count {
            return Ok(None);
        }
        self.last += 1;
        Ok(Some(self.last))
    }

    fn position(&self) -> u64 {
        self.last
    }

    fn total(&self) -> Option<Total> {
        Some(Total::Items(self.count))
    }

    fn done(&self) -> u64 {
        self.last
    }
}
