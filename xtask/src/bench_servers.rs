//! `cargo xtask bench servers` and `cargo xtask bench store`: real servers, as `scripts/services.sh` starts
//! them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo;

/// Number of records of the workloads on servers.
const RECORDS: u64 = 200_000;
/// Number of executions in the stores.
const EXECUTIONS: u64 = 1_000_000;

const OURS: &str = "target/release/ours";

fn build() -> Result<PathBuf, String> {
    cargo(&["build", "--release", "--package", "ours"], &[])?;
    let folder = PathBuf::from("target/bench");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    Ok(folder)
}

/// Loads the same CSV file with a loop and with the engine, in turns; prints medians and ratios.
pub(crate) fn servers(rounds: usize) -> Result<(), String> {
    let folder = build()?;
    let (input, output) = (folder.join("servers.csv"), folder.join("servers.out"));
    run("make", "input", RECORDS, Path::new("-"), &input)?;
    let contenders = [
        ("loop-server", "csv-postgres"),
        ("loop-server", "csv-postgres-copy"),
        ("ours", "csv-postgres"),
        ("loop-server", "csv-mariadb"),
        ("ours", "csv-mariadb"),
    ];
    let mut samples: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for (contender, work) in contenders {
            let nanos = run(contender, work, RECORDS, &input, &output)?;
            samples.entry((contender, work)).or_default().push(nanos / RECORDS as f64);
        }
    }
    let mut median = |contender, work| {
        let times = samples.get_mut(&(contender, work)).expect("it ran");
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    println!("| work | best loop, µs a row | ours, µs a row | ratio |\n|---|---|---|---|");
    let best =
        median("loop-server", "csv-postgres").min(median("loop-server", "csv-postgres-copy"));
    for (work, best) in
        [("csv-postgres", best), ("csv-mariadb", median("loop-server", "csv-mariadb"))]
    {
        let ours = median("ours", work);
        println!("| {work} | {:.2} | {:.2} | {:.2} |", best / 1e3, ours / 1e3, ours / best);
    }
    Ok(())
}

/// Measures queries on stores with a million executions.
pub(crate) fn store() -> Result<(), String> {
    let folder = build()?;
    for kind in ["sqlite", "postgres"] {
        run("store", kind, EXECUTIONS, Path::new("-"), &folder.join("store.db"))?;
    }
    Ok(())
}

/// Runs one contender once and returns its nanoseconds; the contender inherits stderr.
fn run(
    contender: &str,
    work: &str,
    count: u64,
    input: &Path,
    output: &Path,
) -> Result<f64, String> {
    let done = Command::new(OURS)
        .args([contender, work, &count.to_string()])
        .args([input, output])
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run {OURS}: {error}"))?;
    let output = String::from_utf8_lossy(&done.stdout);
    let nanos = output.split_whitespace().next().and_then(|word| word.parse().ok());
    nanos.filter(|_| done.status.success()).ok_or_else(|| format!("{contender} failed at {work}"))
}

/// Runs the load generator against the scheduler, which prints its table.
pub(crate) fn scheduler(quick: bool) -> Result<(), String> {
    let folder = build()?.join("scheduler");
    cargo(&["build", "--release", "--package", "batchwright-cli"], &[])?;
    let mut command = Command::new("target/release/scheduler");
    command.arg("target/release/batchwright").arg(folder).args(quick.then_some("quick"));
    let status =
        command.status().map_err(|error| format!("cannot run the load generator: {error}"))?;
    if status.success() { Ok(()) } else { Err("the load generator failed".to_owned()) }
}

/// Measures progressive execution and prints tables.
pub(crate) fn slices() -> Result<(), String> {
    let build = ["build", "--release", "--package", "ours", "--bin", "slices"];
    cargo(&build, &[])?;
    let status = Command::new("target/release/slices").status();
    match status.map_err(|error| format!("run the benchmark: {error}"))?.success() {
        true => Ok(()),
        false => Err("the benchmark failed".to_owned()),
    }
}
