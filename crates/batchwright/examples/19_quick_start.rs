//! A step, a job, an execution: `cargo run -p batchwright --example 19_quick_start`

use std::error::Error;
use std::sync::Arc;

use batchwright::{
    ChunkStepBuilder, Job, JobOperator, JobParameters, ListWriter, MemoryRepository, Sequence,
};

fn main() -> Result<(), Box<dyn Error>> {
    let step = ChunkStepBuilder::new("demo")
        .reader(Sequence::to(1_000))
        .writer(ListWriter::new(Arc::default()))
        .chunk_size(100)
        .build();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("demo").step(step).build()?)?;
    println!("{}", operator.run("demo", JobParameters::new().with("run.id", 1))?.status);
    Ok(())
}
