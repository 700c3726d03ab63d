//! Parts of one's own, tested without an operator, and the suites that find their faults.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use batchwright::item::{
    ChunkTransaction, ItemReader, ItemWriter, IteratorReader, ListReader, ListWriter,
    PreparedCommit, Total,
};
use batchwright::partition::Partitioner;
use batchwright::scope::{Partition, StepScope};
use batchwright::step::{Flow, Tasklet, TaskletCall};
use batchwright::testing::{StepBench, conformance_of_reader, conformance_of_writer};
use batchwright::{ItemError, JobParameters};

/// The faults that the suite must find.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mistake {
    None,
    /// The position is that of the record before.
    PositionBefore,
    /// A failed read does not advance, and `rereads` says it does.
    StaysAtFailure,
    /// The position is that of a record read ahead.
    PositionAhead,
    /// All readers share one place in the input.
    SharedPlace,
    /// `done` counts more than `total`.
    DoneTooFar,
}

/// Reads `a`, `b`, a record that cannot be read, `d`, `e`.
struct Letters {
    mistake: Mistake,
    next: usize,
    shared: Arc<AtomicUsize>,
}

const LETTERS: [&str; 5] = ["a", "b", "", "d", "e"];

impl ItemReader for Letters {
    type Item = String;
    type Position = usize;

    fn open(&mut self, position: Option<usize>, _: &StepScope) -> Result<(), ItemError> {
        self.next = match self.mistake {
            Mistake::SharedPlace => self.shared.load(Ordering::SeqCst),
            _ => position.unwrap_or(0),
        };
        Ok(())
    }

    fn read(&mut self) -> Result<Option<String>, ItemError> {
        let Some(letter) = LETTERS.get(self.next) else { return Ok(None) };
        if !letter.is_empty() || self.mistake != Mistake::StaysAtFailure {
            self.next += 1;
        }
        self.shared.store(self.next, Ordering::SeqCst);
        match letter.is_empty() {
            true => Err(ItemError::data("empty")),
            false => Ok(Some((*letter).to_owned())),
        }
    }

    fn position(&self) -> usize {
        match self.mistake {
            Mistake::PositionBefore => self.next.saturating_sub(1),
            Mistake::PositionAhead if self.next > 0 => (self.next + 1).min(LETTERS.len()),
            _ => self.next,
        }
    }

    fn total(&self) -> Option<Total> {
        Some(Total::Items(5))
    }

    fn done(&self) -> u64 {
        self.next as u64 * if self.mistake == Mistake::DoneTooFar { 2 } else { 1 }
    }
}

fn found(mistake: Mistake) -> String {
    let shared = Arc::new(AtomicUsize::new(0));
    let make = || Letters { mistake, next: 0, shared: Arc::clone(&shared) };
    match catch_unwind(AssertUnwindSafe(|| conformance_of_reader(make))) {
        Ok(()) => String::new(),
        Err(panic) => panic.downcast_ref::<String>().unwrap().clone(),
    }
}

#[test]
fn the_suite_finds_each_fault_of_a_reader_and_none_in_a_right_one() {
    assert_eq!(found(Mistake::None), "");
    for (mistake, words) in [
        (Mistake::PositionBefore, "does not continue there"),
        (Mistake::StaysAtFailure, "has not moved, but `rereads` is false"),
        (Mistake::PositionAhead, "opened at a position has another one"),
        (Mistake::SharedPlace, "two readers of the same input"),
        (Mistake::DoneTooFar, "more than the total 5"),
    ] {
        let message = found(mistake);
        assert!(message.contains(words), "{mistake:?}: {message}");
    }
}

#[test]
fn readers_of_the_library_keep_the_promises() {
    conformance_of_reader(|| ListReader::new(vec![1, 2, 3]));
    conformance_of_reader(|| {
        IteratorReader::new(|read| {
            Ok((0..9).map(|n| if n == 4 { Err("four".into()) } else { Ok(n) }).skip(read))
        })
    });
}

#[cfg(feature = "async")]
#[test]
fn asynchronous_readers_of_the_library_keep_the_promises() {
    use batchwright::item::{AsyncItemReader, AsyncReader, Page, StreamReader};
    use futures_util::{StreamExt, stream};

    #[derive(Default)]
    struct Pages {
        asked: std::collections::BTreeSet<u32>,
    }
    impl AsyncItemReader for Pages {
        type Item = u32;
        type Position = u32;
        async fn read_page(&mut self, page: Option<&u32>) -> Result<Page<u32, u32>, ItemError> {
            let page = page.copied().unwrap_or(0);
            // The second page and the last one are empty, and the first attempt at each page fails.
            if self.asked.insert(page) {
                return Err("away".into());
            }
            let items = if page % 2 == 1 { Vec::new() } else { vec![page * 10, page * 10 + 1] };
            Ok(Page { items, next: (page < 3).then_some(page + 1) })
        }
        fn total(&self) -> Option<u64> {
            Some(4)
        }
    }
    conformance_of_reader(|| AsyncReader::new(Pages::default()));
    // The fourth item is the last one, also for a reader that continues.
    let bench = StepBench::new();
    let mut reader = AsyncReader::new(Pages { asked: (0..4).collect() });
    reader.open(None, bench.scope()).unwrap();
    for done in 1..=3 {
        assert!(reader.read().is_ok_and(|item| item.is_some()));
        assert_eq!((reader.done(), reader.total()), (done, Some(Total::Items(4))));
    }
    let position = reader.position();
    assert_eq!(bench.read_all(&mut reader, Some(position)).len(), 1);
    assert_eq!(reader.done(), 4);
    conformance_of_reader(|| StreamReader::new(|read| stream::iter(0..9).skip(read).map(Ok)));
}

type Rows = Arc<Mutex<Vec<u64>>>;

/// A writer that remembers the number of its rows; a wrong one does not remove what a restart writes again.
struct RowWriter {
    rows: Rows,
    forgets: Forgets,
    committed: usize,
}

/// What a wrong writer does not do.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Forgets {
    Nothing,
    /// To remove at a restart what was not committed.
    Restart,
    /// To remove what is rolled back, which is removed at a restart at the latest.
    Rollback,
}

impl ItemWriter<u64> for RowWriter {
    type Position = usize;

    fn open(
        &mut self,
        position: Option<usize>,
        _: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.committed = position.unwrap_or(0);
        if self.forgets != Forgets::Restart {
            self.rows.lock().unwrap().truncate(self.committed);
        }
        Ok(None)
    }

    fn write(&mut self, items: &[u64], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        self.rows.lock().unwrap().extend_from_slice(items);
        Ok(())
    }

    fn position(&mut self) -> Result<usize, ItemError> {
        Ok(self.rows.lock().unwrap().len())
    }

    fn committed(&mut self) -> Result<(), ItemError> {
        self.committed = self.rows.lock().unwrap().len();
        Ok(())
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        if self.forgets != Forgets::Rollback {
            self.rows.lock().unwrap().truncate(self.committed);
        }
        Ok(())
    }
}

fn check_writer(forgets: Forgets) {
    conformance_of_writer(
        &[1, 2, 3, 4, 5],
        Rows::default,
        move |rows| Ok(RowWriter { rows: Arc::clone(rows), forgets, committed: 0 }),
        |rows| rows.lock().unwrap().clone(),
    );
}

#[test]
fn the_suite_finds_a_writer_that_has_a_chunk_twice_and_none_in_a_right_one() {
    check_writer(Forgets::Nothing);
    conformance_of_writer(
        &[1, 2, 3],
        Rows::default,
        |rows| Ok(ListWriter::new(Arc::clone(rows))),
        |rows| rows.lock().unwrap().clone(),
    );
    for (forgets, words) in [
        (Forgets::Restart, "after a crash at commit 1 (Before) and a restart"),
        (Forgets::Rollback, "after a failed attempt at chunk 1 and a retry"),
    ] {
        let panic = catch_unwind(|| check_writer(forgets)).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains(words), "{forgets:?}: {message}");
    }
}

/// Checks an asynchronous writer whose service receives chunks; one that `knows_keys` replaces a chunk it has.
#[cfg(feature = "async")]
fn check_service(knows_keys: bool) {
    use batchwright::item::AsyncWriter;

    type Service = Arc<Mutex<Vec<(String, Vec<u64>)>>>;
    conformance_of_writer(
        &[1, 2, 3, 4, 5],
        Service::default,
        move |service| {
            let service = Arc::clone(service);
            Ok(AsyncWriter::new(async move |items: &[u64], key: &str| {
                tokio::task::yield_now().await;
                let mut chunks = service.lock().unwrap();
                chunks.retain(|(known, _)| !knows_keys || known != key);
                chunks.push((key.to_owned(), items.to_vec()));
                Ok(())
            }))
        },
        |service| service.lock().unwrap().iter().flat_map(|(_, items)| items.clone()).collect(),
    );
}

#[cfg(feature = "async")]
#[test]
fn the_suite_finds_an_asynchronous_writer_whose_service_ignores_the_key() {
    check_service(true);
    let panic = catch_unwind(|| check_service(false)).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("after a crash at commit 1 (Before) and a restart"), "{message}");
}

/// Counts the letters of the parameter `word`, one at each call.
struct Spell;

impl Tasklet for Spell {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let word = call.scope().parameters().string("word")?.to_owned();
        let done: usize = call.scope().context().get("done").unwrap_or(0);
        call.scope().context().put("done", &(done + 1))?;
        Ok(if done + 1 == word.len() { Flow::Finished } else { Flow::Continue })
    }
}

#[test]
fn a_tasklet_is_called_without_an_operator() {
    let bench = StepBench::new().parameters(JobParameters::new().with("word", "abc"));
    let calls: Vec<_> = (0..3).map(|_| bench.call(&Spell).unwrap()).collect();
    assert_eq!(calls, [Flow::Continue, Flow::Continue, Flow::Finished]);
    let refused = StepBench::new().call(&Spell).unwrap_err().to_string();
    assert!(refused.contains("word"), "{refused}");
}

#[test]
fn a_writer_writes_in_a_chunk_that_commits_or_is_rolled_back() {
    let (bench, rows) = (StepBench::new(), Rows::default());
    let mut writer = ListWriter::new(Arc::clone(&rows));
    writer.open(None, bench.scope()).unwrap();
    bench.in_chunk(|chunk| writer.write(&[1, 2], chunk)).unwrap();
    let failed = bench.in_chunk(|chunk| {
        writer.write(&[3], chunk)?;
        Err::<(), _>("no".into())
    });
    assert_eq!(failed.unwrap_err().to_string(), "no");
    assert_eq!(*rows.lock().unwrap(), [1, 2]);
    let keys: Vec<_> =
        (0..2).map(|_| bench.in_chunk(|chunk| Ok(chunk.idempotency_key())).unwrap()).collect();
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn a_partitioner_and_the_reader_of_a_partition_are_called_without_an_operator() {
    let partitioner = |scope: &StepScope| {
        let parts = scope.parameters().integer("parts")?;
        (0..parts).map(|part| Ok(Partition::new(format!("p{part}")).with("from", &part)?)).collect()
    };
    let bench = StepBench::new().parameters(JobParameters::new().with("parts", 3));
    let partitions = partitioner.partitions(bench.scope()).unwrap();
    let keys: Vec<&str> = partitions.iter().map(|partition| partition.key.as_str()).collect();
    assert_eq!(keys, ["p0", "p1", "p2"]);
    let bench = StepBench::new().partition(partitions[2].clone());
    assert_eq!(bench.scope().partition_value::<i64>("from").unwrap(), 2);
}

/// A test with a server of its own runs in a runtime; the parts are called there, too.
#[cfg(feature = "async")]
#[tokio::test]
async fn asynchronous_parts_are_tested_within_a_runtime() {
    use batchwright::item::{AsyncWriter, StreamReader};
    use futures_util::stream;

    let bench = StepBench::new();
    let mut reader = StreamReader::new(|read| stream::iter((read..3).map(Ok)));
    assert_eq!(bench.read_all(&mut reader, None), [0, 1, 2]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&seen);
    let mut writer = AsyncWriter::new(async move |items: &[u64], _: &str| {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        written.lock().unwrap().extend_from_slice(items);
        Ok(())
    });
    writer.open(None, bench.scope()).unwrap();
    bench.in_chunk(|chunk| writer.write(&[1, 2], chunk)).unwrap();
    assert_eq!(*seen.lock().unwrap(), [1, 2]);
}
