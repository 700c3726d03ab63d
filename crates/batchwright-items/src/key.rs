//! The keys of a part of a job file, and the problems that they can have.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use batchwright::clock::parse_duration;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// A problem of a job file, with its byte range in the file.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The bytes of the file that the problem is about; `None` means the whole file.
    pub span: Option<Range<usize>>,
    /// A sentence that describes the problem.
    pub message: String,
}

impl Problem {
    /// Creates a problem of `value`.
    pub fn at<T>(value: &Spanned<T>, message: impl Into<String>) -> Self {
        Self { span: Some(value.span()), message: message.into() }
    }

    /// Creates a problem of the whole file.
    pub fn of_file(message: impl Into<String>) -> Self {
        Self { span: None, message: message.into() }
    }
}

/// A value of a job file with its byte range, for the structs that parse the keys of kinds.
#[derive(Debug, Clone)]
pub struct At<T>(pub Spanned<T>);

/// A text of a job file with its byte range.
pub type Text = At<String>;

impl<T> At<T> {
    /// Returns the value without its byte range.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T> std::ops::Deref for At<T> {
    type Target = Spanned<T>;

    fn deref(&self) -> &Spanned<T> {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// One text or several.
#[derive(Debug, Clone, serde::Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
#[schemars(inline)]
pub enum Texts {
    /// One text.
    One(String),
    /// Several texts.
    Many(Vec<String>),
}

impl Texts {
    /// Returns all texts.
    pub fn all(&self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text.clone()],
            Self::Many(texts) => texts.clone(),
        }
    }
}

/// The keys of a reader, writer, processor or tasklet in a job file, without `type`.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    what: &'static str,
    kind: &'a str,
    span: &'a Range<usize>,
    table: &'a DeTable<'a>,
}

impl<'a> Keys<'a> {
    /// Creates the keys of a part of the type `kind`. `what` is the part, such as `reader`; `span` is the byte range of
    /// `table` in the file.
    pub fn new(
        what: &'static str,
        kind: &'a str,
        span: &'a Range<usize>,
        table: &'a DeTable<'a>,
    ) -> Self {
        Self { what, kind, span, table }
    }

    /// Parses the keys as `T`, a struct with `#[serde(deny_unknown_fields)]`.
    ///
    /// # Errors
    ///
    /// When a key is missing, a key is unknown to `T` (the message lists the keys of `T`), or a value has the wrong type.
    pub fn parse<T: DeserializeOwned + JsonSchema>(self) -> Result<T, Problem> {
        let table = Spanned::new(self.span.clone(), DeValue::Table(self.table.clone()));
        T::deserialize(ValueDeserializer::from(table)).map_err(|error| {
            let span = error.span().unwrap_or_else(|| self.span.clone());
            let message = match error.message().strip_prefix("unknown field `") {
                Some(rest) => {
                    let keys = std::iter::once("type".to_owned()).chain(names_of::<T>());
                    let keys = keys.collect::<Vec<_>>().join(", ");
                    let (key, what, kind) =
                        (rest.split('`').next().unwrap_or(rest), self.what, self.kind);
                    format!("there is no key `{key}`; a {what} of type `{kind}` has: {keys}")
                }
                None => batchwright::text::refused_value(error.message()),
            };
            Problem { span: Some(span), message }
        })
    }

    /// Returns the value of the key `name` if it is a text.
    pub fn text(self, name: &str) -> Option<&'a str> {
        self.table.get(name).and_then(|value| value.get_ref().as_str())
    }

    /// A problem of the value of the key `name`, or of the whole part when the key is not given.
    pub fn problem_at(self, name: &str, message: impl Into<String>) -> Problem {
        let span = self.table.get(name).map_or_else(|| self.span.clone(), Spanned::span);
        Problem { span: Some(span), message: message.into() }
    }

    /// Creates a problem of the whole part.
    pub fn problem(self, message: impl Into<String>) -> Problem {
        Problem { span: Some(self.span.clone()), message: message.into() }
    }
}

/// Parses a length of time, such as `10m`.
///
/// # Errors
///
/// When the text is no length of time.
pub fn duration(text: &Text) -> Result<Duration, Problem> {
    parse_duration(text.get_ref()).map_err(|problem| Problem::at(text, problem))
}

/// Returns the names of the keys of `T`, the required ones first.
fn names_of<T: JsonSchema>() -> Vec<String> {
    let schema = schemars::schema_for!(T).to_value();
    let required = schema["required"].as_array().into_iter().flatten();
    let mut names: Vec<String> =
        required.filter_map(|name| name.as_str().map(str::to_owned)).collect();
    for name in schema["properties"].as_object().into_iter().flat_map(|all| all.keys()) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}
