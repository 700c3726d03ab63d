//! `cargo xtask bench kinds`: how many records a second each kind writes and reads, and object stores beside a client of theirs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench_tools::{median, program};
use crate::cargo;

/// Number of records, and of those to a server that gets each one alone.
const RECORDS: u64 = 1_000_000;
const MESSAGES: u64 = 100_000;
/// Size of the object that is sent and fetched, in bytes.
const OBJECT_BYTES: usize = 128 * 1024 * 1024;
const ROUNDS: usize = 3;

/// A kind, its keys as a writer and as a reader, and the number of records.
struct Kind {
    name: &'static str,
    writer: String,
    reader: String,
    records: u64,
}

const TYPED: &str =
    "columns = [{ name = \"id\", type = \"integer\" }, { name = \"name\", type = \"string\" }]";
const WIDTHS: &str = "columns = [{ name = \"id\", width = 10 }, { name = \"name\", width = 20 }]";

/// Returns the kinds of files.
fn files() -> Vec<Kind> {
    let file = |name: &'static str, kind: &str, file: &str, write: &str, read: &str| Kind {
        name,
        writer: format!("type = \"{kind}\", path = \"{file}\"{write}"),
        reader: format!("type = \"{kind}\", path = \"{file}\"{read}"),
        records: RECORDS,
    };
    let (typed, widths) = (format!(", {TYPED}"), format!(", {WIDTHS}"));
    let numbers = typed.replace("\"integer\"", "\"number\"");
    vec![
        file("csv", "csv", "k.csv", "", ""),
        file("csv, gzip", "csv", "k.csv.gz", "", ""),
        file("csv, zstd", "csv", "k.csv.zst", "", ""),
        file("fixed_width", "fixed_width", "k.txt", &widths, &widths),
        file("jsonl", "jsonl", "k.jsonl", "", ""),
        file("json", "json", "k.json", "", ""),
        file("xml", "xml", "k.xml", "", ", element = \"item\""),
        file("lines", "lines", "k.lines", ", field = \"name\"", ""),
        file("parquet", "parquet", "k.parquet", &typed, ""),
        file("avro", "avro", "k.avro", &typed, ""),
        file("arrow", "arrow", "k.arrow", &typed, ""),
        file("excel", "excel", "k.xlsx", &numbers, ""),
    ]
}

/// Returns the kinds whose server is there.
fn servers() -> Vec<Kind> {
    let url = |name: &str| std::env::var(format!("BATCHWRIGHT_TEST_{name}")).ok();
    let mut kinds = Vec::new();
    for (name, variable) in [
        ("csv at S3", "S3"),
        ("csv at FTP", "FTP"),
        ("csv at SFTP", "SFTP"),
        ("csv at WebDAV", "WEBDAV"),
    ] {
        let Some(url) = url(variable) else { continue };
        let at = at(&url, "bench.csv");
        let part = format!("type = \"csv\", path = \"{at}\"");
        kinds.push(Kind { name, writer: part.clone(), reader: part, records: RECORDS });
    }
    for (name, variable) in [("sql, PostgreSQL", "POSTGRES"), ("sql, MariaDB", "MYSQL")] {
        let Some(url) = url(variable) else { continue };
        kinds.push(Kind {
            name,
            writer: format!("type = \"sql\", url = \"{url}\", table = \"bench_kind\""),
            reader: format!("type = \"sql\", url = \"{url}\", query = \"SELECT id, name FROM bench_kind\", key = \"id\""),
            records: RECORDS,
        });
    }
    let mut queue = |name, variable: &str, kind: &str, write: &str, read: &str| {
        let Some(url) = url(variable) else { return };
        let part = |keys: &str| format!("type = \"{kind}\", server = \"{url}\", {keys}");
        kinds.push(Kind { name, writer: part(write), reader: part(read), records: MESSAGES });
    };
    let list = "list = \"bench-kind\"";
    queue("redis, a list", "REDIS", "redis", list, list);
    let stream = "stream = \"bench-kind-stream\"";
    queue("redis, a stream", "REDIS", "redis", stream, stream);
    let hash = "hash = \"bench-kind-hash\"";
    queue("redis, a hash", "REDIS", "redis", &format!("{hash}, field = \"id\""), hash);
    kinds
}

/// Returns the URL of the file called `name` at the place `url`.
fn at(url: &str, name: &str) -> String {
    match url.split_once('?') {
        Some((place, options)) => format!("{place}{name}?{options}"),
        None => format!("{url}{name}"),
    }
}

/// Builds the command with all kinds, and prints the tables.
pub(crate) fn run() -> Result<(), String> {
    cargo(&["build", "--release", "--package", "batchwright-cli", "--features", "full"], &[])?;
    let folder = PathBuf::from("target/bench/kinds");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let mut input = String::from("id,name\n");
    for id in 1..=RECORDS {
        let _ = writeln!(input, "{id},name of {id}");
    }
    write(&folder.join("input.csv"), &input)?;
    let few: String =
        input.split_inclusive('\n').take(usize::try_from(MESSAGES).unwrap_or(0) + 1).collect();
    write(&folder.join("few.csv"), &few)?;
    println!("| kind | written, records/s | read, records/s |\n|---|---|---|");
    for kind in files().iter().chain(&servers()) {
        let input = if kind.records == RECORDS { "input.csv" } else { "few.csv" };
        let from = format!("type = \"csv\", path = \"{input}\", columns = {{ id = \"integer\" }}");
        let (mut written, mut read) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            empty(kind)?;
            written.push(kind.records as f64 / step(&folder, &from, &kind.writer)?);
            read.push(kind.records as f64 / step(&folder, &kind.reader, "type = \"none\"")?);
        }
        println!("| {} | {:.0} | {:.0} |", kind.name, median(written), median(read));
    }
    objects(&folder)
}

/// Empties the table that a writer fills.
fn empty(kind: &Kind) -> Result<(), String> {
    if !kind.name.starts_with("sql") {
        return Ok(());
    }
    let url = kind.writer.split('"').nth(3).unwrap_or_default();
    let statements = "DROP TABLE IF EXISTS bench_kind; CREATE TABLE bench_kind (id BIGINT PRIMARY KEY, name VARCHAR(40))";
    let mut steps = String::from("name = \"empty\"\n");
    for (number, sql) in statements.split(';').enumerate() {
        let _ = write!(
            steps,
            "[[steps]]\nname = \"s{number}\"\ntype = \"sql\"\nurl = \"{url}\"\nsql = \"{sql}\"\n"
        );
    }
    job(Path::new("target/bench/kinds"), &steps).map(drop)
}

/// Runs a step from `reader` to `writer`; returns its time in seconds.
fn step(folder: &Path, reader: &str, writer: &str) -> Result<f64, String> {
    job(
        folder,
        &format!(
            "name = \"kind\"\n[[steps]]\nname = \"only\"\nreader = {{ {reader} }}\nwriter = {{ {writer} }}\n"
        ),
    )
}

/// Runs a job on a new store; returns the time of its last step in seconds.
fn job(folder: &Path, text: &str) -> Result<f64, String> {
    write(&folder.join("job.toml"), text)?;
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.join(format!("job.db{suffix}")));
    }
    let mut command = Command::new(program()?);
    command.args(["--store", "sqlite://job.db", "run", "job.toml"]).current_dir(folder);
    let report = printed(&mut command)?;
    let seconds = report.trim().rsplit(", ").next().and_then(|last| last.strip_suffix(" s"));
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    seconds.ok_or_else(|| format!("the report has no time: {report}"))
}

/// Returns what a program prints.
fn printed(command: &mut Command) -> Result<String, String> {
    let done = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr))),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Compares the transfer of an object with one stream of boto3, in turns.
fn objects(folder: &Path) -> Result<(), String> {
    let (Ok(url), Ok(python)) =
        (std::env::var("BATCHWRIGHT_TEST_S3"), std::env::var("BATCHWRIGHT_TEST_TOOLS"))
    else {
        return Ok(());
    };
    let endpoint = url.split_once("endpoint=").map_or("", |(_, endpoint)| endpoint);
    std::fs::write(folder.join("object"), vec![b'x'; OBJECT_BYTES])
        .map_err(|error| error.to_string())?;
    let client = format!(
        "import boto3, botocore.config, shutil\n\
         s3 = boto3.client('s3', endpoint_url='{endpoint}', aws_access_key_id='key', aws_secret_access_key='secret', region_name='us-east-1',\n\
         \tconfig=botocore.config.Config(request_checksum_calculation='when_required', response_checksum_validation='when_required'))\n"
    );
    // Without the start of Python and of the client.
    let timed = |work: &str| {
        format!(
            "{client}import time\nbegun = time.perf_counter()\n{work}\nprint(time.perf_counter() - begun)"
        )
    };
    let put = timed("s3.put_object(Bucket='batchwright', Key='object', Body=open('object', 'rb'))");
    let get = timed(
        "shutil.copyfileobj(s3.get_object(Bucket='batchwright', Key='object')['Body'], open('fetched', 'wb'), 1 << 20)",
    );
    let remote = at(&url, "object");
    let transfer = |from: &str, to: &str| {
        format!(
            "name = \"t\"\n[[steps]]\nname = \"t\"\ntype = \"transfer\"\nfrom = \"{from}\"\nto = \"{to}\"\n"
        )
    };
    println!("\n| 128 MiB | boto3, MB/s | Batchwright, MB/s | of boto3 |\n|---|---|---|---|");
    for (name, program, ours) in [
        ("to S3", &put, transfer("object", &remote)),
        ("from S3", &get, transfer(&remote, "fetched")),
    ] {
        let (mut theirs, mut own, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let mut command = Command::new(&python);
            command.args(["-c", program]).current_dir(folder);
            let seconds = printed(&mut command)?;
            let seconds = seconds.trim().parse::<f64>().map_err(|error| error.to_string())?;
            let rate = |seconds: f64| OBJECT_BYTES as f64 / 1e6 / seconds;
            let (loops, mine) = (rate(seconds), rate(job(folder, &ours)?));
            theirs.push(loops);
            own.push(mine);
            ratios.push(mine / loops);
        }
        println!("| {name} | {:.0} | {:.0} | {:.2} |", median(theirs), median(own), median(ratios));
    }
    Ok(())
}
