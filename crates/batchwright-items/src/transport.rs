//! Where the bytes of a format come from and go to.

mod compression;
pub(crate) mod input;
mod sink;
mod source;
mod writer;

pub use compression::Compression;
pub use sink::ByteSink;
pub use source::{ByteSource, FileSource, InputIdentity, MemorySource, OpenSource};
pub(crate) use source::{file, modified};
pub use writer::{Encode, EncodedWriter, FileWriter};
#[cfg(feature = "excel")]
pub(crate) use {input::changed, source::OpenFile};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::key::At;

/// What a restart does when its input file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum IfChanged {
    /// The step fails.
    Refuse,
    /// The step continues at the position in the changed file.
    Continue,
}

impl IfChanged {
    /// Whether a job file says so; the default is to refuse.
    pub fn continues(given: Option<&At<Self>>) -> bool {
        given.is_some_and(|given| *given.get_ref() == Self::Continue)
    }
}
