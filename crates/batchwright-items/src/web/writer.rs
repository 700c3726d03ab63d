//! The writer of items to an API.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{ChunkTransaction, ItemWriter, PreparedCommit};
use batchwright::scope::StepScope;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};

use super::exchange::{Exchange, Requests};
use crate::record::Record;
use crate::sent;

/// The header by which a server recognizes a request that is repeated (draft-ietf-httpapi-idempotency-key-header).
pub(super) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// What a writer is made of.
#[derive(Clone)]
pub(super) struct Sends {
    pub(super) requests: Requests,
    pub(super) method: Method,
    /// Whether a chunk is one request with a list, and else each item a request.
    pub(super) as_list: bool,
    /// The name of the list in an object.
    pub(super) list_name: Option<String>,
}

/// Number of items that were sent.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Sent {
    items: u64,
}

pub(super) struct ApiWriter {
    sends: Arc<Sends>,
    exchange: Option<Exchange>,
    /// What identifies the output of this step.
    identity: String,
    committed: u64,
    sent: u64,
}

impl ApiWriter {
    pub(super) fn new(sends: Arc<Sends>) -> Self {
        Self { sends, exchange: None, identity: String::new(), committed: 0, sent: 0 }
    }

    /// Sends `body`; its key is the same whenever the same items are sent again.
    fn send(&self, body: Vec<u8>, number: u64) -> Result<(), ItemError> {
        let exchange = self.exchange.as_ref().ok_or_else(|| {
            ItemError::fatal("cannot write to an API before the writer is opened")
        })?;
        let key = sent::key(&[format!("{}\n{number}\n", self.identity).as_bytes(), &body]);
        let complete = |request: reqwest::RequestBuilder| {
            let request = request.header(CONTENT_TYPE, "application/json");
            request.header(IDEMPOTENCY_KEY, format!("\"{key}\"")).body(body.clone())
        };
        exchange.send(&self.sends.method, &exchange.url, true, &complete).map(drop)
    }
}

impl ItemWriter<Record> for ApiWriter {
    type Position = Sent;

    fn open(
        &mut self,
        position: Option<Sent>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.exchange = Some(self.sends.requests.exchange(scope)?);
        self.identity = sent::identity(scope);
        self.committed = position.unwrap_or_default().items;
        self.sent = self.committed;
        Ok(None)
    }

    fn write(&mut self, items: &[Record], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        if items.is_empty() {
            return Ok(());
        }
        let failed = |error: serde_json::Error| {
            ItemError::wrap(ErrorKind::DATA, "cannot write as JSON", error)
        };
        if self.sends.as_list {
            let body = match &self.sends.list_name {
                None => serde_json::to_vec(items),
                Some(name) => {
                    serde_json::to_vec(&std::collections::BTreeMap::from([(name, items)]))
                }
            };
            self.send(body.map_err(failed)?, self.sent)?;
        } else {
            for (item, number) in items.iter().zip(self.sent..) {
                self.send(serde_json::to_vec(item).map_err(failed)?, number)?;
            }
        }
        self.sent += items.len() as u64;
        Ok(())
    }

    fn position(&mut self) -> Result<Sent, ItemError> {
        Ok(Sent { items: self.sent })
    }

    fn committed(&mut self) -> Result<(), ItemError> {
        self.committed = self.sent;
        Ok(())
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.sent = self.committed;
        Ok(())
    }

    fn chunk_items(&self) -> usize {
        100
    }
}
