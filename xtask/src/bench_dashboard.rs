//! `cargo xtask bench dashboard`: the pages of a server whose store has a million executions.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cargo;

/// Executions in the store.
const EXECUTIONS: &str = "1000000";
/// Items of the job that is observed, and how often it runs with and without an observer.
const OBSERVED_ITEMS: &str = "2000000";
const OBSERVED_ROUNDS: usize = 9;
/// How often the first page of `dev` is measured, and how long it may take at most.
const FIRST_PAGES: usize = 5;
const FIRST_PAGE_MAX: Duration = Duration::from_secs(30);
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
    first_page(&folder)?;
    observer(&folder)?;
    let database = folder.join("store.db");
    let sqlite = format!("sqlite://{}?synchronous=normal", absolute(&database)?.display());
    measure("sqlite", &sqlite, &folder, &database)?;
    if let Ok(url) = std::env::var("BATCHWRIGHT_TEST_POSTGRES") {
        measure("postgres", &url, &folder, &database)?;
    }
    Ok(())
}

/// Prints how long `batchwright dev` takes from its start in an empty folder to the whole first page.
#[expect(clippy::disallowed_methods, reason = "measuring is the purpose")]
fn first_page(folder: &Path) -> Result<(), String> {
    let program = absolute(Path::new("target/release/batchwright"))?;
    let mut times = Vec::new();
    for round in 0..FIRST_PAGES {
        let empty = folder.join(format!("empty-{round}"));
        let _ = std::fs::remove_dir_all(&empty);
        std::fs::create_dir_all(&empty).map_err(|error| error.to_string())?;
        let address = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        let address = address.map_err(|error| error.to_string())?;
        let begin = Instant::now();
        let mut server = Command::new(&program)
            .current_dir(&empty)
            .args(["dev", "--http", &address.to_string(), "--listen", "127.0.0.1:0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start the server: {error}"))?;
        let shown = loop {
            match page(address) {
                Ok(page) if page.starts_with("HTTP/1.1 200") => break Ok(begin.elapsed()),
                _ if begin.elapsed() > FIRST_PAGE_MAX => break Err("no first page came".to_owned()),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let _ = server.kill();
        let _ = server.wait();
        times.push(shown?);
    }
    times.sort_unstable();
    let (middle, longest) = (times[FIRST_PAGES / 2], times[FIRST_PAGES - 1]);
    println!("the first page of `dev` from an empty folder: {middle:.0?}, at most {longest:.0?}");
    Ok(())
}

/// Returns the whole first page.
fn page(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let request = format!(
        "GET / HTTP/1.1\r\nhost: {address}\r\naccept: text/html\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
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
