//! The processor that asks an API about each item.

use std::collections::BTreeMap;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::ItemProcessor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};
use schemars::JsonSchema;
use serde::Deserialize;

use super::exchange::{Exchange, find, is_read};
use super::writer::IDEMPOTENCY_KEY;
use crate::record::{Names, Record};
use crate::sent;
use crate::value::Value;

/// The characters of a value that stand for themselves in a URL.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What happens to an item of which the API knows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum Unknown {
    /// It is a bad record.
    #[default]
    Fail,
    /// The fields are null.
    Null,
    /// It counts as filtered.
    Drop,
}

/// The fields of items in a URL: it has a mark in the place of each.
#[derive(Debug, Clone)]
pub(super) struct Marked {
    /// The fields, by the number in their marks.
    fields: Vec<String>,
}

impl Marked {
    /// Replaces each `{FIELD}` in `url` by a mark, which is the same in a URL as in a text.
    ///
    /// # Errors
    ///
    /// A sentence when a brace has no partner, or a field would be in the name of the server.
    pub(super) fn of(url: &str) -> Result<(Self, String), String> {
        let (mut fields, mut marked, mut rest) = (Vec::new(), String::new(), url);
        while let Some(open) = rest.find('{') {
            marked.push_str(&rest[..open]);
            let close = rest[open..].find('}').ok_or("a `{` has no `}`")? + open;
            if marked.ends_with('$') {
                // A value of the job, which is there before the first item.
                marked.push_str(&rest[open..=close]);
            } else {
                let begins_with_value = url.starts_with("${");
                if marked.splitn(4, '/').count() < 4 && !begins_with_value {
                    return Err(
                        "a field of the item follows the name of the server and a `/`".to_owned()
                    );
                }
                marked.push_str(&mark(fields.len()));
                fields.push(rest[open + 1..close].to_owned());
            }
            rest = &rest[close + 1..];
        }
        marked.push_str(rest);
        Ok((Self { fields }, marked))
    }

    /// Returns `marked` with the values of `item`; `None` when one of them is null or empty.
    fn url(&self, marked: &Url, item: &Record) -> Result<Option<Url>, ItemError> {
        let mut text = marked.as_str().to_owned();
        for (number, field) in self.fields.iter().enumerate() {
            let value = item.required("call an API with", field)?.to_string();
            if value.is_empty() {
                return Ok(None);
            }
            if matches!(value.as_str(), "." | "..") {
                let what =
                    format!("cannot call an API with `{field}`: `{value}` leads to another folder");
                return Err(ItemError::data(what));
            }
            text = text.replace(&mark(number), &utf8_percent_encode(&value, NAME).to_string());
        }
        Url::parse(&text)
            .map(Some)
            .map_err(|error| ItemError::data(format!("cannot call an API: {error}")))
    }
}

fn mark(number: usize) -> String {
    format!("--field-{number}-of-item--")
}

/// What a processor is made of.
pub(super) struct Asks {
    pub(super) method: Method,
    pub(super) marked: Marked,
    /// The places in the answer, by the fields that get their values.
    pub(super) set: BTreeMap<String, String>,
    pub(super) unknown: Unknown,
}

pub(super) struct Enrich {
    pub(super) asks: Arc<Asks>,
    pub(super) exchange: Exchange,
    /// What identifies the step.
    pub(super) identity: String,
}

impl Enrich {
    /// Returns the answer about `item`; `None` when the server does not know it.
    fn ask(&self, item: &Record) -> Result<Option<Vec<u8>>, ItemError> {
        let Asks { method, marked, .. } = &*self.asks;
        let Some(url) = marked.url(&self.exchange.url, item)? else { return Ok(None) };
        let body = match is_read(method) {
            true => None,
            false => Some(serde_json::to_vec(item).map_err(|error| {
                ItemError::wrap(ErrorKind::DATA, "cannot write as JSON", error)
            })?),
        };
        let complete = |request: reqwest::RequestBuilder| match &body {
            None => request,
            Some(body) => {
                let key = sent::key(&[self.identity.as_bytes(), url.as_str().as_bytes(), body]);
                let request = request.header(IDEMPOTENCY_KEY, format!("\"{key}\""));
                request.header(CONTENT_TYPE, "application/json").body(body.clone())
            }
        };
        let answer = self.exchange.find(method, &url, &complete)?;
        Ok(answer.map(|answer| answer.body))
    }

    fn enriched(&self, item: &Record, answer: Option<&[u8]>) -> Result<Record, ItemError> {
        let set = &self.asks.set;
        let value = |place: &String| -> Result<Value, ItemError> {
            let Some(answer) = answer else { return Ok(Value::Null) };
            let found = find(answer, place).map_err(|error| {
                ItemError::new(
                    ErrorKind::new("http.answer"),
                    format!("the answer is no JSON: {error}"),
                )
            })?;
            let found = found.ok_or_else(|| {
                ItemError::new(
                    ErrorKind::new("data.missing"),
                    format!("the answer has no `{place}`"),
                )
            })?;
            Ok(Value::from_raw(found)?)
        };
        let is_new = |name: &&String| !item.names().iter().any(|known| **known == ***name);
        let added: Vec<&String> = set.keys().filter(is_new).collect();
        let names: Names = match added.is_empty() {
            true => Arc::clone(item.names()),
            false => item
                .names()
                .iter()
                .cloned()
                .chain(added.iter().map(|name| name.as_str().into()))
                .collect(),
        };
        let values = names.iter().enumerate().map(|(index, name)| match set.get(&**name) {
            Some(place) => value(place),
            None => Ok(item.values()[index].clone()),
        });
        Ok(item.with(Arc::clone(&names), values.collect::<Result<_, ItemError>>()?))
    }
}

impl ItemProcessor<Record> for Enrich {
    type Output = Record;

    fn process(&self, item: &Record) -> Result<Option<Record>, ItemError> {
        let answer = self.ask(item)?;
        match (&answer, self.asks.unknown) {
            (None, Unknown::Drop) => Ok(None),
            (None, Unknown::Fail) => Err(ItemError::new(
                ErrorKind::new("data.missing"),
                "the server does not know the item, or its field in the URL is empty",
            )),
            _ => self.enriched(item, answer.as_deref()).map(Some),
        }
    }
}
