//! The workloads that are compared, and their timing.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub(crate) type Outcome = Result<Duration, Box<dyn std::error::Error>>;

/// A workload: number of records, input and output.
#[derive(Clone)]
pub(crate) struct Task {
    pub(crate) count: u64,
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
}

/// A record of the input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Trade {
    pub(crate) id: u64,
    pub(crate) account: String,
    pub(crate) symbol: String,
    pub(crate) quantity: u32,
    pub(crate) price: f64,
    pub(crate) note: String,
}

/// A record of the output.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Valued {
    pub(crate) id: u64,
    pub(crate) account: String,
    pub(crate) symbol: String,
    pub(crate) value: f64,
}

impl Valued {
    pub(crate) fn of(trade: &Trade) -> Self {
        let Trade { id, account, symbol, quantity, price, .. } = trade;
        let value = f64::from(*quantity) * price;
        Self { id: *id, account: account.clone(), symbol: symbol.clone(), value }
    }
}

pub(crate) const CHUNK: usize = 1_000;

pub(crate) fn step(n: u64) -> u64 {
    n.wrapping_mul(31).wrapping_add(7)
}

/// Runs `work` and returns its duration.
#[expect(clippy::disallowed_methods, reason = "measuring is the purpose")]
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T, Box<dyn std::error::Error>>) -> Outcome {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// Returns the peak resident memory of this process.
pub(crate) fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Writes an input of `count` trades.
pub(crate) fn make_input(task: &Task) -> Outcome {
    timed(|| {
        let mut file = BufWriter::new(File::create(&task.output)?);
        writeln!(file, "id,account,symbol,quantity,price,note")?;
        for id in 0..task.count {
            let mixed = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
            writeln!(
                file,
                "{id},ACC{:06},SYM{:03},{},{}.{:02},note {}",
                mixed % 1_000_000,
                mixed % 997,
                mixed % 500,
                mixed % 900,
                mixed % 100,
                mixed % 10_000
            )?;
        }
        Ok(file.flush()?)
    })
}
