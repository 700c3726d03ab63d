//! Parameters as a user's struct: each error names its parameter, and none repeats a secret.

use std::fmt;

use serde::de::value::MapDeserializer;
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::secret::{hidden_problem, is_secret};
use super::{JobParameters, Parameter, ParameterError};

pub(super) fn parse<T: DeserializeOwned>(parameters: &JobParameters) -> Result<T, ParameterError> {
    let fields = parameters.iter().map(|(name, one)| (name, Field { name, one }));
    T::deserialize(MapDeserializer::new(fields)).map_err(|Problem(text)| ParameterError(text))
}

/// The value of one parameter.
struct Field<'a> {
    name: &'a str,
    one: &'a Parameter,
}

impl Field<'_> {
    fn problem(&self, error: &serde_json::Error) -> Problem {
        let problem = match is_secret(self.name, self.one) {
            true => hidden_problem(self.one.value.kind()),
            false => error.to_string(),
        };
        Problem(format!("parameter `{}`: {problem}", self.name))
    }
}

impl<'a> IntoDeserializer<'_, Problem> for Field<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Field<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.one.json_value().deserialize_any(visitor).map_err(|error| self.problem(&error))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let value = self.one.json_value();
        value.deserialize_enum(name, variants, visitor).map_err(|error| self.problem(&error))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// The problem as a sentence.
#[derive(Debug)]
struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}
