//! The messages that were acknowledged last.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a message that is delivered again is recognized by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Key {
    /// Its number in the queue, which increases by one.
    Number(u64),
    Text(Arc<str>),
}

/// Number of texts that are remembered.
const TEXTS_MAX: usize = 100_000;
/// Number of ranges that are remembered. A reader alone has few; readers that share a queue have many.
const RANGES_MAX: usize = 256;

/// The keys of messages that were acknowledged last. A queue can deliver one again that it was delivering at that moment, and
/// servers have had faults by which they deliver one again later.
#[derive(Debug, Default)]
pub(super) struct Recent {
    texts: HashSet<Arc<str>>,
    /// In the order in which they were acknowledged.
    order: VecDeque<Arc<str>>,
    pub(super) numbers: Ranges,
}

impl Recent {
    pub(super) fn of(numbers: Ranges) -> Self {
        Self { numbers, ..Self::default() }
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        match key {
            Key::Number(number) => self.numbers.contains(*number),
            Key::Text(text) => self.texts.contains(text),
        }
    }

    pub(super) fn add(&mut self, key: Key) {
        let text = match key {
            Key::Number(number) => return self.numbers.add(number),
            Key::Text(text) => text,
        };
        if self.order.len() == TEXTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.texts.remove(&oldest);
        }
        self.texts.insert(Arc::clone(&text));
        self.order.push_back(text);
    }
}

/// A set of numbers, as ranges from a first to a last one, in their order. No two of them touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

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
