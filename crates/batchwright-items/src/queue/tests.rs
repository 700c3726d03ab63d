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
        drop(queue);
        Self(Arc::clone(stored))
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().unwrap()
    }
}

impl<const UNIQUE: bool> Broker for Memory<UNIQUE> {
    type Tag = u64;

    const IDS_ARE_UNIQUE: bool = UNIQUE;

    fn fetch(&self, max: usize) -> Result<Vec<Message<u64>>, ItemError> {
        let mut stored = self.stored();
        let count = max.min(stored.waiting.len()).min(3);
        let fetched: Vec<_> = stored.waiting.drain(..count).collect();
        stored.held.extend(fetched.iter().map(|(number, _)| *number));
        let message = |(number, redelivered): (u64, bool)| Message {
            id: Some(format!("id-{number}").into()),
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

    fn give_back(&self, tags: Vec<u64>) -> Result<(), ItemError> {
        let mut stored = self.stored();
        stored.held.retain(|number| !tags.contains(number));
        for number in tags {
            stored.waiting.push_back((number, true));
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
    lost: Option<usize>,
    threads: usize,
) -> (Vec<u64>, usize) {
    let stored = Stored {
        waiting: (1..=count).map(|number| (number, false)).collect(),
        acknowledgements_left: lost,
        ..Stored::default()
    };
    let (stored, written) = (Arc::new(Mutex::new(stored)), Arc::default());
    let queue = Arc::clone(&stored);
    let settings = ReaderSettings {
        wait: Duration::ZERO,
        limit: None,
        decode: Decode::new(BodyFormat::Json, None),
    };
    let step = ChunkStepBuilder::new("drain")
        .reader_with(move |_| {
            let queue = Arc::clone(&queue);
            let connect = Arc::new(move |_: &StepScope, _| Ok(Memory::<UNIQUE>::open(&queue)));
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
    while ended.status != BatchStatus::Completed {
        ended = bench.restart();
    }
    let mut written = written.lock().unwrap().clone();
    written.sort_unstable();
    let stored = stored.lock().unwrap();
    (written, stored.waiting.len() + stored.held.len())
}

proptest! {
    #[test]
    fn each_message_is_written_once_in_whatever_order_it_comes_again(
        count in 1_u64..14,
        chunk in 1_usize..6,
        refused in 0_u64..14,
        before in any::<bool>(),
        commit in 1_u64..12,
        lost in proptest::option::of(0_usize..6),
        threads in 1_usize..3,
    ) {
        let point = if before { CommitPoint::Before } else { CommitPoint::After };
        let expected: Vec<u64> = (1..=count).filter(|number| *number != refused).collect();
        let plan = (count, chunk, refused);
        let with_unique = drained::<true>(plan, (point, commit), lost, threads);
        prop_assert_eq!(&with_unique, &(expected.clone(), 0));
        let without = drained::<false>(plan, (point, commit), lost, threads);
        prop_assert_eq!(&without, &(expected, 0));
    }
}
