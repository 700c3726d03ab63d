//! Parameters: what makes two starts the same instance, and how a step gets at them.
//!
//! `cargo run -p batchwright --example 02_parameters`

use std::error::Error;
use std::sync::Arc;

use batchwright::item::NoWriter;
use batchwright::operator::OperatorError;
use batchwright::parameters::{ParameterDeclaration, ParameterType};
use batchwright::{ChunkStepBuilder, Job, JobOperator, JobParameters, MemoryRepository, Sequence};

fn main() -> Result<(), Box<dyn Error>> {
    // The reader is made for every execution, from its parameters.
    let step = ChunkStepBuilder::new("count")
        .reader_with(|scope| {
            let limit = scope.parameters().integer("limit")?;
            Ok(Sequence::to(u64::try_from(limit)?))
        })
        .writer(NoWriter::new())
        .build();
    let job = Job::builder("nightly")
        .parameter(ParameterDeclaration::new("date", ParameterType::Date).required())
        .parameter(
            ParameterDeclaration::new("limit", ParameterType::Integer).default(5).non_identifying(),
        )
        .parameter(ParameterDeclaration::new("run", ParameterType::Integer).default(1))
        .next(|newest| {
            let newest = newest.cloned().unwrap_or_default();
            let run = newest.integer("run").unwrap_or(0);
            Ok(newest.with("run", run + 1))
        })
        .step(step)
        .build()?;
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(job)?;

    let day = JobParameters::new().with("date", date("2026-11-21")?);
    operator.run("nightly", day.clone())?;

    // The same date again, whatever the limit: the same instance, and it is complete.
    let again = operator.start("nightly", day.with_non_identifying("limit", 7));
    assert!(matches!(&again, Err(error) if error.code() == "already_complete"), "{again:?}");

    // All problems are reported at once, and nothing is stored.
    let wrong = JobParameters::new().with("date", "tomorrow").with("lmit", 3);
    match operator.start("nightly", wrong) {
        Err(OperatorError::Refused(refusal)) => println!("{refusal}"),
        other => panic!("should be refused: {other:?}"),
    }

    // The next instance: the newest one's parameters, changed by the job's incrementer.
    let next = operator.next("nightly")?.wait()?;
    println!("{}", operator.explorer().summary(next.id)?);
    assert_eq!(operator.explorer().parameters(next.id)?.integer("run")?, 2);
    assert_eq!(operator.explorer().instance_count("nightly")?, 2);
    Ok(())
}

/// A date, parsed the way the command line parses it.
fn date(text: &str) -> Result<batchwright::parameters::ParameterValue, String> {
    batchwright::parameters::ParameterValue::parse(text, ParameterType::Date)
}
