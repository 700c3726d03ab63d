//! The command for jobs that are described by job files alone.

use std::process::ExitCode;

use batchwright::JobRegistry;

fn main() -> ExitCode {
    batchwright_cli::main(&JobRegistry::new())
}
