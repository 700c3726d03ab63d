//! The kinds that job files can name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemars::Schema;

use crate::builtin::{ListKind, NoneKind, SequenceKind};
use crate::kind::ItemKind;
use crate::{file_step, format, processor};

/// Kinds by their names. Clones share the kinds.
#[derive(Clone, Default)]
pub struct KindRegistry {
    kinds: BTreeMap<&'static str, Arc<dyn ItemKind>>,
}

impl KindRegistry {
    /// Returns the kinds of this crate.
    pub fn builtin() -> Self {
        let kinds = Self::default();
        #[cfg(feature = "xml")]
        let kinds = kinds.with(format::xml::XmlKind);
        #[cfg(feature = "excel")]
        let kinds = kinds.with(format::excel::ExcelKind);
        #[cfg(feature = "archive")]
        let kinds = kinds.with(file_step::ArchiveKind).with(file_step::ExtractKind);
        #[cfg(feature = "arrow")]
        let kinds = kinds.with(format::arrow::ArrowKind);
        #[cfg(feature = "avro")]
        let kinds = kinds.with(format::avro::AvroKind);
        #[cfg(feature = "parquet")]
        let kinds = kinds.with(format::parquet::ParquetKind);
        #[cfg(feature = "http")]
        let kinds = kinds.with(crate::web::WebKind);
        #[cfg(feature = "amqp")]
        let kinds = kinds.with(crate::queue::AmqpKind);
        #[cfg(feature = "kafka")]
        let kinds = kinds.with(crate::queue::KafkaKind);
        #[cfg(feature = "nats")]
        let kinds = kinds.with(crate::queue::NatsKind);
        #[cfg(feature = "redis")]
        let kinds = kinds.with(crate::queue::RedisKind);
        #[cfg(feature = "mail")]
        let kinds = kinds.with(crate::mail::MailKind);
        #[cfg(feature = "script")]
        let kinds = kinds.with(processor::ScriptKind);
        #[cfg(feature = "validate")]
        let kinds = kinds.with(processor::ValidateKind);
        kinds
            .with(file_step::ChecksumKind)
            .with(file_step::CopyKind::COPY)
            .with(file_step::DeleteKind)
            .with(file_step::DivideKind)
            .with(file_step::MergeKind)
            .with(file_step::CopyKind::MOVE)
            .with(file_step::TransferKind)
            .with(file_step::WaitKind)
            .with(format::csv::Csv)
            .with(format::json_lines::FileKind)
            .with(format::fixed_width::FixedWidthKind)
            .with(format::json::JsonKind)
            .with(format::json_lines::JsonLinesKind)
            .with(format::lines::LinesKind)
            .with(ListKind)
            .with(processor::MaskKind)
            .with(NoneKind)
            .with(SequenceKind)
    }

    /// Adds `kind`, and replaces a kind of the same name.
    #[must_use]
    pub fn with(mut self, kind: impl ItemKind + 'static) -> Self {
        self.kinds.insert(kind.name(), Arc::new(kind));
        self
    }

    /// Adds the kinds of `more`; they replace kinds of their names.
    #[must_use]
    pub fn and(mut self, more: Self) -> Self {
        self.kinds.extend(more.kinds);
        self
    }

    /// Returns the kind `name` when it has `part`: `reader`, `writer`, `processor` or `step`.
    ///
    /// # Errors
    ///
    /// When there is no such kind: a sentence that lists all kinds that have the part.
    pub fn find(&self, part: &str, name: &str) -> Result<&dyn ItemKind, String> {
        match self.kinds.get(name).filter(|kind| kind.schema().has(part)) {
            Some(kind) => Ok(&**kind),
            None => {
                let known = self.names(part).join(", ");
                Err(format!("there is no {part} of type `{name}`; there are: {known}"))
            }
        }
    }

    /// Returns the sorted names of the kinds that have `part`.
    pub fn names(&self, part: &str) -> Vec<&'static str> {
        self.kinds().filter(|kind| kind.schema().has(part)).map(ItemKind::name).collect()
    }

    /// Returns all kinds, sorted by their names.
    pub fn kinds(&self) -> impl Iterator<Item = &dyn ItemKind> {
        self.kinds.values().map(|kind| &**kind)
    }

    /// Returns the JSON Schemas of the keys of all kinds that have `part`, by the names of the kinds.
    pub fn schemas(&self, part: &str) -> Vec<(&'static str, Schema)> {
        self.kinds().filter_map(|kind| Some((kind.name(), kind.schema().of(part)?))).collect()
    }
}

impl fmt::Debug for KindRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.kinds.keys()).finish()
    }
}
