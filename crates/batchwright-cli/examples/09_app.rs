//! An application with its own jobs and every verb of the command.
//!
//! `cargo run -p batchwright-cli --example 09_app -- run count limit:integer=1000`

use std::process::ExitCode;

use batchwright::item::NoWriter;
use batchwright::{ChunkStepBuilder, Job, JobRegistry, Sequence};

fn main() -> ExitCode {
    let step = ChunkStepBuilder::new("count")
        .reader_with(|scope| Ok(Sequence::to(u64::try_from(scope.parameters().integer("limit")?)?)))
        .writer(NoWriter::new())
        .build();
    let job = Job::builder("count").step(step).build().expect("a valid job");
    let registry = JobRegistry::new();
    registry.register(job).expect("the only job of that name");
    batchwright_cli::main(registry)
}
