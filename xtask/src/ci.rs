//! The checks of `cargo xtask ci`, and the longer test runs.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::{beside, cargo, surface, tidy};

/// The file to which tests write that they were skipped.
const SKIPPED: &str = "target/skipped.txt";

/// All features of the command, as a release has them.
const FULL: &str = "batchwright-cli/full";

/// The examples of the tutorial with their packages; each asserts what it shows.
const EXAMPLES: [(&str, &str); 19] = [
    ("batchwright", "01_hello"),
    ("batchwright", "02_parameters"),
    ("batchwright", "03_files"),
    ("batchwright", "04_listeners"),
    ("batchwright", "05_tasklets"),
    ("batchwright", "06_registry"),
    ("batchwright", "07_custom_items"),
    ("batchwright-store", "08_durable"),
    ("batchwright-store", "10_coming_from"),
    ("batchwright", "11_flows"),
    ("batchwright", "13_progressive"),
    ("batchwright-server", "14_job_files"),
    ("batchwright", "16_functions"),
    ("batchwright", "19_quick_start"),
    ("batchwright", "20_two_steps"),
    ("batchwright", "21_start_stop_restart"),
    ("batchwright", "22_fault_tolerance"),
    ("batchwright", "23_job_listener"),
    ("batchwright-server", "25_progressive_client"),
];

/// How a run treats skipped tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skips {
    /// Skipped tests are listed at the end.
    Counted,
    /// Skipped tests fail the run, because all services should be available.
    Refused,
}

/// Checks format, lints, tests, doctests, examples and documentation; needs neither root nor a server.
pub(crate) fn run(skips: Skips) -> Result<(), String> {
    for component in ["fmt", "clippy"] {
        require(component)?;
    }
    cargo(&["fmt", "--all", "--check"], &[])?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--features", FULL];
    cargo(&[&clippy[..], &["--", "-D", "warnings"]].concat(), &[])?;
    let count = std::env::current_dir().map_err(|error| error.to_string())?.join(SKIPPED);
    std::fs::write(&count, "").map_err(|error| format!("cannot write {SKIPPED}: {error}"))?;
    let counted = [("BATCHWRIGHT_TEST_SKIPPED", count.to_str().ok_or("the path is no text")?)];
    // Only the default members: benchmarks have no tests.
    cargo(&["test", "--no-fail-fast", "--features", FULL], &counted)?;
    // The library without its default features.
    cargo(&["check", "--package", "batchwright", "--no-default-features"], &[])?;
    features()?;
    for (package, example) in EXAMPLES {
        cargo(&["run", "--quiet", "--package", package, "--example", example], &[])?;
    }
    tidy::check()?;
    beside::check()?;
    if skips == Skips::Refused {
        sweep("40")?;
    }
    surface::document(&[])?;
    surface::run()?;
    let lines = std::fs::read_to_string(&count).map_err(|error| error.to_string())?;
    match summary(&lines) {
        None => Ok(()),
        Some(summary) if skips == Skips::Refused => Err(summary),
        Some(summary) => {
            eprintln!("\n{summary}; `cargo xtask ci --services` runs them");
            Ok(())
        }
    }
}

/// The packages whose tests need no process of the command and no server.
const QUICK: [&str; 5] = [
    "batchwright",
    "batchwright-items",
    "batchwright-jobfile",
    "batchwright-macros",
    "batchwright-store",
];

/// Format, lints, tidy, and the tests of the libraries: what is run before each commit.
pub(crate) fn quick() -> Result<(), String> {
    for component in ["fmt", "clippy"] {
        require(component)?;
    }
    cargo(&["fmt", "--all", "--check"], &[])?;
    tidy::check()?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    let packages = QUICK.iter().flat_map(|package| ["--package", package]);
    let tests: Vec<&str> = ["test", "--no-fail-fast"].into_iter().chain(packages).collect();
    cargo(&tests, &[])
}

/// Each feature of the engine alone.
pub(crate) fn features() -> Result<(), String> {
    for feature in ["cache", "discover", "openapi", "testing"] {
        let check =
            ["check", "--package", "batchwright", "--no-default-features", "--features", feature];
        cargo(&check, &[])?;
    }
    for (package, features) in [
        ("batchwright-store", "sqlite"),
        ("batchwright-store", "mysql"),
        ("batchwright-server", ""),
        ("batchwright-cli", ""),
        ("batchwright-items", ""),
        ("batchwright-items", "zstd,bzip2"),
        ("batchwright-items", "archive"),
        ("batchwright-items", "arrow"),
        ("batchwright-items", "avro"),
        ("batchwright-items", "parquet"),
        ("batchwright-items", "s3"),
        ("batchwright-items", "gcs"),
        ("batchwright-items", "azure"),
        ("batchwright-items", "http,excel"),
        ("batchwright-items", "mail"),
        ("batchwright-items", "script"),
        ("batchwright-items", "amqp"),
        ("batchwright-items", "kafka"),
        ("batchwright-items", "nats"),
        ("batchwright-items", "redis"),
        ("batchwright-items", "ftp"),
        ("batchwright-items", "sftp"),
        ("batchwright-items", "webdav"),
    ] {
        let check =
            ["check", "--package", package, "--no-default-features", "--features", features];
        cargo(&check, &[])?;
    }
    Ok(())
}

/// Runs this program again with `words` while private servers are running. Nothing that is built is built again or debugged, so
/// the data of incremental builds and the symbols, together more than half of the disk's use, are left out.
pub(crate) fn with_services(words: &[&str]) -> Result<(), String> {
    let xtask = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("bash");
    command.args(["scripts/services.sh", "run"]).arg(xtask).args(words);
    command.envs([
        ("CARGO_INCREMENTAL", "0"),
        ("CARGO_PROFILE_DEV_DEBUG", "false"),
        ("CARGO_PROFILE_DEV_STRIP", "symbols"),
    ]);
    // `exec` returns only on failure.
    Err(format!("cannot run scripts/services.sh: {}", command.exec()))
}

/// Whether the servers of [`with_services`] are running.
pub(crate) fn has_services() -> bool {
    std::env::var_os("BATCHWRIGHT_TEST_SERVICES").is_some()
}

/// Returns how many tests in `lines` were skipped for each missing service; `None` if there are none.
fn summary(lines: &str) -> Option<String> {
    let mut tests = BTreeSet::new();
    let mut services: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in lines.lines() {
        let (service, test) = line.split_once('\t')?;
        tests.insert(test);
        services.entry(service).or_default().insert(test);
    }
    let services: Vec<_> =
        services.iter().map(|(service, tests)| format!("{service} {}", tests.len())).collect();
    (!tests.is_empty()).then(|| {
        format!(
            "{} tests skipped, whole or in part, for lack of: {}",
            tests.len(),
            services.join(", ")
        )
    })
}

/// Runs the crash tests, which kill the real binary, with each seed from 1 to `seeds`.
pub(crate) fn simulate(seeds: u64) -> Result<(), String> {
    for seed in 1..=seeds {
        let test = ["test", "--quiet", "--package", "batchwright-cli", "--test", "crash"];
        cargo(&test, &[("SIM_SEED", &seed.to_string())])?;
    }
    Ok(())
}

/// Runs the fault sweeps: makes system calls of two jobs fail, one in each run, then cuts connections to
/// servers and drops the results of commits; after restarts, compares the outputs with those of the
/// uninterrupted run.
///
/// `seconds` is the time for each of the three sweeps, `all` means every possible fault. Needs strace and
/// Python, and for the connections the servers of `scripts/services.sh`.
pub(crate) fn sweep(seconds: &str) -> Result<(), String> {
    cargo(&["build", "--package", "batchwright-cli"], &[])?;
    let lanes = [
        ["sweep.py", "--job", "scripts/fault_sweep/job.toml"].as_slice(),
        &["sweep.py", "--job", "scripts/fault_sweep/job2.toml"],
        &["cuts.py"],
    ];
    for lane in lanes {
        let name = lane.join(" ");
        eprintln!("\n== fault sweep: {name}");
        let mut command = Command::new("python3");
        command.arg(format!("scripts/fault_sweep/{}", lane[0]));
        command.arg("target/debug/batchwright").args(&lane[1..]);
        match seconds {
            "all" => command.arg("--full"),
            seconds => command.args(["--budget", seconds]),
        };
        let status = command.status().map_err(|error| format!("cannot run python3: {error}"))?;
        match status.code() {
            Some(0) => {}
            Some(NOT_HERE) => eprintln!("no server is available: {name} was skipped"),
            _ => return Err(format!("the fault sweep found a failure: {name}")),
        }
    }
    Ok(())
}

/// The exit code of a script that lacks a server or program.
const NOT_HERE: i32 = 77;

/// The tests that give random inputs to parsers: packages, test programs and names.
const FUZZED: [(&str, &[&str]); 6] = [
    ("batchwright-items", &["--test", "fuzz"]),
    ("batchwright-items", &["--features", "full", "--lib", "fuzz_of"]),
    ("batchwright-jobfile", &["--lib", "fuzz::"]),
    ("batchwright-jobfile", &["--test", "all", "fuzz::"]),
    ("batchwright-server", &["--test", "fuzz"]),
    ("batchwright-store", &["--test", "fuzz"]),
];

/// Runs each fuzz test for `seconds`; those of one program run at the same time.
pub(crate) fn fuzz(seconds: &str) -> Result<(), String> {
    for (package, tests) in FUZZED {
        let arguments = [&["test", "--package", package], tests, &["--", "--nocapture"]].concat();
        cargo(&arguments, &[("FUZZ_SECONDS", seconds)])?;
    }
    Ok(())
}

/// Fails if this toolchain lacks the component, so that its check is not skipped silently.
fn require(component: &str) -> Result<(), String> {
    let found = Command::new(env!("CARGO"))
        .args([component, "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    match found {
        true => Ok(()),
        false => Err(format!(
            "this toolchain has no cargo {component}; install it, e.g. `rustup component add {}`",
            if component == "fmt" { "rustfmt" } else { component }
        )),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_skipped_test_is_counted_once_for_each_service_it_needs() {
        let lines =
            "Postgres\ta.rs\tone\nMariaDb\ta.rs\tone\nPostgres\ta.rs\tone\nPostgres\tb.rs\tone\n";
        let text = super::summary(lines).unwrap();
        assert_eq!(text, "2 tests skipped, whole or in part, for lack of: MariaDb 1, Postgres 2");
        assert_eq!(super::summary(""), None);
    }
}
