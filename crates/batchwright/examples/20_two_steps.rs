//! A function as a step, and a chunk step with a reader, a processor and a writer of functions:
//! `cargo run -p batchwright --example 20_two_steps`

use std::error::Error;
use std::sync::Arc;

use batchwright::item::{DeliveryWriter, FunctionReader};
use batchwright::{
    ChunkStepBuilder, Job, JobOperator, JobParameters, MemoryRepository, TaskletStep,
};

fn my_task() {
    println!("my task was executed");
}

fn main() -> Result<(), Box<dyn Error>> {
    let first = TaskletStep::call("my-task", my_task);
    let second = ChunkStepBuilder::new("my-step")
        .reader(FunctionReader::new(|read: &mut u32| {
            let item = (*read < 100).then(|| format!("value-{read}"));
            *read += u32::from(item.is_some());
            Ok(item)
        }))
        .process(|item| Ok(Some(format!("processed-{item}"))))
        .writer(DeliveryWriter::call(|items: &[String], _| {
            println!("write: {items:?}");
            Ok(())
        }))
        .chunk_size(10)
        .build();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("my-job").step(first).step(second).build()?)?;
    operator.run("my-job", JobParameters::new())?;
    Ok(())
}
