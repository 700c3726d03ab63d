//! The records of messages.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Content;
use crate::record::{Names, Record};
use crate::value::Value;

/// What the body of a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum BodyFormat {
    /// A JSON object, whose members are the fields of the record.
    #[default]
    Json,
    /// A text in UTF-8, which is the field `body`.
    Text,
}

/// Makes the records of messages.
#[derive(Debug, Clone)]
pub(super) struct Decode {
    format: BodyFormat,
    /// The field that gets the id of the message.
    id_field: Option<Arc<str>>,
    body: Names,
}

impl Decode {
    pub(super) fn new(format: BodyFormat, id_field: Option<&str>) -> Self {
        let id_field = id_field.map(Arc::from);
        Self { format, id_field, body: Arc::new([Arc::from("body")]) }
    }

    /// Whether a field gets the id.
    #[cfg(feature = "redis")]
    pub(super) fn has_id(&self) -> bool {
        self.id_field.is_some()
    }

    /// Returns the record of a message. An error has the body, for the dead letters.
    pub(super) fn record(&self, content: Content, id: Option<&str>) -> Result<Record, ItemError> {
        let record = match content {
            Content::Body(body) => self.of_body(body)?,
            #[cfg(feature = "redis")]
            Content::Fields(fields) => of_fields(fields)?,
        };
        let Some(field) = &self.id_field else { return Ok(record) };
        let names = record.names().iter().cloned().chain([Arc::clone(field)]);
        let names: Names = names.collect();
        if let Some(name) = crate::record::first_duplicate(&names) {
            let message = format!("the message has a field `{name}` already");
            return Err(ItemError::new(ErrorKind::DATA, message)
                .with_raw(serde_json::to_vec(&record).unwrap_or_default()));
        }
        let id = id.map_or(Value::Null, Value::text);
        let values = record.values().iter().cloned().chain([id]).collect();
        Ok(record.with(names, values))
    }

    fn of_body(&self, body: Vec<u8>) -> Result<Record, ItemError> {
        let failed =
            |what: String, body: Vec<u8>| Err(ItemError::new(ErrorKind::DATA, what).with_raw(body));
        match self.format {
            BodyFormat::Json => match serde_json::from_slice(&body) {
                Ok(record) => Ok(record),
                Err(error) => failed(format!("the message is no JSON object: {error}"), body),
            },
            BodyFormat::Text => match String::from_utf8(body) {
                Ok(text) => Ok(Record::single(&self.body, Value::text(&text))),
                Err(error) => {
                    failed("the message is no text in UTF-8".to_owned(), error.into_bytes())
                }
            },
        }
    }
}

/// Returns the record of the fields of an entry, which are texts.
#[cfg(feature = "redis")]
fn of_fields(fields: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Record, ItemError> {
    let (names, values): (Vec<Vec<u8>>, Vec<Vec<u8>>) = fields.into_iter().unzip();
    let names = names.into_iter().map(|name| match String::from_utf8(name) {
        Ok(name) => Ok(Arc::from(name)),
        Err(error) => {
            let message = "the name of a field is no text in UTF-8";
            Err(ItemError::new(ErrorKind::DATA, message).with_raw(error.into_bytes()))
        }
    });
    let names: Names = names.collect::<Result<_, ItemError>>()?;
    if let Some(name) = crate::record::first_duplicate(&names) {
        let message = format!("the entry has two fields `{name}`");
        return Err(ItemError::new(ErrorKind::DATA, message));
    }
    let texts = names.iter().zip(values).map(|(name, value)| match String::from_utf8(value) {
        Ok(text) => Ok(Value::text(&text)),
        Err(error) => {
            let message = format!("the field `{name}` is no text in UTF-8");
            Err(ItemError::new(ErrorKind::DATA, message).with_raw(error.into_bytes()))
        }
    });
    Ok(Record::new(Arc::clone(&names), texts.collect::<Result<_, _>>()?))
}
