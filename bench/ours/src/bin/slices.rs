//! Measures progressive execution: when slices end, what they cost, how lanes share units.
//!
//! `cargo xtask bench slices` runs this program, which prints tables for `docs/benchmarks.md`.
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures, and its units take real time"
)]

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use batchwright::clock::StopToken;
use batchwright::launch::LaunchOptions;
use batchwright::policy::Completion;
use batchwright::progressive::{
    NumberedUnits, OpenOptions, ProgressiveStep, SliceAnswer, SliceOrder, SliceOutcome,
};
use batchwright::testing::{SimRng, UnitShape};
use batchwright::{Job, JobOperator, JobParameters};
use batchwright_server::Server;
use batchwright_server::api::HttpSettings;
use batchwright_store::{SqlRepository, StoreOptions};

/// Returns the number of slices of a trace after the first one: more where a slice has few units.
fn slices(base_ms: f64) -> usize {
    if base_ms >= 100.0 { 96 } else { 32 }
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Returns the milliseconds that unit `n` of `units` takes, where `base` is the usual time. The duration
/// depends only on `n`, so that a repeated unit takes as long again.
fn unit(shape: UnitShape, base: f64, n: u64, units: f64) -> f64 {
    let mut random = SimRng(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    random.below(2);
    shape.unit(base, (n as f64 / units).min(1.0), &mut random)
}

fn operator(url: &str, step: ProgressiveStep) -> Result<JobOperator> {
    let (database, options) = StoreOptions::parse(url)?;
    let operator = JobOperator::new(Arc::new(SqlRepository::open(database, &options)?));
    operator.registry().register(Job::builder("job").step(step).build()?)?;
    Ok(operator)
}

fn url(folder: &Path, name: &str) -> String {
    format!("sqlite://{}?synchronous=normal", folder.join(name).display())
}

fn order(
    operator: &JobOperator,
    id: batchwright::execution::ExecutionId,
    lane: &str,
    seq: u64,
) -> SliceOrder {
    SliceOrder::new(id, lane, seq, operator.clock().elapsed())
}

fn open(operator: &JobOperator) -> Result<(batchwright::execution::ExecutionId, Vec<String>)> {
    let (launch, open) = (LaunchOptions::default(), OpenOptions::default());
    let id = operator.progressive().open("job", JobParameters::new(), &launch, &open)?.id;
    let (_, state) = operator.progressive().progressive_state(id, None)?;
    Ok((id, state.lanes.into_iter().map(|lane| lane.id).collect()))
}

/// Returns the ends of slices as shares of their target, after a warm-up slice.
fn ends(folder: &Path, shape: UnitShape, base_ms: f64, target_ms: f64) -> Result<Vec<f64>> {
    let units = target_ms / base_ms * (slices(base_ms) + 1) as f64;
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(10_000_000))
        .process(move |number: &u64| {
            thread::sleep(Duration::from_secs_f64(unit(shape, base_ms, *number, units) / 1e3));
            Ok(Some(*number))
        })
        .lanes(1)
        .target(Duration::from_secs_f64(target_ms / 1e3))
        .build();
    let name = format!("ends-{}-{base_ms}-{target_ms}.db", shape as u8);
    let operator = operator(&url(folder, &name), step)?;
    let (id, lanes) = open(&operator)?;
    let mut ends = Vec::new();
    for seq in 1..=(slices(base_ms) + 1) as u64 {
        let began = Instant::now();
        operator
            .progressive()
            .slice(&order(&operator, id, &lanes[0], seq), |work| drop(thread::spawn(work)))?;
        ends.push(began.elapsed().as_secs_f64() * 1e3 / target_ms);
    }
    Ok(ends.split_off(1))
}

fn nth(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

fn where_slices_end(folder: &Path) -> Result<()> {
    println!("| units | shape | target | median | p95 | used |\n|---|---|---|---|---|---|");
    for base in [1.0, 10.0, 200.0] {
        // Units sleep, so concurrent traces hardly disturb each other.
        let rows: Vec<_> = thread::scope(|scope| {
            let mut traces = Vec::new();
            for target in [1000.0, 2000.0] {
                for (shape, name) in UnitShape::ALL {
                    let trace = scope.spawn(move || ends(folder, shape, base, target));
                    traces.push((name, target, trace));
                }
            }
            traces.into_iter().map(|(name, target, trace)| (name, target, trace.join())).collect()
        });
        for (name, target, ends) in rows {
            let mut ends = ends.map_err(|_| "a trace panicked")??;
            ends.sort_unstable_by(f64::total_cmp);
            let used = ends.iter().sum::<f64>() / ends.len() as f64;
            let (median, late) = (nth(&ends, 0.5), nth(&ends, 0.95));
            println!(
                "| {base} ms | {name} | {} s | {median:.3} | {late:.3} | {:.0} % |",
                target / 1e3,
                used * 100.0
            );
        }
    }
    Ok(())
}

/// Returns the number of empty units per second in one slice.
fn overhead(folder: &Path, chunk: usize) -> Result<f64> {
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(1_000_000_000))
        .process(|unit: &u64| Ok(Some(*unit)))
        .lanes(1)
        .target(Duration::from_secs(2))
        .completion(Completion::items(chunk))
        .build();
    let operator = operator(&url(folder, &format!("empty-{chunk}.db")), step)?;
    let (id, lanes) = open(&operator)?;
    let mut best = 0f64;
    for seq in 1..=3 {
        let before = operator.progressive().units_progress(id, None)?.units_done;
        let began = Instant::now();
        operator
            .progressive()
            .slice(&order(&operator, id, &lanes[0], seq), |work| drop(thread::spawn(work)))?;
        let units = operator.progressive().units_progress(id, None)?.units_done - before;
        best = best.max(units as f64 / began.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Returns the cost of a request beyond its single unit, in milliseconds, at the median and at p95.
fn hand_off(folder: &Path, synchronous: &str) -> Result<(f64, f64)> {
    const REQUESTS: u64 = 300;
    const UNIT: Duration = Duration::from_millis(5);
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(1_000_000))
        .process(|unit: &u64| {
            let began = Instant::now();
            while began.elapsed() < UNIT {
                std::hint::spin_loop();
            }
            Ok(Some(*unit))
        })
        .lanes(1)
        .target(Duration::from_millis(1))
        .build();
    let url = format!(
        "sqlite://{}?synchronous={synchronous}",
        folder.join(format!("hand-off-{synchronous}.db")).display()
    );
    let operator = operator(&url, step)?;
    let (id, lanes) = open(&operator)?;
    let http = HttpSettings::new(([127, 0, 0, 1], 0).into());
    let server = Server::builder(operator).http(http).start()?;
    let address = server.http_address().ok_or("no address")?;
    let client = reqwest::Client::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let place = format!("http://{address}/v1/executions/{id}/lanes/{}/slices", lanes[0]);
    let mut costs = Vec::new();
    for seq in 1..=REQUESTS {
        let began = Instant::now();
        let request = client
            .post(&place)
            .header("content-type", "application/json")
            .body(format!("{{\"seq\":{seq}}}"));
        let answer = runtime.block_on(async { request.send().await?.text().await })?;
        let took = began.elapsed();
        let answer: SliceAnswer = serde_json::from_str(&answer)?;
        if answer.outcome != SliceOutcome::Continue || answer.progress.units_done != seq {
            return Err(format!("not one unit: {answer:?}").into());
        }
        costs.push((took.saturating_sub(UNIT)).as_secs_f64() * 1e3);
    }
    server.stop();
    costs.sort_unstable_by(f64::total_cmp);
    Ok((nth(&costs, 0.5), nth(&costs, 0.95)))
}

/// Returns the seconds that two lanes need if one has the slow units and the other the quick ones.
fn skewed(folder: &Path) -> Result<f64> {
    const UNITS: u64 = 400;
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(UNITS))
        .process(|unit: &u64| {
            let millis = if *unit < UNITS / 2 { 18 } else { 2 };
            thread::sleep(Duration::from_millis(millis));
            Ok(Some(*unit))
        })
        .reduce(|sum: Option<u64>, unit| Ok(sum.unwrap_or(0) + unit), |a, b| Ok(a + b))
        .lanes(2)
        .target(Duration::from_secs(1))
        .build();
    let operator = operator(&url(folder, "skewed.db"), step)?;
    let (id, _) = open(&operator)?;
    let began = Instant::now();
    operator.progressive().drive(id, 2, &StopToken::default())?;
    Ok(began.elapsed().as_secs_f64())
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir_in("target")?;
    let folder = folder.path();
    println!("## Slices\n\n| what | measured |\n|---|---|");
    for chunk in [1_000, 100_000] {
        let millions = overhead(folder, chunk)? / 1e6;
        println!(
            "| empty units a second in one slice, a checkpoint every {chunk} | {millions:.2} M |"
        );
    }
    for synchronous in ["normal", "full"] {
        let (median, late) = hand_off(folder, synchronous)?;
        println!("| HTTP hand-off, `{synchronous}` | {median:.2} ms, p95 {late:.2} ms |");
    }
    let ideal = 200.0 * 0.018 / 2.0 + 200.0 * 0.002 / 2.0;
    let took = skewed(folder)?;
    println!("| skewed lanes: {ideal:.2} s is ideal | {took:.2} s, {:.2} of it |\n", took / ideal);
    where_slices_end(folder)
}
