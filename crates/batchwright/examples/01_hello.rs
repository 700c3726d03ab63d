//! A first job: read, process, write, in chunks of three.
//!
//! `cargo run -p batchwright --example 01_hello`

use std::error::Error;
use std::sync::{Arc, Mutex};

use batchwright::{
    BatchStatus, ChunkStepBuilder, Job, JobOperator, JobParameters, ListWriter, MemoryRepository,
    Sequence,
};

fn main() -> Result<(), Box<dyn Error>> {
    let squares = Arc::new(Mutex::new(Vec::new()));
    let step = ChunkStepBuilder::new("square")
        .reader(Sequence::to(10))
        .processor(|n: &u64| Ok((n % 2 == 1).then_some(n * n))) // `None` filters an item out
        .writer(ListWriter::new(Arc::clone(&squares)))
        .chunk_size(3)
        .build();

    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("odd-squares").step(step).build()?)?;
    let execution = operator.run("odd-squares", JobParameters::new())?;

    println!("{}", operator.explorer().summary(execution.id)?);
    println!("{:?}", squares.lock().unwrap());
    assert_eq!(execution.status, BatchStatus::Completed);
    assert_eq!(*squares.lock().unwrap(), [1, 9, 25, 49, 81]);
    Ok(())
}
