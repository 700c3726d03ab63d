//! A durable job: rows and checkpoint in one transaction of a SQLite file, restarted after a failure.
//!
//! `cargo run -p batchwright-store --example 08_durable`

use std::error::Error;
use std::sync::Arc;

use batchwright::testing::fault::{FaultPlan, FaultyWriter};
use batchwright::{BatchStatus, ChunkStepBuilder, Job, JobOperator, JobParameters, Sequence};
use batchwright_store::{SqlReader, SqlRepository, SqlWriter};

fn job(faults: &FaultPlan) -> Result<Job, Box<dyn Error>> {
    let faults = faults.clone();
    let step = ChunkStepBuilder::new("load")
        .reader(Sequence::to(1_000))
        .writer_with(move |_| {
            let rows = SqlWriter::in_store("number", ["n"], |n: &u64, row| row.bind(*n as i64));
            Ok(FaultyWriter::new(rows, &faults))
        })
        .chunk_size(100)
        .build();
    Ok(Job::builder("numbers").step(step).build()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("batchwright-{}.db", std::process::id()));
    let repository = Arc::new(SqlRepository::sqlite(&path)?);
    let database = repository.database().clone();
    database.run("CREATE TABLE number (n INTEGER PRIMARY KEY)")?;
    let operator = JobOperator::new(repository);

    // The write of item 250 fails: two chunks are committed, the third one is rolled back.
    let fails = FaultPlan { fatal_write: [250].into(), ..FaultPlan::default() };
    operator.registry().replace(job(&fails)?);
    let failed = operator.run("numbers", JobParameters::new())?;
    println!("{}", operator.explorer().summary(failed.id)?);
    assert_eq!(failed.status, BatchStatus::Failed);

    // Without the fault, the restart continues after the second chunk.
    operator.registry().replace(job(&FaultPlan::default())?);
    let done = operator.restart(failed.id)?.wait()?;
    println!("{}", operator.explorer().summary(done.id)?);
    assert_eq!(operator.explorer().step_summaries(done.id)?[0].counters.read, 800);

    // Rows can be items too: this step reads the table by its key.
    let reader = SqlReader::new(database, "SELECT n FROM number", |row| row.get::<i64>("n"));
    let step = ChunkStepBuilder::new("check")
        .reader(reader.keyset("n"))
        .writer(batchwright::item::NoWriter::new())
        .build();
    operator.registry().register(Job::builder("check").step(step).build()?)?;
    let checked = operator.run("check", JobParameters::new())?;
    assert_eq!(operator.explorer().step_summaries(checked.id)?[0].counters.read, 1_000);
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{ending}", path.display()));
    }
    Ok(())
}
