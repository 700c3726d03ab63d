//! Starts a job and waits for it, starts one and goes on, stops it, restarts it:
//! `cargo run -p batchwright --example 21_start_stop_restart`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use batchwright::step::Flow;
use batchwright::{BatchStatus, Job, JobOperator, JobParameters, MemoryRepository, TaskletStep};

fn main() -> Result<(), Box<dyn Error>> {
    // A long one works until it is stopped.
    let step = TaskletStep::new("work", |call| {
        let rounds: u32 = call.scope().context().get("rounds").unwrap_or(0);
        call.scope().context().put("rounds", &(rounds + 1))?;
        call.scope().stop().wait(Duration::from_millis(10));
        let is_long = call.scope().parameters().boolean("long")?;
        Ok(if is_long && rounds < 1_000_000 { Flow::Continue } else { Flow::Finished })
    });
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("job").step(step).build()?)?;

    let done = operator.run("job", JobParameters::new().with("long", false))?;
    assert_eq!(done.status, BatchStatus::Completed);

    let handle = operator.start_json("job", r#"{"long": true}"#)?;
    operator.stop(handle.id())?;
    let stopped = handle.wait()?;
    assert_eq!(stopped.status, BatchStatus::Stopped);

    let restarted = operator.restart(stopped.id)?;
    operator.stop(restarted.id())?;
    println!("{}", restarted.wait()?.status);
    Ok(())
}
