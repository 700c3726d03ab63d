//! Writes to lists, streams, sets and hashes, a chunk by one command.

use batchwright::ItemError;
use redis::{Cmd, cmd};

use super::Link;
use crate::sent::{Outgoing, Sender};
use crate::value::Value;

/// Adds entries to the stream KEYS[1]. Each is the number of its arguments, and they.
const ADD_ENTRIES: &str = "
local at = 1
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end
return 0";

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

impl RedisSender {
    fn command(&self, messages: &[Outgoing<'_>]) -> Result<Cmd, ItemError> {
        let mut command = match &self.target {
            Target::List => cmd("RPUSH"),
            Target::Set => cmd("SADD"),
            Target::Hash(_) => cmd("HSET"),
            Target::Stream => cmd("EVAL"),
        };
        if matches!(self.target, Target::Stream) {
            command.arg(ADD_ENTRIES).arg(1);
        }
        command.arg(&self.key);
        for Outgoing { body, record, .. } in messages {
            match &self.target {
                Target::List | Target::Set => command.arg(body),
                Target::Hash(field) => {
                    let name = record.required("as a name in the hash", field)?.to_string();
                    command.arg(name).arg(body)
                }
                Target::Stream => {
                    let fields = record.names().iter().zip(record.values());
                    let fields = fields.filter(|(_, value)| !matches!(value, Value::Null));
                    let fields: Vec<String> = fields
                        .flat_map(|(name, value)| [name.to_string(), value.to_string()])
                        .collect();
                    if fields.is_empty() {
                        return Err(ItemError::data("an entry has at least one field"));
                    }
                    command.arg(fields.len()).arg(fields)
                }
            };
        }
        Ok(command)
    }
}

impl Sender for RedisSender {
    fn send(&mut self, messages: Vec<Outgoing<'_>>) -> Result<(), ItemError> {
        let command = self.command(&messages)?;
        self.link.call(&format!("write to `{}`", self.key), &command)
    }
}
