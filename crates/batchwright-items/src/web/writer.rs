//! Sends items to an API.

use std::collections::BTreeMap;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::exchange::Exchange;
use crate::record::Record;
use crate::sent::{self, Outgoing, Sender};

/// The header by which a server recognizes a request that is repeated (draft-ietf-httpapi-idempotency-key-header).
pub(super) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// The requests of a step.
pub(super) struct ApiSender {
    pub(super) method: Method,
    /// Whether a chunk is one request with a list, and else each item a request.
    pub(super) as_list: bool,
    /// The name of the list in an object.
    pub(super) list_name: Option<String>,
    pub(super) exchange: Exchange,
}

impl ApiSender {
    fn send_body(&self, key: &str, body: &[u8]) -> Result<(), ItemError> {
        let complete = |request: reqwest::RequestBuilder| {
            let request = request.header(CONTENT_TYPE, "application/json");
            request.header(IDEMPOTENCY_KEY, format!("\"{key}\"")).body(body.to_vec())
        };
        self.exchange.send(&self.method, &self.exchange.url, true, &complete).map(drop)
    }

    fn send_list(&self, messages: &[Outgoing<'_>]) -> Result<(), ItemError> {
        let items: Vec<&Record> = messages.iter().map(|message| message.record).collect();
        let body = match &self.list_name {
            None => serde_json::to_vec(&items),
            Some(name) => serde_json::to_vec(&BTreeMap::from([(name, items)])),
        };
        let body =
            body.map_err(|error| ItemError::wrap(ErrorKind::DATA, "cannot write as JSON", error))?;
        let keys: Vec<&[u8]> = messages.iter().map(|message| message.key.as_bytes()).collect();
        self.send_body(&sent::key(&keys), &body)
    }
}

impl Sender for ApiSender {
    fn send(&mut self, messages: Vec<Outgoing<'_>>) -> Result<(), ItemError> {
        if self.as_list {
            return self.send_list(&messages);
        }
        messages.iter().try_for_each(|message| self.send_body(&message.key, &message.body))
    }

    fn chunk_items() -> usize {
        100
    }
}
