//! The texts before the first and after the last record of a file.

use std::fmt;
use std::io::Read;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::scope::StepScope;
use serde::{Deserialize, Serialize};

use super::source::{ByteSource, OpenSource};

type MakeHeader = Arc<dyn Fn(&StepScope) -> Result<Vec<u8>, ItemError> + Send + Sync>;
type MakeFooter = Arc<dyn Fn(&StepScope, u64) -> Result<Vec<u8>, ItemError> + Send + Sync>;

/// What makes the texts.
#[derive(Clone, Default)]
pub(crate) struct Ends {
    pub(crate) header: Option<MakeHeader>,
    /// It gets the number of items of the file.
    pub(crate) footer: Option<MakeFooter>,
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ends")
            .field("header", &self.header.is_some())
            .field("footer", &self.footer.is_some())
            .finish()
    }
}

/// What a file has so far, beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// Number of items; `None` if an earlier version began the file, which did not count them.
    pub(super) items: Option<u64>,
    /// Length of the text before the first item, in bytes of the content.
    pub(super) header: u64,
}

impl Default for Counted {
    fn default() -> Self {
        Self { items: Some(0), header: 0 }
    }
}

impl Counted {
    pub(super) fn add(&mut self, items: usize) {
        self.items = self.items.map(|before| before + items as u64);
    }
}

/// The position in an output, and what the output has.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
#[doc(hidden)]
pub enum EncodedPosition<P> {
    /// A position that is made now.
    Counted {
        output: P,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        items: Option<u64>,
        #[serde(default, skip_serializing_if = "is_zero")]
        header: u64,
    },
    /// One of an earlier version.
    Bare(P),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl<P> EncodedPosition<P> {
    pub(super) fn new(output: P, Counted { items, header }: Counted) -> Self {
        Self::Counted { output, items, header }
    }

    pub(super) fn into_parts(self) -> (P, Counted) {
        match self {
            Self::Counted { output, items, header } => (output, Counted { items, header }),
            Self::Bare(output) => (output, Counted { items: None, header: 0 }),
        }
    }

    pub(super) fn output(&self) -> &P {
        match self {
            Self::Counted { output, .. } | Self::Bare(output) => output,
        }
    }
}

/// The bytes of a source after a number of them.
pub(super) struct After {
    pub(super) source: Arc<dyn ByteSource>,
    pub(super) bytes: u64,
}

impl ByteSource for After {
    fn shown(&self) -> String {
        self.source.shown()
    }

    fn open_at(&self, byte: u64) -> Result<OpenSource, ItemError> {
        // A compressed source opens only at its beginning.
        let mut opened = self.source.open_at(0)?;
        let passed = self.bytes + byte;
        let count = std::io::copy(&mut (&mut opened.bytes).take(passed), &mut std::io::sink())?;
        match count == passed {
            true => Ok(opened),
            false => Err(ItemError::fatal(format!("`{}` ends within its header", self.shown()))),
        }
    }
}
