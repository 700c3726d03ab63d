//! Processors that change the number of records: `aggregate`, `deduplicate` and `split`. They work within the reader of the
//! step, so that each of their outputs is an item with a position of its own.

mod aggregate;
mod deduplicate;
mod groups;
mod split;

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright_items::{Keys, Problem, Record, Value};
use schemars::{Schema, schema_for};

use aggregate::{Aggregate, AggregateKeys};
use deduplicate::{Deduplicate, DeduplicateKeys};
use split::{Split, SplitKeys};

/// Whether a restart can begin without the records before this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clean {
    /// It needs records before.
    No,
    /// It needs this record and none before.
    Before,
    /// It needs neither this record nor any before.
    After,
}

/// A processor of one step execution.
pub(crate) trait Regroup: Send {
    /// Takes the next record, and appends the outputs that are complete.
    ///
    /// # Errors
    ///
    /// The record is bad; it changes no output.
    fn take(&mut self, record: &Record, outputs: &mut VecDeque<Record>)
    -> Result<Clean, ItemError>;

    /// Appends some of the outputs that are complete because there are no more records, and none once all are given.
    ///
    /// # Errors
    ///
    /// The outputs cannot be made.
    fn end(&mut self, outputs: &mut VecDeque<Record>) -> Result<(), ItemError> {
        let _ = outputs;
        Ok(())
    }

    /// Returns what a restart must know beyond the records that it reads again.
    fn note(&self) -> String {
        String::new()
    }

    /// Remembers what [`note`](Self::note) returned before.
    fn recall(&mut self, note: &str) {
        let _ = note;
    }

    /// Whether [`take`](Self::take) returns [`Clean::Before`] for some records.
    fn is_clean_before(&self) -> bool {
        false
    }
}

/// A processor as the job file describes it.
#[derive(Debug, Clone)]
pub(crate) enum Regrouping {
    Aggregate(Aggregate),
    Deduplicate(Deduplicate),
    Split(Split),
}

/// The names of the types.
pub(crate) const REGROUPINGS: [&str; 3] = ["aggregate", "deduplicate", "split"];

/// Returns the JSON Schemas of the keys.
pub(crate) fn schemas() -> [(&'static str, Schema); 3] {
    [
        ("aggregate", schema_for!(AggregateKeys)),
        ("deduplicate", schema_for!(DeduplicateKeys)),
        ("split", schema_for!(SplitKeys)),
    ]
}

impl Regrouping {
    /// Builds the processor of type `kind`, or returns `None` if there is none of this type.
    pub(crate) fn build(kind: &str, keys: Keys<'_>) -> Option<Result<Self, Problem>> {
        Some(match kind {
            "aggregate" => Aggregate::build(keys).map(Self::Aggregate),
            "deduplicate" => Deduplicate::build(keys).map(Self::Deduplicate),
            "split" => Split::build(keys).map(Self::Split),
            _ => return None,
        })
    }

    pub(crate) fn start(&self) -> Box<dyn Regroup> {
        match self {
            Self::Aggregate(aggregate) => aggregate.start(),
            Self::Deduplicate(deduplicate) => deduplicate.start(),
            Self::Split(split) => split.start(),
        }
    }

    /// Returns the fields that a record must have, each with the key that names it.
    pub(crate) fn needed(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Aggregate(aggregate) => aggregate.needed(),
            Self::Deduplicate(deduplicate) => deduplicate.needed(),
            Self::Split(split) => split.needed(),
        }
    }

    /// Returns the fields of the outputs of records with the fields `input`; `None` when they are known only record by record.
    pub(crate) fn fields<'a>(&'a self, input: BTreeSet<&'a str>) -> Option<BTreeSet<&'a str>> {
        match self {
            Self::Aggregate(aggregate) => Some(aggregate.fields()),
            Self::Deduplicate(_) => Some(input),
            Self::Split(_) => None,
        }
    }
}

/// Returns a text that is the same for records whose fields `by` have the same texts; a null is equal to a null only.
fn key_of(record: &Record, by: &[Arc<str>], purpose: &str) -> Result<String, ItemError> {
    let mut key = String::new();
    for name in by {
        match record.required(purpose, name)? {
            Value::Null => key.push('-'),
            value => {
                let text = value.to_string();
                let _ = write!(key, "{}:{text}", text.len());
            }
        }
    }
    Ok(key)
}
