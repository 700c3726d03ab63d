//! Progressive steps: long work done in slices, here without HTTP.
//!
//! `cargo run -p batchwright --example 13_progressive`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright::launch::LaunchOptions;
use batchwright::progressive::{
    FinalResponse, NumberedUnits, OpenOptions, ProgressiveStep, SliceAnswer, SliceOrder,
    SliceOutcome,
};
use batchwright::{Job, JobOperator, JobParameters, MemoryRepository};

const NUMBERS: u64 = 300_000;

fn main() -> Result<(), Box<dyn Error>> {
    let step = ProgressiveStep::builder("longest")
        .units(NumberedUnits::new(NUMBERS))
        .process(|number: &u64| Ok(Some((hailstones(number + 1), number + 1))))
        .reduce(
            |longest: Option<(u64, u64)>, one| Ok(longest.map_or(*one, |two| two.max(*one))),
            |left, right| Ok(left.max(right)),
        )
        .respond(|longest, units| FinalResponse::json(&(longest, units)))
        .lanes(4)
        .target(Duration::from_millis(10))
        .build();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("hailstones").step(step).build()?)?;

    let (launch, open) = (LaunchOptions::default(), OpenOptions::default());
    let id = operator.progressive().open("hailstones", JobParameters::new(), &launch, &open)?.id;

    // One lane takes a slice, as a request would: it ends near its target, with a checkpoint.
    let (_, state) = operator.progressive().progressive_state(id, None)?;
    let order = SliceOrder::new(id, &state.lanes[0].id, 1, operator.clock().elapsed());
    let slice = || operator.progressive().slice(&order, |work| drop(std::thread::spawn(work)));
    let answer = slice()?;
    assert_eq!(answer, slice()?, "the same request gets the same answer, and runs nothing");
    let message: SliceAnswer = serde_json::from_str(&answer)?;
    println!("{:?}: {} of {NUMBERS} units", message.outcome, message.progress.units_done);
    assert_eq!((message.outcome, message.next_seq), (SliceOutcome::Continue, 2));

    // `drive` processes the remaining units, on all lanes.
    let ended = operator.progressive().drive(id, 4, &StopToken::default())?;
    println!("{}", operator.explorer().summary(ended.id)?);
    let response =
        operator.progressive().response(id, None)?.ok_or("there is a response at the end")?;
    println!("{}", String::from_utf8_lossy(&response.body));
    let expected = (1..=NUMBERS).map(|number| (hailstones(number), number)).max();
    let units = serde_json::json!({"units_done": NUMBERS, "units_failed": 0});
    assert_eq!(response.body, serde_json::to_vec(&(expected, units))?);
    Ok(())
}

/// Steps until a number is 1: halved when it is even, else tripled and one more.
fn hailstones(mut number: u64) -> u64 {
    let mut steps = 0;
    while number != 1 {
        number = if number.is_multiple_of(2) { number / 2 } else { 3 * number + 1 };
        steps += 1;
    }
    steps
}
