//! `cargo xtask bench dashboard`: the pages of a server whose store has a million executions.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::cargo;

/// Executions in the store.
const EXECUTIONS: &str = "1000000";
/// Items of the job that is observed, and how often it runs with and without an observer.
const OBSERVED_ITEMS: &str = "2000000";
const OBSERVED_ROUNDS: usize = 9;
/// The job that runs beside the viewers.
const JOB: &str = "name = \"count\"\n\
    [parameters]\nrun = { type = \"integer\" }\ncount = { type = \"integer\", identifying = false }\n\
    [[steps]]\nname = \"count\"\nchunk = 10_000\nreader = { type = \"sequence\", count = \"${params.count}\" }\n\
    writer = { type = \"none\" }\n";

/// Fills a store on SQLite, and on PostgreSQL where there is one, and measures.
pub(crate) fn run() -> Result<(), String> {
    cargo(&["build", "--release", "--package", "ours"], &[])?;
    cargo(&["build", "--release", "--package", "batchwright-cli"], &[])?;
    let folder = PathBuf::from("target/bench/dashboard");
    std::fs::create_dir_all(folder.join("jobs")).map_err(|error| error.to_string())?;
    std::fs::write(folder.join("jobs/count.toml"), JOB).map_err(|error| error.to_string())?;
    observer(&folder)?;
    let database = folder.join("store.db");
    let sqlite = format!("sqlite://{}?synchronous=normal", absolute(&database)?.display());
    measure("sqlite", &sqlite, &folder, &database)?;
    if let Ok(url) = std::env::var("BATCHWRIGHT_TEST_POSTGRES") {
        measure("postgres", &url, &folder, &database)?;
    }
    Ok(())
}

/// Compares a job of typed CSV without and with an observer of its events, in turns.
fn observer(folder: &Path) -> Result<(), String> {
    let (input, output) = (folder.join("in.csv"), folder.join("out.csv"));
    let run = |contender: &str, work: &str, input: &Path, output: &Path| {
        let ran = Command::new("target/release/ours")
            .args([contender, work, OBSERVED_ITEMS])
            .args([input, output])
            .output()
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let nanos = text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok());
        nanos.ok_or_else(|| format!("{work} failed: {}", String::from_utf8_lossy(&ran.stderr)))
    };
    run("make", "input", Path::new("-"), &input)?;
    let (mut alone, mut observed) = (Vec::new(), Vec::new());
    for _ in 0..OBSERVED_ROUNDS {
        alone.push(run("ours", "csv-csv", &input, &output)?);
        observed.push(run("ours", "csv-csv-observed", &input, &output)?);
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_unstable_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (alone, observed) = (median(&mut alone), median(&mut observed));
    println!(
        "csv-csv with an observer, {OBSERVED_ITEMS} items: {:.3} of without one",
        observed / alone
    );
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| error.to_string())
}

fn measure(kind: &str, store: &str, folder: &Path, database: &Path) -> Result<(), String> {
    let fill = format!("fill-{kind}");
    status(
        Command::new("target/release/ours").args(["store", &fill, EXECUTIONS, "-"]).arg(database),
    )?;
    let server = absolute(Path::new("target/release/batchwright"))?;
    let mut server = Command::new(server)
        .current_dir(folder)
        .args(["serve", "--store", store, "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start the server: {error}"))?;
    println!("\n{kind}, {EXECUTIONS} executions");
    let measured = address(&mut server).and_then(|address| {
        let pid = server.id().to_string();
        status(Command::new("target/release/dashboard").args([address, pid]))
    });
    let _ = server.kill();
    let _ = server.wait();
    measured
}

/// Returns where the server listens; the rest of its log is dropped.
fn address(server: &mut Child) -> Result<String, String> {
    let log = server.stderr.take().ok_or("the server has no log")?;
    let mut lines = BufReader::new(log).lines().map_while(Result::ok);
    let line = lines.by_ref().find(|line| line.contains("http="));
    let address = line.as_deref().and_then(|line| line.split("http=").nth(1)).map(str::to_owned);
    std::thread::spawn(move || lines.for_each(drop));
    address.ok_or_else(|| "the server ended at once".to_owned())
}

fn status(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?} failed: {status}")),
        Err(error) => Err(format!("cannot run {command:?}: {error}")),
    }
}
