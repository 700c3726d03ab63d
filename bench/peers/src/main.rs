//! Runs one workload once with another batch crate and prints its cost.
//!
//! `peers PEER WORK COUNT INPUT OUTPUT`, with PEER one of `sbrs` (spring-batch-rs) and `oxide`
//! (oxide-batch), and WORK one of `memory`, `csv-csv`, `csv-jsonl` and `csv-sqlite`. Standard
//! output gets one line: the nanoseconds of the job's run, then the peak resident set in KiB.
//! Opening files, making tables and starting runtimes come before the clock starts. A workload for
//! which a peer ships no component ends with status 3 and the reason on standard error.

mod oxide;
mod sbrs;
mod work;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The number of records that every peer reads, processes and writes at a time.
const CHUNK: u16 = 1000;

const USAGE: &str =
    "usage: peers sbrs|oxide memory|csv-csv|csv-jsonl|csv-sqlite COUNT INPUT OUTPUT";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

enum Outcome {
    Ran(Duration),
    Impossible(&'static str),
}

/// One workload, from the command line.
enum Work {
    Memory { count: u64 },
    CsvCsv(Files),
    CsvJsonl(Files),
    CsvSqlite(Files),
}

struct Files {
    input: PathBuf,
    output: PathBuf,
}

fn run() -> Result<Outcome> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [peer, work, count, input, output] = arguments.as_slice() else {
        return Err(USAGE.into());
    };
    let files = Files { input: input.into(), output: output.into() };
    let work = match work.as_str() {
        "memory" => Work::Memory { count: count.parse()? },
        "csv-csv" => Work::CsvCsv(files),
        "csv-jsonl" => Work::CsvJsonl(files),
        "csv-sqlite" => Work::CsvSqlite(files),
        _ => return Err(USAGE.into()),
    };
    match peer.as_str() {
        "sbrs" => sbrs::run(&work),
        "oxide" => oxide::run(&work),
        _ => Err(USAGE.into()),
    }
}

/// Returns the peak resident set of this process so far, in KiB.
fn peak_rss() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let value = line.and_then(|rest| rest.split_whitespace().next()).ok_or("no VmHWM line")?;
    Ok(value.parse()?)
}

fn report() -> Result<ExitCode> {
    match run()? {
        Outcome::Ran(elapsed) => {
            println!("{} {}", elapsed.as_nanos(), peak_rss()?);
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Impossible(reason) => {
            eprintln!("{reason}");
            Ok(ExitCode::from(3))
        }
    }
}

fn main() -> ExitCode {
    report().unwrap_or_else(|error| {
        eprintln!("peers: {error}");
        ExitCode::FAILURE
    })
}
