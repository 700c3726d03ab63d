//! Writes to lists, streams, sets and hashes, a chunk in one transaction.

use batchwright::ItemError;
use redis::pipe;

use super::{Link, failed};
use crate::queue::writer::{Outgoing, Sender};
use crate::value::Value;

/// What records are written to.
#[derive(Debug, Clone)]
pub(super) enum Target {
    List,
    Stream,
    Set,
    /// A hash; the field of a record that has its name there.
    Hash(String),
}

pub(super) struct RedisSender {
    pub(super) link: Link,
    pub(super) key: String,
    pub(super) target: Target,
}

impl Sender for RedisSender {
    fn send(&mut self, messages: Vec<Outgoing<'_>>) -> Result<(), ItemError> {
        let mut transaction = pipe();
        transaction.atomic();
        for Outgoing { body, record, .. } in &messages {
            let command = match &self.target {
                Target::List => transaction.cmd("RPUSH").arg(&self.key).arg(body),
                Target::Set => transaction.cmd("SADD").arg(&self.key).arg(body),
                Target::Hash(field) => {
                    let name = record.required("as a name in the hash", field)?.to_string();
                    transaction.cmd("HSET").arg(&self.key).arg(name).arg(body)
                }
                Target::Stream => {
                    let command = transaction.cmd("XADD").arg(&self.key).arg("*");
                    for (name, value) in record.names().iter().zip(record.values()) {
                        if !matches!(value, Value::Null) {
                            command.arg(&**name).arg(value.to_string());
                        }
                    }
                    command
                }
            };
            command.ignore();
        }
        let action = format!("write to `{}`", self.key);
        let written: redis::RedisResult<()> = transaction.query(&mut *self.link.lock());
        written.map_err(|error| failed(&action, &self.link.shown, error))
    }

    fn close(&mut self) {}
}
