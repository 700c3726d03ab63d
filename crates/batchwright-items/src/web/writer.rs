//! The writer of items to an API.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{ChunkTransaction, ItemWriter, PreparedCommit};
use batchwright::scope::StepScope;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::exchange::{Exchange, Requests};
use crate::record::Record;
use crate::sent::{self, Numbers, Sent};

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

pub(super) struct ApiWriter {
    sends: Arc<Sends>,
    exchange: Option<Exchange>,
    /// What identifies the output of this step.
    identity: String,
    numbers: Numbers,
}

impl ApiWriter {
    pub(super) fn new(sends: Arc<Sends>) -> Self {
        Self { sends, exchange: None, identity: String::new(), numbers: Numbers::default() }
    }

    /// Sends `body`; its key is the same whenever the same items are sent again.
    fn send(&self, body: Vec<u8>, number: u64) -> Result<(), ItemError> {
        let exchange = self.exchange.as_ref().ok_or_else(|| {
            ItemError::fatal("cannot write to an API before the writer is opened")
        })?;
        let key = sent::numbered_key(&self.identity, number, &body);
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
        self.numbers = Numbers::after(position);
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
            self.send(body.map_err(failed)?, self.numbers.next())?;
        } else {
            for (item, number) in items.iter().zip(self.numbers.next()..) {
                self.send(serde_json::to_vec(item).map_err(failed)?, number)?;
            }
        }
        self.numbers.add(items.len());
        Ok(())
    }

    fn position(&mut self) -> Result<Sent, ItemError> {
        Ok(self.numbers.position())
    }

    fn committed(&mut self) -> Result<(), ItemError> {
        self.numbers.commit();
        Ok(())
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.numbers.roll_back();
        Ok(())
    }

    fn chunk_items(&self) -> usize {
        100
    }
}
