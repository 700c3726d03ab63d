//! The command `batchwright`, with jobs from job files only.

use std::process::ExitCode;

use batchwright::JobRegistry;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    batchwright_cli::main(JobRegistry::new())
}
