//! Items of Batchwright: records, the formats of files, and the kinds of readers and writers that job files name.
//!
//! Programs use the typed parts of [`format`](mod@format) directly: [`CsvReader`](format::csv::CsvReader) reads any type that serde
//! can deserialise. Job files name their parts by a word (`type = "csv"`); each word is the name of an [`ItemKind`] of a
//! [`KindRegistry`], which builds a reader or writer of [`Record`]s from the keys of the job file. A program registers its
//! own kinds beside those of this crate.

mod builtin;
mod column;
mod file_step;
mod files;
pub mod format;
mod key;
mod kind;
mod location;
#[cfg(feature = "mail")]
mod mail;
mod part;
mod paths;
mod processor;
#[cfg(feature = "queue")]
mod queue;
mod reader;
mod record;
mod registry;
pub mod rotate;
#[cfg(any(feature = "http", feature = "mail", feature = "queue"))]
mod sent;
mod template;
mod text;
pub mod transport;
mod value;
#[doc(hidden)]
pub mod value_bytes;
#[cfg(any(feature = "avro", feature = "kafka"))]
mod varint;
#[cfg(feature = "http")]
mod web;
mod writer;

pub use key::{At, Keys, Problem, Text, Texts, duration};
pub use kind::{
    BoxedProcessor, BuildContext, ByteSplit, Example, ItemKind, KindSchema, Make, MakeReader,
    byte_range,
};
pub use part::{KindReader, KindWriter, PartMaker};
pub use reader::{BoxedReader, Reads, RecordReader};
pub use record::{Names, Record, first_duplicate};
pub use registry::KindRegistry;
pub use template::{Known, Template};
pub use text::SharedText;
pub use value::Value;
pub use writer::BoxedWriter;
