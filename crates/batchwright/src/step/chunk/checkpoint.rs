//! The checkpoint of a chunk step, stored with every commit.

use std::fmt::Write as _;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{ErrorKind, ItemError, RepositoryError};
use crate::execution::StepExecution;
use crate::item::FilePosition;

/// Maximum count of a stored checkpoint: no step reaches it, and counts that are added to it cannot overflow.
const COUNT_MAX: u64 = u64::MAX / 4;

/// The engine's checkpoint. Positions stay JSON text: only their reader and writer can interpret them.
#[derive(Debug, Default, Clone)]
pub(super) struct Checkpoint {
    /// Number of commits of the step in this instance.
    pub(super) sequence: u64,
    /// Number of records before the position of `reader`, including skipped ones.
    pub(super) records: u64,
    /// Number of skips that were committed in this instance.
    pub(super) skips: u64,
    /// Number of records after the position of `reader` that are already resolved, because a scan was cut
    /// short.
    pub(super) resolved: u64,
    /// JSON of the reader's position; empty at the beginning of the input.
    pub(super) reader: String,
    /// JSON of the writer's position; empty at the beginning of the output.
    pub(super) writer: String,
    /// End of the dead-letter file, when there is one.
    pub(super) dead_letters: Option<FilePosition>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    sequence: u64,
    records: u64,
    #[serde(default)]
    resolved: u64,
    #[serde(default)]
    skips: u64,
    reader: Box<RawValue>,
    writer: Box<RawValue>,
    #[serde(default)]
    dead_letters: Option<FilePosition>,
}

impl Checkpoint {
    /// Returns the checkpoint in the row of `step`, or the initial one.
    pub(super) fn of(step: &StepExecution) -> Result<Self, RepositoryError> {
        match &step.checkpoint {
            Some(text) => Self::parse(text),
            None => Ok(Self::default()),
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, RepositoryError> {
        let corrupt = |what: String| RepositoryError::Corrupt {
            what: format!("the checkpoint of a step: {what}"),
        };
        let stored: Stored =
            serde_json::from_str(text).map_err(|error| corrupt(error.to_string()))?;
        let counts = [stored.sequence, stored.records, stored.skips, stored.resolved];
        if let Some(count) = counts.into_iter().find(|count| *count > COUNT_MAX) {
            return Err(corrupt(format!("it counts {count} records or commits")));
        }
        Ok(Self {
            sequence: stored.sequence,
            records: stored.records,
            skips: stored.skips,
            resolved: stored.resolved,
            reader: stored.reader.get().to_owned(),
            writer: stored.writer.get().to_owned(),
            dead_letters: stored.dead_letters,
        })
    }

    /// Whether records were read and all of them were skipped.
    pub(super) fn skipped_all(&self) -> bool {
        self.records > 0 && self.skips >= self.records
    }

    /// Appends the stored form to `text`. Written by hand, because it runs for every chunk.
    pub(super) fn write_to(&self, text: &mut String) {
        let Self { sequence, records, skips, resolved, reader, writer, dead_letters } = self;
        let _ = write!(text, r#"{{"sequence":{sequence},"records":{records}"#);
        if *resolved > 0 {
            let _ = write!(text, r#","resolved":{resolved}"#);
        }
        if *skips > 0 {
            let _ = write!(text, r#","skips":{skips}"#);
        }
        if let Some(position) = dead_letters {
            let json = serde_json::to_string(position).expect("a file position is plain JSON");
            let _ = write!(text, r#","dead_letters":{json}"#);
        }
        for (name, json) in [(r#","reader":"#, reader), (r#","writer":"#, writer)] {
            text.push_str(name);
            text.push_str(if json.is_empty() { "null" } else { json });
        }
        text.push('}');
    }

    pub(super) fn reader<T: DeserializeOwned>(&self) -> Result<Option<T>, ItemError> {
        position(&self.reader)
    }

    pub(super) fn writer<T: DeserializeOwned>(&self) -> Result<Option<T>, ItemError> {
        position(&self.writer)
    }

    pub(super) fn dead_letters(&self) -> Option<FilePosition> {
        self.dead_letters
    }
}

/// Returns the position that is `json`; `None` if it is empty.
pub(super) fn position<T: DeserializeOwned>(json: &str) -> Result<Option<T>, ItemError> {
    if json.is_empty() {
        return Ok(None);
    }
    // `null` means no position: nothing was committed yet, or the position is a unit type.
    serde_json::from_str::<Option<T>>(json).map_err(|error| {
        ItemError::wrap(
            ErrorKind::FATAL,
            format!("cannot interpret the stored position {json}"),
            error,
        )
    })
}

/// Writes `position` as JSON to `text`, replacing its content.
pub(super) fn to_json(position: &impl Serialize, text: &mut String) -> Result<(), ItemError> {
    let mut bytes = std::mem::take(text).into_bytes();
    bytes.clear();
    serde_json::to_writer(&mut bytes, position)
        .map_err(|error| ItemError::wrap(ErrorKind::FATAL, "cannot store a position", error))?;
    *text = String::from_utf8(bytes)
        .map_err(|error| ItemError::wrap(ErrorKind::FATAL, "cannot store a position", error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_comes_back_as_it_was_stored() {
        let before = Checkpoint {
            sequence: 3,
            skips: 3,
            records: 40,
            resolved: 2,
            reader: r#"{"byte":17}"#.to_owned(),
            writer: String::new(),
            dead_letters: Some(FilePosition { length: 9, file: None }),
        };
        let mut text = String::new();
        before.write_to(&mut text);
        let after = Checkpoint::parse(&text).unwrap();
        assert_eq!((after.sequence, after.records, after.resolved), (3, 40, 2));
        assert_eq!(after.reader, r#"{"byte":17}"#);
        assert_eq!(after.dead_letters, before.dead_letters);
        assert_eq!(after.writer::<u64>().unwrap(), None, "no position is the beginning");
    }

    #[test]
    fn a_checkpoint_with_a_count_that_cannot_be_is_refused() {
        for name in ["sequence", "records", "skips", "resolved"] {
            let mut stored =
                serde_json::json!({"sequence": 1, "records": 2, "reader": null, "writer": null});
            assert!(Checkpoint::parse(&stored.to_string()).is_ok());
            stored[name] = u64::MAX.into();
            assert!(Checkpoint::parse(&stored.to_string()).is_err(), "{stored}");
        }
    }

    #[test]
    fn a_checkpoint_of_version_0_1_is_understood() {
        let text =
            r#"{"sequence":1,"records":2,"dead_letters":266,"reader":null,"writer":{"length":7}}"#;
        let old = Checkpoint::parse(text).unwrap();
        assert_eq!(old.dead_letters, Some(FilePosition { length: 266, file: None }));
        assert_eq!(old.writer().unwrap(), Some(FilePosition { length: 7, file: None }));
    }
}
