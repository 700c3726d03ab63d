//! Every call of the book's chapter *Coming from*, in one program.
//!
//! `cargo run -p batchwright-store --example 10_coming_from`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use batchwright::execution::{ExitStatus, JobExecution, Phase, StepExecution};
use batchwright::item::{ChunkTransaction, NoWriter};
use batchwright::launch::RecoverMode;
use batchwright::listener::{
    ChunkListener, ItemListener, JobListener, ListenerResult, RetryListener, SkipListener,
    StepListener,
};
use batchwright::policy::{Classifier, Completion, SkipPolicy};
use batchwright::query::{CachedQueries, ExecutionFilter, InstancePage, Queries};
use batchwright::registry::{AppState, JobFactory};
use batchwright::retry::{Backoff, RetryPolicy};
use batchwright::scope::{JobScope, StepScope};
use batchwright::step::Flow;
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, JobRegistry,
    Sequence, TaskletStep,
};
use batchwright_items::format::csv::CsvReader;
use batchwright_items::format::json_lines::JsonLinesReader;
use batchwright_store::SqlRepository;

struct Everything;

impl JobListener for Everything {
    fn before_job(&self, _: &JobScope) -> ListenerResult {
        Ok(())
    }

    fn after_job(&self, _: &JobScope, _: &JobExecution) -> ListenerResult {
        Ok(())
    }
}

impl StepListener for Everything {
    fn before_step(&self, _: &StepScope) -> ListenerResult {
        Ok(())
    }

    fn after_step(&self, _: &StepScope, _: &StepExecution) -> ListenerResult<Option<ExitStatus>> {
        Ok(None)
    }
}

impl ChunkListener<u64, u64> for Everything {
    fn before_chunk(&self, _: &StepScope, _: &[u64]) -> ListenerResult {
        Ok(())
    }

    fn after_chunk(&self, _: &StepScope, _: &[u64]) -> ListenerResult {
        Ok(())
    }

    fn on_chunk_error(&self, _: &StepScope, _: &[u64], _: &ItemError) -> ListenerResult {
        Ok(())
    }
}

impl ItemListener<u64, u64> for Everything {
    fn before_read(&self, _: &StepScope) -> ListenerResult {
        Ok(())
    }

    fn after_read(&self, _: &StepScope, _: &u64) -> ListenerResult {
        Ok(())
    }

    fn on_read_error(&self, _: &StepScope, _: &ItemError) -> ListenerResult {
        Ok(())
    }

    fn before_process(&self, _: &StepScope, _: &u64) -> ListenerResult {
        Ok(())
    }

    fn after_process(&self, _: &StepScope, _: &u64, _: Option<&u64>) -> ListenerResult {
        Ok(())
    }

    fn on_process_error(&self, _: &StepScope, _: &u64, _: &ItemError) -> ListenerResult {
        Ok(())
    }

    fn before_write(
        &self,
        _: &StepScope,
        _: &[u64],
        _: &mut ChunkTransaction<'_>,
    ) -> ListenerResult {
        Ok(())
    }

    fn after_write(
        &self,
        _: &StepScope,
        _: &[u64],
        _: &mut ChunkTransaction<'_>,
    ) -> ListenerResult {
        Ok(())
    }

    fn on_write_error(&self, _: &StepScope, _: &[u64], _: &ItemError) -> ListenerResult {
        Ok(())
    }
}

impl SkipListener<u64, u64> for Everything {
    fn on_skip_in_read(&self, _: &StepScope, _: &ItemError) -> ListenerResult {
        Ok(())
    }

    fn on_skip_in_process(&self, _: &StepScope, _: &u64, _: &ItemError) -> ListenerResult {
        Ok(())
    }

    fn on_skip_in_write(&self, _: &StepScope, _: &u64, _: &ItemError) -> ListenerResult {
        Ok(())
    }
}

impl RetryListener for Everything {
    fn on_retry(&self, _: &StepScope, _: Phase, _: u32, _: &ItemError) -> ListenerResult {
        Ok(())
    }
}

fn numbers() -> Result<Job, String> {
    let step = ChunkStepBuilder::new("count")
        .reader(Sequence::to(10))
        .processor(|n: &u64| match n {
            7 => Err(ItemError::data("seven is not allowed")),
            n => Ok(Some(*n)),
        })
        .writer(NoWriter::new())
        .chunk_size(3)
        .completion(Completion::items(3).within(Duration::from_secs(5)))
        .skip(SkipPolicy::limit(1).on(Classifier::none().including("data")))
        .retry(RetryPolicy::attempts(1).backoff(Backoff::None))
        .start_limit(5)
        .allow_start_if_complete()
        .step_listener(Everything)
        .build()
        .chunk_listener(Everything)
        .item_listener(Everything)
        .skip_listener(Everything)
        .retry_listener(Everything);
    let end = TaskletStep::new("end", |call| {
        let scope = call.scope();
        scope.context().put("seen", &true)?;
        scope.job().context().put("run", &scope.parameters().integer("run")?)?;
        Ok(Flow::Finished)
    });
    Job::builder("numbers")
        .step(step)
        .step(end)
        .listener(Everything)
        .next(|newest| {
            let run = newest.map_or(0, |one| one.integer("run").unwrap_or(0));
            Ok(JobParameters::new().with("run", run + 1))
        })
        .build()
        .map_err(|refusal| refusal.to_string())
}

/// Discovered at link time.
#[batchwright::job(name = "discovered")]
struct Discovered;

impl JobFactory for Discovered {
    fn job(state: &AppState) -> Result<Job, String> {
        let limit = *state.get::<u64>()?;
        let step = ChunkStepBuilder::new("count")
            .reader(Sequence::to(limit))
            .writer(NoWriter::new())
            .build();
        Job::builder("discovered")
            .step(step)
            .not_restartable()
            .build()
            .map_err(|refusal| refusal.to_string())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("coming-from-{}.db", std::process::id()));
    let repository = Arc::new(SqlRepository::sqlite(&path)?);

    // Registry.
    let registry = JobRegistry::with_state(AppState::new().with(3_u64));
    registry.register(numbers()?)?;
    registry.register_factory("lazy", |_| Err("never asked for".to_owned()))?;
    registry.discover()?;
    registry.replace(numbers()?);
    assert!(registry.has("numbers") && registry.job("numbers").is_ok());
    assert_eq!(registry.names(), ["discovered", "lazy", "numbers"]);
    registry.unregister("lazy");

    // Launching: block until the end, await it, or continue.
    let operator = JobOperator::builder(repository.clone())
        .registry(registry)
        .running_jobs_max(4)
        .running_steps_max(4)
        .build();
    let events = operator.events().subscribe(1_000);
    let handle = operator.start("numbers", JobParameters::new().with("run", 1))?;
    let id = handle.id();
    let done = handle.wait()?;
    assert_eq!(done.status, BatchStatus::Completed);
    assert!(events.try_recv().is_ok());

    // Operator.
    let next = operator.next("numbers")?.wait()?;
    assert_eq!(next.context.get::<i64>("run")?, 2);
    let newest = operator.explorer().newest("numbers")?.id;
    assert_eq!(operator.restart(id).unwrap_err().code(), "already_complete");
    assert_eq!(operator.restart(newest).unwrap_err().code(), "already_complete");
    assert_eq!(operator.stop(id).unwrap_err().code(), "not_running");
    assert_eq!(operator.stop(newest).unwrap_err().code(), "not_running");
    assert_eq!(operator.abandon(id).unwrap_err().code(), "not_running");
    assert_eq!(operator.recover(id, RecoverMode::Detect)?.status, BatchStatus::Completed);
    assert!(operator.recover_all()?.is_empty());
    assert_eq!(operator.explorer().job_names()?.len(), 2);
    assert_eq!(operator.explorer().instance_count("numbers")?, 2);
    assert_eq!(operator.explorer().execution_count("numbers")?, 2);
    let instances = operator.explorer().instances("numbers", InstancePage::first(20))?;
    assert!(operator.explorer().running("numbers")?.is_empty());
    assert_eq!(operator.explorer().executions(instances[0].id)?[0].id, next.id);
    assert_eq!(operator.explorer().parameters(next.id)?.integer("run")?, 2);
    println!("{}", operator.explorer().summary(next.id)?);
    for step in operator.explorer().step_summaries(next.id)? {
        println!("{step}");
    }

    // Queries: no operator, no job; with a cache in front of them if you like.
    let queries = CachedQueries::new(repository, Duration::from_secs(60), 1_000);
    assert_eq!(queries.job_names()?, ["numbers"]);
    assert!(queries.instance(instances[0].id)?.is_some());
    assert_eq!(queries.instances("numbers", InstancePage::after(instances[0].id, 20))?.len(), 1);
    assert_eq!(queries.instance_count("numbers")?, 2);
    assert!(queries.execution(id)?.is_some());
    assert_eq!(queries.executions(&ExecutionFilter::of_job("numbers").limit(1))?[0].id, next.id);
    assert_eq!(queries.executions(&ExecutionFilter::of_instance(instances[0].id))?.len(), 1);
    assert_eq!(queries.execution_count(&ExecutionFilter::of_job("numbers"))?, 2);
    assert!(queries.running("numbers")?.is_empty());
    let steps = queries.steps(next.id)?;
    assert!(queries.step(steps[0].id)?.is_some());
    assert_eq!(queries.skips(next.id)?.len(), 1);
    assert!(!queries.events(next.id)?.is_empty());

    // Start and wait in one call; a JSON text has the declared types.
    let third = operator.run("numbers", JobParameters::new().with("run", 3))?;
    let found = operator.explorer().newest_with("numbers", third.parameters.clone())?;
    assert_eq!(found.map(|one| one.id), Some(third.id));
    let name = &steps[0].name;
    assert!(operator.explorer().step_summary(third.id, name)?.is_some());
    let fourth = operator.start_json("numbers", r#"{"run": 4}"#)?.wait()?;
    assert_eq!(fourth.parameters.integer("run")?, 4);

    // Statuses and exit statuses.
    for status in BatchStatus::ALL {
        assert_eq!(BatchStatus::from_name(status.name()), Some(status));
    }
    assert_eq!(BatchStatus::Completed.worst(BatchStatus::Failed), BatchStatus::Failed);
    assert_eq!(ExitStatus::completed().and(ExitStatus::failed()).code, ExitStatus::FAILED);
    let _ = (ExitStatus::stopped(), ExitStatus::executing(), ExitStatus::new("NOOP"));

    // Files have their own readers and writers.
    let _ = (CsvReader::<(u64, String)>::new("a.csv"), JsonLinesReader::<u64>::new("a.jsonl"));
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{ending}", path.display()));
    }
    Ok(())
}
