//! The shape of a job file, as far as TOML and serde check it. The parts whose kinds have keys of their own (readers,
//! writers, processors, steps of registered types) are taken out of the document first.

mod keys;

use std::collections::BTreeMap;

use batchwright::text::refused_value;
use batchwright_items::{At, Problem, Text};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

pub(crate) use keys::{STEP_TYPES, refuse_foreign_keys};

/// A job file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Definition {
    /// The name of the job.
    pub(crate) name: Text,
    /// A description for people.
    #[serde(default)]
    pub(crate) description: String,
    /// Whether a failed or stopped instance can be restarted. Default: true.
    #[serde(default = "yes")]
    pub(crate) restartable: bool,
    /// Whether parameters that are not declared are accepted. Default: false.
    #[serde(default)]
    pub(crate) open_parameters: bool,
    /// The declared parameters by name.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, At<Parameter>>,
    /// How the next instance changes parameters, by name.
    #[serde(default)]
    pub(crate) next: BTreeMap<String, At<Next>>,
    /// The steps in their order.
    #[schemars(length(min = 1))]
    pub(crate) steps: Vec<At<Step>>,
}

fn yes() -> bool {
    true
}

/// A declared parameter.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameter {
    /// The type. Default: `string`.
    #[serde(rename = "type", default = "string")]
    #[schemars(with = "ParameterTypeName")]
    pub(crate) kind: batchwright::parameters::ParameterType,
    /// Whether a start without it is refused. Default: false.
    #[serde(default)]
    pub(crate) required: bool,
    /// The value when none is given.
    #[schemars(with = "Option<serde_json::Value>")]
    pub(crate) default: Option<toml::Value>,
    /// Whether it identifies the instance. Default: true, unless it is secret.
    pub(crate) identifying: Option<bool>,
    /// Whether its value is masked wherever it would be shown. Default: false.
    #[serde(default)]
    pub(crate) secret: bool,
    /// A description for people.
    #[serde(default)]
    pub(crate) description: String,
}

fn string() -> batchwright::parameters::ParameterType {
    batchwright::parameters::ParameterType::String
}

/// The names of the types of parameters.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[expect(dead_code, reason = "only its JSON Schema is used")]
enum ParameterTypeName {
    String,
    Integer,
    Float,
    Boolean,
    Date,
    Timestamp,
}

/// How the next instance changes a parameter.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Next {
    /// The number that is added.
    pub(crate) increment: Option<i64>,
    /// The days that are added.
    pub(crate) add_days: Option<i64>,
}

/// A step of any type; the keys of its type are checked when the step is built.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// The name, unique within the job.
    pub(crate) name: Text,
    /// The type. Default: `chunk`.
    #[serde(rename = "type")]
    pub(crate) kind: Option<Text>,
    /// Number of times that the step may start within an instance.
    pub(crate) start_limit: Option<At<u32>>,
    /// Whether a restart runs the step again although it is complete. Default: false.
    #[serde(default)]
    pub(crate) allow_start_if_complete: bool,
    /// The failures after which the step runs again in the same execution, from its checkpoint.
    pub(crate) retry_step: Option<At<Retry>>,

    /// Number of items in a chunk, or its bounds. Default: 1000 items, 5000 into a database.
    pub(crate) chunk: Option<At<Chunk>>,
    /// The reader.
    pub(crate) reader: Option<At<Reader>>,
    /// The processors in their order.
    #[serde(default)]
    pub(crate) processors: Vec<At<Processor>>,
    /// The writer.
    pub(crate) writer: Option<At<Writer>>,
    /// The skip policy.
    pub(crate) skip: Option<At<Skip>>,
    /// The retry policy.
    pub(crate) retry: Option<At<Retry>>,
    /// Threads that process chunks. Default: the number of cores where the reader can divide its input, else 1.
    pub(crate) parallelism: Option<At<usize>>,
    /// Chunks that are read before they are processed.
    pub(crate) read_ahead: Option<At<usize>>,

    /// The program and its arguments.
    pub(crate) argv: Option<At<Vec<Text>>>,
    /// The working folder. Default: the folder of the job file.
    pub(crate) dir: Option<Text>,
    /// Variables of the environment.
    pub(crate) env: Option<BTreeMap<String, Text>>,
    /// Maximum run time, such as `10m`.
    pub(crate) timeout: Option<Text>,
    /// Time between SIGTERM and SIGKILL. Default: 5s.
    pub(crate) grace: Option<Text>,
    /// What an exit code means: `FAILED`, `FAILED:KIND`, or an exit status that completes the step.
    pub(crate) exit_codes: Option<BTreeMap<String, Text>>,

    /// The steps of a flow.
    pub(crate) steps: Option<Vec<At<Step>>>,
    /// The branches of a split.
    pub(crate) branches: Option<Vec<At<Branch>>>,
    /// The expression of a decision, which returns the exit code.
    pub(crate) exit: Option<Text>,
    /// The file of the job that a job step runs.
    pub(crate) job: Option<Text>,
    /// The parameters of that job.
    pub(crate) parameters: Option<BTreeMap<String, Text>>,

    /// Lanes of a progressive step.
    pub(crate) lanes: Option<At<u32>>,
    /// Target duration of a slice.
    pub(crate) target: Option<Text>,
    /// Attempts at a unit.
    pub(crate) max_attempts: Option<At<u32>>,
    /// What a failed unit does: `continue` or `fail`.
    pub(crate) on_failed: Option<Text>,
    /// Maximum run time of a unit.
    pub(crate) unit_timeout: Option<Text>,
    /// The result of a progressive step: a value for each name.
    pub(crate) reduce: Option<BTreeMap<String, At<Reduce>>>,

    /// The transitions.
    #[serde(default)]
    pub(crate) on: Vec<At<On>>,
    /// How the input is divided among partitions.
    pub(crate) partition: Option<At<Partition>>,
    /// Keys of the step's context whose values are copied into the job's context at the end.
    #[serde(default)]
    pub(crate) promote: Vec<Text>,

    /// The number of its [`Parts`] entry, for a step of a registered type.
    #[serde(rename = "\0keys")]
    #[schemars(skip)]
    pub(crate) keys: Option<String>,
}

/// Declares a part whose keys its kind parses.
macro_rules! parts {
    ($($(#[$doc:meta])* $name:ident, $schema:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            #[serde(rename = "type")]
            pub(crate) kind: Text,
            /// The number of its [`Parts`] entry.
            #[serde(rename = "\0keys")]
            pub(crate) keys: String,
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                $schema.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "$ref": concat!("#/$defs/", $schema) })
            }
        }
    )+};
}

parts! {
    /// A reader of any type.
    Reader, "reader";
    /// A processor of any type.
    Processor, "processor";
    /// A writer of any type.
    Writer, "writer";
}

/// How a field of the outputs adds to the result of a progressive step.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(crate) enum Reduce {
    /// The sum of the field.
    Sum(String),
    /// The minimum of the field.
    Min(String),
    /// The maximum of the field.
    Max(String),
    /// The number of outputs; with a field, of the outputs in which it is not null.
    Count(String),
}

/// A branch of a split.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Branch {
    /// The name, unique within the job.
    pub(crate) name: Text,
    /// The steps of the branch.
    pub(crate) steps: Vec<At<Step>>,
}

/// A transition: one target for the exit codes that match `exit`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct On {
    /// The pattern of exit codes, with `*` and `?`.
    pub(crate) exit: Text,
    /// The step that follows.
    pub(crate) to: Option<Text>,
    /// Completes the job with this exit code.
    pub(crate) end: Option<Text>,
    /// Fails the job with this exit code.
    pub(crate) fail: Option<Text>,
    /// Stops the job.
    #[serde(default)]
    pub(crate) stop: bool,
    /// With `stop`: the step that a restart begins with.
    pub(crate) restart_at: Option<Text>,
}

/// How the input of a step is divided into partitions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Partition {
    /// Number of partitions. Default: 4.
    pub(crate) grid: Option<At<u32>>,
    /// What is divided.
    pub(crate) by: At<By>,
    /// Partitions that run at once.
    pub(crate) threads: Option<At<usize>>,
    /// Whether the first failed partition stops the others. Default: false.
    #[serde(default)]
    pub(crate) fail_fast: bool,
}

/// What is divided into partitions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(crate) enum By {
    /// The numbers from `min` to `max`.
    Range(Range),
    /// The values of a column.
    Column(ColumnRange),
    /// The files that match a pattern.
    Files(Text),
    /// The bytes of a file.
    Bytes(Text),
}

/// The numbers from `min` to `max`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Range {
    /// The first number.
    pub(crate) min: Bound,
    /// The last number.
    pub(crate) max: Bound,
}

/// A bound, or a text with placeholders that becomes a number.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a whole number")]
pub(crate) enum Bound {
    /// A number.
    Literal(i64),
    /// A text with `${…}`.
    Text(String),
}

/// The values of a column.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ColumnRange {
    /// The table.
    pub(crate) table: Text,
    /// The column, of whole numbers.
    pub(crate) column: Text,
    /// The database. Default: that of the store.
    pub(crate) url: Option<Text>,
}

/// Number of items in a chunk, or its bounds.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number of items, or `{ items = N, seconds = N }`")]
pub(crate) enum Chunk {
    /// The number of items.
    Items(u64),
    /// Bounds; the chunk ends at the first that is reached.
    Bounds(ChunkBounds),
}

/// Bounds of a chunk.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChunkBounds {
    /// Maximum number of items.
    pub(crate) items: Option<u64>,
    /// Maximum time in seconds.
    pub(crate) seconds: Option<f64>,
}

/// The skip policy of a step.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Skip {
    /// Maximum number of skips.
    pub(crate) limit: u64,
    /// The phases (`read`, `process`, `write`) and kinds of errors; `!KIND` excludes one.
    pub(crate) on: Option<Vec<Text>>,
    /// The file that gets the skipped records.
    pub(crate) dead_letter: Option<Text>,
    /// What the limit counts: `execution` or `instance`. Default: `execution`.
    pub(crate) scope: Option<Text>,
}

/// A retry policy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retry {
    /// Attempts, the first one included.
    pub(crate) max_attempts: std::num::NonZeroU32,
    /// The kinds of errors; `!KIND` excludes one. Default: all.
    pub(crate) on: Option<Vec<Text>>,
    /// The wait between attempts.
    pub(crate) backoff: Option<At<Backoff>>,
    /// Maximum time of all attempts.
    pub(crate) within: Option<Text>,
    /// Further policies, for other kinds of errors.
    #[serde(default)]
    pub(crate) or: Vec<At<Retry>>,
}

/// The wait between attempts, which grows from `initial` or is drawn at random between `min` and `max`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backoff {
    /// The first wait.
    pub(crate) initial: Option<Text>,
    /// The factor of each further wait.
    pub(crate) multiplier: Option<f64>,
    /// The shortest random wait.
    pub(crate) min: Option<Text>,
    /// The longest wait.
    pub(crate) max: Option<Text>,
    /// Whether the waits vary at random. Default: false.
    #[serde(default)]
    pub(crate) jitter: bool,
}

/// The keys of readers, writers, processors and steps of registered types.
#[derive(Debug, Default)]
pub(crate) struct Parts<'t>(Vec<DeTable<'t>>);

impl<'t> Parts<'t> {
    /// Returns the keys of entry `number`, which [`take`](Self::take) wrote.
    pub(crate) fn keys(&self, number: &str) -> &DeTable<'t> {
        static NONE: std::sync::LazyLock<DeTable<'static>> = std::sync::LazyLock::new(DeTable::new);
        number.parse::<usize>().ok().and_then(|number| self.0.get(number)).unwrap_or(&NONE)
    }

    /// Moves all keys of `table` except those that `stay` into a new entry, and puts the number of the entry in their place.
    fn take(&mut self, table: &mut DeTable<'t>, stay: impl Fn(&str) -> bool) {
        let all = std::mem::take(table);
        let mut keys = DeTable::new();
        for (key, value) in all {
            match stay(key.get_ref()) {
                true => table.insert(key, value),
                false => keys.insert(key, value),
            };
        }
        let number = DeValue::String(self.0.len().to_string().into());
        table.insert(Spanned::new(0..0, "\0keys".into()), Spanned::new(0..0, number));
        self.0.push(keys);
    }

    fn take_from_steps(&mut self, table: &mut DeTable<'t>) -> Result<(), Problem> {
        for step in tables("step", table.get_mut("steps"))? {
            let kind = step.get("type").and_then(|kind| kind.get_ref().as_str());
            if kind.is_some_and(|kind| !STEP_TYPES.iter().any(|(known, _)| *known == kind)) {
                self.take(step, is_common);
                continue;
            }
            self.take_from_steps(step)?;
            for branch in tables("branch", step.get_mut("branches"))? {
                self.take_from_steps(branch)?;
            }
            if let Some(reader) = step.get_mut("reader") {
                self.take(as_table("reader", reader)?, |key| key == "type");
            }
            if let Some(writer) = step.get_mut("writer") {
                self.take_writer(writer)?;
            }
            for processor in tables("processor", step.get_mut("processors"))? {
                if is_of_type(processor, "lookup")
                    && let Some(from) = processor.get_mut("from")
                {
                    self.take(as_table("reader", from)?, |key| key == "type");
                }
                self.take(processor, |key| key == "type");
            }
        }
        Ok(())
    }

    /// Takes the keys of a writer, and before them those of the writers that it is made of.
    fn take_writer(&mut self, writer: &mut Spanned<DeValue<'t>>) -> Result<(), Problem> {
        let table = as_table("writer", writer)?;
        if is_of_type(table, "many")
            && let Some(DeValue::Array(members)) = table.get_mut("writers").map(Spanned::get_mut)
        {
            members.iter_mut().try_for_each(|member| self.take_writer(member))?;
        }
        if is_of_type(table, "rotate") {
            table.get_mut("writer").map_or(Ok(()), |member| self.take_writer(member))?;
        }
        if is_of_type(table, "route") {
            for route in tables("route", table.get_mut("routes"))? {
                route.get_mut("writer").map_or(Ok(()), |member| self.take_writer(member))?;
            }
            table.get_mut("otherwise").map_or(Ok(()), |member| self.take_writer(member))?;
        }
        self.take(table, |key| key == "type");
        Ok(())
    }
}

/// Whether the part `table` has the type `kind`.
fn is_of_type(table: &DeTable<'_>, kind: &str) -> bool {
    table.get("type").is_some_and(|value| value.get_ref().as_str() == Some(kind))
}

/// Refuses the key under which the number of an entry is stored.
fn refuse_reserved_keys(value: &DeValue<'_>) -> Result<(), Problem> {
    match value {
        DeValue::Table(table) => table.iter().try_for_each(|(key, value)| {
            if key.get_ref().starts_with('\0') {
                return Err(Problem::at(key, "a key cannot begin with the character U+0000"));
            }
            refuse_reserved_keys(value.get_ref())
        }),
        DeValue::Array(array) => {
            array.iter().try_for_each(|value| refuse_reserved_keys(value.get_ref()))
        }
        _ => Ok(()),
    }
}

/// Parses a job file, as far as it can be checked without the kinds.
pub(crate) fn parse(text: &str) -> Result<(Definition, Parts<'_>), Problem> {
    let problem = |error: toml::de::Error| Problem {
        span: error.span(),
        message: error.message().to_owned(),
    };
    let document = DeTable::parse(text).map_err(problem)?;
    let (span, mut table) = (document.span(), document.into_inner());
    table.iter().try_for_each(|(_, value)| refuse_reserved_keys(value.get_ref()))?;
    let mut parts = Parts::default();
    parts.take_from_steps(&mut table)?;
    let document = Spanned::new(span, DeValue::Table(table));
    let definition = Definition::deserialize(ValueDeserializer::from(document));
    let definition = definition.map_err(|error| {
        let unknown = error.span().filter(|_| error.message().starts_with("unknown field"));
        let message = unknown.and_then(|at| keys::of_unknown(text, &at));
        let message = message.unwrap_or_else(|| refused_value(error.message()));
        Problem { span: error.span(), message }
    })?;
    Ok((definition, parts))
}

/// Returns whether the key belongs to the step itself, and not to its registered type.
pub(crate) fn is_common(key: &str) -> bool {
    [
        "name",
        "type",
        "on",
        "partition",
        "promote",
        "start_limit",
        "allow_start_if_complete",
        "retry_step",
    ]
    .contains(&key)
}

/// Returns the tables of the list `value`. A value that is no list is left to serde.
fn tables<'a, 't>(
    what: &str,
    value: Option<&'a mut Spanned<DeValue<'t>>>,
) -> Result<Vec<&'a mut DeTable<'t>>, Problem> {
    match value.map(Spanned::get_mut) {
        Some(DeValue::Array(array)) => array.iter_mut().map(|one| as_table(what, one)).collect(),
        _ => Ok(Vec::new()),
    }
}

/// Returns `value` as a table. Serde would also take a list, in the order of the fields.
fn as_table<'a, 't>(
    what: &str,
    value: &'a mut Spanned<DeValue<'t>>,
) -> Result<&'a mut DeTable<'t>, Problem> {
    let span = value.span();
    match value.get_mut() {
        DeValue::Table(table) => Ok(table),
        _ => {
            Err(Problem { span: Some(span), message: format!("a {what} is a table with a `type`") })
        }
    }
}
