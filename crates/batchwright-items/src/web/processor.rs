//! The processor that asks an API about each item.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::ItemProcessor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Position;

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

    /// Returns the parts of `url`, which has the marks.
    ///
    /// # Errors
    ///
    /// When a mark is not in the path or the parameters.
    pub(super) fn parts(&self, url: &Url) -> Result<UrlParts, ItemError> {
        let (mut parts, mut rest) = (Vec::new(), &url[Position::BeforePath..]);
        for (number, field) in self.fields.iter().enumerate() {
            let Some((before, after)) = rest.split_once(&mark(number)) else {
                return Err(ItemError::fatal(format!(
                    "cannot call an API with `{field}`: a field of the item follows the name of the server and a `/`"
                )));
            };
            parts.push((before.to_owned(), field.clone()));
            rest = after;
        }
        let server = url[..Position::BeforePath].to_owned();
        Ok(UrlParts { server, parts, rest: rest.to_owned() })
    }
}

/// A URL with fields of items in it.
pub(super) struct UrlParts {
    server: String,
    /// Texts, each with the field after it.
    parts: Vec<(String, String)>,
    rest: String,
}

impl UrlParts {
    /// Returns the URL with the values of `item`; `None` when one of them is null or empty.
    fn of(&self, item: &Record) -> Result<Option<Url>, ItemError> {
        let mut text = String::new();
        for (before, field) in &self.parts {
            let value = item.required("call an API with", field)?.to_string();
            if value.is_empty() {
                return Ok(None);
            }
            text.push_str(before);
            text.extend(utf8_percent_encode(&value, NAME));
        }
        text.push_str(&self.rest);
        // Such names are left out, `..` together with the one before it.
        let path = text.split(['?', '#']).next().unwrap_or_default();
        let is_left_out = |name: &str| {
            let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
            matches!(&*name, "." | "..")
        };
        if path.split('/').any(is_left_out) {
            return Err(ItemError::data("cannot call an API: a value leads to another folder"));
        }
        let url = Url::parse(&format!("{}{text}", self.server));
        url.map(Some).map_err(|error| ItemError::data(format!("cannot call an API: {error}")))
    }
}

fn mark(number: usize) -> String {
    format!("--field-{number}-of-item--")
}

/// What a processor is made of.
pub(super) struct Asks {
    pub(super) method: Method,
    /// The places in the answer, by the fields that get their values.
    pub(super) set: BTreeMap<String, String>,
    pub(super) unknown: Unknown,
}

pub(super) struct Enrich {
    pub(super) asks: Arc<Asks>,
    pub(super) exchange: Exchange,
    pub(super) url: UrlParts,
    /// What identifies the step.
    pub(super) identity: String,
    /// Number of calls: equal items are different questions.
    pub(super) calls: AtomicU64,
}

impl Enrich {
    /// Returns the answer about `item`; `None` when the server does not know it.
    fn ask(&self, item: &Record) -> Result<Option<Vec<u8>>, ItemError> {
        let method = &self.asks.method;
        let Some(url) = self.url.of(item)? else { return Ok(None) };
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let body = match is_read(method) {
            true => None,
            false => Some(serde_json::to_vec(item).map_err(|error| {
                ItemError::wrap(ErrorKind::DATA, "cannot write as JSON", error)
            })?),
        };
        let complete = |request: reqwest::RequestBuilder| match &body {
            None => request,
            Some(body) => {
                let call = format!("{}\n{number}\n{url}\n", self.identity);
                let key = sent::key(&[call.as_bytes(), body]);
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
