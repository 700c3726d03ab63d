//! Steps that are no chunks: an action of your own, and a program.
//!
//! `cargo run -p batchwright --example 05_tasklets`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use batchwright::execution::ExitStatus;
use batchwright::step::{CommandStep, ExitCodeMeaning, Flow};
use batchwright::{Job, JobOperator, JobParameters, MemoryRepository, TaskletStep};

fn main() -> Result<(), Box<dyn Error>> {
    // Called until it is finished: each call is a transaction, a stop may come in between.
    let countdown = TaskletStep::new("countdown", |call| {
        let context = call.scope().context().clone();
        let left = if context.has("left") { context.get("left")? } else { 3 };
        call.contribute(1, 0);
        context.put("left", &(left - 1))?;
        call.scope().job().context().put("counted", &(3 - left + 1))?;
        Ok(if left > 1 { Flow::Continue } else { Flow::Finished })
    });
    // An argument vector; no shell looks at it. What an exit code means is yours to say.
    let command = CommandStep::new("look", ["sh", "-c", "echo looking; exit 3"])
        .timeout(Duration::from_secs(60))
        .exit_code(3, ExitCodeMeaning::Completed(ExitStatus::new("NOTHING SEEN")));

    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    let job = Job::builder("actions").step(countdown).step(command).build()?;
    operator.registry().register(job)?;
    let execution = operator.run("actions", JobParameters::new())?;

    println!("{}", operator.explorer().summary(execution.id)?);
    let steps = operator.explorer().step_summaries(execution.id)?;
    assert_eq!((steps[0].counters.read, steps[0].counters.commit), (3, 3));
    assert_eq!(execution.exit.code, "NOTHING SEEN");
    assert_eq!(execution.context.get::<i32>("counted")?, 3);
    Ok(())
}
