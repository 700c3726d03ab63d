//! `cargo xtask bench`: every contender does the same work, in turns; a table shows the ratios of the
//! medians.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

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

/// Number of records of the large file.
const LARGE: u64 = 10_000_000;

/// The result of one run: wall time and CPU time in nanoseconds, and peak memory.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) nanos: f64,
    pub(crate) cpu: f64,
    pub(crate) peak_kib: u64,
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
    bench.make_input("small.csv", 100_000)?;
    bench.make_input("large.csv", LARGE)?;
    let memory = bench.memory()?;
    let scaling = bench.scaling()?;
    println!("{table}\n{}\n{memory}\n{scaling}", bench.job_files());
    predict(&bench.folder)?;
    for name in ["large.csv", "output", "output-2", "job-output"] {
        let _ = std::fs::remove_file(bench.path(name));
    }
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
        self.take("ours", "csv-csv-one", RECORDS)?;
        self.take("loop", "csv-csv-borrowed", RECORDS)?;
        self.take("ours", "csv-csv-borrowed", RECORDS)?;
        self.two_loops()?;
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

    /// Measures what the machine allows: two loops at once, each with an output of its own.
    fn two_loops(&mut self) -> Result<(), String> {
        let input = self.path("input.csv");
        let run = |output: &str| {
            let program = Path::new("target/release/ours");
            run_one(program, "loop", "csv-csv", RECORDS, &input, &self.path(output))
        };
        let (one, other) = std::thread::scope(|threads| {
            let other = threads.spawn(|| run("output-2"));
            (run("output"), other.join().unwrap_or_else(|_| Err("a loop panicked".to_owned())))
        });
        if let (Some(one), Some(other)) = (one?, other?) {
            let slower = if one.nanos > other.nanos { one } else { other };
            let nanos = slower.nanos / RECORDS as f64;
            self.keep("loop", "two-at-once", Sample { nanos, ..slower });
        }
        Ok(())
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
        for work in ["memory", "csv-csv", "csv-csv-borrowed", "csv-jsonl", "csv-sqlite"] {
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
        let twice = self.median("loop", "two-at-once");
        figure(
            "two csv-csv loops at once, of one alone",
            twice.zip(self.median("loop", "csv-csv")).map(|(two, one)| two / one),
            "",
            "1.00 on two whole cores",
        );
        let of_loop = |of: fn(&Sample) -> f64| {
            let ours = self.median_of("ours", "csv-csv-one", of);
            ours.zip(self.median_of("loop", "csv-csv", of)).map(|(ours, plain)| ours / plain)
        };
        let one = "csv-csv on one thread, of the loop";
        figure(one, of_loop(|one| one.nanos), "", "≤ 1.10");
        figure(&format!("{one}, CPU"), of_loop(|one| one.cpu), "", "≤ 1.10");
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
        let ours = Path::new("target/release/ours");
        let mut text = "| peak memory | 10⁵ items | 10⁷ items |\n|---|---|---|\n".to_owned();
        let inputs = [(100_000, "small.csv"), (LARGE, "large.csv")];
        for work in ["memory", "memory-sqlite", "csv-csv", "csv-jsonl", "csv-sqlite"] {
            let peak = |(count, input)| {
                let (input, output) = (self.path(input), self.path("output"));
                let sample = run_one(ours, "ours", work, count, &input, &output)?;
                Ok::<_, String>(sample.map_or(0, |sample| sample.peak_kib))
            };
            let (small, large) = (peak(inputs[0])?, peak(inputs[1])?);
            let _ = writeln!(text, "| {work} | {small} KiB | {large} KiB |");
        }
        for work in &WORKS {
            let peak = |(_, input)| peak_of(&mut work.on(input, "", &self.folder)?);
            let (small, large) = (peak(inputs[0])?, peak(inputs[1])?);
            let _ = writeln!(text, "| {} | {small} KiB | {large} KiB |", work.name);
        }
        Ok(text)
    }

    /// Returns what a second core gains: the copy of a large file on one thread and with the defaults.
    fn scaling(&self) -> Result<String, String> {
        let copy = &WORKS[0];
        let (mut one, mut all) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let alone = "parallelism = 1\nread_ahead = 0\n";
            one.push(timed(&mut copy.on("large.csv", alone, &self.folder)?)?);
            all.push(timed(&mut copy.on("large.csv", "", &self.folder)?)?);
        }
        let ratios = one.iter().zip(&all).map(|(one, all)| one.0 / all.0).collect();
        let wall = |of: &[(f64, f64)]| median(of.iter().map(|one| one.0 / 1e9).collect());
        let cpu = |of: &[(f64, f64)]| median(of.iter().map(|one| one.1 / 1e9).collect());
        Ok(format!(
            "| {} of {LARGE} records | wall, s | CPU, s |\n|---|---|---|\n| one thread | {:.2} | {:.2} |\n\
             | as many as there are cores | {:.2} | {:.2} |\n\nOne thread takes {:.2} times as long.\n",
            copy.name,
            wall(&one),
            cpu(&one),
            wall(&all),
            cpu(&all),
            median(ratios)
        ))
    }
}

/// Runs `command`, and returns the peak resident memory of its process in KiB, which is read all 10 ms.
#[expect(clippy::disallowed_methods, reason = "measuring is the purpose")]
fn peak_of(command: &mut Command) -> Result<u64, String> {
    let shown = format!("{command:?}");
    let mut child = command
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("{shown}: {error}"))?;
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = peak.max(now.unwrap_or(0));
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return if status.success() { Ok(peak) } else { Err(format!("{shown}: {status}")) };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Prints the prediction for more cores than this machine has.
fn predict(folder: &Path) -> Result<(), String> {
    let mut command = Command::new("target/release/ours");
    command.args(["predict", "csv-csv", &RECORDS.to_string()]);
    command.args([folder.join("input.csv"), folder.join("output")]);
    let done = command.output().map_err(|error| error.to_string())?;
    print!("{}", String::from_utf8_lossy(&done.stdout));
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
}

/// Runs a contender once. Returns `None` if it does not support the workload.
pub(crate) fn run_one(
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
