//! A list that is read.
//!
//! What is read moves to a list of the instance, in one step; that list begins after the elements that are acknowledged, whose
//! number a counter has. So each element has a number, and a restart recognizes those that were committed.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use redis::cmd;

use super::Link;
use crate::queue::{Broker, Content, Message};
use crate::sent;

/// Moves up to ARGV[1] elements of the list KEYS[1] to KEYS[2], whose counter is KEYS[3]; ARGV[2] elements are acknowledged when
/// KEYS[2] is empty. Returns the number before the first of them, and the elements.
const FETCH: &str = "
local held = redis.call('LLEN', KEYS[2])
local moved = {}
for i = 1, tonumber(ARGV[1]) do
  local element = redis.call('LPOP', KEYS[1])
  if not element then break end
  redis.call('RPUSH', KEYS[2], element)
  moved[i] = element
end
if held == 0 and #moved > 0 then redis.call('SET', KEYS[3], ARGV[2]) end
return {tonumber(redis.call('GET', KEYS[3]) or ARGV[2]) + held, moved}";

/// Removes the first ARGV[1] elements of the list KEYS[1], whose counter is KEYS[2].
const ACKNOWLEDGE: &str = "
redis.call('LTRIM', KEYS[1], ARGV[1], -1)
if redis.call('LLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[2]) else redis.call('INCRBY', KEYS[2], ARGV[1]) end
return 0";

/// Moves the last ARGV[1] elements of the list KEYS[1], whose counter is KEYS[2], to the head of KEYS[3].
const GIVE_BACK: &str = "
for i = 1, tonumber(ARGV[1]) do
  local element = redis.call('RPOP', KEYS[1])
  if not element then break end
  redis.call('LPUSH', KEYS[3], element)
end
if redis.call('LLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[2]) end
return 0";

pub(super) struct RedisList {
    link: Link,
    list: String,
    /// The list of what is read and not acknowledged.
    held: String,
    counter: String,
    state: Mutex<State>,
}

struct State {
    /// Number of elements that are acknowledged.
    acknowledged: u64,
    /// What an earlier execution held.
    recovered: VecDeque<Message<u64>>,
}

impl RedisList {
    /// Opens `list` for the output `identity` of a step that has read `read` elements.
    pub(super) fn open(
        link: Link,
        list: String,
        identity: &str,
        read: u64,
    ) -> Result<Self, ItemError> {
        let held = format!("{list}:batchwright:{}", sent::key(&[identity.as_bytes()]));
        let counter = format!("{held}:acknowledged");
        let action = format!("read the list `{list}`");
        let elements: Vec<Vec<u8>> = link.call(&action, cmd("LRANGE").arg(&held).arg(0).arg(-1))?;
        let counted: Option<u64> = link.call(&action, cmd("GET").arg(&counter))?;
        let acknowledged = match (counted, elements.is_empty()) {
            (Some(count), false) => count,
            (_, true) => read,
            (None, false) => {
                return Err(ItemError::new(
                    ErrorKind::INPUT_CHANGED,
                    format!(
                        "the list `{held}` has elements, and its counter `{counter}` is missing"
                    ),
                ));
            }
        };
        let recovered = elements.into_iter().zip(acknowledged + 1..);
        let recovered = recovered.map(|(element, number)| message(element, number, true)).collect();
        let state = Mutex::new(State { acknowledged, recovered });
        Ok(Self { link, list, held, counter, state })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn message(element: Vec<u8>, number: u64, redelivered: bool) -> Message<u64> {
    let id = Some(number.to_string().into());
    Message { id, redelivered, tag: number, content: Content::Body(element) }
}

impl Broker for RedisList {
    type Tag = u64;

    const IDS_ARE_UNIQUE: bool = true;

    fn fetch(&self, max: usize) -> Result<Vec<Message<u64>>, ItemError> {
        let mut state = self.state();
        if !state.recovered.is_empty() {
            let count = max.min(state.recovered.len());
            return Ok(state.recovered.drain(..count).collect());
        }
        let mut fetch = cmd("EVAL");
        fetch.arg(FETCH).arg(3).arg(&self.list).arg(&self.held).arg(&self.counter);
        fetch.arg(max).arg(state.acknowledged);
        let action = format!("read the list `{}`", self.list);
        let (before, moved): (u64, Vec<Vec<u8>>) = self.link.call(&action, &fetch)?;
        let numbered = moved.into_iter().zip(before + 1..);
        Ok(numbered.map(|(element, number)| message(element, number, false)).collect())
    }

    fn acknowledge(&self, tags: Vec<u64>) -> Result<(), ItemError> {
        let mut state = self.state();
        let mut acknowledge = cmd("EVAL");
        acknowledge.arg(ACKNOWLEDGE).arg(2).arg(&self.held).arg(&self.counter).arg(tags.len());
        let action = format!("acknowledge elements of the list `{}`", self.list);
        self.link.call::<()>(&action, &acknowledge)?;
        state.acknowledged += tags.len() as u64;
        Ok(())
    }

    fn give_back(&self, tags: Vec<u64>) -> Result<(), ItemError> {
        // What is not recognized yet may be committed; the restart finds it where it is.
        if !self.state().recovered.is_empty() {
            return Ok(());
        }
        let mut back = cmd("EVAL");
        back.arg(GIVE_BACK)
            .arg(3)
            .arg(&self.held)
            .arg(&self.counter)
            .arg(&self.list)
            .arg(tags.len());
        self.link.call(&format!("give elements of the list `{}` back", self.list), &back)
    }

    fn close(&self) -> Result<(), ItemError> {
        Ok(())
    }
}
