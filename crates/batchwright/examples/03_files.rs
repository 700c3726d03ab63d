//! Files: typed records from CSV to JSON lines, bad ones skipped, counted and kept.
//!
//! `cargo run -p batchwright --example 03_files`

use std::error::Error;
use std::sync::Arc;

use batchwright::policy::SkipPolicy;
use batchwright::{ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, MemoryRepository};
use batchwright_items::format::csv::CsvReader;
use batchwright_items::format::json_lines::JsonLinesWriter;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Deserialize)]
struct Order {
    id: u64,
    quantity: u32,
    price: f64,
}

#[derive(Debug, Clone, Serialize)]
struct Line {
    id: u64,
    total: f64,
}

fn total(order: &Order) -> Result<Option<Line>, ItemError> {
    if order.price < 0.0 {
        return Err(ItemError::data(format!("the price of order {} is below zero", order.id)));
    }
    let total = f64::from(order.quantity) * order.price;
    Ok((total > 0.0).then_some(Line { id: order.id, total }))
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("batchwright-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let (input, output, rejected) =
        (dir.join("orders.csv"), dir.join("lines.jsonl"), dir.join("rejected.jsonl"));
    std::fs::write(&input, "id,quantity,price\n1,2,9.5\n2,x,1\n3,0,4\n4,1,-3\n5,3,2\n")?;

    let step = ChunkStepBuilder::new("value")
        .reader(CsvReader::<Order>::new(&input))
        .processor(total)
        .writer(JsonLinesWriter::new(&output))
        .skip(SkipPolicy::limit(10))
        .dead_letters(&rejected)
        .build()
        .keep_skipped(|order| format!("{order:?}"), |line| format!("{line:?}"));
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("value-orders").step(step).build()?)?;
    let execution = operator.run("value-orders", JobParameters::new())?;

    for step in operator.explorer().step_summaries(execution.id)? {
        println!("{step}");
    }
    print!("{}{}", std::fs::read_to_string(&output)?, std::fs::read_to_string(&rejected)?);
    assert_eq!(
        std::fs::read_to_string(&output)?,
        "{\"id\":1,\"total\":19.0}\n{\"id\":5,\"total\":6.0}\n"
    );
    assert_eq!(operator.queries().skips(execution.id)?.len(), 2);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
