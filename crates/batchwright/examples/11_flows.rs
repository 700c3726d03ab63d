//! A flow: partitions, a handled failure, branches side by side, a decision; restarted where it must be.
//!
//! `cargo run -p batchwright --example 11_flows`

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use batchwright::item::ListReader;
use batchwright::job::{Decision, JobFlow};
use batchwright::partition::{NumberRanges, PartitionStep};
use batchwright::scope::StepScope;
use batchwright::step::Flow;
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, ListWriter,
    MemoryRepository, TaskletStep,
};

fn main() -> Result<(), Box<dyn Error>> {
    let loaded = Arc::new(Mutex::new(Vec::new()));
    let printer_works = Arc::new(AtomicBool::new(false));

    // Four ranges of numbers, two at a time, each with a checkpoint of its own.
    let load = ChunkStepBuilder::new("load")
        .reader_with(|scope: &StepScope| {
            let (min, max) = (scope.partition_value::<i64>("min")?, scope.partition_value("max")?);
            Ok(ListReader::new((min..=max).collect::<Vec<_>>()))
        })
        .writer(ListWriter::new(Arc::clone(&loaded)))
        .chunk_size(100)
        .build();
    let load = PartitionStep::new(load, NumberRanges { min: 1, max: 1_000, grid: 4 }).threads(2);

    let step = |name: &str| TaskletStep::new(name, |_| Ok(Flow::Finished));
    let works = Arc::clone(&printer_works);
    let print = TaskletStep::new("print", move |_| match works.load(Ordering::SeqCst) {
        true => Ok(Flow::Finished),
        false => Err(ItemError::data("no paper")),
    });
    let no_news = TaskletStep::new("fetch news", |_| Err(ItemError::data("the host is down")));

    let job = Job::builder("nightly")
        .step(no_news)
        .on("FAILED")
        .to("load")
        .step(load)
        .split(
            "reports",
            [
                JobFlow::builder("on paper").step(print),
                JobFlow::builder("on screen").step(step("show")),
            ],
        )
        .decision("many?", |decision: &Decision<'_>| {
            let written = decision.step("load").map_or(0, |step| step.counters.write);
            Ok(if written > 500 { "MANY" } else { "FEW" }.to_owned())
        })
        .on("MANY")
        .to("archive")
        .on("FEW")
        .end("FEW")
        .step(step("archive"))
        .build()?;
    println!("{}", job.to_dot());

    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(job)?;
    let failed = operator.run("nightly", JobParameters::new())?;
    println!("{}", operator.explorer().summary(failed.id)?);
    assert_eq!(failed.status, BatchStatus::Failed, "the printer has no paper");
    assert_eq!(loaded.lock().map(|all| all.len()).unwrap_or(0), 1_000);

    // The handled failure is history, the partitions are complete: only the printer is asked again.
    printer_works.store(true, Ordering::SeqCst);
    let done = operator.restart(failed.id)?.wait()?;
    let names: Vec<_> =
        operator.explorer().step_summaries(done.id)?.into_iter().map(|step| step.name).collect();
    println!("{}", operator.explorer().summary(done.id)?);
    assert_eq!(names, ["print", "archive"]);
    Ok(())
}
