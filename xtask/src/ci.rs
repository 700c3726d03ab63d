//! Everything that must be green.

use std::process::Command;

use crate::cargo;

/// Examples of the tutorial, with the package that each belongs to; each asserts what it shows.
const EXAMPLES: [(&str, &str); 11] = [
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
];

/// Format, lints, tests, doctests, examples, documentation.
pub(crate) fn run() -> Result<(), String> {
    services()?;
    if has("fmt") {
        cargo(&["fmt", "--all", "--check"], &[])?;
    }
    if has("clippy") {
        cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    }
    // The default members: what is only measured is not tested.
    cargo(&["test", "--no-fail-fast"], &[])?;
    // The framework alone, as somebody has it who switches every convenience off.
    cargo(&["check", "--package", "batchwright", "--no-default-features"], &[])?;
    for (package, example) in EXAMPLES {
        cargo(&["run", "--quiet", "--package", package, "--example", example], &[])?;
    }
    cargo(&["doc", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])
}

/// Searches more worlds than the tests do: one seed after another kills the real binary.
pub(crate) fn simulate(seeds: u64) -> Result<(), String> {
    for seed in 1..=seeds {
        let test = ["test", "--quiet", "--package", "batchwright-cli", "--test", "crash"];
        cargo(&test, &[("SIM_SEED", &seed.to_string())])?;
    }
    Ok(())
}

/// Feeds the decoder of the line protocol with bytes of all kinds.
pub(crate) fn fuzz(seconds: &str) -> Result<(), String> {
    let test = ["test", "--package", "batchwright-server", "--test", "fuzz", "--", "--nocapture"];
    cargo(&test, &[("FUZZ_SECONDS", seconds)])
}

/// What tests need beyond Rust.
pub(crate) fn services() -> Result<(), String> {
    let status = Command::new("bash")
        .arg("scripts/services.sh")
        .status()
        .map_err(|error| format!("cannot run scripts/services.sh: {error}"))?;
    if status.success() { Ok(()) } else { Err("scripts/services.sh failed".to_owned()) }
}

/// Whether this toolchain has the component; one without it is told, not stopped.
fn has(component: &str) -> bool {
    let found = Command::new(env!("CARGO"))
        .args([component, "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("xtask: this toolchain has no cargo {component}; that check is left out");
    }
    found
}
