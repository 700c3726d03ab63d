//! Where the bytes of a format come from and go to.

mod compression;
mod ends;
pub(crate) mod input;
mod output;
#[cfg(feature = "remote")]
mod remote;
#[cfg(any(
    feature = "objects",
    feature = "http",
    feature = "sftp",
    feature = "amqp",
    feature = "nats"
))]
mod runtime;
mod scheme;
#[cfg(any(feature = "arrow", feature = "excel", feature = "parquet"))]
mod seekable;
mod sink;
mod source;
#[cfg(any(feature = "ftp", feature = "kafka"))]
mod tls;
mod writer;

pub use compression::Compression;
pub use ends::EncodedPosition;
pub(crate) use ends::Ends;
pub(crate) use output::Output;
#[cfg(feature = "http")]
pub(crate) use remote::web_client;
#[cfg(feature = "remote")]
pub(crate) use remote::{RemoteFile, RemoteOutput};
#[cfg(any(
    feature = "objects",
    feature = "http",
    feature = "sftp",
    feature = "amqp",
    feature = "nats"
))]
pub(crate) use runtime::runtime;
#[cfg(not(feature = "remote"))]
pub(crate) use scheme::unknown;
#[cfg(any(feature = "http", feature = "mail", feature = "queue"))]
pub(crate) use scheme::url_with_values;
pub(crate) use scheme::{check_scheme, escaped, not_local, scheme_of};
#[cfg(any(feature = "arrow", feature = "excel"))]
pub(crate) use seekable::OpenSeekable;
pub use sink::ByteSink;
pub use source::{ByteSource, FileSource, InputIdentity, MemorySource, OpenSource};
pub(crate) use source::{decompressed, file, modified};
#[cfg(any(feature = "ftp", feature = "kafka"))]
pub(crate) use tls::trusted;
pub use writer::{Encode, EncodedWriter, FileWriter};
#[cfg(any(feature = "arrow", feature = "excel", feature = "parquet"))]
pub(crate) use {
    input::changed,
    seekable::{ReadSeek, seekable},
};

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
