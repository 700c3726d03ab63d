//! A reader and a writer of your own: a restart continues at the positions that they return.
//!
//! `cargo run -p batchwright --example 07_custom_items`

use std::error::Error;
use std::sync::{Arc, Mutex};

use batchwright::item::{ChunkTransaction, ItemReader, ItemWriter, PreparedCommit};
use batchwright::scope::StepScope;
use batchwright::{ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, MemoryRepository};

/// Fibonacci numbers below a bound.
#[derive(Clone)]
struct Fibonacci {
    bound: u64,
    pair: (u64, u64),
}

impl ItemReader for Fibonacci {
    type Item = u64;
    /// Stored with every commit; anything that serde can write and read.
    type Position = (u64, u64);

    fn open(&mut self, position: Option<(u64, u64)>, _: &StepScope) -> Result<(), ItemError> {
        self.pair = position.unwrap_or((0, 1));
        Ok(())
    }

    fn read(&mut self) -> Result<Option<u64>, ItemError> {
        let (item, next) = self.pair;
        if item >= self.bound {
            return Ok(None);
        }
        self.pair = (next, item + next);
        Ok(Some(item))
    }

    fn position(&self) -> (u64, u64) {
        self.pair
    }
}

/// A chunk's key, and its items.
type Delivery = (String, Vec<u64>);

/// A service that remembers which chunks it has seen.
#[derive(Clone, Default)]
struct Service {
    seen: Arc<Mutex<Vec<Delivery>>>,
}

impl ItemWriter<u64> for Service {
    type Position = ();

    fn open(&mut self, _: Option<()>, _: &StepScope) -> Result<Option<PreparedCommit>, ItemError> {
        Ok(None)
    }

    fn write(&mut self, items: &[u64], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        // The key is the same when the chunk is written again after a crash: the service can refuse it.
        let key = chunk.idempotency_key();
        let mut seen = self.seen.lock().unwrap();
        if seen.iter().all(|(known, _)| *known != key) {
            seen.push((key, items.to_vec()));
        }
        Ok(())
    }

    fn position(&mut self) -> Result<(), ItemError> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (service, failing) = (Service::default(), Arc::new(Mutex::new(true)));
    let broken = Arc::clone(&failing);
    let step = ChunkStepBuilder::new("send")
        .reader(Fibonacci { bound: 100, pair: (0, 1) })
        .processor(move |n: &u64| match (*n, *broken.lock().unwrap()) {
            (34, true) => Err(ItemError::data("cannot send 34 today")),
            (n, _) => Ok(Some(n)),
        })
        .writer(service.clone())
        .chunk_size(4)
        .build();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("fibonacci").step(step).build()?)?;

    let failed = operator.run("fibonacci", JobParameters::new())?;
    println!("{}", operator.explorer().summary(failed.id)?);
    *failing.lock().unwrap() = false;
    let done = operator.restart(failed.id)?.wait()?;
    println!("{}", operator.explorer().summary(done.id)?);

    let sent: Vec<u64> =
        service.seen.lock().unwrap().iter().flat_map(|(_, items)| items.clone()).collect();
    assert_eq!(sent, [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89]);
    Ok(())
}
