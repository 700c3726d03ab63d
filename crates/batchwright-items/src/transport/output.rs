//! Outputs of job files: on this machine, or in another place.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::item::{Ending, FileOutput, FilePosition};
use batchwright::scope::StepScope;
use serde::{Deserialize, Serialize};

#[cfg(feature = "remote")]
use super::remote::{RemoteOutput, RemotePosition};
use super::sink::ByteSink;
use super::source::ByteSource;

/// The output of a writer of a job file.
pub(crate) enum Output {
    File(Box<FileOutput>),
    #[cfg(feature = "remote")]
    Remote(Box<RemoteOutput>),
}

/// A position in an [`Output`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum OutputPosition {
    /// The only one with a hash of all bytes, so it is tried first.
    #[cfg(feature = "remote")]
    Remote(RemotePosition),
    File(FilePosition),
}

/// Calls a method of the output.
macro_rules! of_output {
    ($output:expr, $inner:ident => $call:expr) => {
        match $output {
            Output::File($inner) => $call,
            #[cfg(feature = "remote")]
            Output::Remote($inner) => $call,
        }
    };
}

impl ByteSink for Output {
    type Position = OutputPosition;

    fn open(
        &mut self,
        position: Option<OutputPosition>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        match (self, position) {
            (Self::File(output), None) => output.open(None, scope),
            (Self::File(output), Some(OutputPosition::File(position))) => {
                output.open(Some(position), scope)
            }
            #[cfg(feature = "remote")]
            (Self::Remote(output), None) => output.open(None, scope),
            #[cfg(feature = "remote")]
            (Self::Remote(output), Some(OutputPosition::Remote(position))) => {
                output.open(Some(position), scope)
            }
            #[cfg(feature = "remote")]
            _ => Err(ItemError::fatal(
                "cannot continue the output: its checkpoint was made when its path led to another place",
            )),
        }
    }

    fn length(&self) -> u64 {
        of_output!(self, output => output.length())
    }

    fn begun(&self) -> Option<Arc<dyn ByteSource>> {
        of_output!(self, output => output.begun())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ItemError> {
        of_output!(self, output => output.append(bytes))
    }

    fn position(&mut self) -> Result<OutputPosition, ItemError> {
        match self {
            Self::File(output) => output.position().map(OutputPosition::File),
            #[cfg(feature = "remote")]
            Self::Remote(output) => output.position().map(OutputPosition::Remote),
        }
    }

    fn committed(&mut self) {
        of_output!(self, output => output.committed());
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        of_output!(self, output => output.rolled_back())
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        of_output!(self, output => output.close(ending))
    }

    fn is_named(&self, position: &OutputPosition, scope: &StepScope) -> Result<bool, ItemError> {
        match (self, position) {
            (Self::File(output), OutputPosition::File(position)) => {
                output.is_named(position, scope)
            }
            #[cfg(feature = "remote")]
            (Self::Remote(output), OutputPosition::Remote(position)) => {
                output.is_named(position, scope)
            }
            #[cfg(feature = "remote")]
            _ => Ok(false),
        }
    }

    fn forget(&self, scope: &StepScope) -> Result<(), ItemError> {
        of_output!(self, output => output.forget(scope))
    }
}
