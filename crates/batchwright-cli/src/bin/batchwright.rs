//! The command `batchwright`, with jobs from job files only.

use std::process::ExitCode;

use batchwright::JobRegistry;

fn main() -> ExitCode {
    batchwright_cli::main(JobRegistry::new())
}
