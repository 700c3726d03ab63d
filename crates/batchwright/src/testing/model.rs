//! The reference model of a chunk step: pure arithmetic, without the engine. The model is the contract.
//!
//! Records are numbered from 1; `resolved` counts records after the chunk's start that a scan resolved,
//! including those without an output.

use std::collections::{BTreeMap, BTreeSet};

use crate::execution::{BatchStatus, Counters};
use crate::testing::fault::FaultPlan;

/// The input of the model: one step execution.
#[derive(Debug, Clone)]
pub struct Case {
    /// Records in the input.
    pub count: u64,
    /// Items in a chunk.
    pub chunk: u64,
    /// Faults of the items.
    pub faults: FaultPlan,
    /// Items that the database refuses only when their transaction commits.
    pub refused: BTreeSet<u64>,
    /// Number of skips allowed; `None` is no skip policy.
    pub skip_limit: Option<u64>,
    /// Number of further attempts after the first.
    pub retries: u32,
    /// Number of commits after which the step stops.
    pub stop_after_commits: Option<u64>,
}

/// The position of a step between executions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// Number of records before the checkpoint.
    pub records: u64,
    /// Number of records after the checkpoint that are resolved already.
    pub resolved: u64,
}

/// The result that the model computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Status of the step at its end.
    pub status: BatchStatus,
    /// Counters of the step.
    pub counters: Counters,
    /// Committed items, in order.
    pub rows: Vec<u64>,
    /// Position of the step.
    pub mark: Mark,
}

/// The error of a step that fails.
struct Failed;

struct Model<'a> {
    case: &'a Case,
    counters: Counters,
    rows: Vec<u64>,
    mark: Mark,
    position: u64,
    read_flaky: BTreeMap<u64, u32>,
    process_flaky: BTreeMap<u64, u32>,
    write_flaky: BTreeMap<u64, u32>,
}

enum WriteFault {
    Bad,
    Fatal,
}

/// Computes one execution that begins at `mark`.
pub fn run(case: &Case, mark: Mark) -> Expected {
    let mut model = Model {
        case,
        counters: Counters::default(),
        rows: Vec::new(),
        mark,
        position: mark.records,
        read_flaky: case.faults.read_flaky.clone(),
        process_flaky: case.faults.process_flaky.clone(),
        write_flaky: case.faults.write_flaky.clone(),
    };
    let status = model.execute(mark.resolved).unwrap_or(BatchStatus::Failed);
    Expected { status, counters: model.counters, rows: model.rows, mark: model.mark }
}

fn flickers(left: &mut BTreeMap<u64, u32>, item: u64) -> bool {
    let count = left.entry(item).or_default();
    let failing = *count > 0;
    *count -= u32::from(failing);
    failing
}

impl Model<'_> {
    fn execute(&mut self, mut drop: u64) -> Result<BatchStatus, Failed> {
        loop {
            let stop = self.case.stop_after_commits;
            if stop.is_some_and(|commits| self.counters.commit >= commits) {
                return Ok(BatchStatus::Stopped);
            }
            let start = self.position;
            let (inputs, end_of_input) = self.fill(&mut drop)?;
            if self.position == start {
                return Ok(BatchStatus::Completed);
            }
            let outputs = self.process(&inputs)?;
            self.write_chunk(start, &outputs)?;
            if end_of_input {
                return Ok(BatchStatus::Completed);
            }
        }
    }

    fn fill(&mut self, drop: &mut u64) -> Result<(Vec<u64>, bool), Failed> {
        let (mut inputs, mut consumed) = (Vec::new(), 0);
        while consumed < self.case.chunk {
            if self.position >= self.case.count {
                return Ok((inputs, true));
            }
            let item = self.position + 1;
            if *drop > 0 {
                *drop -= 1;
                self.position = item;
                continue;
            }
            consumed += 1;
            let mut readable = false;
            for _ in 0..=self.case.retries {
                readable = !flickers(&mut self.read_flaky, item);
                if readable {
                    break;
                }
            }
            self.position = item;
            if readable && !self.case.faults.read.contains(&item) {
                self.counters.read += 1;
                inputs.push(item);
                continue;
            }
            self.take_skip().inspect_err(|_| self.counters.rollback += 1)?;
            self.counters.read_skip += 1;
        }
        Ok((inputs, false))
    }

    fn process(&mut self, inputs: &[u64]) -> Result<Vec<u64>, Failed> {
        let faults = &self.case.faults;
        let mut outputs = Vec::new();
        for &item in inputs {
            if faults.fatal_process.contains(&item) {
                self.counters.rollback += 1;
                return Err(Failed);
            }
            let mut good = false;
            for _ in 0..=self.case.retries {
                good = !flickers(&mut self.process_flaky, item) && !faults.process.contains(&item);
                if good {
                    break;
                }
            }
            if good {
                match faults.filter.contains(&item) {
                    true => self.counters.filter += 1,
                    false => outputs.push(item),
                }
            } else {
                self.take_skip().inspect_err(|_| self.counters.rollback += 1)?;
                self.counters.process_skip += 1;
            }
        }
        Ok(outputs)
    }

    fn write_chunk(&mut self, start: u64, outputs: &[u64]) -> Result<(), Failed> {
        for attempt in 0.. {
            match self.write(outputs) {
                Ok(()) => {
                    self.commit(outputs, Mark { records: self.position, resolved: 0 });
                    return Ok(());
                }
                Err(WriteFault::Fatal) => {
                    self.counters.rollback += 1;
                    return Err(Failed);
                }
                Err(WriteFault::Bad) => self.counters.rollback += 1,
            }
            if attempt >= self.case.retries {
                break;
            }
        }
        if self.case.skip_limit.is_none() {
            return Err(Failed);
        }
        if let [_] = outputs {
            self.take_skip()?;
            self.counters.write_skip += 1;
            self.commit(&[], Mark { records: self.position, resolved: 0 });
            return Ok(());
        }
        let mut uncommitted = true;
        for (index, &item) in outputs.iter().enumerate() {
            uncommitted = true;
            match self.write(&[item]) {
                Ok(()) => {
                    let last = index + 1 == outputs.len();
                    let within = Mark { records: start, resolved: item - start };
                    let after = Mark { records: self.position, resolved: 0 };
                    self.commit(&[item], if last { after } else { within });
                    uncommitted = false;
                }
                Err(WriteFault::Fatal) => {
                    self.counters.rollback += 1;
                    return Err(Failed);
                }
                Err(WriteFault::Bad) => {
                    self.counters.rollback += 1;
                    self.take_skip()?;
                    self.counters.write_skip += 1;
                }
            }
        }
        if uncommitted {
            self.commit(&[], Mark { records: self.position, resolved: 0 });
        }
        Ok(())
    }

    fn write(&mut self, outputs: &[u64]) -> Result<(), WriteFault> {
        let faults = &self.case.faults;
        for item in outputs {
            if flickers(&mut self.write_flaky, *item) {
                return Err(WriteFault::Bad);
            }
            if faults.fatal_write.contains(item) {
                return Err(WriteFault::Fatal);
            }
            if faults.write.contains(item) {
                return Err(WriteFault::Bad);
            }
        }
        // The writer accepted all of them, and the commit refuses them.
        match outputs.iter().any(|item| self.case.refused.contains(item)) {
            true => Err(WriteFault::Bad),
            false => Ok(()),
        }
    }

    fn commit(&mut self, outputs: &[u64], mark: Mark) {
        self.counters.commit += 1;
        self.counters.write += outputs.len() as u64;
        self.rows.extend(outputs);
        self.mark = mark;
    }

    fn take_skip(&self) -> Result<(), Failed> {
        match self.case.skip_limit {
            Some(limit) if self.counters.skips() < limit => Ok(()),
            _ => Err(Failed),
        }
    }
}
