//! `cargo xtask bench tools`: job files beside the tools that people would use instead, on the same input, in turns.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::{bench_load, cargo};

/// Number of records of the input.
pub(crate) const RECORDS: u64 = 500_000;

/// A job file, and what other tools need for the same work.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    processors: &'static str,
    writer: &'static str,
    /// The query of DuckDB, without its output, and the options of its output.
    duckdb: (&'static str, &'static str),
    miller: &'static [&'static str],
    /// What Python does with the row `r` of texts, and the names of the columns; empty if its program is another one.
    python: (&'static str, &'static str),
}

/// The works, from the simplest to the one with the most expressions.
pub(crate) const WORKS: [Work; 4] = [
    Work {
        name: "job-copy",
        processors: "",
        writer: "csv",
        duckdb: ("SELECT * FROM read_csv('input.csv')", "HEADER"),
        miller: &["--icsv", "--ocsv", "cat"],
        python: ("w(r)", "id,account,symbol,quantity,price,note"),
    },
    Work {
        name: "job-jsonl",
        processors: "",
        writer: "jsonl",
        duckdb: ("SELECT * FROM read_csv('input.csv')", "FORMAT json"),
        miller: &["--icsv", "--ojsonl", "-S", "cat"],
        python: ("", ""),
    },
    Work {
        name: "job-map",
        processors: "[[steps.processors]]\ntype = \"filter\"\nwhen = \"item.quantity > 100\"\n\
                     [[steps.processors]]\ntype = \"map\"\n\
                     set = { symbol = \"item.symbol.lower()\", value = \"item.quantity * item.price\" }\n\
                     keep = [\"id\", \"account\", \"symbol\", \"value\"]\n",
        writer: "csv",
        duckdb: (
            "SELECT id, account, lower(symbol) AS symbol, quantity * price AS value \
             FROM read_csv('input.csv') WHERE quantity > 100",
            "HEADER",
        ),
        miller: &[
            "--icsv",
            "--ocsv",
            "filter",
            "$quantity > 100",
            "then",
            "put",
            "$symbol = tolower($symbol); $value = $quantity * $price",
            "then",
            "cut",
            "-o",
            "-f",
            "id,account,symbol,value",
        ],
        python: (
            "int(r[3]) > 100 and w([r[0], r[1], r[2].lower(), int(r[3]) * float(r[4])])",
            "id,account,symbol,value",
        ),
    },
    Work {
        name: "job-heavy",
        processors: "[[steps.processors]]\ntype = \"map\"\n\
                     keep = [\"id\", \"symbol\", \"value\", \"note\", \"size\"]\n\
                     [steps.processors.set]\n\
                     symbol = \"item.symbol.lower()\"\n\
                     value = \"(item.quantity * item.price).round(1)\"\n\
                     note = \"item.note.replace(\\\"note\\\", \\\"n\\\")\"\n\
                     size = \"if item.quantity > 250 { \\\"large\\\" } else { \\\"small\\\" }\"\n",
        writer: "csv",
        duckdb: (
            "SELECT id, lower(symbol) AS symbol, round(quantity * price, 1) AS value, \
             replace(note, 'note', 'n') AS note, \
             CASE WHEN quantity > 250 THEN 'large' ELSE 'small' END AS size \
             FROM read_csv('input.csv')",
            "HEADER",
        ),
        miller: &[
            "--icsv",
            "--ocsv",
            "put",
            "$symbol = tolower($symbol); $value = roundm($quantity * $price, 0.1); \
             $note = sub($note, \"note\", \"n\"); $size = $quantity > 250 ? \"large\" : \"small\"",
            "then",
            "cut",
            "-o",
            "-f",
            "id,symbol,value,note,size",
        ],
        python: (
            "w([r[0], r[2].lower(), round(int(r[3]) * float(r[4]), 1), r[5].replace('note', 'n'), \
             'large' if int(r[3]) > 250 else 'small'])",
            "id,symbol,value,note,size",
        ),
    },
];

impl Work {
    /// Returns the command of [`on`](Self::on) with the usual input.
    pub(crate) fn ours(&self, folder: &Path) -> Result<Command, String> {
        self.on("input.csv", "", folder)
    }

    /// Writes the job file, with `keys` of the step, and returns the command that runs it on a new store that survives power loss.
    pub(crate) fn on(&self, input: &str, keys: &str, folder: &Path) -> Result<Command, String> {
        let Self { name, processors, writer, .. } = self;
        let text = format!(
            "name = \"{name}\"\n[[steps]]\nname = \"only\"\n{keys}\
             reader = {{ type = \"csv\", path = \"{input}\" }}\n\
             writer = {{ type = \"{writer}\", path = \"job-output\" }}\n{processors}"
        );
        let job = format!("{name}.toml");
        std::fs::write(folder.join(&job), text).map_err(|error| error.to_string())?;
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(folder.join(format!("job.db{suffix}")));
        }
        let mut command = Command::new(program()?);
        command.args(["--store", "sqlite://job.db", "run", &job]).current_dir(folder);
        Ok(command)
    }

    /// Returns the commands of the other tools, with their names. All write to `job-output`.
    fn others(&self, folder: &Path) -> Vec<(&'static str, Command)> {
        let (query, output) = self.duckdb;
        let duckdb = |threads: u32| {
            format!(
                "import duckdb; c = duckdb.connect(); c.execute('SET threads={threads}'); \
                 c.execute(\"\"\"COPY ({query}) TO 'job-output' ({output})\"\"\")"
            )
        };
        let (row, columns) = self.python;
        let python = match row {
            "" => "import csv, json\nwith open('input.csv', newline='') as f, open('job-output', 'w') as o:\n \
                   for r in csv.DictReader(f): o.write(json.dumps(r) + '\\n')"
                .to_owned(),
            row => format!(
                "import csv\nwith open('input.csv', newline='') as f, open('job-output', 'w', newline='') as o:\n \
                 rows = csv.reader(f); w = csv.writer(o).writerow; next(rows); w('{columns}'.split(','))\n \
                 for r in rows: {row}"
            ),
        };
        let mut commands = Vec::new();
        for (name, text) in
            [("DuckDB, 1 thread", duckdb(1)), ("DuckDB, 2 threads", duckdb(2)), ("Python", python)]
        {
            let mut command = Command::new("python3");
            command.args(["-c", &text]).current_dir(folder);
            commands.push((name, command));
        }
        let mut miller = Command::new("sh");
        let arguments = ["-c", "exec mlr \"$@\" input.csv > job-output", "mlr"];
        miller.args(arguments).args(self.miller).current_dir(folder);
        commands.push(("Miller", miller));
        if self.name == "job-copy" {
            let mut xsv = Command::new("xsv");
            xsv.args(["fmt", "--output", "job-output", "input.csv"]).current_dir(folder);
            commands.push(("xsv", xsv));
        }
        commands
    }
}

/// Returns the path of the command.
pub(crate) fn program() -> Result<PathBuf, String> {
    std::path::absolute("target/release/batchwright").map_err(|error| error.to_string())
}

/// Runs each work with each tool `rounds` times, in turns, and prints the ratios to ours, pair by pair.
pub(crate) fn run(rounds: usize) -> Result<(), String> {
    cargo(&["build", "--release", "--package", "ours", "--package", "batchwright-cli"], &[])?;
    let folder = PathBuf::from("target/bench");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let mut make = Command::new("target/release/ours");
    make.args(["make", "input", &RECORDS.to_string(), "-"]).arg(folder.join("input.csv"));
    timed(&mut make)?;
    println!("| {RECORDS} records | wall, s | CPU, s | wall / ours |\n|---|---|---|---|");
    for work in &WORKS {
        print!("{}", table(work, rounds, &folder)?);
    }
    print!("{}", bench_load::table(rounds, &folder)?);
    Ok(())
}

fn table(work: &Work, rounds: usize, folder: &Path) -> Result<String, String> {
    let others = work.others(folder).into_iter().map(|(name, _)| name);
    let names: Vec<_> = std::iter::once("**Batchwright**").chain(others).collect();
    let mut samples: Vec<Vec<(f64, f64)>> = vec![Vec::new(); names.len()];
    let mut lines: Vec<usize> = vec![0; names.len()];
    for _ in 0..rounds {
        let others = work.others(folder).into_iter().map(|(_, command)| command);
        let commands = std::iter::once(work.ours(folder)?).chain(others);
        for (index, mut command) in commands.enumerate() {
            let _ = std::fs::remove_file(folder.join("job-output"));
            // A tool that is not installed has no row.
            if let Ok(sample) = timed(&mut command) {
                samples[index].push(sample);
                let written = std::fs::read(folder.join("job-output")).unwrap_or_default();
                lines[index] = written.iter().filter(|byte| **byte == b'\n').count();
            }
        }
    }
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        let (own, ours) = (&samples[index], &samples[0]);
        if own.len() < rounds {
            let _ = writeln!(text, "| {}: {name} | cannot run | | |", work.name);
            continue;
        }
        if lines[index] != lines[0] {
            let (found, expected) = (lines[index], lines[0]);
            return Err(format!("{}: {name} wrote {found} lines, ours {expected}", work.name));
        }
        let ratios = own.iter().zip(ours).map(|(other, ours)| other.0 / ours.0).collect();
        let wall = median(own.iter().map(|one| one.0 / 1e9).collect());
        let cpu = median(own.iter().map(|one| one.1 / 1e9).collect());
        let ratio = median(ratios);
        let _ = writeln!(text, "| {}: {name} | {wall:.3} | {cpu:.2} | {ratio:.2} |", work.name);
    }
    Ok(text)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Runs `command` to its end and returns its wall time and its CPU time, in nanoseconds.
#[expect(clippy::disallowed_methods, reason = "measuring is the purpose")]
pub(crate) fn timed(command: &mut Command) -> Result<(f64, f64), String> {
    let (before, start) = (cpu_of_children(), Instant::now());
    let done = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let nanos = start.elapsed().as_nanos() as f64;
    match done.status.success() {
        true => Ok((nanos, cpu_of_children() - before)),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr))),
    }
}

/// Returns the CPU time of all ended child processes, in nanoseconds; the system counts it in hundredths of a second.
pub(crate) fn cpu_of_children() -> f64 {
    const NANOS_PER_TICK: f64 = 1e7;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fields after the name in parentheses begin with the third one; the times of children are the 16th and 17th.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(13).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * NANOS_PER_TICK
}
