//! A list that is read.
//!
//! What is read moves to a list of the instance, in one step; that list begins after the elements that are acknowledged, whose
//! number a counter has. So each element has a number, which is that of the reader, and what is committed is known by the number
//! in the position. One execution at a time owns the list of the instance.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::scope::StepScope;
use redis::{Cmd, cmd};

use super::Link;
use crate::queue::recent::Key;
use crate::queue::{Broker, Content, Message};
use crate::sent;

/// Keys of all scripts: the list, the list of the instance, its counter, and its owner, who is ARGV[1].
const OWNED: &str = "
local list, held, counter, owner = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('GET', owner) ~= ARGV[1] then return redis.error_reply('OTHER the elements are read by another execution') end
";

/// Takes the list of the instance over; returns its counter, which is ARGV[2] if it is empty, and its elements.
const OPEN: &str = "
local held, counter, owner = KEYS[2], KEYS[3], KEYS[4]
redis.call('SET', owner, ARGV[1])
if redis.call('LLEN', held) == 0 then redis.call('SET', counter, ARGV[2]) end
return {tonumber(redis.call('GET', counter) or '-1'), redis.call('LRANGE', held, 0, -1)}";

/// Moves up to ARGV[2] elements to the list of the instance; returns the number before the first of them, and the elements.
const FETCH: &str = "
local before = tonumber(redis.call('GET', counter)) + redis.call('LLEN', held)
local moved = {}
for i = 1, tonumber(ARGV[2]) do
  local element = redis.call('LMOVE', list, held, 'LEFT', 'RIGHT')
  if not element then break end
  moved[i] = element
end
return {before, moved}";

/// Removes the elements up to the number ARGV[2].
const ACKNOWLEDGE: &str = "
local count = tonumber(ARGV[2]) - tonumber(redis.call('GET', counter))
if count > 0 then
  redis.call('LTRIM', held, count, -1)
  redis.call('SET', counter, ARGV[2])
end
return 0";

/// Moves the last ARGV[2] elements to the head of the list.
const GIVE_BACK: &str = "
for i = 1, tonumber(ARGV[2]) do
  if not redis.call('LMOVE', held, list, 'RIGHT', 'LEFT') then break end
end
return 0";

/// Removes counter and owner if nothing is held.
const CLOSE: &str = "
if redis.call('LLEN', held) == 0 then redis.call('DEL', counter, owner) end
return 0";

pub(super) struct RedisList {
    link: Link,
    list: String,
    /// The list of what is read and not acknowledged.
    held: String,
    /// What this execution is known by.
    owner: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What an earlier execution held and did not commit.
    recovered: VecDeque<Message<u64>>,
    /// Number of the last element that was fetched.
    last: u64,
}

impl RedisList {
    /// Reads `list` for the step of `scope`.
    pub(super) fn of(link: Link, list: String, scope: &StepScope) -> Self {
        let held = format!("{list}:batchwright:{}", sent::key(&[sent::identity(scope).as_bytes()]));
        let owner = scope.job().execution_id().to_string();
        Self { link, list, held, owner, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the command of a script with its argument.
    fn script(&self, text: &str, argument: u64) -> Cmd {
        let mut script = cmd("EVAL");
        script.arg(text).arg(4).arg(&self.list).arg(&self.held);
        script.arg(format!("{}:acknowledged", self.held)).arg(format!("{}:owner", self.held));
        script.arg(&self.owner).arg(argument);
        script
    }

    fn owned(&self, text: &str, argument: u64) -> Cmd {
        self.script(&format!("{OWNED}{text}"), argument)
    }

    fn action(&self) -> String {
        format!("read the list `{}`", self.list)
    }

    fn changed(&self) -> ItemError {
        let what =
            format!("the elements of the list `{}` are not those that were read before", self.held);
        ItemError::new(ErrorKind::INPUT_CHANGED, what)
    }
}

fn message(element: Vec<u8>, number: u64) -> Message<u64> {
    let id = Some(number.to_string().into());
    Message { key: None, id, redelivered: false, tag: number, content: Content::Body(element) }
}

impl Broker for RedisList {
    type Tag = u64;

    const KEYS_ARE_UNIQUE: bool = true;

    fn settle(&self, read: u64, _: &[Key]) -> Result<bool, ItemError> {
        let (acknowledged, elements): (i64, Vec<Vec<u8>>) =
            self.link.call(&self.action(), &self.script(OPEN, read))?;
        let acknowledged = u64::try_from(acknowledged).map_err(|_| self.changed())?;
        let last = acknowledged + elements.len() as u64;
        if acknowledged > read || last < read {
            return Err(self.changed());
        }
        self.acknowledge(vec![read])?;
        let numbered = elements.into_iter().zip(acknowledged + 1..);
        let rest = numbered.filter(|(_, number)| *number > read);
        let recovered = rest.map(|(element, number)| message(element, number)).collect();
        *self.state() = State { recovered, last };
        Ok(true)
    }

    fn fetch(&self, max: usize) -> Result<Vec<Message<u64>>, ItemError> {
        let mut state = self.state();
        if !state.recovered.is_empty() {
            let count = max.min(state.recovered.len());
            return Ok(state.recovered.drain(..count).collect());
        }
        let fetch = self.owned(FETCH, max as u64);
        let (before, moved): (u64, Vec<Vec<u8>>) = self.link.call(&self.action(), &fetch)?;
        if before != state.last {
            return Err(self.changed());
        }
        state.last += moved.len() as u64;
        let numbered = moved.into_iter().zip(before + 1..);
        Ok(numbered.map(|(element, number)| message(element, number)).collect())
    }

    fn acknowledge(&self, tags: Vec<u64>) -> Result<(), ItemError> {
        let Some(last) = tags.last() else { return Ok(()) };
        let action = format!("acknowledge elements of the list `{}`", self.list);
        self.link.call(&action, &self.owned(ACKNOWLEDGE, *last))
    }

    fn give_back(&self, _: Vec<u64>, unread: Vec<u64>) -> Result<(), ItemError> {
        // What was read has a number by which the restart knows whether it is committed, and keeps it.
        let count = unread.len() + self.state().recovered.len();
        let action = format!("give elements of the list `{}` back", self.list);
        self.link.call(&action, &self.owned(GIVE_BACK, count as u64))
    }

    fn close(&self) -> Result<(), ItemError> {
        self.link.call(&self.action(), &self.owned(CLOSE, 0))
    }
}
