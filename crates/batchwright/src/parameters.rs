//! Job parameters, and the identity of a job instance, which they define.

mod parse;
mod schema;
mod secret;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::text::hex;

pub(crate) use schema::names;
pub use schema::{ParameterDeclaration, ParameterSchema};
pub use secret::MASK;

/// A typed value of a job parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum ParameterValue {
    /// Text.
    String(String),
    /// 64-bit integer.
    Integer(i64),
    /// 64-bit floating point number; never NaN or infinite when parsed.
    Float(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// A calendar day.
    Date(Date),
    /// An instant; the offset of its text is not stored.
    Timestamp(Timestamp),
}

/// The type of a [`ParameterValue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ParameterType {
    /// Text.
    String,
    /// 64-bit integer.
    Integer,
    /// 64-bit floating point number.
    Float,
    /// `true` or `false`.
    Boolean,
    /// `YYYY-MM-DD`.
    Date,
    /// RFC 3339.
    Timestamp,
}

impl ParameterType {
    /// Every type, in the order in which help lists them.
    pub const ALL: [Self; 6] =
        [Self::String, Self::Integer, Self::Float, Self::Boolean, Self::Date, Self::Timestamp];

    /// Returns the name of the type, as in `NAME:TYPE=VALUE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
        }
    }

    /// Returns the type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for ParameterType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ParameterValue {
    /// Parses `text` as `kind`.
    ///
    /// # Errors
    ///
    /// A sentence with the text found and the type required; the text is never converted to another type or
    /// value.
    pub fn parse(text: &str, kind: ParameterType) -> Result<Self, String> {
        let wrong = |wanted: &str| format!("`{text}` is not {wanted}");
        match kind {
            ParameterType::String => Ok(Self::String(text.to_owned())),
            ParameterType::Integer => {
                text.parse().map(Self::Integer).map_err(|_| wrong("a 64-bit integer"))
            }
            ParameterType::Float => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Self::Float(value)),
                _ => Err(wrong("a finite number")),
            },
            ParameterType::Boolean => {
                text.parse().map(Self::Boolean).map_err(|_| wrong("`true` or `false`"))
            }
            ParameterType::Date => match text.len() {
                10 => text.parse().map(Self::Date).map_err(|_| wrong("a date (YYYY-MM-DD)")),
                _ => Err(wrong("a date (YYYY-MM-DD)")),
            },
            ParameterType::Timestamp => text.parse().map(Self::Timestamp).map_err(|_| {
                // The text has the right form, but its instant is outside the supported range.
                let pieces = jiff::fmt::temporal::Pieces::parse(text).ok();
                match pieces
                    .is_some_and(|pieces| pieces.time().is_some() && pieces.offset().is_some())
                {
                    true => format!(
                        "`{text}` is out of range: timestamps reach from {:.0} to {:.0}",
                        jiff::Timestamp::MIN,
                        jiff::Timestamp::MAX
                    ),
                    false => wrong("a timestamp (RFC 3339, with an offset)"),
                }
            }),
        }
    }

    /// Returns the type of the value.
    pub fn kind(&self) -> ParameterType {
        match self {
            Self::String(_) => ParameterType::String,
            Self::Integer(_) => ParameterType::Integer,
            Self::Float(_) => ParameterType::Float,
            Self::Boolean(_) => ParameterType::Boolean,
            Self::Date(_) => ParameterType::Date,
            Self::Timestamp(_) => ParameterType::Timestamp,
        }
    }
}

/// Writes the canonical text: integers plain, floats shortest round-trip, instants in UTC.
impl fmt::Display for ParameterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(value) => f.write_str(value),
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Boolean(value) => value.fmt(f),
            Self::Date(value) => value.fmt(f),
            Self::Timestamp(value) => value.fmt(f),
        }
    }
}

impl From<&str> for ParameterValue {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<String> for ParameterValue {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

/// Converts integers that always fit; `u64` and `usize` may not, so convert them with `i64::try_from`.
macro_rules! from_integers {
    ($($integer:ty),*) => {$(
        impl From<$integer> for ParameterValue {
            fn from(value: $integer) -> Self {
                Self::Integer(value.into())
            }
        }
    )*};
}

from_integers!(i8, i16, i32, i64, u8, u16, u32);

impl From<f64> for ParameterValue {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for ParameterValue {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<Date> for ParameterValue {
    fn from(value: Date) -> Self {
        Self::Date(value)
    }
}

impl From<Timestamp> for ParameterValue {
    fn from(value: Timestamp) -> Self {
        Self::Timestamp(value)
    }
}

/// A value and whether it is part of the instance's identity.
#[derive(Clone, PartialEq)]
pub struct Parameter {
    /// The typed value.
    pub value: ParameterValue,
    /// Whether another value makes another instance.
    pub identifying: bool,
    /// Whether the value is secret: stored unchanged, and never displayed.
    pub secret: bool,
}

impl Parameter {
    /// Creates a parameter that is not secret.
    pub fn new(value: impl Into<ParameterValue>, identifying: bool) -> Self {
        Self { value: value.into(), identifying, secret: false }
    }
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value: &dyn fmt::Debug = if self.secret { &MASK } else { &self.value };
        f.debug_struct("Parameter")
            .field("value", value)
            .field("identifying", &self.identifying)
            .finish()
    }
}

/// The lossless JSON form: `{"value": 10, "type": "integer", "identifying": false}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParameterForm {
    value: serde_json::Value,
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    kind: Option<ParameterType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identifying: Option<bool>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    secret: bool,
}

impl Parameter {
    fn json_value(&self) -> serde_json::Value {
        match &self.value {
            ParameterValue::Integer(value) => (*value).into(),
            ParameterValue::Float(value) => (*value).into(),
            ParameterValue::Boolean(value) => (*value).into(),
            other => other.to_string().into(),
        }
    }
}

impl Serialize for Parameter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = self.json_value();
        let kind = Some(self.value.kind());
        let (identifying, secret) = (Some(self.identifying), self.secret);
        ParameterForm { value, kind, identifying, secret }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = serde_json::Value::deserialize(deserializer)?;
        Self::from_json(json, None).map_err(serde::de::Error::custom)
    }
}

impl Parameter {
    /// Parses JSON: a bare scalar, or the full form with `value`, `type`, `identifying` and `secret`.
    ///
    /// `declared` is the type that the job declares, used when the JSON has no type.
    ///
    /// # Errors
    ///
    /// A sentence that names the part of the JSON that is not a value of the type.
    pub fn from_json(
        json: serde_json::Value,
        declared: Option<ParameterType>,
    ) -> Result<Self, String> {
        let form = match json {
            serde_json::Value::Object(_) => {
                serde_json::from_value(json).map_err(|error| error.to_string())?
            }
            value => ParameterForm { value, kind: None, identifying: None, secret: false },
        };
        let kind = form.kind.or(declared);
        let value = match (form.value, kind) {
            (serde_json::Value::String(text), kind) => {
                ParameterValue::parse(&text, kind.unwrap_or(ParameterType::String))?
            }
            (serde_json::Value::Bool(value), None | Some(ParameterType::Boolean)) => value.into(),
            (serde_json::Value::Number(number), kind) => number_value(&number, kind)?,
            (other, Some(kind)) => return Err(format!("{other} is not of type {kind}")),
            (other, None) => return Err(format!("{other} is not a parameter value")),
        };
        let identifying = form.identifying.unwrap_or(!form.secret);
        Ok(Self { value, identifying, secret: form.secret })
    }
}

fn number_value(
    number: &serde_json::Number,
    kind: Option<ParameterType>,
) -> Result<ParameterValue, String> {
    match (number.as_i64(), number.as_f64(), kind) {
        (Some(value), _, None | Some(ParameterType::Integer)) => Ok(value.into()),
        (_, Some(value), Some(ParameterType::Float)) => Ok(value.into()),
        (None, Some(value), None) if !number.is_u64() => Ok(value.into()),
        (_, _, kind) => {
            Err(format!("{number} is not of type {}", kind.unwrap_or(ParameterType::Integer)))
        }
    }
}

/// The name of the parameter with the trigger that started a job. Every job accepts it.
#[doc(hidden)]
pub const TRIGGER_PARAMETER: &str = "trigger";
/// The name of the parameter with the slot of the trigger, as RFC 3339 text unless the job declares another
/// type. Every job accepts it.
#[doc(hidden)]
pub const SLOT_PARAMETER: &str = "slot";

/// The name of the parameter that numbers repeated requests for equal work, from 1, when each request is a
/// new instance (`OpenOptions::repeats`). Every job accepts it.
#[doc(hidden)]
pub const REPEAT_PARAMETER: &str = "repeat";

/// The parameters that every job accepts, declared or not.
const OF_EVERY_JOB: [&str; 3] = [TRIGGER_PARAMETER, SLOT_PARAMETER, REPEAT_PARAMETER];

/// A named set of [`Parameter`]s.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobParameters(BTreeMap<String, Parameter>);

impl JobParameters {
    /// Creates an empty set: a legal identity, with one instance per job.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an identifying parameter.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<ParameterValue>) -> Self {
        self.insert(name, Parameter::new(value, true));
        self
    }

    /// Adds a parameter that is not part of the identity.
    #[must_use]
    pub fn with_non_identifying(
        mut self,
        name: impl Into<String>,
        value: impl Into<ParameterValue>,
    ) -> Self {
        self.insert(name, Parameter::new(value, false));
        self
    }

    /// Sets a parameter; returns the one that it replaces.
    pub fn insert(&mut self, name: impl Into<String>, parameter: Parameter) -> Option<Parameter> {
        self.0.insert(name.into(), parameter)
    }

    /// Returns this set with the parameters of `overrides` added; they replace those of the same name.
    #[must_use]
    pub(crate) fn overridden_by(mut self, overrides: &Self) -> Self {
        for (name, one) in overrides.iter() {
            let secret = one.secret || self.get(name).is_some_and(|before| before.secret);
            self.insert(name, Parameter { secret, ..one.clone() });
        }
        self
    }

    /// Returns all parameters except the one of that name.
    pub(crate) fn without(&self, name: &str) -> Self {
        let others = self.0.iter().filter(|(other, _)| *other != name);
        Self(others.map(|(name, one)| (name.clone(), one.clone())).collect())
    }

    /// Returns the parameter of that name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.0.get(name)
    }

    /// Returns all parameters, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Parameter)> {
        self.0.iter().map(|(name, parameter)| (name.as_str(), parameter))
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the text of a `string` parameter.
    ///
    /// # Errors
    ///
    /// [`ParameterError`] when the parameter is missing or of another type.
    pub fn string(&self, name: &str) -> Result<&str, ParameterError> {
        match self.wanted(name)? {
            ParameterValue::String(value) => Ok(value),
            other => Err(ParameterError::wrong(name, ParameterType::String, other)),
        }
    }

    /// Returns the value of an `integer` parameter.
    ///
    /// # Errors
    ///
    /// [`ParameterError`] when the parameter is missing or of another type.
    pub fn integer(&self, name: &str) -> Result<i64, ParameterError> {
        match self.wanted(name)? {
            ParameterValue::Integer(value) => Ok(*value),
            other => Err(ParameterError::wrong(name, ParameterType::Integer, other)),
        }
    }

    /// Returns the value of a `float` parameter.
    ///
    /// # Errors
    ///
    /// [`ParameterError`] when the parameter is missing or of another type.
    pub fn float(&self, name: &str) -> Result<f64, ParameterError> {
        match self.wanted(name)? {
            ParameterValue::Float(value) => Ok(*value),
            other => Err(ParameterError::wrong(name, ParameterType::Float, other)),
        }
    }

    /// Returns the value of a `boolean` parameter.
    ///
    /// # Errors
    ///
    /// [`ParameterError`] when the parameter is missing or of another type.
    pub fn boolean(&self, name: &str) -> Result<bool, ParameterError> {
        match self.wanted(name)? {
            ParameterValue::Boolean(value) => Ok(*value),
            other => Err(ParameterError::wrong(name, ParameterType::Boolean, other)),
        }
    }

    /// Returns the value of a `date` parameter.
    ///
    /// # Errors
    ///
    /// [`ParameterError`] when the parameter is missing or of another type.
    pub fn date(&self, name: &str) -> Result<Date, ParameterError> {
        match self.wanted(name)? {
            ParameterValue::Date(value) => Ok(*value),
            other => Err(ParameterError::wrong(name, ParameterType::Date, other)),
        }
    }

    /// Returns the value of a `timestamp` parameter.
    ///
    /// # Errors
    ///
    /// [`ParameterError`] when the parameter is missing or of another type.
    pub fn timestamp(&self, name: &str) -> Result<Timestamp, ParameterError> {
        match self.wanted(name)? {
            ParameterValue::Timestamp(value) => Ok(*value),
            other => Err(ParameterError::wrong(name, ParameterType::Timestamp, other)),
        }
    }

    /// Returns the parameters as a value of `T`, whose fields have the names of parameters. Dates and timestamps are
    /// texts, as jiff's types parse them. A field without a parameter needs `#[serde(default)]` or an `Option`.
    ///
    /// ```
    /// use batchwright::JobParameters;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Import {
    ///     day: jiff::civil::Date,
    ///     #[serde(default)]
    ///     limit: u32,
    /// }
    ///
    /// let parameters = JobParameters::new().with("day", jiff::civil::date(2026, 11, 28));
    /// let import: Import = parameters.parse()?;
    /// assert_eq!((import.day.day(), import.limit), (28, 0));
    /// # Ok::<(), batchwright::parameters::ParameterError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ParameterError`] with the field that is missing or of another type. Values of secrets are not repeated.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, ParameterError> {
        parse::parse(self)
    }

    fn wanted(&self, name: &str) -> Result<&ParameterValue, ParameterError> {
        self.get(name)
            .map(|parameter| &parameter.value)
            .ok_or_else(|| ParameterError(format!("parameter `{name}` is missing")))
    }

    /// Returns the key that, with the job's name, identifies the instance.
    ///
    /// The key is the SHA-256 hash of the identifying parameters in the order of their names; the length of
    /// each part precedes the part, so that no two different sets share a key.
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        for (name, parameter) in self.0.iter().filter(|(_, parameter)| parameter.identifying) {
            for part in [name, parameter.value.kind().name(), &parameter.value.to_string()] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part.as_bytes());
            }
        }
        hex(&hash.finalize())
    }
}

/// The error of a parameter that is missing or has another type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the parameters are invalid: {0}")]
pub struct ParameterError(String);

impl ParameterError {
    fn wrong(name: &str, wanted: ParameterType, found: &ParameterValue) -> Self {
        Self(format!("parameter `{name}` is of type {}, expected {wanted}", found.kind()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> JobParameters {
        pairs.iter().fold(JobParameters::new(), |set, (name, value)| set.with(*name, *value))
    }

    #[test]
    fn the_order_of_parameters_does_not_matter() {
        assert_eq!(set(&[("a", "1"), ("b", "2")]).key(), set(&[("b", "2"), ("a", "1")]).key());
    }

    #[test]
    fn no_two_different_sets_share_a_key() {
        let sets = [
            set(&[]),
            set(&[("a", "1,b=2")]),
            set(&[("a", "1"), ("b", "2")]),
            set(&[("a", "")]),
            set(&[("", "a")]),
            JobParameters::new().with("a", 1),
            JobParameters::new().with("a", 1.0),
            set(&[("a", "1")]),
            JobParameters::new().with("a", true),
            set(&[("a", "true")]),
        ];
        let keys: std::collections::BTreeSet<_> = sets.iter().map(JobParameters::key).collect();
        assert_eq!(keys.len(), sets.len());
    }

    #[test]
    fn non_identifying_parameters_never_influence_identity() {
        let plain = set(&[("a", "1")]);
        assert_eq!(plain.clone().with_non_identifying("limit", 5).key(), plain.key());
    }

    #[test]
    fn the_same_instant_typed_with_another_offset_is_the_same_instant() {
        let key = |text| {
            let value = ParameterValue::parse(text, ParameterType::Timestamp).unwrap();
            JobParameters::new().with("at", value).key()
        };
        assert_eq!(key("2026-11-21T12:00:00+01:00"), key("2026-11-21T11:00:00Z"));
    }

    #[test]
    fn a_value_that_does_not_parse_is_refused_and_never_becomes_zero() {
        for (text, kind) in [
            ("abc", ParameterType::Integer),
            ("9223372036854775808", ParameterType::Integer),
            ("NaN", ParameterType::Float),
            ("yes", ParameterType::Boolean),
            ("2026-02-30", ParameterType::Date),
            ("2026-11-21T10:00:00Z", ParameterType::Date),
            ("2026-11-21", ParameterType::Timestamp),
        ] {
            assert!(ParameterValue::parse(text, kind).is_err(), "{text} as {kind}");
        }
    }

    #[test]
    fn parameters_survive_json_with_type_and_flag() {
        let before = set(&[("s", "a,b=c")])
            .with("i", i64::MAX)
            .with("f", 0.1)
            .with("d", "2026-11-21".parse::<Date>().unwrap())
            .with_non_identifying("b", true);
        let json = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<JobParameters>(&json).unwrap(), before);
    }
}
