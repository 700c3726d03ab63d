//! Asynchronous readers, processors, writers and tasklets: exact after a failure, in order, and stoppable.
#![cfg(feature = "async")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright::error::ErrorKind;
use batchwright::event::Event;
use batchwright::execution::Phase;
use batchwright::item::{
    AsyncItemReader, AsyncItemWriter, AsyncWriter, ChunkTransaction, CompositeWriter, Ending, Page,
    PreparedCommit, SinkWriter, StreamReader,
};
use batchwright::job::Job;
use batchwright::listener::{ItemListener, ListenerResult};
use batchwright::policy::{Classifier, SkipPolicy};
use batchwright::retry::RetryPolicy;
use batchwright::scope::StepScope;
use batchwright::step::{Flow, Step};
use batchwright::testing::CommitPoint;
use batchwright::testing::TestBench;
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, JobOperator, JobParameters, ListWriter,
    MemoryRepository, Sequence, TaskletStep,
};
use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;

type Shared<T> = Arc<Mutex<Vec<T>>>;

fn operator(step: impl Step + 'static) -> JobOperator {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
    operator
}

fn run(operator: &JobOperator) -> (BatchStatus, String) {
    let ended = operator.run("job", JobParameters::new()).unwrap();
    (ended.status, ended.failure.map(|failure| failure.message).unwrap_or_default())
}

/// Pages of ten numbers; the requests that fail are counted down.
#[derive(Clone)]
struct Numbers {
    pages: u64,
    asked: Shared<u64>,
    failures: Arc<AtomicUsize>,
}

impl AsyncItemReader for Numbers {
    type Item = u64;
    type Position = u64;

    async fn read_page(&mut self, page: Option<&u64>) -> Result<Page<u64, u64>, ItemError> {
        let page = page.copied().unwrap_or(0);
        tokio::task::yield_now().await;
        self.asked.lock().unwrap().push(page);
        let left = self.failures.load(Ordering::SeqCst);
        if page == 1 && left > 0 {
            self.failures.store(left - 1, Ordering::SeqCst);
            return Err(ItemError::new(ErrorKind::IO, "the service is away"));
        }
        let items = (page * 10..page * 10 + 10).collect();
        Ok(Page { items, next: (page + 1 < self.pages).then_some(page + 1) })
    }
}

fn numbers(failures: usize) -> Numbers {
    Numbers { pages: 3, asked: Shared::default(), failures: Arc::new(failures.into()) }
}

#[test]
fn pages_are_read_once_each_and_a_restart_continues_within_a_page() {
    let (written, reader) = (Shared::default(), numbers(0));
    let asked = Arc::clone(&reader.asked);
    let broken = Arc::new(AtomicUsize::new(1));
    let step = ChunkStepBuilder::new("load")
        .async_reader(reader)
        .process(move |n| match *n == 15 && broken.swap(0, Ordering::SeqCst) == 1 {
            true => Err("once".into()),
            false => Ok(Some(*n)),
        })
        .writer(ListWriter::new(Arc::clone(&written)))
        .chunk_size(4)
        .read_ahead(0)
        .build();
    let operator = operator(step);
    assert_eq!(run(&operator).0, BatchStatus::Failed);
    assert_eq!(*written.lock().unwrap(), (0..12).collect::<Vec<u64>>());
    assert_eq!(run(&operator).0, BatchStatus::Completed);
    assert_eq!(*written.lock().unwrap(), (0..30).collect::<Vec<u64>>());
    assert_eq!(*asked.lock().unwrap(), [0, 1, 1, 2], "page 1 again, page 0 not");
}

#[test]
fn a_page_that_cannot_be_read_is_retried_and_never_skipped() {
    let (written, reader) = (Shared::default(), numbers(2));
    let asked = Arc::clone(&reader.asked);
    let step = ChunkStepBuilder::new("load")
        .async_reader(reader)
        .writer(ListWriter::new(Arc::clone(&written)))
        .retry(RetryPolicy::attempts(3))
        .build();
    assert_eq!(run(&operator(step)).0, BatchStatus::Completed);
    assert_eq!(written.lock().unwrap().len(), 30);
    assert_eq!(*asked.lock().unwrap(), [0, 1, 1, 1, 2]);

    let step = ChunkStepBuilder::new("load")
        .async_reader(numbers(1))
        .writer(ListWriter::new(Shared::default()))
        .skip(SkipPolicy::limit(10).on(Classifier::all()))
        .build();
    let (status, failure) = run(&operator(step));
    assert_eq!(status, BatchStatus::Failed);
    assert!(failure.contains("cannot skip a page"), "{failure}");
}

#[test]
fn a_page_that_has_become_shorter_is_refused() {
    #[derive(Clone)]
    struct Shrinking(Arc<AtomicUsize>);
    impl AsyncItemReader for Shrinking {
        type Item = usize;
        type Position = ();
        async fn read_page(&mut self, _: Option<&()>) -> Result<Page<usize, ()>, ItemError> {
            let items = (0..self.0.load(Ordering::SeqCst)).collect();
            Ok(Page { items, next: None })
        }
    }
    let size = Arc::new(AtomicUsize::new(5));
    let step = ChunkStepBuilder::new("load")
        .async_reader(Shrinking(Arc::clone(&size)))
        .process(|n| if *n == 4 { Err("no".into()) } else { Ok(Some(*n)) })
        .writer(ListWriter::new(Shared::default()))
        .chunk_size(2)
        .build();
    let operator = operator(step);
    assert_eq!(run(&operator).0, BatchStatus::Failed);
    size.store(3, Ordering::SeqCst);
    let (status, failure) = run(&operator);
    assert_eq!(status, BatchStatus::Failed);
    assert!(failure.contains("3 items, but 4"), "{failure}");
}

#[test]
fn a_stream_continues_after_the_items_that_were_read() {
    let written = Shared::default();
    let broken = Arc::new(AtomicUsize::new(1));
    let step = ChunkStepBuilder::new("load")
        .reader(StreamReader::new(|read| {
            stream::iter(0..1_000_u64).skip(read).then(|n| async move {
                if n % 100 == 0 {
                    tokio::task::yield_now().await;
                }
                Ok(n)
            })
        }))
        .process(move |n| match *n == 555 && broken.swap(0, Ordering::SeqCst) == 1 {
            true => Err("once".into()),
            false => Ok(Some(*n)),
        })
        .writer(ListWriter::new(Arc::clone(&written)))
        .chunk_size(10)
        .build();
    let operator = operator(step);
    assert_eq!(run(&operator).0, BatchStatus::Failed);
    assert_eq!(written.lock().unwrap().len(), 550);
    assert_eq!(run(&operator).0, BatchStatus::Completed);
    assert_eq!(*written.lock().unwrap(), (0..1_000).collect::<Vec<u64>>());
}

#[test]
fn calls_overlap_up_to_the_limit_and_outputs_keep_their_order() {
    let written = Shared::default();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    // Every fourth call waits until three later ones have ended: no call would end if they did not overlap.
    let ended = Arc::new(Semaphore::new(0));
    let step = ChunkStepBuilder::new("call")
        .reader(Sequence::to(40))
        .process_async(4, async move |n: &u64| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            match n % 4 == 1 {
                true => ended.acquire_many(3).await.unwrap().forget(),
                false => {
                    tokio::task::yield_now().await;
                    ended.add_permits(1);
                }
            }
            now.fetch_sub(1, Ordering::SeqCst);
            Ok((n % 10 != 3).then_some(n * 2))
        })
        .writer(ListWriter::new(Arc::clone(&written)))
        .chunk_size(20)
        .build();
    let (status, failure) = run(&operator(step));
    assert_eq!(status, BatchStatus::Completed, "{failure}");
    let expected: Vec<u64> = (1..=40).filter(|n| n % 10 != 3).map(|n| n * 2).collect();
    assert_eq!(*written.lock().unwrap(), expected);
    assert_eq!(seen.load(Ordering::SeqCst), 4);
}

#[test]
fn each_failed_call_is_retried_or_skipped_by_itself() {
    let (written, calls) = (Shared::default(), Arc::new(Mutex::new(HashMap::new())));
    let counted = Arc::clone(&calls);
    let step = ChunkStepBuilder::new("call")
        .reader(Sequence::to(20))
        .process(|n| Ok((n % 2 == 1).then_some(*n)))
        .process_async(8, async move |n: &u64| {
            let attempt = {
                let mut calls = counted.lock().unwrap();
                let count = calls.entry(*n).or_insert(0);
                *count += 1;
                *count
            };
            tokio::task::yield_now().await;
            match n {
                5 if attempt < 3 => Err(ItemError::new(ErrorKind::IO, "away")),
                7 => Err(ItemError::data("wrong")),
                9 => panic!("unexpected"),
                _ => Ok(Some(*n)),
            }
        })
        .process(|n| Ok(Some(n + 100)))
        .writer(ListWriter::new(Arc::clone(&written)))
        .retry(RetryPolicy::attempts(3).on(Classifier::none().including("io")))
        .skip(SkipPolicy::limit(2).on(Classifier::all().including("panic")))
        .build();
    let operator = operator(step);
    let (status, failure) = run(&operator);
    assert_eq!(status, BatchStatus::Completed, "{failure}");
    assert_eq!(*written.lock().unwrap(), [101, 103, 105, 111, 113, 115, 117, 119]);
    let calls = calls.lock().unwrap();
    assert_eq!((calls[&3], calls[&5], calls[&7], calls[&9], calls.get(&2)), (1, 3, 1, 1, None));
}

#[test]
fn after_an_error_that_fails_the_step_no_further_call_begins() {
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&begun);
    let step = ChunkStepBuilder::new("call")
        .reader(Sequence::to(1_000))
        .process_async(4, async move |n: &u64| {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            if *n == 10 { Err("away".into()) } else { Ok(Some(*n)) }
        })
        .writer(ListWriter::new(Shared::default()))
        .build();
    let (status, failure) = run(&operator(step));
    assert_eq!(status, BatchStatus::Failed);
    assert!(failure.contains("item 10") && failure.contains("away"), "{failure}");
    assert!(begun.load(Ordering::SeqCst) < 20, "{begun:?}");
}

/// A sink with transactions of its own: rows, and the last commit.
#[derive(Clone, Default)]
struct Sink {
    stored: Arc<Mutex<(Vec<u64>, Option<PreparedCommit>)>>,
    rows: Vec<u64>,
    crash: Arc<AtomicUsize>,
}

impl AsyncItemWriter<u64> for Sink {
    async fn open(&mut self, _: &StepScope) -> Result<Option<PreparedCommit>, ItemError> {
        tokio::task::yield_now().await;
        Ok(self.stored.lock().unwrap().1.clone())
    }

    async fn write(
        &mut self,
        items: &[u64],
        _: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        tokio::task::yield_now().await;
        self.rows.extend_from_slice(items);
        Ok(())
    }

    async fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
        tokio::task::yield_now().await;
        let mut stored = self.stored.lock().unwrap();
        stored.0.append(&mut self.rows);
        stored.1 = Some(commit.clone());
        // The connection breaks after the commit.
        match commit.sequence == 3 && self.crash.swap(0, Ordering::SeqCst) == 1 {
            true => Err(ItemError::commit_unknown("the connection broke")),
            false => Ok(()),
        }
    }

    async fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.rows.clear();
        Ok(())
    }

    fn prepares(&self) -> bool {
        true
    }

    async fn close(&mut self, _: Ending) -> Result<(), ItemError> {
        Ok(())
    }
}

#[test]
fn a_sink_that_prepares_has_each_row_once_although_its_commit_was_lost() {
    let sink = Sink { crash: Arc::new(1.into()), ..Sink::default() };
    let stored = Arc::clone(&sink.stored);
    let step = ChunkStepBuilder::new("load")
        .reader(Sequence::to(20))
        .async_writer(sink)
        .chunk_size(3)
        .build();
    let operator = operator(step);
    let (status, failure) = run(&operator);
    assert_ne!(status, BatchStatus::Completed);
    assert_eq!(stored.lock().unwrap().0.len(), 9, "{failure}");
    assert_eq!(run(&operator).0, BatchStatus::Completed);
    assert_eq!(stored.lock().unwrap().0, (1..=20).collect::<Vec<u64>>());
}

#[tokio::test]
async fn the_calls_of_the_operator_borrow_nothing_and_a_processor_may_know_its_scope() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(3))
        .process_async_with(2, |scope| {
            let factor = u64::try_from(scope.parameters().integer("factor")?)?;
            Ok(async move |n: &u64| Ok(Some(n * factor)))
        })
        .process_async_with(2, |_| Ok(async |n: &u64| Ok(Some(n + 1))))
        .writer(ListWriter::new(Arc::clone(&written)))
        .build();
    let operator = operator(step);
    let running = operator.asynchronous().run("job", JobParameters::new().with("factor", 10));
    let ended = tokio::spawn(running).await.unwrap().unwrap();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    assert_eq!(*written.lock().unwrap(), [11, 21, 31]);
    assert!(tokio::spawn(operator.asynchronous().follow(ended.id)).await.unwrap().is_ok());
}

#[test]
fn a_sink_is_flushed_with_each_chunk_and_a_new_one_gets_the_chunk_that_failed() {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let (log, made) = (Arc::clone(&sent), Arc::new(AtomicUsize::new(0)));
    let sink = SinkWriter::new(async move || {
        let (log, number) = (Arc::clone(&log), made.fetch_add(1, Ordering::SeqCst));
        Ok(futures_util::sink::unfold((), move |(), n: u64| {
            let log = Arc::clone(&log);
            async move {
                tokio::task::yield_now().await;
                if number == 0 && n == 4 {
                    return Err(ItemError::new(ErrorKind::IO, "the connection broke"));
                }
                log.lock().unwrap().push((number, n));
                Ok(())
            }
        }))
    });
    let step = ChunkStepBuilder::new("send")
        .reader(Sequence::to(5))
        .writer_with({
            let sink = Mutex::new(Some(sink));
            move |_| Ok(AsyncWriter::new(sink.lock().unwrap().take().unwrap()))
        })
        .chunk_size(2)
        .retry(RetryPolicy::attempts(2))
        .build();
    assert_eq!(run(&operator(step)).0, BatchStatus::Completed);
    assert_eq!(*sent.lock().unwrap(), [(0, 1), (0, 2), (0, 3), (1, 3), (1, 4), (1, 5)]);
}

#[test]
fn a_function_as_writer_gets_the_same_key_for_the_same_chunk() {
    let seen: Shared<(String, Vec<u64>)> = Shared::default();
    let delivered = Arc::clone(&seen);
    let step = ChunkStepBuilder::new("send")
        .reader(Sequence::to(4))
        .async_writer(async move |items: &[u64], key: &str| {
            let is_first = {
                let mut delivered = delivered.lock().unwrap();
                delivered.push((key.to_owned(), items.to_vec()));
                delivered.len() == 1
            };
            tokio::task::yield_now().await;
            if is_first { Err("lost".into()) } else { Ok(()) }
        })
        .chunk_size(2)
        .retry(RetryPolicy::attempts(2))
        .build();
    assert_eq!(run(&operator(step)).0, BatchStatus::Completed);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[1].0, seen[2].0);
}

#[test]
fn a_stop_ends_a_read_that_would_wait_for_ever() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let began = Arc::clone(&waiting);
    let step = ChunkStepBuilder::new("wait")
        .reader(StreamReader::new(move |_| {
            began.store(1, Ordering::SeqCst);
            stream::pending::<Result<u64, ItemError>>()
        }))
        .writer(ListWriter::new(Shared::default()))
        .build();
    let operator = operator(step);
    let handle = operator.start("job", JobParameters::new()).unwrap();
    while waiting.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    operator.stop(handle.id()).unwrap();
    assert_eq!(handle.wait().unwrap().status, BatchStatus::Stopped);
}

#[test]
fn a_step_that_fails_ends_although_its_reader_waits_for_ever() {
    let step = ChunkStepBuilder::new("wait")
        .reader(StreamReader::new(|_| {
            stream::iter([Ok(1), Err::<u64, _>("a message that cannot be read".into())])
                .chain(stream::iter((2..4).map(Ok)))
                .chain(stream::pending())
        }))
        .process(|n| if *n == 3 { Err("wrong".into()) } else { Ok(Some(*n)) })
        .writer(ListWriter::new(Shared::default()))
        .skip(SkipPolicy::limit(1).on(Classifier::all()).in_phases([Phase::Read]))
        .chunk_size(2)
        .build();
    let (status, failure) = run(&operator(step));
    assert_eq!(status, BatchStatus::Failed);
    assert!(failure.contains("wrong"), "{failure}");
}

#[test]
fn a_stop_while_a_part_opens_stops_the_step() {
    #[derive(Clone)]
    struct OpensNever(Arc<AtomicUsize>);
    impl AsyncItemWriter<u64> for OpensNever {
        async fn open(&mut self, _: &StepScope) -> Result<Option<PreparedCommit>, ItemError> {
            self.0.store(1, Ordering::SeqCst);
            std::future::pending().await
        }
        async fn write(
            &mut self,
            _: &[u64],
            _: &mut ChunkTransaction<'_>,
        ) -> Result<(), ItemError> {
            Ok(())
        }
    }
    let opening = Arc::new(AtomicUsize::new(0));
    let step = ChunkStepBuilder::new("open")
        .reader(Sequence::to(3))
        .async_writer(OpensNever(Arc::clone(&opening)))
        .build();
    let operator = operator(step);
    let handle = operator.start("job", JobParameters::new()).unwrap();
    while opening.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    operator.stop(handle.id()).unwrap();
    assert_eq!(handle.wait().unwrap().status, BatchStatus::Stopped);
}

/// Futures of sockets and timers need the runtime when they are dropped, also those of calls that are given up.
#[test]
fn calls_that_are_given_up_are_dropped_within_the_runtime() {
    struct NeedsRuntime;
    impl Drop for NeedsRuntime {
        fn drop(&mut self) {
            let _ = tokio::runtime::Handle::current();
        }
    }
    let step = ChunkStepBuilder::new("call")
        .reader(Sequence::to(10))
        .process_async(4, async |n: &u64| {
            let _held = NeedsRuntime;
            match n {
                1 => {
                    tokio::task::yield_now().await;
                    Err("away".into())
                }
                _ => std::future::pending().await,
            }
        })
        .writer(ListWriter::<u64>::new(Shared::default()))
        .build();
    let (status, failure) = run(&operator(step));
    assert_eq!(status, BatchStatus::Failed);
    assert!(failure.contains("item 1") && failure.contains("away"), "{failure}");
}

#[test]
fn a_panic_before_the_first_wait_is_that_of_its_item_alone() {
    let written = Shared::default();
    let step = ChunkStepBuilder::new("call")
        .reader(Sequence::to(10))
        .process_async(4, |n: &u64| {
            assert!(*n != 7, "seven");
            let n = *n;
            async move {
                tokio::task::yield_now().await;
                Ok(Some(n))
            }
        })
        .writer(ListWriter::new(Arc::clone(&written)))
        .skip(SkipPolicy::limit(1).on(Classifier::none().including("panic")))
        .build();
    assert_eq!(run(&operator(step)).0, BatchStatus::Completed);
    assert_eq!(*written.lock().unwrap(), [1, 2, 3, 4, 5, 6, 8, 9, 10]);
}

#[test]
fn a_sink_that_has_no_commit_yet_gets_the_first_chunk_again_in_a_composite() {
    let sink = Sink { crash: Arc::default(), ..Sink::default() };
    let stored = Arc::clone(&sink.stored);
    let copied = Shared::default();
    let copies = Arc::clone(&copied);
    let step = ChunkStepBuilder::new("load")
        .reader(Sequence::to(5))
        .writer_with(move |_| {
            let list = ListWriter::new(Arc::clone(&copies));
            Ok(CompositeWriter::new(list, AsyncWriter::new(sink.clone())))
        })
        .chunk_size(2)
        .build();
    let mut bench = TestBench::of_step(step);
    bench.crash_at(CommitPoint::After, 1);
    assert_eq!(bench.run().status, BatchStatus::Failed);
    assert!(stored.lock().unwrap().0.is_empty(), "the sink lacks what the store has");
    assert_eq!(bench.restart().status, BatchStatus::Completed);
    assert_eq!(stored.lock().unwrap().0, [1, 2, 3, 4, 5]);
    assert_eq!(*copied.lock().unwrap(), [1, 2, 3, 4, 5]);
}

/// An audit row of a listener would be lost if the process died between the two commits.
#[test]
fn a_listener_cannot_use_the_transaction_of_a_chunk_whose_sink_commits_first() {
    struct Audits;
    impl ItemListener<u64, u64> for Audits {
        fn after_write(
            &self,
            _: &StepScope,
            _: &[u64],
            chunk: &mut ChunkTransaction<'_>,
        ) -> ListenerResult {
            chunk.on_commit(|| ());
            Ok(())
        }
    }
    let sink = Sink::default();
    let stored = Arc::clone(&sink.stored);
    let step = ChunkStepBuilder::new("load")
        .reader(Sequence::to(5))
        .async_writer(sink)
        .item_listener(Audits)
        .build();
    let (status, failure) = run(&operator(step));
    assert_eq!(status, BatchStatus::Failed);
    assert!(failure.contains("CompositeWriter"), "{failure}");
    assert!(stored.lock().unwrap().0.is_empty());
}

#[tokio::test]
async fn the_events_of_an_execution_end_with_it_also_when_another_process_ends_it() {
    let repository = Arc::new(MemoryRepository::new());
    let operator = JobOperator::new(repository.clone());
    let gate = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&gate);
    let step = TaskletStep::asynchronous("wait", async move |_| {
        wait.acquire().await.unwrap().forget();
        Ok(Flow::Finished)
    });
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
    let handle = operator.asynchronous().start("job", JobParameters::new()).await.unwrap();
    // An operator of its own is what another process has: it sees no event of the first one.
    let other = JobOperator::new(repository);
    let seen_here = operator.asynchronous().follow(handle.id()).await.unwrap();
    let seen_there = other.asynchronous().follow(handle.id()).await.unwrap();
    gate.add_permits(1);
    handle.await.unwrap();
    let here: Vec<_> = seen_here.collect().await;
    let there: Vec<_> = seen_there.collect().await;
    let last = |events: &[Event]| events.last().and_then(|event| event.status()).map(|it| it.0);
    assert_eq!(last(&here), Some(BatchStatus::Completed), "{here:?}");
    assert_eq!(last(&there), Some(BatchStatus::Completed), "{there:?}");
    assert!(here.iter().any(|event| event.step() == Some("wait")), "{here:?}");
}

#[test]
fn an_asynchronous_tasklet_is_called_until_it_is_finished() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let step = TaskletStep::asynchronous("poll", async move |call| {
        tokio::time::sleep(Duration::from_millis(1)).await;
        call.contribute(1, 0);
        match counted.fetch_add(1, Ordering::SeqCst) {
            2 => Ok(Flow::Finished),
            _ => Ok(Flow::Continue),
        }
    });
    assert_eq!(run(&operator(step)).0, BatchStatus::Completed);
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn asynchronous_parts_need_no_thread_of_the_runtime_that_waits_for_them() {
    let written = Shared::default();
    let step = ChunkStepBuilder::new("load")
        .async_reader(numbers(0))
        .process_async(8, async |n: &u64| {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(Some(*n))
        })
        .writer(ListWriter::new(Arc::clone(&written)))
        .build();
    let ended = operator(step).asynchronous().run("job", JobParameters::new()).await.unwrap();
    assert_eq!(ended.status, BatchStatus::Completed);
    assert_eq!(written.lock().unwrap().len(), 30);
}
