//! A stream that is read as a consumer of a group. The consumer is the instance's, so that a restart gets what it held.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use batchwright::ItemError;
use redis::{Value, cmd, from_redis_value};

use super::Link;
use crate::queue::recent::Key;
use crate::queue::{Broker, Content, Message};

/// Removes the consumer ARGV[2] of the group ARGV[1] unless it holds entries.
const REMOVE_CONSUMER: &str = "
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
return 0";

/// What identifies the entries of a reader.
pub(super) struct Names {
    pub(super) stream: String,
    pub(super) group: String,
    pub(super) consumer: String,
}

pub(super) struct RedisStream {
    link: Link,
    names: Names,
    claim_after: Duration,
    deletes: bool,
    next: Mutex<Next>,
}

/// Which entries are fetched next.
enum Next {
    /// Those that this consumer held, after an entry.
    Own(String),
    /// Those that other consumers held for too long, from an entry on.
    Claimed(String),
    /// Those that no consumer has read.
    New,
}

impl RedisStream {
    pub(super) fn open(
        link: Link,
        names: Names,
        claim_after: Duration,
        deletes: bool,
    ) -> Result<Self, ItemError> {
        let Names { stream, group, .. } = &names;
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(stream).arg(group).arg(0);
        link.answer(&format!("read the stream `{stream}`"), |connection| {
            match create.query::<Value>(connection) {
                Err(error) if error.code() != Some("BUSYGROUP") => Err(error),
                _ => Ok(()),
            }
        })?;
        let next = Mutex::new(Next::Own("0".to_owned()));
        Ok(Self { link, names, claim_after, deletes, next })
    }

    fn next(&self) -> MutexGuard<'_, Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn action(&self) -> String {
        format!("read the stream `{}`", self.names.stream)
    }

    /// Reads entries of the group: those after `from` that this consumer holds, or new ones for `>`.
    fn read(&self, from: &str, max: usize) -> Result<Vec<Entry>, ItemError> {
        let Names { stream, group, consumer } = &self.names;
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(group).arg(consumer).arg("COUNT").arg(max);
        read.arg("STREAMS").arg(stream).arg(from);
        let answer: Option<Vec<(String, Value)>> = self.link.call(&self.action(), &read)?;
        match answer.into_iter().flatten().next() {
            Some((_, entries)) => self.entries(entries),
            None => Ok(Vec::new()),
        }
    }

    /// Takes entries over that others have held for too long, from `from` on; returns them, and where the next call begins.
    fn claim(&self, from: &str, max: usize) -> Result<(String, Vec<Entry>), ItemError> {
        let Names { stream, group, consumer } = &self.names;
        let idle = u64::try_from(self.claim_after.as_millis()).unwrap_or(u64::MAX);
        let mut claim = cmd("XAUTOCLAIM");
        claim.arg(stream).arg(group).arg(consumer).arg(idle).arg(from).arg("COUNT").arg(max);
        let answer: Vec<Value> = self.link.call(&self.action(), &claim)?;
        let mut answer = answer.into_iter();
        let next = answer.next().unwrap_or(Value::Nil);
        let next = from_redis_value(next).map_err(|error| self.unexpected(error))?;
        Ok((next, self.entries(answer.next().unwrap_or(Value::Nil))?))
    }

    fn entries(&self, value: Value) -> Result<Vec<Entry>, ItemError> {
        let entries: Vec<Value> =
            from_redis_value(value).map_err(|error| self.unexpected(error))?;
        // Claimed entries that were deleted are null in older versions of the server.
        let entries = entries.into_iter().filter(|entry| *entry != Value::Nil);
        let parsed = entries.map(from_redis_value::<Entry>).collect::<Result<_, _>>();
        parsed.map_err(|error| self.unexpected(error))
    }

    fn unexpected(&self, error: redis::ParsingError) -> ItemError {
        super::failed(&self.action(), &self.link.shown, error)
    }

    /// Removes entries that are no longer in the stream from what the consumer holds.
    fn forget(&self, deleted: &[String]) -> Result<(), ItemError> {
        if deleted.is_empty() {
            return Ok(());
        }
        let Names { stream, group, .. } = &self.names;
        tracing::warn!(
            stream,
            count = deleted.len(),
            "entries were deleted before they were acknowledged"
        );
        self.link.call(&self.action(), cmd("XACK").arg(stream).arg(group).arg(deleted))
    }

    fn messages(
        &self,
        entries: Vec<Entry>,
        redelivered: bool,
    ) -> Result<Vec<Message<String>>, ItemError> {
        let (mut messages, mut deleted) = (Vec::new(), Vec::new());
        for (id, fields) in entries {
            match fields {
                None => deleted.push(id),
                Some(fields) => {
                    let (tag, content) = (id.clone(), Content::Fields(fields));
                    let id: Option<Arc<str>> = Some(id.into());
                    messages.push(Message {
                        key: id.clone().map(Key::Text),
                        id,
                        redelivered,
                        tag,
                        content,
                    });
                }
            }
        }
        self.forget(&deleted)?;
        Ok(messages)
    }
}

/// The id of an entry, and its fields in their order; none when it was deleted.
type Entry = (String, Option<Vec<(Vec<u8>, Vec<u8>)>>);

impl Broker for RedisStream {
    type Tag = String;

    const KEYS_ARE_UNIQUE: bool = true;

    fn settle(&self, _: u64, committed: &[Key]) -> Result<bool, ItemError> {
        let ids = committed.iter().filter_map(|key| match key {
            Key::Text(id) => Some(id.to_string()),
            Key::Number(..) => None,
        });
        let ids: Vec<String> = ids.collect();
        if !ids.is_empty() {
            self.acknowledge(ids)?;
        }
        Ok(true)
    }

    fn fetch(&self, max: usize) -> Result<Vec<Message<String>>, ItemError> {
        let mut next = self.next();
        loop {
            let entries = match &*next {
                Next::Own(after) => {
                    let entries = self.read(after, max)?;
                    *next = match entries.last() {
                        Some((last, _)) => Next::Own(last.clone()),
                        None => Next::Claimed("0-0".to_owned()),
                    };
                    entries
                }
                Next::Claimed(from) => {
                    let (after, entries) = self.claim(from, max)?;
                    *next = if after == "0-0" { Next::New } else { Next::Claimed(after) };
                    entries
                }
                Next::New => return self.messages(self.read(">", max)?, false),
            };
            let messages = self.messages(entries, true)?;
            if !messages.is_empty() {
                return Ok(messages);
            }
        }
    }

    fn acknowledge(&self, tags: Vec<String>) -> Result<(), ItemError> {
        let Names { stream, group, .. } = &self.names;
        let action = format!("acknowledge entries of the stream `{stream}`");
        let mut transaction = redis::pipe();
        transaction.atomic().cmd("XACK").arg(stream).arg(group).arg(&tags).ignore();
        if self.deletes {
            transaction.cmd("XDEL").arg(stream).arg(&tags).ignore();
        }
        self.link.answer(&action, |connection| transaction.query(connection))
    }

    fn give_back(&self, _: Vec<String>, _: Vec<String>) -> Result<(), ItemError> {
        // The consumer holds them: a restart, or after a time another reader, gets them.
        Ok(())
    }

    fn close(&self) -> Result<(), ItemError> {
        let Names { stream, group, consumer } = &self.names;
        // In one step: another execution of the instance may have begun to read.
        let mut remove = cmd("EVAL");
        remove.arg(REMOVE_CONSUMER).arg(1).arg(stream).arg(group).arg(consumer);
        self.link.call(&self.action(), &remove)
    }
}
