//! What the works have in common: the records, the arithmetic, the clock and clearing old output.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Result;

/// The bytes one read of an input file or one write of an output file may carry.
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

/// What the `memory` work does to a number.
pub fn scramble(n: u64) -> u64 {
    n.wrapping_mul(31).wrapping_add(7)
}

/// Removes what an earlier run left at `path`.
pub fn clear(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Runs a job and says how long the run took.
#[expect(clippy::disallowed_methods, reason = "elapsed time is what this program measures")]
pub fn timed<T>(job: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = job();
    (result, begun.elapsed())
}
