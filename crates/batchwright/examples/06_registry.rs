//! Where jobs come from: built, made on first use from the application's state, found at link time.
//!
//! `cargo run -p batchwright --example 06_registry`

use std::error::Error;
use std::sync::Arc;

use batchwright::item::NoWriter;
use batchwright::registry::{AppState, JobFactory};
use batchwright::{
    ChunkStepBuilder, Job, JobOperator, JobParameters, JobRegistry, MemoryRepository, Sequence,
};

/// What the application shares with its jobs.
struct Settings {
    count: u64,
}

fn count_to(name: &str, count: u64) -> Result<Job, String> {
    let step =
        ChunkStepBuilder::new("count").reader(Sequence::to(count)).writer(NoWriter::new()).build();
    Job::builder(name).step(step).build().map_err(|refusal| refusal.to_string())
}

/// Registers itself when the program is linked; the attribute is a convenience, nothing needs it.
#[batchwright::job(name = "found-function")]
fn found(state: &AppState) -> Result<Job, String> {
    count_to("found-function", state.get::<Settings>()?.count)
}

#[batchwright::job(name = "found-type")]
struct FoundType;

impl JobFactory for FoundType {
    fn job(_: &AppState) -> Result<Job, String> {
        count_to("found-type", 2)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let registry = JobRegistry::with_state(AppState::new().with(Settings { count: 4 }));
    registry.register(count_to("built", 1)?)?;
    registry.register_factory("lazy", |state| count_to("lazy", state.get::<Settings>()?.count))?;
    assert_eq!(registry.discover()?, 2);

    assert!(registry.register(count_to("built", 9)?).is_err(), "a name is taken once");
    registry.replace(count_to("built", 9)?);
    assert!(registry.has("lazy"), "and asking made nothing");
    println!("{:?}", registry.names());

    let operator =
        JobOperator::builder(Arc::new(MemoryRepository::new())).registry(registry).build();
    for name in operator.registry().names() {
        let execution = operator.run(&name, JobParameters::new())?;
        println!("{}", operator.explorer().summary(execution.id)?);
    }
    Ok(())
}
