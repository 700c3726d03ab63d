//! The messages that were acknowledged last.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a message that is delivered again is recognized by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Key {
    /// Its number in the queue, which increases by one, and the time at which it was stored, in nanoseconds since 1970: a queue
    /// that lost its last messages gives their numbers to others.
    Number(u64, i64),
    Text(Arc<str>),
}

/// Number of keys that are remembered.
const KEYS_MAX: usize = 100_000;
/// Number of ranges that a position has. A reader alone has few; readers that share a queue, or read a part of it, have many.
const RANGES_MAX: usize = 256;

/// The keys of messages that were acknowledged last. A queue can deliver one again that it was delivering at that moment, and
/// servers have had faults by which they deliver one again later.
#[derive(Debug, Default)]
pub(super) struct Recent {
    keys: HashSet<Key>,
    /// In the order in which they were acknowledged.
    order: VecDeque<Key>,
    pub(super) numbers: Numbers,
}

/// The numbers of acknowledged messages, and the time of the latest of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Numbers {
    ranges: Ranges,
    latest: i64,
}

impl Numbers {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.0.is_empty()
    }
}

impl Recent {
    pub(super) fn of(numbers: Numbers) -> Self {
        Self { numbers, ..Self::default() }
    }

    pub(super) fn contains(&mut self, key: &Key) -> bool {
        if self.keys.contains(key) {
            return true;
        }
        let Key::Number(number, time) = key else { return false };
        let is_known = self.numbers.ranges.contains(*number);
        if is_known && *time > self.numbers.latest {
            tracing::warn!(
                "the queue gives numbers of messages to others: it has lost messages, or was created anew"
            );
            *self = Self::default();
            return false;
        }
        is_known
    }

    pub(super) fn add(&mut self, key: Key) {
        if let Key::Number(number, time) = key {
            self.numbers.ranges.add(number);
            self.numbers.latest = self.numbers.latest.max(time);
        }
        if self.order.len() == KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        self.keys.insert(key.clone());
        self.order.push_back(key);
    }
}

/// A set of numbers, as ranges from a first to a last one, in their order. No two of them touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn contains(&self, number: u64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= number);
        after > 0 && self.0[after - 1].1 >= number
    }

    /// Adds `number`. The lowest range is left out when there are too many.
    fn add(&mut self, number: u64) {
        if self.contains(number) {
            return;
        }
        let after = self.0.partition_point(|(first, _)| *first <= number);
        let follows = after > 0 && self.0[after - 1].1.checked_add(1) == Some(number);
        let precedes =
            self.0.get(after).is_some_and(|(first, _)| number.checked_add(1) == Some(*first));
        match (follows, precedes) {
            (true, true) => {
                let (_, last) = self.0.remove(after);
                self.0[after - 1].1 = last;
            }
            (true, false) => self.0[after - 1].1 = number,
            (false, true) => self.0[after].0 = number,
            (false, false) => self.0.insert(after, (number, number)),
        }
        if self.0.len() > RANGES_MAX {
            self.0.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_contain_what_was_added(numbers in proptest::collection::vec(0_u64..60, 0..80)) {
            let mut ranges = Ranges::default();
            numbers.iter().for_each(|number| ranges.add(*number));
            let expected: BTreeSet<u64> = numbers.into_iter().collect();
            for number in 0..61 {
                prop_assert_eq!(ranges.contains(number), expected.contains(&number));
            }
            prop_assert!(ranges.0.windows(2).all(|two| two[0].1 + 1 < two[1].0), "{:?}", ranges);
        }
    }

    #[test]
    fn a_message_with_a_known_number_and_a_later_time_is_another_one() {
        let mut recent = Recent::default();
        (1..=10).for_each(|number| recent.add(Key::Number(number, 100)));
        let stored = serde_json::to_string(&recent.numbers).unwrap();
        let mut recent = Recent::of(serde_json::from_str(&stored).unwrap());
        assert!(recent.contains(&Key::Number(10, 100)) && !recent.contains(&Key::Number(11, 100)));
        assert!(!recent.contains(&Key::Number(9, 101)));
        recent.add(Key::Number(9, 101));
        assert!(!recent.contains(&Key::Number(10, 99)), "the others were of the former queue");
    }

    #[test]
    fn keys_are_remembered_although_their_numbers_have_gaps() {
        let mut recent = Recent::default();
        let keys = || (0..500).rev().map(|number| Key::Number(number * 2, 1));
        keys().for_each(|key| recent.add(key));
        assert!(keys().all(|key| recent.contains(&key)));
    }

    #[test]
    fn the_highest_ranges_are_remembered() {
        let mut ranges = Ranges::default();
        let count = RANGES_MAX as u64 + 5;
        (0..count).for_each(|number| ranges.add(number * 2));
        assert_eq!(ranges.0.len(), RANGES_MAX);
        assert!(!ranges.contains(8) && ranges.contains(10) && ranges.contains(2 * count - 2));
        ranges.add(u64::MAX);
        assert!(ranges.contains(u64::MAX));
    }
}
