//! The reader of queues with a broker that delivers again in another order, and loses acknowledgements.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use batchwright::error::ErrorKind;
use batchwright::item::{ChunkTransaction, ItemWriter, ListWriter, PreparedCommit};
use batchwright::policy::SkipPolicy;
use batchwright::scope::StepScope;
use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, ChunkStepBuilder, ItemError};
use proptest::prelude::*;

use super::body::{BodyFormat, Decode};
use super::reader::{QueueReader, ReaderSettings};
use super::recent::Key;
use super::{Broker, Content, Message};
use crate::record::Record;

/// The messages of a queue.
#[derive(Default)]
struct Stored {
    waiting: VecDeque<(u64, bool)>,
    /// What was delivered and not acknowledged.
    held: Vec<u64>,
    /// The number of acknowledgements after which one is lost, as if the process had died before it.
    acknowledgements_left: Option<usize>,
    /// How often what is held is delivered again to the same reader.
    repeats_left: usize,
    /// The number of the last message if each connection delivers it as a new one, although it is acknowledged.
    forgotten: Option<u64>,
}

/// A connection; `UNIQUE` as the broker says.
struct Memory<const UNIQUE: bool>(Arc<Mutex<Stored>>);

impl<const UNIQUE: bool> Memory<UNIQUE> {
    /// Connects, so that what was held is delivered again, the last message first.
    fn open(stored: &Arc<Mutex<Stored>>) -> Self {
        let mut queue = stored.lock().unwrap();
        let held = std::mem::take(&mut queue.held);
        for number in held {
            queue.waiting.push_front((number, true));
        }
        if let Some(number) = queue.forgotten
            && !queue.waiting.iter().any(|(waiting, _)| *waiting == number)
        {
            queue.waiting.push_back((number, false));
        }
        drop(queue);
        Self(Arc::clone(stored))
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().unwrap()
    }
}

impl<const UNIQUE: bool> Broker for Memory<UNIQUE> {
    type Tag = u64;

    const KEYS_ARE_UNIQUE: bool = UNIQUE;

    fn fetch(&self, max: usize) -> Result<Vec<Message<u64>>, ItemError> {
        let mut stored = self.stored();
        let mut fetched: Vec<(u64, bool)> = Vec::new();
        if UNIQUE && stored.repeats_left > 0 {
            stored.repeats_left -= 1;
            fetched.extend(stored.held.iter().map(|number| (*number, true)));
        }
        let count = max.min(stored.waiting.len()).min(3);
        let new: Vec<_> = stored.waiting.drain(..count).collect();
        stored.held.extend(new.iter().map(|(number, _)| *number));
        fetched.extend(new);
        let message = |(number, redelivered): (u64, bool)| Message {
            key: Some(match stored.forgotten {
                Some(_) => Key::Number(number, 1),
                None => Key::Text(format!("id-{number}").into()),
            }),
            id: None,
            redelivered,
            tag: number,
            content: Content::Body(format!("{{\"n\":{number}}}").into_bytes()),
        };
        Ok(fetched.into_iter().map(message).collect())
    }

    fn acknowledge(&self, tags: Vec<u64>) -> Result<(), ItemError> {
        let mut stored = self.stored();
        if let Some(left) = &mut stored.acknowledgements_left {
            if *left == 0 {
                stored.acknowledgements_left = None;
                return Err(ItemError::new(ErrorKind::IO, "the connection broke"));
            }
            *left -= 1;
        }
        stored.held.retain(|number| !tags.contains(number));
        Ok(())
    }

    fn give_back(&self, read: Vec<u64>, unread: Vec<u64>) -> Result<(), ItemError> {
        let tags = [read, unread].concat();
        let mut stored = self.stored();
        for number in tags.into_iter().rev() {
            // What was acknowledged is not given back.
            if stored.held.contains(&number) {
                stored.held.retain(|held| *held != number);
                stored.waiting.push_front((number, true));
            }
        }
        Ok(())
    }

    fn close(&self) -> Result<(), ItemError> {
        Ok(())
    }
}

/// A writer that refuses the records with a number.
#[derive(Clone)]
struct Refusing {
    inner: ListWriter<u64>,
    refused: u64,
}

impl ItemWriter<Record> for Refusing {
    type Position = ();

    fn open(&mut self, _: Option<()>, _: &StepScope) -> Result<Option<PreparedCommit>, ItemError> {
        Ok(None)
    }

    fn write(
        &mut self,
        items: &[Record],
        chunk: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        let numbers = items.iter().map(|record| record.get("n").unwrap().to_string().parse());
        let numbers: Vec<u64> = numbers.map(Result::unwrap).collect();
        match numbers.contains(&self.refused) {
            true => Err(ItemError::new(ErrorKind::DATA, "refused")),
            false => self.inner.write(&numbers, chunk),
        }
    }

    fn position(&mut self) -> Result<(), ItemError> {
        Ok(())
    }
}

/// Runs a step over the messages 1 to `count` until it is complete; returns what it wrote, sorted, and what is left.
fn drained<const UNIQUE: bool>(
    (count, chunk, refused): (u64, usize, u64),
    (point, commit): (CommitPoint, u64),
    (lost, repeats, forgets): (Option<usize>, usize, bool),
    (threads, limit): (usize, Option<u64>),
) -> (Vec<u64>, usize) {
    let stored = Stored {
        waiting: (1..=count).map(|number| (number, false)).collect(),
        acknowledgements_left: lost,
        repeats_left: repeats,
        forgotten: forgets.then_some(count),
        ..Stored::default()
    };
    let (stored, written) = (Arc::new(Mutex::new(stored)), Arc::default());
    let queue = Arc::clone(&stored);
    let settings =
        ReaderSettings { wait: Duration::ZERO, limit, decode: Decode::new(BodyFormat::Json, None) };
    let step = ChunkStepBuilder::new("drain")
        .reader_with(move |_| {
            let queue = Arc::clone(&queue);
            let connect = Arc::new(move |_: &StepScope| Ok(Memory::<UNIQUE>::open(&queue)));
            Ok(QueueReader::new(connect, settings.clone()))
        })
        .writer(Refusing { inner: ListWriter::new(Arc::clone(&written)), refused })
        .chunk_size(chunk)
        .parallelism(threads)
        .skip(SkipPolicy::limit(100))
        .build();
    let mut bench = TestBench::of_step(step);
    bench.crash_at(point, commit);
    let mut ended = bench.run();
    for _ in 0..5 {
        if ended.status != BatchStatus::Completed {
            ended = bench.restart();
        }
    }
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    let mut written = written.lock().unwrap().clone();
    written.sort_unstable();
    let stored = stored.lock().unwrap();
    (written, stored.waiting.len() + stored.held.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn each_message_is_written_once_in_whatever_order_it_comes_again(
        count in 2_u64..14,
        chunk in 1_usize..6,
        refused in 0_u64..14,
        before in any::<bool>(),
        commit in 1_u64..12,
        lost in proptest::option::of(0_usize..6),
        repeats in 0_usize..4,
        forgets in any::<bool>(),
        threads in 1_usize..3,
        limit in proptest::option::of(2_u64..14),
    ) {
        let point = if before { CommitPoint::Before } else { CommitPoint::After };
        // A limit can end the step before the forgotten message is known.
        let forgets = forgets && limit.is_none();
        let (plan, crash) = ((count, chunk, refused), (point, commit));
        let read = limit.map_or(count, |limit| limit.min(count));
        for (written, left) in [
            drained::<true>(plan, crash, (lost, repeats, forgets), (threads, limit)),
            drained::<false>(plan, crash, (lost, repeats, false), (threads, limit)),
        ] {
            // Which messages the limit leaves depends on the order in which they come again.
            let mut different = written.clone();
            different.dedup();
            prop_assert_eq!(&different, &written, "none is there twice");
            prop_assert_eq!(left as u64, count - read, "the others are still in the queue");
            let was_refused = (written.len() as u64) < read;
            prop_assert_eq!(written.len() as u64, read - u64::from(was_refused));
            prop_assert!(!was_refused || (1..=count).contains(&refused));
            if limit.is_none() {
                let expected: Vec<u64> = (1..=count).filter(|number| *number != refused).collect();
                prop_assert_eq!(&written, &expected);
            }
        }
    }
}
