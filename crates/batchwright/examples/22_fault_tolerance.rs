//! A step that retries what may succeed later and skips bad records: `cargo run -p batchwright --example 22_fault_tolerance`

use std::error::Error;
use std::sync::Arc;

use batchwright::policy::{Classifier, SkipPolicy};
use batchwright::retry::RetryPolicy;
use batchwright::{
    ChunkStepBuilder, Job, JobOperator, JobParameters, ListWriter, MemoryRepository, Sequence,
};

fn main() -> Result<(), Box<dyn Error>> {
    let step = ChunkStepBuilder::new("import")
        .reader(Sequence::to(1_000))
        .writer(ListWriter::new(Arc::default()))
        .chunk_size(500)
        .retry(RetryPolicy::attempts(3).on(Classifier::none().including("io")))
        .skip(SkipPolicy::limit(50))
        .build();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("import").step(step).build()?)?;
    println!("{}", operator.run("import", JobParameters::new().with("run.id", 1))?.status);
    Ok(())
}
