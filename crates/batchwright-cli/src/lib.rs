//! The command `batchwright`, also for programs with their own jobs.
//!
//! ```no_run
//! use batchwright::item::NoWriter;
//! use batchwright::{ChunkStepBuilder, Job, JobRegistry, Sequence};
//!
//! fn main() -> std::process::ExitCode {
//!     let registry = JobRegistry::new();
//!     let step = ChunkStepBuilder::new("count")
//!         .reader(Sequence::to(1_000_000))
//!         .writer(NoWriter::new())
//!         .build();
//!     let job = Job::builder("count").step(step).build().expect("a valid job");
//!     registry.register(job).expect("the only job of that name");
//!     batchwright_cli::main(registry) // `run count`, `restart 1`, `executions`, …
//! }
//! ```

/// Compiles the program in the README with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

mod args;
mod command;
mod context;
mod corrections;
mod error;
mod output;
mod parameters;
mod program;
mod progress;
mod project;
mod store;
#[cfg(feature = "otlp")]
mod telemetry;
#[cfg(not(feature = "otlp"))]
#[path = "telemetry_absent.rs"]
mod telemetry;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

pub use program::Program;

/// Runs the command with the jobs and kinds of `program`, which may be a registry of jobs, in addition to those of job
/// files.
///
/// Returns the exit code of the verb; never panics on any input.
///
/// As the first process of a container (PID 1), the function starts the program once more as a child and
/// reaps the orphaned processes of scripts.
pub fn main(program: impl Into<Program>) -> ExitCode {
    let program = program.into();
    match batchwright_server::run_as_init() {
        Ok(None) => {}
        Ok(Some(code)) => return ExitCode::from(code),
        Err(error) => {
            let message =
                "orphaned processes of scripts are not reaped: start the container with an init";
            let _ = writeln!(std::io::stderr(), "warning: {message}: {error}");
        }
    }
    let arguments = args::with_marked_parameters(std::env::args());
    let cli = match args::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let json = std::env::args().any(|one| one == "json" || one == "--format=json");
            let format = if json { args::Format::Json } else { args::Format::Text };
            return ExitCode::from(error::CliError::Arguments(error).tell(format));
        }
        Err(help) => {
            let _ = help.print();
            return ExitCode::from(error::OK);
        }
    };
    let format = cli.global.format;
    let code = match command::execute(cli, &program) {
        Ok(code) => code,
        Err(error) => error.tell(format),
    };
    telemetry::end();
    ExitCode::from(code)
}
