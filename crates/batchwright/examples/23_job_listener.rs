//! A listener that logs the end of a job: `cargo run -p batchwright --example 23_job_listener`

use std::error::Error;
use std::sync::Arc;

use batchwright::execution::JobExecution;
use batchwright::listener::{JobListener, ListenerResult};
use batchwright::scope::JobScope;
use batchwright::{
    ChunkStepBuilder, Job, JobOperator, JobParameters, ListWriter, MemoryRepository, Sequence,
};

struct Log;

impl JobListener for Log {
    fn after_job(&self, scope: &JobScope, execution: &JobExecution) -> ListenerResult {
        println!("job completed: job={} status={}", scope.job(), execution.status);
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let step = ChunkStepBuilder::new("demo")
        .reader(Sequence::to(1_000))
        .writer(ListWriter::new(Arc::default()))
        .chunk_size(100)
        .build();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("demo").step(step).listener(Log).build()?)?;
    println!("{}", operator.run("demo", JobParameters::new().with("run.id", 1))?.status);
    Ok(())
}
