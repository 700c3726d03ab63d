//! Kinds of items: what a job file can name as the type of a reader, writer, processor or tasklet.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use batchwright::ItemError;
use batchwright::item::ItemProcessor;
use batchwright::partition::ByteRanges;
use batchwright::scope::StepScope;
use batchwright::step::Tasklet;
use schemars::{JsonSchema, Schema};

use crate::key::{Keys, Problem, Text};
use crate::location::Location;
use crate::reader::BoxedReader;
use crate::record::Record;
use crate::template::{Known, Template};
use crate::transport::{check_scheme, escaped, not_local, scheme_of};
use crate::writer::BoxedWriter;

/// A function that makes a part of a step for one step execution.
pub type Make<T> = Box<dyn Fn(&StepScope) -> Result<T, ItemError> + Send + Sync>;

/// A processor of records.
pub type BoxedProcessor = Box<dyn ItemProcessor<Record, Output = Record>>;

/// A reader that a job file describes.
pub struct MakeReader {
    /// Makes the reader.
    pub make: Make<BoxedReader>,
    /// The fields of its records, when they are known before the input is opened.
    pub fields: Option<Vec<String>>,
    /// Whether they come from a queue, which cannot be read twice.
    pub is_queue: bool,
}

impl MakeReader {
    /// Creates a reader whose fields are unknown until its input is opened.
    pub fn new(
        make: impl Fn(&StepScope) -> Result<BoxedReader, ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self { make: Box::new(make), fields: None, is_queue: false }
    }

    /// Declares the fields, so that expressions are checked against them when the job is built.
    #[must_use]
    pub fn fields(mut self, fields: Vec<String>) -> Self {
        self.fields = Some(fields);
        self
    }

    /// Declares that the records come from a queue, which cannot be read twice.
    #[must_use]
    pub fn queue(mut self) -> Self {
        self.is_queue = true;
        self
    }
}

/// A file whose bytes can be divided among partitions.
pub struct ByteSplit {
    /// The path as the job file gives it.
    pub path: Text,
    /// Makes the partitioner that divides the file at a path into a number of partitions.
    pub make: Box<dyn Fn(PathBuf, u32) -> ByteRanges + Send + Sync>,
}

/// A type that job files can name: `type = "NAME"` of a reader, a writer, a processor or a step.
///
/// Implement the methods for the parts that the kind has; a job file that uses it for another part is refused. Each kind
/// parses its keys into a struct of its own; the JSON Schema and the error messages are made from the same struct.
///
/// ```
/// use batchwright::Sequence;
/// use batchwright_items::{BuildContext, ItemKind, Keys, KindSchema, MakeReader, Problem, Reads, Record, Value};
///
/// /// Counts down.
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct CountdownKeys {
///     /// The first number.
///     from: u64,
/// }
///
/// struct Countdown;
///
/// impl ItemKind for Countdown {
///     fn name(&self) -> &'static str {
///         "countdown"
///     }
///
///     fn schema(&self) -> KindSchema {
///         KindSchema::default().reader::<CountdownKeys>()
///     }
///
///     fn reader(&self, keys: Keys<'_>, _: &BuildContext<'_>) -> Result<MakeReader, Problem> {
///         let CountdownKeys { from } = keys.parse()?;
///         Ok(MakeReader::new(move |_| {
///             let names: batchwright_items::Names = std::sync::Arc::new(["left".into()]);
///             Ok(Reads::mapped(Sequence::to(from), move |n| {
///                 let left = i64::try_from(from - n).unwrap_or(i64::MAX);
///                 Record::single(&names, Value::Integer(left))
///             }))
///         }))
///     }
/// }
/// ```
pub trait ItemKind: Send + Sync {
    /// Returns the name that job files use.
    fn name(&self) -> &'static str;

    /// Returns the parts that the kind has, with the schemas of their keys.
    fn schema(&self) -> KindSchema;

    /// Builds a reader.
    ///
    /// # Errors
    ///
    /// When the keys are wrong.
    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let _ = cx;
        Err(self.has_none("reader", keys))
    }

    /// Builds a writer.
    ///
    /// # Errors
    ///
    /// When the keys are wrong.
    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let _ = cx;
        Err(self.has_none("writer", keys))
    }

    /// Builds a processor.
    ///
    /// # Errors
    ///
    /// When the keys are wrong.
    fn processor(
        &self,
        keys: Keys<'_>,
        cx: &BuildContext<'_>,
    ) -> Result<Make<BoxedProcessor>, Problem> {
        let _ = cx;
        Err(self.has_none("processor", keys))
    }

    /// Whether a processor of the kind treats each record alone, so that several threads may process. Default: `false`.
    fn is_independent(&self) -> bool {
        false
    }

    /// Builds the tasklet of a step.
    ///
    /// # Errors
    ///
    /// When the keys are wrong.
    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let _ = cx;
        Err(self.has_none("step", keys))
    }

    /// Returns how the input of a reader with these keys is divided by bytes.
    ///
    /// # Errors
    ///
    /// When the input cannot be divided by bytes, or the keys are wrong.
    fn byte_split(&self, keys: Keys<'_>) -> Result<ByteSplit, Problem> {
        let name = self.name();
        Err(keys.problem(format!(
            "the input of a reader of type `{name}` cannot be partitioned by bytes"
        )))
    }

    #[doc(hidden)]
    fn has_none(&self, what: &str, keys: Keys<'_>) -> Problem {
        keys.problem(format!("the type `{}` has no {what}", self.name()))
    }
}

/// Makes the JSON Schema of the keys of a part.
type MakeSchema = fn() -> Schema;

/// The parts of a kind, each with the JSON Schema of its keys.
#[derive(Debug, Clone, Default)]
pub struct KindSchema {
    /// A schema is made when it is asked for: a lookup needs only the names.
    parts: Vec<(&'static str, MakeSchema)>,
    /// What a restart does, by the names of the parts.
    restarts: Vec<(&'static str, &'static str)>,
    example: Option<Example>,
}

/// An example of the parts of a kind, with all that they need. The book shows it, and the conformance tests run it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Example {
    /// The keys of the reader, as TOML.
    pub reader: &'static str,
    /// The keys of the writer, as TOML. The writer gets records with the fields `id` (a number) and `name` (a text).
    pub writer: &'static str,
    /// The file that the reader reads: its name and its content.
    pub input: Option<(&'static str, &'static str)>,
    /// The file that the writer writes.
    pub output: Option<&'static str>,
    /// Statements that prepare the database of the store.
    pub sql: &'static str,
}

impl KindSchema {
    /// Adds a reader with the keys `T`.
    #[must_use]
    pub fn reader<T: JsonSchema>(self) -> Self {
        self.with::<T>("reader")
    }

    /// Adds a writer with the keys `T`.
    #[must_use]
    pub fn writer<T: JsonSchema>(self) -> Self {
        self.with::<T>("writer")
    }

    /// Adds a processor with the keys `T`.
    #[must_use]
    pub fn processor<T: JsonSchema>(self) -> Self {
        self.with::<T>("processor")
    }

    /// Adds a tasklet, which is the work of a step, with the keys `T`.
    #[must_use]
    pub fn tasklet<T: JsonSchema>(self) -> Self {
        self.with::<T>("step")
    }

    fn with<T: JsonSchema>(mut self, part: &'static str) -> Self {
        self.parts.push((part, || schemars::schema_for!(T)));
        self
    }

    /// Says in a sentence what a restart of the step does with a reader.
    #[must_use]
    pub fn reader_restarts(self, sentence: &'static str) -> Self {
        self.restarts("reader", sentence)
    }

    /// Says in a sentence what a restart of the step does with a writer.
    #[must_use]
    pub fn writer_restarts(self, sentence: &'static str) -> Self {
        self.restarts("writer", sentence)
    }

    /// Says in a sentence what a restart of a step of the kind does.
    #[must_use]
    pub fn step_restarts(self, sentence: &'static str) -> Self {
        self.restarts("step", sentence)
    }

    fn restarts(mut self, part: &'static str, sentence: &'static str) -> Self {
        self.restarts.push((part, sentence));
        self
    }

    /// Returns the sentence about a restart for `part`: `reader`, `writer` or `step`.
    pub fn restart_of(&self, part: &str) -> Option<&'static str> {
        self.restarts.iter().find(|(name, _)| *name == part).map(|(_, sentence)| *sentence)
    }

    /// Sets the example.
    #[must_use]
    pub fn example(mut self, example: Example) -> Self {
        self.example = Some(example);
        self
    }

    /// Returns the example.
    pub fn shown_example(&self) -> Option<Example> {
        self.example
    }

    /// Returns the schema of the keys of `part`: `reader`, `writer`, `processor` or `step`.
    pub fn of(&self, part: &str) -> Option<Schema> {
        self.parts.iter().find(|(name, _)| *name == part).map(|(_, schema)| schema())
    }

    /// Whether the kind has `part`.
    pub fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|(name, _)| *name == part)
    }
}

/// The information that is needed to build a part of a job file.
pub struct BuildContext<'a> {
    /// The folder that paths in the job file are relative to.
    pub folder: &'a Path,
    /// Whether outputs outside of the folder are refused.
    pub inside_only: bool,
    known: &'a Known<'a>,
    uses_partition: Cell<bool>,
    output_prefix: &'a str,
}

impl<'a> BuildContext<'a> {
    /// The context of a part in a job file of `folder`, whose texts can use the names of `known`.
    pub fn new(folder: &'a Path, known: &'a Known<'a>, inside_only: bool) -> Self {
        let uses_partition = Cell::new(false);
        Self { folder, inside_only, known, uses_partition, output_prefix: "" }
    }

    /// Lets the names of all outputs begin with `prefix`.
    #[must_use]
    pub fn output_prefix(mut self, prefix: &'a str) -> Self {
        self.output_prefix = prefix;
        self
    }

    /// Whether a text that was parsed here uses a name of the partition.
    pub fn uses_partition(&self) -> bool {
        self.uses_partition.get()
    }
}

impl BuildContext<'_> {
    /// Parses a text with `${…}`.
    ///
    /// # Errors
    ///
    /// When a placeholder is malformed or names something that does not exist.
    pub fn template(&self, text: &Text) -> Result<Template, Problem> {
        self.parse(text.get_ref()).map_err(|problem| Problem::at(text, problem))
    }

    /// As [`template`](Self::template), of a text that also knows the number of records, `${file.records}`.
    pub(crate) fn template_with_records(&self, text: &Text) -> Result<Template, Problem> {
        let template = Template::parse_counted(text.get_ref(), self.known);
        Ok(self.seen(template.map_err(|problem| Problem::at(text, problem))?))
    }

    pub(crate) fn parse(&self, text: &str) -> Result<Template, String> {
        Ok(self.seen(Template::parse(text, self.known)?))
    }

    /// Notes whether `template` uses a name of the partition.
    fn seen(&self, template: Template) -> Template {
        self.uses_partition.set(self.uses_partition.get() | template.uses_partition());
        template
    }

    /// Makes the path of an input, a file of this machine, from a text with `${…}`.
    ///
    /// # Errors
    ///
    /// As [`template`](Self::template), and when the text is a URL.
    pub fn path(&self, text: &Text) -> Result<Make<PathBuf>, Problem> {
        self.prefixed_path(text, "")
    }

    /// As [`path`](Self::path); the name of the file begins with `prefix`.
    fn prefixed_path(&self, text: &Text, prefix: &str) -> Result<Make<PathBuf>, Problem> {
        if let Some(scheme) = scheme_of(text.get_ref()) {
            return Err(Problem::at(text, not_local(scheme)));
        }
        let (template, folder) = (self.template(text)?, self.folder.to_owned());
        let prefix = prefix.to_owned();
        Ok(Box::new(move |scope| {
            let path = prefixed(template.render(scope)?, &prefix);
            match scheme_of(&path) {
                None => Ok(folder.join(path)),
                Some(scheme) => Err(ItemError::fatal(not_local(scheme))),
            }
        }))
    }

    /// Makes the location of an input from a text with `${…}`.
    pub(crate) fn location(&self, text: &Text) -> Result<Make<Location>, Problem> {
        self.prefixed_location(text, "")
    }

    /// As [`location`](Self::location); the name of the file begins with `prefix`.
    fn prefixed_location(&self, text: &Text, prefix: &str) -> Result<Make<Location>, Problem> {
        check_scheme(text.get_ref()).map_err(|message| Problem::at(text, message))?;
        let (template, folder) = (self.template(text)?, self.folder.to_owned());
        let prefix = prefix.to_owned();
        Ok(Box::new(move |scope| {
            // A value within a URL is a name in it, and no option or other server.
            let text = template.render_with(scope, |before, value| match scheme_of(before) {
                None => value,
                Some(_) => escaped(&value),
            })?;
            Location::parse(&prefixed(text, &prefix), &folder)
        }))
    }

    /// Makes the path of an output, a file of this machine, from a text with `${…}`.
    ///
    /// # Errors
    ///
    /// As [`path`](Self::path).
    pub fn output_path(&self, text: &Text) -> Result<Make<PathBuf>, Problem> {
        let (path, is_allowed) = (self.prefixed_path(text, self.output_prefix)?, self.allows());
        Ok(Box::new(move |scope| {
            let path = path(scope)?;
            match is_allowed(&path) {
                true => Ok(path),
                false => Err(Self::outside(&path.display())),
            }
        }))
    }

    /// Makes the location of an output from a text with `${…}`.
    pub(crate) fn output_location(&self, text: &Text) -> Result<Make<Location>, Problem> {
        let location = self.prefixed_location(text, self.output_prefix)?;
        if let Some(number) = &self.known.file_number
            && text.get_ref().contains("${file.number")
        {
            number.name_output();
        }
        let is_allowed = self.allows();
        #[cfg(feature = "remote")]
        let inside_only = self.inside_only;
        Ok(Box::new(move |scope| {
            let location = location(scope)?;
            let is_allowed = match &location {
                Location::File(path) => is_allowed(path),
                #[cfg(feature = "remote")]
                Location::Remote(_) => !inside_only,
            };
            match is_allowed {
                true => Ok(location),
                false => Err(Self::outside(&location.shown())),
            }
        }))
    }

    /// Returns whether an output may be at a path.
    fn allows(&self) -> impl Fn(&Path) -> bool + Send + Sync + use<> {
        let inside_only = self.inside_only;
        let here = if self.folder.as_os_str().is_empty() { Path::new(".") } else { self.folder };
        let folder = std::path::absolute(here).unwrap_or_default();
        move |path| {
            let is_inside = !path.components().any(|one| one.as_os_str() == "..")
                && (path.is_relative() || path.starts_with(&folder));
            !inside_only || is_inside
        }
    }

    /// Returns the sentence about a part that a rehearsal must not use, because it sends something.
    #[cfg(any(feature = "http", feature = "mail", feature = "queue"))]
    pub(crate) fn sends_outside() -> &'static str {
        "it sends something to another place; --allow-outside permits it in a rehearsal"
    }

    /// Returns the error for an output that a rehearsal must not reach.
    pub fn outside(what: &dyn std::fmt::Display) -> ItemError {
        ItemError::fatal(format!(
            "cannot use `{what}`: it is outside the job's folder; --allow-outside permits it in a rehearsal"
        ))
    }
}

/// Puts `prefix` before the name of the file in the path or URL `text`.
fn prefixed(mut text: String, prefix: &str) -> String {
    let path = match scheme_of(&text) {
        None => text.len(),
        Some(_) => text.find('?').unwrap_or(text.len()),
    };
    let name = text[..path].rfind('/').map_or(0, |slash| slash + 1);
    text.insert_str(name, prefix);
    text
}

/// Returns the bytes of the partition of `scope`, if its step is partitioned by bytes.
///
/// # Errors
///
/// When the partition has no end, or a bound is not a number.
pub fn byte_range(scope: &StepScope) -> Result<Option<(u64, u64)>, ItemError> {
    let Some(partition) = scope.partition() else { return Ok(None) };
    match partition.values.has("start") {
        true => Ok(Some((partition.values.get("start")?, partition.values.get("end")?))),
        false => Ok(None),
    }
}
