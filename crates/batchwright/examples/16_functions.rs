//! Readers, processors, writers and tasklets made from functions.
//!
//! `cargo run -p batchwright --example 16_functions`

use std::error::Error;
use std::sync::Arc;

use batchwright::item::{DeliveryWriter, IteratorReader};
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, MemoryRepository,
    TaskletStep,
};

const ORDERS: &str = "apples 3\npears 0\nplums 12\n";

fn main() -> Result<(), Box<dyn Error>> {
    let send = ChunkStepBuilder::new("send")
        // `read` is the number of lines that earlier executions have read.
        .reader(IteratorReader::new(|read| Ok(ORDERS.lines().skip(read).map(Ok))))
        // The types of the arguments are inferred: a line, then what the first function makes of it.
        .process(|line| {
            let (name, count) =
                line.split_once(' ').ok_or_else(|| ItemError::data("the line has no count"))?;
            Ok(Some((name.to_owned(), count.parse::<u32>()?)))
        })
        .process(|(name, count)| Ok((*count > 0).then(|| format!("{count} {name}"))))
        // After a crash the last chunk may be sent again, with the same key.
        .writer(DeliveryWriter::call(|orders: &[String], key| {
            println!("{key}: {}", orders.join(", "));
            Ok(())
        }))
        .build();
    let done = TaskletStep::call("done", || println!("all orders are sent"));

    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("orders").step(send).step(done).build()?)?;
    let execution = operator.run("orders", JobParameters::new())?;

    assert_eq!(execution.status, BatchStatus::Completed);
    let send = operator.explorer().step_summary(execution.id, "send")?.ok_or("it ran")?;
    assert_eq!((send.counters.read, send.counters.filter, send.counters.write), (3, 1, 2));
    Ok(())
}
