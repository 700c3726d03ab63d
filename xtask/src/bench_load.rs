//! The part of `cargo xtask bench tools` that loads the CSV file into databases, beside the tools of the databases.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::bench_tools::{RECORDS, median, program, timed};

const TABLE: &str = "DROP TABLE IF EXISTS loaded; CREATE TABLE loaded (id BIGINT PRIMARY KEY, account VARCHAR(20), symbol VARCHAR(20), \
                     quantity INTEGER, price DOUBLE PRECISION, note VARCHAR(40))";

/// Number of loads of this process.
static LOADS: AtomicUsize = AtomicUsize::new(0);

/// A way to load the file.
struct Loader {
    name: &'static str,
    load: Command,
    /// Prints the number of rows.
    count: Command,
}

fn sh(folder: &Path, text: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", text]).current_dir(folder);
    command
}

/// Returns the command that runs the job file `name`, which loads into the store.
fn ours(folder: &Path, name: &str, store: &str) -> Result<Command, String> {
    let text = format!(
        "name = \"{name}\"\n[parameters]\nrun = {{}}\n[[steps]]\nname = \"prepare\"\ntype = \"sql\"\nsql = \"{TABLE}\"\n\
         [[steps]]\nname = \"load\"\nreader = {{ type = \"csv\", path = \"input.csv\" }}\n\
         writer = {{ type = \"sql\", table = \"loaded\" }}\n"
    );
    let job = format!("{name}.toml");
    std::fs::write(folder.join(&job), text).map_err(|error| error.to_string())?;
    let mut command = Command::new(program()?);
    // Each run is an instance of its own, also in a store that remains.
    let run = LOADS.fetch_add(1, Ordering::Relaxed);
    let run = format!("run={}-{run}", std::process::id());
    command.args(["--store", store, "run", &job, &run]).current_dir(folder);
    Ok(command)
}

/// Returns the loaders of SQLite files; the first one is ours.
fn sqlite(folder: &Path) -> Result<Vec<Loader>, String> {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.join(format!("load.db{suffix}")));
        let _ = std::fs::remove_file(folder.join(format!("import.db{suffix}")));
        let _ = std::fs::remove_file(folder.join(format!("python.db{suffix}")));
    }
    let import = format!("sqlite3 import.db '{TABLE}' '.import --csv --skip 1 input.csv loaded'");
    let python = format!(
        "import csv, sqlite3\nc = sqlite3.connect('python.db'); c.executescript(\"{TABLE}\")\n\
         with open('input.csv', newline='') as f:\n rows = csv.reader(f); next(rows)\n \
         c.executemany('INSERT INTO loaded VALUES (?, ?, ?, ?, ?, ?)', rows)\nc.commit()"
    );
    let mut executemany = Command::new("python3");
    executemany.args(["-c", &python]).current_dir(folder);
    let count = |file: &str| sh(folder, &format!("sqlite3 {file} 'SELECT count(*) FROM loaded'"));
    Ok(vec![
        Loader {
            name: "CSV to SQLite: **Batchwright**",
            load: ours(folder, "load-sqlite", "sqlite://load.db")?,
            count: count("load.db"),
        },
        Loader {
            name: "`sqlite3 .import`, one transaction",
            load: sh(folder, &import),
            count: count("import.db"),
        },
        Loader { name: "Python, one transaction", load: executemany, count: count("python.db") },
    ])
}

/// Returns the loaders into PostgreSQL at `url`; the first one is ours.
fn postgres(folder: &Path, url: &str) -> Result<Vec<Loader>, String> {
    let copy = format!(
        "psql -q '{url}' -c '{TABLE}' -c '\\copy loaded FROM input.csv WITH (FORMAT csv, HEADER)'"
    );
    let count = || sh(folder, &format!("psql -qAt '{url}' -c 'SELECT count(*) FROM loaded'"));
    Ok(vec![
        Loader {
            name: "CSV to PostgreSQL: **Batchwright**",
            load: ours(folder, "load-postgres", url)?,
            count: count(),
        },
        Loader { name: "`psql \\copy`, one transaction", load: sh(folder, &copy), count: count() },
    ])
}

/// Loads with each tool `rounds` times, in turns, and returns the rows of the table, with ratios to ours, pair by pair.
pub(crate) fn table(rounds: usize, folder: &Path) -> Result<String, String> {
    let mut text = rows(rounds, || sqlite(folder))?;
    match std::env::var("BATCHWRIGHT_TEST_POSTGRES") {
        Ok(url) => text.push_str(&rows(rounds, || postgres(folder, &url))?),
        Err(_) => text.push_str("| CSV to PostgreSQL | no `BATCHWRIGHT_TEST_POSTGRES` | | |\n"),
    }
    Ok(text)
}

fn rows(
    rounds: usize,
    loaders: impl Fn() -> Result<Vec<Loader>, String>,
) -> Result<String, String> {
    let names: Vec<_> = loaders()?.iter().map(|one| one.name).collect();
    let mut samples = vec![Vec::new(); names.len()];
    for _ in 0..rounds {
        for (index, Loader { name, mut load, mut count }) in loaders()?.into_iter().enumerate() {
            samples[index].push(timed(&mut load)?);
            let counted = count.output().map_err(|error| format!("{name}: {error}"))?;
            let counted = String::from_utf8_lossy(&counted.stdout).trim().to_owned();
            if counted != RECORDS.to_string() {
                return Err(format!("{name} loaded {counted} rows, not {RECORDS}"));
            }
        }
    }
    let mut text = String::new();
    for (name, own) in names.iter().zip(&samples) {
        let ratios = own.iter().zip(&samples[0]).map(|(other, ours)| other.0 / ours.0).collect();
        let wall = median(own.iter().map(|one| one.0 / 1e9).collect());
        let cpu = median(own.iter().map(|one| one.1 / 1e9).collect());
        let ratio: f64 = median(ratios);
        let _ = writeln!(text, "| {name} | {wall:.3} | {cpu:.2} | {ratio:.2} |");
    }
    Ok(text)
}
