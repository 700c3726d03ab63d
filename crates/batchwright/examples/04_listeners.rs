//! Listeners and events: your code at every boundary, and what happens as a stream.
//!
//! `cargo run -p batchwright --example 04_listeners`

use std::error::Error;
use std::sync::Arc;

use batchwright::event::Change;
use batchwright::execution::{ExitStatus, JobExecution, Phase, StepExecution};
use batchwright::item::NoWriter;
use batchwright::listener::{
    ChunkListener, ItemListener, JobListener, ListenerResult, RetryListener, SkipListener,
    StepListener,
};
use batchwright::policy::SkipPolicy;
use batchwright::retry::RetryPolicy;
use batchwright::scope::{JobScope, StepScope};
use batchwright::{
    ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, MemoryRepository, Sequence,
};

struct Talk;

impl JobListener for Talk {
    fn before_job(&self, scope: &JobScope) -> ListenerResult {
        println!("job {} begins", scope.job());
        Ok(())
    }

    fn after_job(&self, _: &JobScope, execution: &JobExecution) -> ListenerResult {
        println!("job ends {}", execution.status);
        Ok(())
    }
}

impl StepListener for Talk {
    fn after_step(
        &self,
        _: &StepScope,
        execution: &StepExecution,
    ) -> ListenerResult<Option<ExitStatus>> {
        // An exit status of one's own can raise severity, never lower it.
        let skipped = execution.counters.skips() > 0;
        Ok(skipped.then(|| ExitStatus::new("SOME REJECTED")))
    }
}

impl ChunkListener<u64, u64> for Talk {
    fn after_chunk(&self, scope: &StepScope, items: &[u64]) -> ListenerResult {
        let written = scope.counters().write;
        println!("{}: committed {items:?}, {written} so far", scope.step());
        Ok(())
    }
}

impl ItemListener<u64, u64> for Talk {
    fn on_process_error(&self, _: &StepScope, item: &u64, error: &ItemError) -> ListenerResult {
        println!("item {item}: {error}");
        Ok(())
    }
}

impl SkipListener<u64, u64> for Talk {
    fn on_skip_in_process(&self, _: &StepScope, item: &u64, _: &ItemError) -> ListenerResult {
        println!("item {item} was given up, for good and exactly once");
        Ok(())
    }
}

impl RetryListener for Talk {
    fn on_retry(
        &self,
        _: &StepScope,
        phase: Phase,
        attempts: u32,
        _: &ItemError,
    ) -> ListenerResult {
        println!("{attempts} attempts to {phase} failed, there will be another");
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let step = ChunkStepBuilder::new("numbers")
        .reader(Sequence::to(7))
        .processor(|n: &u64| match n {
            5 => Err(ItemError::data("five is not allowed")),
            n => Ok(Some(*n)),
        })
        .writer(NoWriter::new())
        .chunk_size(3)
        .retry(RetryPolicy::attempts(2))
        .skip(SkipPolicy::limit(1))
        .listener(Talk)
        .build();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    let job = Job::builder("talkative").step(step).listener(Talk).build()?;
    operator.registry().register(job)?;

    let events = operator.events().subscribe(100);
    let execution = operator.run("talkative", JobParameters::new())?;
    let chunks = events
        .try_iter()
        .filter(|event| matches!(event.change, Change::ChunkCommitted { .. }))
        .count();
    assert_eq!(chunks, 3);
    assert_eq!(execution.exit.code, "SOME REJECTED");
    let statuses: Vec<_> = operator
        .queries()
        .events(execution.id)?
        .iter()
        .filter_map(|event| event.status())
        .map(|(status, _)| status.name())
        .collect();
    assert_eq!(
        statuses,
        ["STARTING", "STARTED", "STARTING", "STARTED", "COMPLETED", "COMPLETED"],
        "what is stored: job, job, step, step, step, job"
    );
    Ok(())
}
