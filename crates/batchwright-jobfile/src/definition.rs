//! The structure of a job file, as strict as TOML and serde can check it.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

type Text = Spanned<String>;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Definition {
    pub(super) name: Text,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default = "yes")]
    pub(super) restartable: bool,
    #[serde(default)]
    pub(super) open_parameters: bool,
    #[serde(default)]
    pub(super) parameters: BTreeMap<String, Spanned<Parameter>>,
    #[serde(default)]
    pub(super) next: BTreeMap<String, Spanned<Next>>,
    pub(super) steps: Vec<Spanned<Step>>,
}

fn yes() -> bool {
    true
}

/// A declared parameter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameter {
    #[serde(rename = "type", default = "string")]
    pub(super) kind: batchwright::ParameterType,
    #[serde(default)]
    pub(super) required: bool,
    pub(super) default: Option<toml::Value>,
    pub(super) identifying: Option<bool>,
    #[serde(default)]
    pub(super) secret: bool,
    #[serde(default)]
    pub(super) description: String,
}

fn string() -> batchwright::ParameterType {
    batchwright::ParameterType::String
}

/// How the next instance changes a parameter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Next {
    pub(super) increment: Option<i64>,
    pub(super) add_days: Option<i64>,
}

/// A step of any type; the keys of its type are checked when the step is built.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) name: Text,
    #[serde(rename = "type")]
    pub(super) kind: Option<Text>,
    pub(super) start_limit: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) allow_start_if_complete: bool,

    pub(super) chunk: Option<Spanned<Chunk>>,
    pub(super) reader: Option<Spanned<Reader>>,
    #[serde(default)]
    pub(super) processors: Vec<Spanned<Processor>>,
    pub(super) writer: Option<Spanned<Writer>>,
    pub(super) skip: Option<Spanned<Skip>>,
    pub(super) retry: Option<Spanned<Retry>>,
    pub(super) parallelism: Option<Spanned<usize>>,
    pub(super) read_ahead: Option<Spanned<usize>>,

    pub(super) argv: Option<Spanned<Vec<Text>>>,
    pub(super) dir: Option<Text>,
    pub(super) env: Option<BTreeMap<String, Text>>,
    pub(super) timeout: Option<Text>,
    pub(super) grace: Option<Text>,
    pub(super) exit_codes: Option<BTreeMap<String, Text>>,

    pub(super) sql: Option<Text>,
    pub(super) url: Option<Text>,

    /// The steps of a flow.
    pub(super) steps: Option<Vec<Spanned<Step>>>,
    /// The branches of a split.
    pub(super) branches: Option<Vec<Spanned<Branch>>>,
    /// The expression of a decision, which chooses the exit code.
    pub(super) exit: Option<Text>,
    /// The file of the child job of a job step; `parameters` are its parameters.
    pub(super) job: Option<Text>,
    pub(super) parameters: Option<BTreeMap<String, Text>>,

    /// The number of lanes of a progressive step; the keys below also belong to progressive steps.
    pub(super) lanes: Option<Spanned<u32>>,
    pub(super) target: Option<Text>,
    pub(super) max_attempts: Option<Spanned<u32>>,
    pub(super) on_failed: Option<Text>,
    pub(super) unit_timeout: Option<Text>,
    pub(super) reduce: Option<BTreeMap<String, Spanned<Reduce>>>,

    #[serde(default)]
    pub(super) on: Vec<Spanned<On>>,
    pub(super) partition: Option<Spanned<Partition>>,
    #[serde(default)]
    pub(super) promote: Vec<Text>,
}

/// How a field of the outputs is reduced to a value of a progressive step's result.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(super) enum Reduce {
    /// The sum of the field.
    Sum(String),
    /// The smallest value of the field.
    Min(String),
    /// The largest value of the field.
    Max(String),
    /// The number of outputs; with a field, of those in which the field is not null.
    Count(String),
}

/// A branch of a split.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Branch {
    pub(super) name: Text,
    pub(super) steps: Vec<Spanned<Step>>,
}

/// A transition: one target for the codes that `exit` matches.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct On {
    pub(super) exit: Text,
    pub(super) to: Option<Text>,
    pub(super) end: Option<Text>,
    pub(super) fail: Option<Text>,
    #[serde(default)]
    pub(super) stop: bool,
    pub(super) restart_at: Option<Text>,
}

/// How the input of a step is partitioned.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Partition {
    pub(super) grid: Option<Spanned<u32>>,
    pub(super) by: Spanned<By>,
    pub(super) threads: Option<Spanned<usize>>,
    #[serde(default)]
    pub(super) fail_fast: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(super) enum By {
    Range(Range),
    Column(ColumnRange),
    Files(Text),
    Bytes(Text),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    pub(super) min: Bound,
    pub(super) max: Bound,
}

/// A bound: a number, or a text with placeholders that becomes a number.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a whole number")]
pub(super) enum Bound {
    Literal(i64),
    Text(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ColumnRange {
    pub(super) table: Text,
    pub(super) column: Text,
    pub(super) url: Option<Text>,
}

/// The bounds of a chunk: `chunk = 1000`, or `chunk = { items = 1000, seconds = 5 }`.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number of items, or `{ items = N, seconds = N }`")]
pub(super) enum Chunk {
    Items(u64),
    Bounds(ChunkBounds),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChunkBounds {
    pub(super) items: Option<u64>,
    pub(super) seconds: Option<f64>,
}

/// A reader of any type.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reader {
    #[serde(rename = "type")]
    pub(super) kind: Text,
    pub(super) path: Option<Text>,
    pub(super) columns: Option<Spanned<Columns>>,
    pub(super) delimiter: Option<Text>,
    pub(super) quote: Option<Text>,
    pub(super) escape: Option<Text>,
    pub(super) comment: Option<Text>,
    #[serde(default)]
    pub(super) trim: bool,
    pub(super) header: Option<bool>,
    pub(super) null: Option<Texts>,
    pub(super) encoding: Option<Text>,
    pub(super) decimal: Option<Text>,
    pub(super) line_bytes_max: Option<Spanned<u64>>,
    /// What a restart does when the input file has changed.
    pub(super) if_changed: Option<Text>,
    pub(super) count: Option<Spanned<Number>>,
    pub(super) items: Option<Vec<toml::Table>>,
    pub(super) url: Option<Text>,
    pub(super) query: Option<Text>,
    pub(super) params: Option<Vec<Text>>,
    pub(super) key: Option<Texts>,
}

/// The types of columns by name, or all columns in order.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected types by name, such as `{ id = \"integer\" }`, or all columns in their order, such as `[\"id\", { name = \"day\", type = \"date\" }]`"
)]
pub(super) enum Columns {
    Types(BTreeMap<String, ColumnType>),
    InOrder(Vec<Column>),
}

/// The type of a column, for dates and times with an optional format.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a type, or `{ type = …, format = … }`")]
pub(super) enum ColumnType {
    Name(String),
    Formatted {
        #[serde(rename = "type")]
        kind: String,
        format: Option<String>,
    },
}

/// A column in a list of all columns in order.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a name, or `{ name = …, type = …, format = … }`")]
pub(super) enum Column {
    Name(String),
    Typed {
        name: String,
        #[serde(flatten)]
        column: ColumnType,
    },
}

/// One text or a list of texts.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub(super) enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    pub(super) fn all(&self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text.clone()],
            Self::Many(texts) => texts.clone(),
        }
    }
}

/// A number, or a text with placeholders that becomes a number.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number")]
pub(super) enum Number {
    Literal(u64),
    Text(String),
}

/// A processor of any type.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Processor {
    #[serde(rename = "type")]
    pub(super) kind: Text,
    pub(super) when: Option<Text>,
    pub(super) message: Option<Text>,
    #[serde(default)]
    pub(super) set: BTreeMap<String, Text>,
    pub(super) keep: Option<Vec<Text>>,
    #[serde(default)]
    pub(super) drop: Vec<Text>,
}

/// A writer of any type.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Writer {
    #[serde(rename = "type")]
    pub(super) kind: Text,
    pub(super) path: Option<Text>,
    pub(super) columns: Option<Vec<Text>>,
    pub(super) delimiter: Option<Text>,
    pub(super) quote: Option<Text>,
    pub(super) header: Option<bool>,
    pub(super) null: Option<Texts>,
    pub(super) encoding: Option<Text>,
    pub(super) field: Option<Text>,
    pub(super) url: Option<Text>,
    pub(super) table: Option<Text>,
    pub(super) mode: Option<Text>,
    pub(super) key: Option<Vec<Text>>,
    pub(super) statement: Option<Text>,
}

/// The skip policy of a step.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Skip {
    pub(super) limit: u64,
    pub(super) on: Option<Vec<Text>>,
    pub(super) dead_letter: Option<Text>,
    pub(super) scope: Option<Text>,
}

/// The retry policy of a step.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retry {
    pub(super) max_attempts: std::num::NonZeroU32,
    pub(super) on: Option<Vec<Text>>,
    pub(super) backoff: Option<Spanned<Backoff>>,
    pub(super) within: Option<Text>,
    #[serde(default)]
    pub(super) or: Vec<Spanned<Retry>>,
}

/// The wait between attempts, which grows from `initial` or is drawn at random between `min` and `max`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backoff {
    pub(super) initial: Option<Text>,
    pub(super) multiplier: Option<f64>,
    pub(super) min: Option<Text>,
    pub(super) max: Option<Text>,
    #[serde(default)]
    pub(super) jitter: bool,
}
