//! What the keys of readers with acknowledgements have in common.

use std::time::Duration;

use super::body::{BodyFormat, Decode};
use super::reader::ReaderSettings;
use crate::key::{Problem, Text, duration};

/// Defines the keys of the reader of a queue: those of `$name`, and those of all.
macro_rules! reader_keys {
    ($(#[$about:meta])* struct $name:ident { $($(#[$doc:meta])* $key:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($(#[$doc])* $key: $type,)*
            /// The field that gets the id of the message. Default: none gets it.
            id_field: Option<String>,
            /// How long the reader waits for a message of an empty queue before it ends. Default: `0s`.
            wait: Option<crate::key::Text>,
            /// Maximum number of messages; the others stay in the queue. Default: unlimited.
            limit: Option<std::num::NonZeroU64>,
            /// Time after which an unanswered request fails. Default: `30s`.
            timeout: Option<crate::key::Text>,
        }

        impl $name {
            /// Returns the settings of the reader.
            fn settings(
                &self,
                format: crate::queue::body::BodyFormat,
            ) -> Result<crate::queue::reader::ReaderSettings, crate::key::Problem> {
                let id_field = self.id_field.as_deref();
                crate::queue::reader_keys::settings(format, id_field, self.wait.as_ref(), self.limit)
            }
        }
    };
}

pub(super) use reader_keys;

/// Returns the settings of a reader.
pub(super) fn settings(
    format: BodyFormat,
    id_field: Option<&str>,
    wait: Option<&Text>,
    limit: Option<std::num::NonZeroU64>,
) -> Result<ReaderSettings, Problem> {
    Ok(ReaderSettings {
        wait: wait.map_or(Ok(Duration::ZERO), duration)?,
        limit: limit.map(Into::into),
        decode: Decode::new(format, id_field),
    })
}

/// Returns the sentence about the reader of a queue in a rehearsal.
pub(super) fn takes_outside() -> &'static str {
    "it takes messages from a queue; --allow-outside permits it in a rehearsal"
}
