//! Shared helpers for the tests of several crates.
//!
//! The crate finds the services that tests need, counts the tests that are skipped without them, and makes random
//! inputs for tests of parsers.
//!
//! The test harness has no skipped tests: a test that returns early is reported as passed. So each skip is
//! written directly to the terminal, and to the file named by `BATCHWRIGHT_TEST_SKIPPED`, which `cargo xtask
//! ci` counts at its end.

#[cfg(feature = "browser")]
pub mod browser;
pub mod fuzz;
pub mod process;

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::panic::Location;
use std::path::Path;
use std::thread;

/// A service or program that a test needs besides Rust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// A PostgreSQL whose role may create databases: `BATCHWRIGHT_TEST_POSTGRES`.
    Postgres,
    /// A MariaDB or MySQL whose user may create databases: `BATCHWRIGHT_TEST_MYSQL`.
    MariaDb,
    /// A RabbitMQ: `BATCHWRIGHT_TEST_RABBITMQ`.
    RabbitMq,
    /// The script of axe-core, which checks pages for accessibility: `BATCHWRIGHT_TEST_AXE`.
    Axe,
    /// A Redis: `BATCHWRIGHT_TEST_REDIS`.
    Redis,
    /// A NATS with JetStream: `BATCHWRIGHT_TEST_NATS`.
    Nats,
    /// A cluster that speaks the protocol of Kafka, and keeps its messages in memory: the addresses of its brokers in
    /// `BATCHWRIGHT_TEST_KAFKA`, separated by commas.
    Kafka,
    /// A PgBouncer in transaction mode in front of that PostgreSQL: `BATCHWRIGHT_TEST_PGBOUNCER`.
    PgBouncer,
    /// An object store that speaks S3: `BATCHWRIGHT_TEST_S3`.
    S3,
    /// An emulator of Google Cloud Storage: `BATCHWRIGHT_TEST_GCS`.
    Gcs,
    /// An emulator of Azure Blob Storage: `BATCHWRIGHT_TEST_AZURE`.
    Azure,
    /// An FTP server: `BATCHWRIGHT_TEST_FTP`.
    Ftp,
    /// The same with TLS: `BATCHWRIGHT_TEST_FTPS`.
    Ftps,
    /// The same with TLS from the first byte: `BATCHWRIGHT_TEST_FTPS_IMPLICIT`.
    FtpsImplicit,
    /// An old FTP server, without `MLSD` and `MDTM`, which replaces no file: `BATCHWRIGHT_TEST_FTP_OLD`.
    FtpOld,
    /// An SSH server: `BATCHWRIGHT_TEST_SFTP`.
    Sftp,
    /// A server that speaks WebDAV: `BATCHWRIGHT_TEST_WEBDAV`.
    WebDav,
    /// A web server of the files in `BATCHWRIGHT_TEST_WEB_FOLDER`: `BATCHWRIGHT_TEST_WEB`.
    Web,
    /// The API of `scripts/api_server.py`: `BATCHWRIGHT_TEST_API`.
    Api,
    /// The mail server of `scripts/smtp_server.py`: `BATCHWRIGHT_TEST_SMTP`, with TLS `BATCHWRIGHT_TEST_SMTPS`, and its folder
    /// `BATCHWRIGHT_TEST_SMTP_FOLDER`.
    Smtp,
    /// A Python with `confluent_kafka`, `duckdb`, `fastavro`, `oidc_provider_mock`, `openpyxl`, `pyarrow` and `rotel`:
    /// `BATCHWRIGHT_TEST_TOOLS`.
    Tools,
    /// Servers that the tests may restart, as `scripts/services.sh` starts them: `BATCHWRIGHT_TEST_SERVICES`.
    Restart,
    /// The program schemathesis: `BATCHWRIGHT_TEST_SCHEMATHESIS`.
    Schemathesis,
    /// The programs `chromium` and `chromedriver`.
    Browser,
    /// The program `promtool` of Prometheus.
    Promtool,
    /// The program `faketime`.
    Faketime,
    /// The program `python3`.
    Python,
    /// The programs `zstd` and `lz4`.
    Compressors,
    /// The rights of root and the program `unshare`, for namespaces.
    Root,
    /// A hard limit of 12,000 open files or more; the soft limit of the test is raised to it.
    ManyFiles,
}

/// Returns the place of a service: a URL, the path of a program, or the folder of the servers.
///
/// Returns `None` if the service is missing; the test is then counted as skipped and must return.
#[track_caller]
#[must_use]
pub fn needs(service: Service) -> Option<String> {
    let found = match service {
        Service::Postgres => variable("BATCHWRIGHT_TEST_POSTGRES"),
        Service::MariaDb => variable("BATCHWRIGHT_TEST_MYSQL"),
        Service::RabbitMq => variable("BATCHWRIGHT_TEST_RABBITMQ"),
        Service::Redis => variable("BATCHWRIGHT_TEST_REDIS"),
        Service::Axe => variable("BATCHWRIGHT_TEST_AXE"),
        Service::Nats => variable("BATCHWRIGHT_TEST_NATS"),
        Service::Kafka => variable("BATCHWRIGHT_TEST_KAFKA"),
        Service::PgBouncer => variable("BATCHWRIGHT_TEST_PGBOUNCER"),
        Service::S3 => variable("BATCHWRIGHT_TEST_S3"),
        Service::Gcs => variable("BATCHWRIGHT_TEST_GCS"),
        Service::Azure => variable("BATCHWRIGHT_TEST_AZURE"),
        Service::Ftp => variable("BATCHWRIGHT_TEST_FTP"),
        Service::FtpOld => variable("BATCHWRIGHT_TEST_FTP_OLD"),
        Service::Ftps => variable("BATCHWRIGHT_TEST_FTPS"),
        Service::FtpsImplicit => variable("BATCHWRIGHT_TEST_FTPS_IMPLICIT"),
        Service::Sftp => variable("BATCHWRIGHT_TEST_SFTP"),
        Service::WebDav => variable("BATCHWRIGHT_TEST_WEBDAV"),
        Service::Web => variable("BATCHWRIGHT_TEST_WEB"),
        Service::Api => variable("BATCHWRIGHT_TEST_API"),
        Service::Smtp => variable("BATCHWRIGHT_TEST_SMTP"),
        Service::Tools => variable("BATCHWRIGHT_TEST_TOOLS"),
        Service::Restart => variable("BATCHWRIGHT_TEST_SERVICES"),
        Service::Schemathesis => variable("BATCHWRIGHT_TEST_SCHEMATHESIS"),
        Service::Browser => program("chromedriver").and_then(|_| program("chromium")),
        Service::Promtool => program("promtool"),
        Service::Faketime => program("faketime"),
        Service::Python => program("python3"),
        Service::Compressors => program("zstd").and_then(|_| program("lz4")),
        Service::Root => program("unshare").filter(|_| is_root()),
        Service::ManyFiles => {
            raised_file_limit().filter(|limit| *limit >= 12_000).map(|limit| limit.to_string())
        }
    };
    if found.is_none() {
        skipped(service, Location::caller());
    }
    found
}

/// Crashes the named server and starts it again with its data.
///
/// # Panics
///
/// Panics if `scripts/services.sh` fails.
pub fn restart(server: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/services.sh");
    let status = std::process::Command::new("bash").arg(script).args(["restart", server]).status();
    assert!(status.is_ok_and(|status| status.success()), "restart {server}");
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Raises the number of files that this process may open to the hard limit, and returns it.
fn raised_file_limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).ok()?;
    Some(limit.maximum.unwrap_or(u64::MAX))
}

fn program(name: &str) -> Option<String> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .map(|path| path.display().to_string())
}

fn skipped(service: Service, at: &Location<'_>) {
    // The harness names the thread after the test.
    let test = thread::current().name().unwrap_or("main").to_owned();
    // The harness would capture `eprintln!` as the output of a passed test.
    let _ = io::stderr().write_all(format!("skipped: {test} needs {service:?}\n").as_bytes());
    let Some(file) = env::var_os("BATCHWRIGHT_TEST_SKIPPED") else { return };
    let line = format!("{service:?}\t{}\t{test}\n", at.file());
    // Appended with one write, so that the lines of parallel test programs do not mix.
    let mut file = OpenOptions::new().create(true).append(true).open(file).expect("open the count");
    file.write_all(line.as_bytes()).expect("count a skipped test");
}
