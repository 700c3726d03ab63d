//! Maintenance tasks of the repository. `cargo xtask ci` runs all checks, in CI and locally.

mod bench;
mod bench_dashboard;
mod bench_formats;
mod bench_kinds;
mod bench_load;
mod bench_servers;
mod bench_tools;
mod beside;
mod ci;
mod surface;
mod tidy;

use std::process::{Command, ExitCode};

use ci::Skips;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["ci"] => ci::run(Skips::Counted),
        ["ci", "--quick"] => ci::quick(),
        ["ci", "--services"] => ci::with_services(&["ci", "--nothing-skipped"]),
        // The line above runs this command while its servers are running.
        ["ci", "--nothing-skipped"] => ci::run(Skips::Refused),
        ["bench"] => bench::run(5),
        ["bench", "--rounds", rounds] => match rounds.parse() {
            Ok(rounds) => bench::run(rounds),
            Err(_) => Err(format!("`{rounds}` is no number of rounds")),
        },
        ["bench", "servers" | "store" | "scheduler" | "kinds" | "dashboard", ..] if !ci::has_services() => {
            ci::with_services(&words)
        }
        ["bench", "servers"] => bench_servers::servers(5),
        ["bench", "store"] => bench_servers::store(),
        ["bench", "scheduler"] => bench_servers::scheduler(false),
        ["bench", "scheduler", "--quick"] => bench_servers::scheduler(true),
        ["bench", "formats"] => bench_formats::run(3),
        ["bench", "kinds"] => bench_kinds::run(),
        ["bench", "dashboard"] => bench_dashboard::run(),
        ["bench", "slices"] => bench_servers::slices(),
        ["bench", "tools"] => bench_tools::run(5),
        ["fuzz"] => ci::fuzz("60"),
        ["fuzz", "--seconds", seconds] => ci::fuzz(seconds),
        ["beside"] => beside::check(),
        ["surface"] => surface::run(),
        ["tidy"] => tidy::check(),
        ["sweep"] => ci::sweep("280"),
        ["sweep", "--seconds", seconds] => ci::sweep(seconds),
        ["sweep", "--all"] => ci::sweep("all"),
        ["sim", "--seeds", seeds] => match seeds.parse() {
            Ok(seeds) => ci::simulate(seeds),
            Err(_) => Err(format!("`{seeds}` is no number of seeds")),
        },
        _ => Err(
            "usage: cargo xtask ci [--quick | --services] | beside | surface | tidy | bench [--rounds N | servers | store | scheduler [--quick] | slices | tools | formats | kinds | dashboard] | \
                  fuzz [--seconds N] | sweep [--seconds N | --all] | sim --seeds N"
                .to_owned(),
        ),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("xtask: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `cargo` with `arguments`; it inherits stdout and stderr.
fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
    eprintln!("\n== cargo {}", arguments.join(" "));
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).envs(environment.iter().copied());
    let status = command.status().map_err(|error| format!("cannot run cargo: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("`cargo {}` failed", arguments.join(" "))),
    }
}
