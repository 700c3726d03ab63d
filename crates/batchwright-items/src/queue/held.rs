//! The messages of a reader that are not acknowledged, or were acknowledged a moment ago.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::recent::{Key, Numbers, Recent};

/// The position in a queue.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct QueuePosition {
    /// Number of messages that were read.
    pub(super) read: u64,
    /// The keys of those that may be delivered again, because they are not acknowledged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) unacknowledged: Vec<Key>,
    /// The numbers of the last ones that are acknowledged.
    #[serde(default, skip_serializing_if = "Numbers::is_empty")]
    pub(super) acknowledged: Numbers,
    /// What the queue is known by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<Arc<str>>,
}

/// What a reader holds. Its thread adds messages, and the thread that commits removes them.
pub(super) struct Held<T> {
    /// In the order in which they were read.
    messages: VecDeque<HeldMessage<T>>,
    /// Their keys, and those of the messages that are being acknowledged.
    keys: HashSet<Key>,
    /// The keys of messages that an earlier execution committed, and how many of each may be delivered again.
    before: HashMap<Key, usize>,
    /// The keys of committed messages whose acknowledgement is not known.
    acknowledging: Vec<Key>,
    /// The keys of messages that were acknowledged a moment ago.
    recent: Recent,
    /// Number of messages up to the last commit.
    committed: u64,
    /// What the queue is known by.
    identity: Option<Arc<str>>,
    /// Whether an acknowledgement failed, and the connection with it.
    pub(super) is_broken: bool,
}

struct HeldMessage<T> {
    number: u64,
    key: Option<Key>,
    tag: T,
}

impl<T> Held<T> {
    /// Holds nothing, after `position`.
    pub(super) fn after(position: &QueuePosition) -> Self {
        let mut before = HashMap::new();
        for key in &position.unacknowledged {
            *before.entry(key.clone()).or_default() += 1;
        }
        Self {
            messages: VecDeque::new(),
            keys: HashSet::new(),
            before,
            acknowledging: Vec::new(),
            recent: Recent::of(position.acknowledged.clone()),
            committed: position.read,
            identity: position.identity.clone(),
            is_broken: false,
        }
    }

    /// Returns the tags of all messages that are held.
    pub(super) fn tags(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.messages.iter().map(|message| message.tag.clone()).collect()
    }

    /// Whether all messages that are held were read after the first `read`.
    pub(super) fn is_all_after(&self, read: u64) -> bool {
        self.acknowledging.is_empty()
            && self.messages.front().is_none_or(|message| message.number > read)
    }

    /// Number of messages that are delivered and not acknowledged.
    pub(super) fn count(&self) -> usize {
        self.messages.len() + self.acknowledging.len()
    }

    /// Whether messages that an earlier execution committed may come.
    pub(super) fn expects_committed(&self) -> bool {
        !self.before.is_empty()
    }

    /// No message of an earlier execution can come again.
    pub(super) fn expect_nothing(&mut self) {
        self.before.clear();
    }

    /// Adds a message that was read.
    pub(super) fn add(&mut self, number: u64, key: Option<Key>, tag: T) {
        self.keys.extend(key.clone());
        self.messages.push_back(HeldMessage { number, key, tag });
    }

    /// Whether a message with `key` was committed by an earlier execution.
    pub(super) fn was_committed_before(&self, key: &Key) -> bool {
        self.before.contains_key(key)
    }

    /// A message with `key`, which was committed before, is acknowledged.
    pub(super) fn acknowledged_before(&mut self, key: &Key) {
        let Some(count) = self.before.get_mut(key) else { return };
        *count -= 1;
        if *count == 0 {
            self.before.remove(key);
            self.recent.add(key.clone());
        }
    }

    /// Whether a message with `key` was acknowledged lately, or is just now.
    pub(super) fn was_acknowledged(&mut self, key: &Key) -> bool {
        self.recent.contains(key) || self.keys.contains(key) && self.acknowledging.contains(key)
    }

    /// Replaces the tag of the message with `key` if it is held; returns the tag otherwise.
    pub(super) fn replace(&mut self, key: &Key, tag: T) -> Option<T> {
        if !self.keys.contains(key) {
            return Some(tag);
        }
        let held = self.messages.iter_mut().find(|held| held.key.as_ref() == Some(key));
        match held {
            Some(held) => {
                held.tag = tag;
                None
            }
            None => Some(tag),
        }
    }

    /// Returns the position after `read` messages.
    pub(super) fn position(&self, read: u64) -> QueuePosition {
        let before = self.before.iter().flat_map(|(key, count)| std::iter::repeat_n(key, *count));
        let held = self.messages.iter().take_while(|message| message.number <= read);
        let held = held.filter_map(|message| message.key.as_ref());
        let unacknowledged = before.chain(&self.acknowledging).chain(held).cloned().collect();
        let (acknowledged, identity) = (self.recent.numbers.clone(), self.identity.clone());
        QueuePosition { read, unacknowledged, acknowledged, identity }
    }

    /// Begins to acknowledge the messages up to number `read`, which are committed; returns their tags.
    pub(super) fn begin_acknowledging(&mut self, read: u64) -> Vec<T> {
        self.committed = read;
        let count = self.messages.partition_point(|message| message.number <= read);
        let mut tags = Vec::with_capacity(count);
        for message in self.messages.drain(..count) {
            self.acknowledging.extend(message.key);
            tags.push(message.tag);
        }
        tags
    }

    /// What [`begin_acknowledging`](Self::begin_acknowledging) began is done.
    pub(super) fn acknowledged(&mut self) {
        for key in self.acknowledging.drain(..) {
            self.keys.remove(&key);
            self.recent.add(key);
        }
    }

    /// Returns the tags of what is not committed, as far as the reader knows.
    pub(super) fn take_uncommitted(&mut self) -> Vec<T> {
        let committed = self.committed;
        let uncommitted = self.messages.drain(..).filter(|message| message.number > committed);
        uncommitted.map(|message| message.tag).collect()
    }
}
