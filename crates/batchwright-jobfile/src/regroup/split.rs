//! The processor `split`: a record for each element of a list.

use std::collections::VecDeque;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright_items::{Keys, Problem, Record, Value, first_duplicate};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Clean, Regroup};

/// Makes a record of each element of a list; it has the other fields of the record too. If an element is an object, its fields
/// take the place of the list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SplitKeys {
    /// The field with the list. A null is a list without elements.
    field: String,
    /// The text between the elements, for a list that is a text.
    separator: Option<String>,
    /// A field that gets the number of the element, from 1.
    index: Option<String>,
    /// Whether a record with an empty list becomes one record with a null; otherwise it has no output. Default: false.
    #[serde(default)]
    keep_empty: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Split {
    field: Arc<str>,
    separator: Option<String>,
    index: Option<Arc<str>>,
    keep_empty: bool,
}

impl Split {
    pub(super) fn build(keys: Keys<'_>) -> Result<Self, Problem> {
        let SplitKeys { field, separator, index, keep_empty } = keys.parse()?;
        if separator.as_ref().is_some_and(String::is_empty) {
            return Err(keys.problem_at("separator", "`separator` is not empty"));
        }
        Ok(Self { field: field.into(), separator, index: index.map(Into::into), keep_empty })
    }

    pub(super) fn start(&self) -> Box<dyn Regroup> {
        Box::new(self.clone())
    }

    pub(super) fn needed(&self) -> Vec<(&'static str, &str)> {
        vec![("`field`", &*self.field)]
    }

    fn elements(&self, value: &Value) -> Result<Vec<Value>, ItemError> {
        let wrong =
            |what: &str| ItemError::data(format!("cannot split field `{}`: {what}", self.field));
        match (value, &self.separator) {
            (Value::Null, _) => Ok(Vec::new()),
            (Value::List(values), None) => Ok(values.to_vec()),
            (Value::Json(json), None) => {
                let elements = serde_json::from_str::<Vec<&RawValue>>(json.get());
                let elements = elements.map_err(|_| wrong("it is no list"))?;
                elements.into_iter().map(element).collect()
            }
            (Value::Text(text) | Value::Field(text), Some(_)) if text.is_empty() => Ok(Vec::new()),
            (Value::Text(text), Some(separator)) => {
                Ok(text.split(separator.as_str()).map(Value::text).collect())
            }
            (Value::Field(text), Some(separator)) => {
                let parts = text.split(separator.as_str());
                Ok(parts.map(|part| Value::Field(part.into())).collect())
            }
            (_, Some(_)) => Err(wrong("it is no text")),
            (_, None) => Err(wrong("it is no list")),
        }
    }

    /// Returns the record with `element` in place of the list.
    fn output(&self, record: &Record, number: usize, element: &Value) -> Result<Record, ItemError> {
        let object = match element {
            Value::Json(json) if json.get().starts_with('{') => {
                let object = serde_json::from_str::<Record>(json.get()).map_err(|error| {
                    ItemError::data(format!(
                        "cannot split field `{}`: element {number}: {error}",
                        self.field
                    ))
                })?;
                Some(object)
            }
            Value::Map(fields) => {
                let (names, values): (Vec<_>, Vec<_>) = fields.iter().cloned().unzip();
                Some(Record::new(names.into(), values))
            }
            _ => None,
        };
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for (name, value) in record.names().iter().zip(record.values()) {
            match &object {
                Some(object) if *name == self.field => {
                    names.extend(object.names().iter().cloned());
                    values.extend(object.values().iter().cloned());
                }
                None if *name == self.field => {
                    names.push(Arc::clone(name));
                    values.push(element.clone());
                }
                _ => {
                    names.push(Arc::clone(name));
                    values.push(value.clone());
                }
            }
        }
        if let Some(index) = &self.index {
            names.push(Arc::clone(index));
            values.push(Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)));
        }
        if let Some(name) = first_duplicate(&names) {
            return Err(ItemError::data(format!(
                "cannot split field `{}`: element {number} and the record both have a field `{name}`",
                self.field
            )));
        }
        Ok(record.with(names.into(), values.into()))
    }
}

/// Returns the value of an element of a JSON list.
fn element(raw: &RawValue) -> Result<Value, ItemError> {
    let record = serde_json::from_str::<Record>(&format!("{{\"element\":{raw}}}"));
    let value = record.ok().and_then(|record| record.values().first().cloned());
    value.ok_or_else(|| ItemError::data(format!("cannot read the element `{raw}`")))
}

impl Regroup for Split {
    fn take(
        &mut self,
        record: &Record,
        outputs: &mut VecDeque<Record>,
    ) -> Result<Clean, ItemError> {
        let mut elements = self.elements(record.required("split", &self.field)?)?;
        if elements.is_empty() && self.keep_empty {
            elements.push(Value::Null);
        }
        let output = |(index, element)| self.output(record, index + 1, element);
        let made = elements.iter().enumerate().map(output).collect::<Result<Vec<_>, _>>()?;
        outputs.extend(made);
        Ok(Clean::After)
    }
}
