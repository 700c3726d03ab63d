//! `cargo xtask bench`: every contender does the same work, in turns; a table shows the ratios of the
//! medians.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench_tools::{RECORDS, WORKS, Work, cpu_of_children, median, timed};
use crate::cargo;

/// Number of items of the workloads in memory.
const MEMORY_ITEMS: u64 = 20_000_000;
/// Number of items of the slowest peer in memory; its time is scaled, all others process the full count.
const MEMORY_ITEMS_SLOW: u64 = 500_000;
/// Number of items of the workloads that measure commits of ten items.
const COMMIT_ITEMS: u64 = 500_000;
const COMMIT_ITEMS_FULL: u64 = 50_000;
/// Number of syncs that measure the disk.
const SYNCS: u64 = 5_000;

/// The result of one run: wall time and CPU time in nanoseconds, and peak memory.
#[derive(Clone, Copy)]
struct Sample {
    nanos: f64,
    cpu: f64,
    peak_kib: u64,
}

struct Bench {
    rounds: usize,
    folder: PathBuf,
    samples: BTreeMap<(String, String), Vec<Sample>>,
}

/// Builds everything, runs every contender `rounds` times in turns, prints the table.
pub(crate) fn run(rounds: usize) -> Result<(), String> {
    cargo(&["build", "--release", "--package", "ours", "--package", "batchwright-cli"], &[])?;
    let peers = ["build", "--release", "--manifest-path", "bench/peers/Cargo.toml"];
    cargo(&[&peers[..], &["--target-dir", "target/peers"]].concat(), &[])?;
    let folder = PathBuf::from("target/bench");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let mut bench = Bench { rounds, folder, samples: BTreeMap::new() };
    bench.make_input("input.csv", RECORDS)?;
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        bench.round()?;
    }
    let table = bench.table();
    let memory = bench.memory()?;
    println!("{table}\n{}\n{memory}", bench.job_files());
    Ok(())
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn make_input(&self, name: &str, records: u64) -> Result<(), String> {
        let output = self.path(name);
        run_one(Path::new("target/release/ours"), "make", "input", records, Path::new("-"), &output)
            .map(drop)
    }

    fn round(&mut self) -> Result<(), String> {
        self.take("loop", "memory", MEMORY_ITEMS)?;
        self.take("ours", "memory", MEMORY_ITEMS)?;
        self.take("sbrs", "memory", MEMORY_ITEMS)?;
        self.take("oxide", "memory", MEMORY_ITEMS_SLOW)?;
        self.take("ours", "memory-async", MEMORY_ITEMS)?;
        self.take("ours", "memory-sqlite", MEMORY_ITEMS)?;
        for work in ["csv-csv", "csv-jsonl", "csv-sqlite"] {
            for contender in ["loop", "ours", "sbrs", "oxide"] {
                self.take(contender, work, RECORDS)?;
            }
        }
        self.take("loop", "csv-csv-borrowed", RECORDS)?;
        self.take("ours", "commits-normal", COMMIT_ITEMS)?;
        self.take("loop", "fdatasync", SYNCS)?;
        self.take("ours", "commits-full", COMMIT_ITEMS_FULL)?;
        self.take("ours", "empty", 1)?;
        self.take("ours", "empty-full", 1)?;
        for work in &WORKS {
            self.job_file(work)?;
        }
        self.cold_process()
    }

    /// Measures the command with a job file: a new process, and a new store.
    fn job_file(&mut self, work: &Work) -> Result<(), String> {
        let (nanos, cpu) = timed(&mut work.ours(&self.folder)?)?;
        let each = |nanos: f64| nanos / RECORDS as f64;
        self.keep("ours", work.name, Sample { nanos: each(nanos), cpu: each(cpu), peak_kib: 0 });
        Ok(())
    }

    /// Runs `contender` once; skips a peer that does not support the workload.
    fn take(&mut self, contender: &str, work: &str, count: u64) -> Result<(), String> {
        let program = match contender {
            "loop" | "ours" => "target/release/ours",
            _ => "target/peers/release/peers",
        };
        let (input, output) = (self.path("input.csv"), self.path("output"));
        let sample = run_one(Path::new(program), contender, work, count, &input, &output)?;
        if let Some(sample) = sample {
            let each = |nanos: f64| nanos / count as f64;
            let per_item = Sample { nanos: each(sample.nanos), cpu: each(sample.cpu), ..sample };
            self.keep(contender, work, per_item);
        }
        Ok(())
    }

    fn keep(&mut self, contender: &str, work: &str, sample: Sample) {
        self.samples.entry((contender.to_owned(), work.to_owned())).or_default().push(sample);
    }

    /// Measures the command itself: a new process, an existing store, a job that does nothing.
    fn cold_process(&mut self) -> Result<(), String> {
        let job = self.path("empty.toml");
        let text = "name = \"empty\"\n[parameters]\nn = {}\n[[steps]]\nname = \"nothing\"\n\
                    reader = { type = \"sequence\", count = 0 }\nwriter = { type = \"none\" }\n";
        std::fs::write(&job, text).map_err(|error| error.to_string())?;
        let store = format!("sqlite://{}?synchronous=normal", self.path("cold.db").display());
        let binary =
            std::path::absolute("target/release/batchwright").map_err(|e| e.to_string())?;
        for warm in [false, true] {
            let number = self.samples.values().map(Vec::len).sum::<usize>();
            let parameter = format!("n={number}-{warm}-{}", std::process::id());
            let mut command = Command::new(&binary);
            command.args(["--store", &store, "run"]).arg(&job).arg(parameter);
            let (nanos, cpu) = timed(&mut command)?;
            if warm {
                self.keep("ours", "cold-process", Sample { nanos, cpu, peak_kib: 0 });
            }
        }
        Ok(())
    }

    /// Returns the median nanoseconds per item.
    fn median(&self, contender: &str, work: &str) -> Option<f64> {
        self.median_of(contender, work, |sample| sample.nanos)
    }

    fn median_of(&self, contender: &str, work: &str, of: fn(&Sample) -> f64) -> Option<f64> {
        let samples = self.samples.get(&(contender.to_owned(), work.to_owned()))?;
        Some(median(samples.iter().map(of).collect()))
    }

    /// Returns the table of job files, as ratios to the typed loop that reads and writes CSV.
    fn job_files(&self) -> String {
        let mut text =
            "| job file | ns a record | CPU ns | time / csv-csv loop | CPU / its CPU |\n\
                        |---|---|---|---|---|\n"
                .to_owned();
        let cpu = |contender: &str, work: &str| self.median_of(contender, work, |one| one.cpu);
        for Work { name, .. } in &WORKS {
            if let (Some(nanos), Some(own), Some(plain), Some(loop_cpu)) = (
                self.median("ours", name),
                cpu("ours", name),
                self.median("loop", "csv-csv"),
                cpu("loop", "csv-csv"),
            ) {
                let (time, share) = (nanos / plain, own / loop_cpu);
                let _ =
                    writeln!(text, "| {name} | {nanos:.0} | {own:.0} | {time:.2} | {share:.2} |");
            }
        }
        text
    }

    fn table(&self) -> String {
        let mut text = format!("Medians of {} rounds, contenders in turns.\n\n", self.rounds);
        text.push_str(
            "| work | loop | ours | ours / loop | CPU ours / loop | sbrs / ours | oxide / ours |\n",
        );
        text.push_str("|---|---|---|---|---|---|---|\n");
        for work in ["memory", "csv-csv", "csv-jsonl", "csv-sqlite"] {
            let (Some(plain), Some(ours)) = (self.median("loop", work), self.median("ours", work))
            else {
                continue;
            };
            let peer = |name: &str| match self.median(name, work) {
                Some(nanos) => format!("{:.1}", nanos / ours),
                None => "cannot".to_owned(),
            };
            let cpu = |contender: &str| self.median_of(contender, work, |one| one.cpu);
            let cpu = cpu("ours").zip(cpu("loop")).map_or(0.0, |(ours, plain)| ours / plain);
            let _ = writeln!(
                text,
                "| {work} | {plain:.1} ns | {ours:.1} ns | {:.2} | {cpu:.2} | {} | {} |",
                ours / plain,
                peer("sbrs"),
                peer("oxide")
            );
        }
        text.push_str("\n| figure | measured | target |\n|---|---|---|\n");
        let mut figure = |name: &str, value: Option<f64>, unit: &str, target: &str| {
            if let Some(value) = value {
                let _ = writeln!(text, "| {name} | {value:.2} {unit} | {target} |");
            }
        };
        let ours = |work: &str| self.median("ours", work);
        figure(
            "memory items/s with SQLite at NORMAL",
            ours("memory-sqlite").map(|nanos| 1e3 / nanos),
            "M/s",
            "≥ 40 M/s",
        );
        figure(
            "asynchronous parts, a chunk of 1,000 ready items",
            ours("memory-async"),
            "µs",
            "≤ 25 µs",
        );
        figure(
            "commits/s at chunk 10, NORMAL",
            ours("commits-normal").map(|nanos| 1e9 / (nanos * 10.0)),
            "/s",
            "≥ 40,000 /s",
        );
        let syncs = self.median("loop", "fdatasync");
        figure(
            "commits/s at chunk 10, FULL, of 1/fdatasync",
            ours("commits-full").zip(syncs).map(|(full, sync)| sync / (full * 10.0)),
            "",
            "≥ 0.7",
        );
        figure(
            "csv-csv of the loop with borrowed records",
            ours("csv-csv")
                .zip(self.median("loop", "csv-csv-borrowed"))
                .map(|(ours, borrowed)| ours / borrowed),
            "",
            "none",
        );
        figure("empty job, NORMAL", ours("empty").map(|nanos| nanos / 1e6), "ms", "< 2 ms");
        figure("empty job, FULL", ours("empty-full").map(|nanos| nanos / 1e6), "ms", "none");
        figure(
            "empty job as a cold process",
            ours("cold-process").map(|nanos| nanos / 1e6),
            "ms",
            "< 20 ms",
        );
        text
    }

    /// Returns the table of peak memory at 10⁵ and 10⁷ items.
    fn memory(&self) -> Result<String, String> {
        self.make_input("small.csv", 100_000)?;
        self.make_input("large.csv", 10_000_000)?;
        let ours = Path::new("target/release/ours");
        let mut text = "| peak memory | 10⁵ items | 10⁷ items |\n|---|---|---|\n".to_owned();
        for work in ["memory", "memory-sqlite", "csv-csv"] {
            let mut peaks = Vec::new();
            for (count, input) in [(100_000, "small.csv"), (10_000_000, "large.csv")] {
                let (input, output) = (self.path(input), self.path("output"));
                let sample = run_one(ours, "ours", work, count, &input, &output)?;
                peaks.push(sample.map_or(0, |sample| sample.peak_kib));
            }
            let _ = writeln!(text, "| {work} | {} KiB | {} KiB |", peaks[0], peaks[1]);
        }
        for name in ["large.csv", "output"] {
            let _ = std::fs::remove_file(self.path(name));
        }
        Ok(text)
    }
}

/// Runs a contender once. Returns `None` if it does not support the workload.
fn run_one(
    program: &Path,
    contender: &str,
    work: &str,
    count: u64,
    input: &Path,
    output: &Path,
) -> Result<Option<Sample>, String> {
    let before = cpu_of_children();
    let done = Command::new(program)
        .args([contender, work, &count.to_string()])
        .args([input, output])
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let cpu = cpu_of_children() - before;
    if done.status.code() == Some(3) {
        return Ok(None);
    }
    let out = String::from_utf8_lossy(&done.stdout);
    let mut words = out.split_whitespace().map(str::parse::<u64>);
    match (done.status.success(), words.next(), words.next()) {
        (true, Some(Ok(nanos)), Some(Ok(peak))) => {
            Ok(Some(Sample { nanos: nanos as f64, cpu, peak_kib: peak }))
        }
        _ => Err(format!("{contender} {work}: {}", String::from_utf8_lossy(&done.stderr))),
    }
}
