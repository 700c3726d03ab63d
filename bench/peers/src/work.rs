//! The common parts of the workloads: records, arithmetic, timing and removal of old output.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Result;

/// Maximum number of bytes of one read of an input file or one write of an output file.
pub const BUFFER: usize = 64 * 1024;

#[derive(Serialize, Deserialize, Clone)]
pub struct Trade {
    pub id: u64,
    pub account: String,
    pub symbol: String,
    pub quantity: u32,
    pub price: f64,
    pub note: String,
}

impl Trade {
    pub fn value(&self) -> f64 {
        f64::from(self.quantity) * self.price
    }
}

#[derive(Serialize, Clone)]
pub struct Valued {
    pub id: u64,
    pub account: String,
    pub symbol: String,
    pub value: f64,
}

/// The arithmetic of the `memory` workload.
pub fn scramble(n: u64) -> u64 {
    n.wrapping_mul(31).wrapping_add(7)
}

/// Removes the output of an earlier run at `path`.
pub fn clear(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Runs a job and returns its duration.
#[expect(clippy::disallowed_methods, reason = "elapsed time is what this program measures")]
pub fn timed<T>(job: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = job();
    (result, begun.elapsed())
}
