//! The oracle: compares the engine with the reference model, execution after execution, until the job is
//! done.

use std::sync::{Arc, Mutex, OnceLock};

use super::blocks::{Encoding, InBlocks};
use super::model::{self, Case, Mark};
use crate::error::ItemError;
use crate::execution::{BatchStatus, ExecutionId, JobExecution, StepExecution};
use crate::host::CommitPoint;
use crate::item::{ItemWriter, Sequence};
use crate::job::Job;
use crate::operator::{JobHandle, JobOperator};
use crate::parameters::JobParameters;
use crate::policy::SkipPolicy;
use crate::retry::RetryPolicy;
use crate::step::ChunkStepBuilder;
use crate::store::JobRepository;
use crate::testing::fault::{FaultPlan, FaultyProcessor, FaultyReader, FaultyWriter};

/// The settings of the engine that must not affect the result.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Number of chunks read ahead.
    pub read_ahead: usize,
    /// Number of processing threads; with several, they also decode and encode the chunks.
    pub parallelism: usize,
}

/// Number of executions with faults.
const FAULTY_EXECUTIONS: usize = 3;

/// Runs `case` as `job` on `repository` and `writer`, restarting after every failure and stop. After each
/// execution the function compares status, counters, checkpoint and `rows` with the model, and asserts the
/// laws of conservation. After a fixed number of executions the faults are removed: `accept` makes the
/// database accept the `refused` items.
///
/// # Panics
///
/// When the engine and the model differ.
pub fn check<W>(
    repository: &Arc<dyn JobRepository>,
    job: &str,
    writer: &W,
    rows: impl Fn() -> Vec<u64>,
    accept: impl Fn(),
    case: &Case,
    shape: Shape,
) where
    W: ItemWriter<u64> + Clone + 'static,
{
    let mut case = case.clone();
    let (mut mark, mut expected_rows) = (Mark::default(), Vec::new());
    let mut last: Option<ExecutionId> = None;
    let (mut written, mut skipped) = (0, 0);
    for execution in 0.. {
        if execution == FAULTY_EXECUTIONS {
            case.faults = FaultPlan { filter: case.faults.filter, ..FaultPlan::default() };
            case.stop_after_commits = None;
            case.refused.clear();
            accept();
        }
        let expected = model::run(&case, mark);
        let operator = operator(repository, job, writer, &case, shape);
        let handle = start(&operator, job, last);
        let done = handle.wait().expect("the end is stored");
        let step = operator.queries().steps(done.id).unwrap().pop().expect("the step has a row");

        let context = format!("execution {execution} of {case:?} as {shape:?}");
        assert_eq!(step.counters, expected.counters, "counters: {context}: {:?}", done.failure);
        // A step that the model completes with skips only fails for that reason.
        let skips = skipped + expected.counters.skips();
        let nothing_but_skips = expected.status == BatchStatus::Completed
            && expected.mark.records > 0
            && skips >= expected.mark.records;
        let status = if nothing_but_skips { BatchStatus::Failed } else { expected.status };
        assert_eq!(step.status, status, "step: {context}");
        assert_eq!(done.status, status, "job: {context}");
        expected_rows.extend(expected.rows);
        assert_eq!(rows(), expected_rows, "rows: {context}");
        assert_eq!(stored_mark(step.checkpoint.as_deref()), expected.mark, "checkpoint: {context}");

        written += step.counters.write;
        skipped += operator.queries().skips(done.id).unwrap().len() as u64;
        assert_eq!(written, expected_rows.len() as u64, "written = rows in the sink: {context}");
        assert!(case.skip_limit.unwrap_or(0) >= step.counters.skips(), "limit kept: {context}");
        if nothing_but_skips {
            assert_eq!(done.failure.unwrap().code, "all_skipped", "{context}");
            assert_eq!((written, skipped), (0, case.count), "{context}");
            return;
        }
        if done.status == BatchStatus::Completed {
            assert_complete(&case, &done, &step, &expected_rows, skipped, &context);
            return;
        }
        mark = expected.mark;
        last = Some(done.id);
    }
}

/// Asserts what must be true of a completed execution: nothing is lost, and nothing is written twice.
fn assert_complete(
    case: &Case,
    done: &JobExecution,
    step: &StepExecution,
    rows: &[u64],
    skipped: u64,
    context: &str,
) {
    let code = if skipped > 0 { "COMPLETED_WITH_SKIPS" } else { "COMPLETED" };
    assert_eq!(done.exit.code, code, "{context}");
    assert!(step.counters.is_balanced(), "read = written + filtered + skipped: {context}");
    assert!(step.counters.filter <= case.count, "{context}");
    let unique: std::collections::BTreeSet<_> = rows.iter().collect();
    assert_eq!(unique.len(), rows.len(), "nothing twice: {context}");
    let filtered = case.faults.filter.iter().filter(|item| **item <= case.count).count() as u64;
    let written = rows.len() as u64;
    assert!(
        written + skipped + filtered >= case.count,
        "nothing lost: {written} written, {skipped} skipped: {context}"
    );
}

fn start(operator: &JobOperator, job: &str, last: Option<ExecutionId>) -> JobHandle {
    let none = JobParameters::new();
    match last {
        None => operator.start(job, none),
        Some(id) => operator.restart(id),
    }
    .expect("the job may start")
}

fn operator<W>(
    repository: &Arc<dyn JobRepository>,
    job: &str,
    writer: &W,
    case: &Case,
    shape: Shape,
) -> JobOperator
where
    W: ItemWriter<u64> + Clone + 'static,
{
    let pass = |item: &u64| -> Result<Option<u64>, ItemError> { Ok(Some(*item)) };
    let faults = &case.faults;
    let (for_reader, for_processor, for_writer) = (faults.clone(), faults.clone(), faults.clone());
    let (count, writer) = (case.count, Mutex::new(writer.clone()));
    let attempts = std::num::NonZeroU32::MIN.saturating_add(case.retries);
    let step = ChunkStepBuilder::new("copy")
        .reader_with(move |_| Ok(InBlocks(FaultyReader::new(Sequence::to(count), &for_reader))))
        .processor_with(move |_| Ok(FaultyProcessor::new(pass, &for_processor)))
        .writer_with(move |_| {
            Ok(Encoding(FaultyWriter::new(writer.lock().unwrap().clone(), &for_writer)))
        })
        .chunk_size(usize::try_from(case.chunk).unwrap())
        .skip(case.skip_limit.map_or_else(SkipPolicy::never, SkipPolicy::limit))
        .retry(RetryPolicy::attempts(attempts.get()))
        .read_ahead(shape.read_ahead)
        .parallelism(shape.parallelism)
        .build();
    // The hook stops the execution through its own operator.
    let stopper: Arc<OnceLock<JobOperator>> = Arc::default();
    let (operator_cell, commits) = (Arc::clone(&stopper), Mutex::new(0));
    let stop_after = case.stop_after_commits;
    let operator = JobOperator::builder(Arc::clone(repository))
        .commit_hook(move |scope, _, point| {
            let mut commits = commits.lock().unwrap();
            *commits += u64::from(point == CommitPoint::After);
            if point == CommitPoint::After && stop_after == Some(*commits) {
                let operator = operator_cell.get().expect("set before the start");
                operator.stop(scope.execution_id()).expect("it runs");
            }
        })
        .build();
    operator
        .registry()
        .register(Job::builder(job).step(step).build().expect("a valid job"))
        .expect("the only job");
    let _ = stopper.set(operator.clone());
    operator
}

fn stored_mark(checkpoint: Option<&str>) -> Mark {
    let Some(text) = checkpoint else { return Mark::default() };
    let json: serde_json::Value = serde_json::from_str(text).expect("checkpoints are JSON");
    let number = |name: &str| json[name].as_u64().unwrap_or(0);
    Mark { records: number("records"), resolved: number("resolved") }
}
