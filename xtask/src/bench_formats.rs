//! `cargo xtask bench formats`: each format beside a loop over its library, in turns.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::bench::{Sample, run_one};
use crate::bench_tools::{RECORDS, median};
use crate::cargo;

const PROGRAM: &str = "target/formats/release/formats";

/// A format: its name, the name of a file, and the target of the ratio to the loop.
const FORMATS: [(&str, &str, f64); 5] = [
    ("parquet", "rows.parquet", 1.15),
    ("avro", "rows.avro", 1.15),
    ("xml", "rows.xml", 1.15),
    ("excel", "rows.xlsx", 1.15),
    ("gzip", "rows.csv.gz", 1.1),
];

/// Builds the program, runs each workload `rounds` times in turns, and prints the table.
pub(crate) fn run(rounds: usize) -> Result<(), String> {
    let build = ["build", "--release", "--manifest-path", "bench/formats/Cargo.toml"];
    cargo(&[&build[..], &["--target-dir", "target/formats"]].concat(), &[])?;
    let folder = PathBuf::from("target/bench");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let input = folder.join("input.csv");
    take("make", "input", Path::new("-"), &input)?;
    let mut table = String::from(
        "| work | loop | ours | ours / loop | CPU ours / loop | peak memory, MiB, loop / ours | target |\n|---|---|---|---|---|---|---|\n",
    );
    for (format, file, target) in FORMATS {
        let file = folder.join(file);
        let copy = folder.join("rows.csv");
        let to = format!("csv-{format}");
        let from = format!("{format}-csv");
        // Each contender reads what the loop wrote.
        for (work, input, output) in [(&to, &input, &file), (&from, &file, &copy)] {
            let (mut plain, mut ours) = (Vec::new(), Vec::new());
            for round in 1..=rounds {
                eprintln!("{work}: round {round} of {rounds}");
                ours.push(take("ours", work, input, output)?);
                plain.push(take("loop", work, input, output)?);
            }
            row(&mut table, work, &plain, &ours, target);
        }
        let _ = std::fs::remove_file(file);
    }
    println!("{table}");
    Ok(())
}

fn take(contender: &str, work: &str, input: &Path, output: &Path) -> Result<Sample, String> {
    let taken = run_one(Path::new(PROGRAM), contender, work, RECORDS, input, output)?;
    taken.ok_or_else(|| format!("{contender} cannot do {work}"))
}

fn row(table: &mut String, work: &str, plain: &[Sample], ours: &[Sample], target: f64) {
    let of =
        |samples: &[Sample], value: fn(&Sample) -> f64| median(samples.iter().map(value).collect());
    let nanos = |samples: &[Sample]| of(samples, |one| one.nanos) / RECORDS as f64;
    let cpu = |samples: &[Sample]| of(samples, |one| one.cpu);
    let peak = |samples: &[Sample]| of(samples, |one| one.peak_kib as f64) / 1024.0;
    let _ = writeln!(
        table,
        "| {work} | {:.0} ns | {:.0} ns | {:.2} | {:.2} | {:.0} / {:.0} | ≤ {target} |",
        nanos(plain),
        nanos(ours),
        nanos(ours) / nanos(plain),
        cpu(ours) / cpu(plain),
        peak(plain),
        peak(ours),
    );
}
