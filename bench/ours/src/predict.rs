//! Predicts the time of `csv-csv` with more cores than this machine has: the stages of a chunk are measured, the threads are virtual.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use batchwright::ItemError;
use batchwright::item::{Block, ItemReader, ItemWriter};
use batchwright::testing::StepBench;
use batchwright_items::format::csv::{CsvReader, CsvWriter};

use crate::work::{CHUNK, Outcome, Task, Trade, Valued, timed};
use crate::{engine, plain};

/// The mean times that a chunk takes in each stage, in nanoseconds.
struct Stages {
    /// Finding the ends of its records; one thread at a time.
    read: f64,
    /// Decoding, processing and encoding; all threads.
    process: f64,
    /// Appending its bytes and committing; the step's own thread.
    settle: f64,
}

/// Prints the predictions, and returns the time of the loop.
pub(crate) fn run(task: &Task) -> Outcome {
    let stages = measure(task)?;
    let chunks = task.count.div_ceil(CHUNK as u64);
    let loop_time = plain::run("csv-csv", task)?;
    let ours = engine::run("csv-csv", task)?;
    let share = |time: f64| time / loop_time.as_nanos() as f64;
    println!(
        "| csv-csv, time / loop | stages of a chunk: read {:.0} µs, process {:.0} µs, settle {:.0} µs |\n|---|---|",
        stages.read / 1e3,
        stages.process / 1e3,
        stages.settle / 1e3
    );
    println!("| measured here | {:.2} |", share(ours.as_nanos() as f64));
    for cores in [2, 4, 8, 16] {
        println!("| predicted, {cores} cores | {:.2} |", share(simulate(&stages, chunks, cores)));
    }
    Ok(loop_time)
}

fn failed(error: ItemError) -> Box<dyn std::error::Error> {
    error.into_boxed()
}

fn measure(task: &Task) -> Result<Stages, Box<dyn std::error::Error>> {
    let bench = StepBench::new();
    let mut writer: CsvWriter = CsvWriter::new(&task.output);
    ItemWriter::<Valued>::open(&mut writer, None, bench.scope()).map_err(failed)?;
    let first = Valued { id: 0, account: String::new(), symbol: String::new(), value: 0.0 };
    bench.in_chunk(|chunk| writer.write(&[first], chunk)).map_err(failed)?;
    let mut encode = ItemWriter::<Valued>::encoder(&writer).ok_or("the writer has no encoder")?;
    let (mut trades, mut values, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    let (read, chunks) = each_block(task, &bench, |_| Ok(()))?;
    let (whole, _) = each_block(task, &bench, |block| {
        trades.clear();
        values.clear();
        bytes.clear();
        block.decode(&mut |trade| trades.push(trade))?;
        values.extend(trades.iter().map(Valued::of));
        encode(&values, &mut bytes)
    })?;
    let process = whole.saturating_sub(read);
    let mut output = File::create(&task.output)?;
    let append = timed(|| {
        for _ in 0..chunks as usize {
            output.write_all(&bytes)?;
        }
        Ok(())
    })?;
    // Nearly nothing of this is the processing of numbers.
    let numbers = Task { count: 1_000 * CHUNK as u64, ..task.clone() };
    let commit = engine::run("memory-sqlite", &numbers)?;
    let of = |time: Duration, chunks: f64| time.as_nanos() as f64 / chunks;
    let settle = of(append, chunks) + of(commit, 1_000.0);
    Ok(Stages { read: of(read, chunks), process: of(process, chunks), settle })
}

/// Reads the input block by block, each of which `work` gets; returns the time and the number of blocks.
fn each_block(
    task: &Task,
    bench: &StepBench,
    mut work: impl FnMut(&mut dyn Block<Trade>) -> Result<(), ItemError>,
) -> Result<(Duration, f64), Box<dyn std::error::Error>> {
    let mut reader = CsvReader::<Trade>::new(&task.input);
    reader.open(None, bench.scope()).map_err(failed)?;
    let mut blocks = 0.0;
    let time = timed(|| {
        loop {
            let mut block = reader.read_block(CHUNK).map_err(failed)?;
            let is_last = block.is_last();
            // The input may end with a block, after which an empty one follows.
            if block.records() > 0 {
                blocks += 1.0;
                work(&mut *block).map_err(failed)?;
            }
            if is_last {
                return Ok(());
            }
        }
    })?;
    Ok((time, blocks))
}

/// Returns the time of `chunks` chunks with as many threads that process as there are cores. The step's own thread shares the cores with
/// them: its work is divided among the threads, as the system does with one thread more than cores.
fn simulate(stages: &Stages, chunks: u64, cores: usize) -> f64 {
    let own_share = stages.settle / cores as f64;
    let mut free = vec![0.0_f64; cores];
    let (mut reader, mut settled) = (0.0_f64, 0.0_f64);
    // When each of the last chunks was settled: a thread waits for a place in the queue.
    let mut ends = std::collections::VecDeque::from(vec![0.0; cores]);
    for _ in 0..chunks {
        let next = (0..cores).min_by(|a, b| free[*a].total_cmp(&free[*b])).unwrap_or(0);
        let place = ends.pop_front().unwrap_or(0.0);
        let begun = free[next].max(reader).max(place);
        reader = begun + stages.read;
        free[next] = reader + stages.process + own_share;
        settled = free[next].max(settled) + stages.settle;
        ends.push_back(settled);
    }
    settled
}
