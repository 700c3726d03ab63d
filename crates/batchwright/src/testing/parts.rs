//! Unit tests of single parts: the scope, transaction and tasklet call that a reader, writer, tasklet or
//! partitioner gets from the engine.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use crate::clock::StopToken;
use crate::context::ExecutionContext;
use crate::error::{ItemError, RepositoryError};
use crate::event::Events;
use crate::execution::{ExecutionId, InstanceId, JobExecution, StepExecution, StepExecutionId};
use crate::item::{ChunkTransaction, ItemReader};
use crate::lifecycle::ObservedStore;
use crate::parameters::JobParameters;
use crate::scope::{JobScope, Partition, StepScope, StepStart};
use crate::step::{Flow, Tasklet, TaskletCall};
use crate::store::{JobRepository, MemoryRepository};

/// What a part of a step gets from the engine, without a job and an operator.
///
/// ```
/// use batchwright::item::{ItemReader, IteratorReader};
/// use batchwright::testing::StepBench;
/// use batchwright::{JobParameters, TaskletStep};
///
/// let bench = StepBench::new().parameters(JobParameters::new().with("year", 2026));
/// assert_eq!(bench.scope().parameters().integer("year"), Ok(2026));
///
/// let mut reader = IteratorReader::new(|read| Ok((0..5).skip(read).map(Ok)));
/// assert_eq!(bench.read_all(&mut reader, Some(3)), [3, 4]);
/// ```
pub struct StepBench {
    store: ObservedStore,
    job: JobExecution,
    step: StepExecution,
    partition: Option<Partition>,
    start: StepStart,
    scope: StepScope,
    /// Number of the last transaction.
    sequence: AtomicU64,
}

impl Default for StepBench {
    fn default() -> Self {
        Self::new()
    }
}

impl StepBench {
    /// Creates a bench on a store in memory: the first execution of the step `step` of the job `job`.
    pub fn new() -> Self {
        Self::on(Arc::new(MemoryRepository::new()))
    }

    /// Creates a bench on `repository`, for parts that write in the store's own transaction.
    pub fn on(repository: Arc<dyn JobRepository>) -> Self {
        let now = Timestamp::UNIX_EPOCH;
        let mut job = JobExecution::new_unsaved("job", JobParameters::new(), now);
        (job.id, job.instance_id) = (ExecutionId(1), InstanceId(1));
        let mut step = StepExecution::new_unsaved("step", now);
        (step.id, step.execution_id) = (StepExecutionId(1), job.id);
        let store = ObservedStore::new(repository, Events::default());
        let start = StepStart::Fresh;
        let scope = scope(&job, &step, None, &store, start);
        Self { store, job, step, partition: None, start, scope, sequence: AtomicU64::new(0) }
    }

    /// Sets the parameters of the job.
    #[must_use]
    pub fn parameters(mut self, parameters: JobParameters) -> Self {
        self.job.parameters = parameters;
        self.with_new_scope()
    }

    /// Sets the context of the job, such as an earlier step would have left it.
    #[must_use]
    pub fn job_context(mut self, context: ExecutionContext) -> Self {
        self.job.context = context;
        self.with_new_scope()
    }

    /// Sets the context of the step, such as an earlier execution would have left it.
    #[must_use]
    pub fn step_context(mut self, context: ExecutionContext) -> Self {
        self.step.context = context;
        self.with_new_scope()
    }

    /// Makes the step one of the partitions of a step.
    #[must_use]
    pub fn partition(mut self, partition: Partition) -> Self {
        self.partition = Some(partition);
        self.with_new_scope()
    }

    /// Sets how the step execution relates to earlier ones. Default: [`StepStart::Fresh`].
    #[must_use]
    pub fn start(mut self, start: StepStart) -> Self {
        self.start = start;
        self.with_new_scope()
    }

    fn with_new_scope(mut self) -> Self {
        let partition = self.partition.clone();
        self.scope = scope(&self.job, &self.step, partition, &self.store, self.start);
        self
    }

    /// Returns the scope that the parts get.
    pub fn scope(&self) -> &StepScope {
        &self.scope
    }

    /// Runs `work` in a transaction of the next chunk, and commits it, or rolls it back after an error. The
    /// transaction stores no checkpoint.
    ///
    /// # Errors
    ///
    /// The error of `work`, or of the commit.
    pub fn in_chunk<T>(
        &self,
        work: impl FnOnce(&mut ChunkTransaction<'_>) -> Result<T, ItemError>,
    ) -> Result<T, ItemError> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let mut chunk = ChunkTransaction::new(&self.store, &self.scope, sequence);
        let result = work(&mut chunk)?;
        chunk.commit().map_err(|error: RepositoryError| ItemError::from(error))?;
        Ok(result)
    }

    /// Calls `tasklet` once, in a transaction as [`in_chunk`](Self::in_chunk) makes it.
    ///
    /// # Errors
    ///
    /// The error of the tasklet, or of the commit.
    pub fn call(&self, tasklet: &impl Tasklet) -> Result<Flow, ItemError> {
        self.in_chunk(|chunk| tasklet.call(&mut TaskletCall::new(&self.scope, chunk)))
    }

    /// Opens `reader` at `position`, reads it to its end, closes it, and returns the items.
    ///
    /// # Panics
    ///
    /// When a call fails; the message has its error.
    #[track_caller]
    pub fn read_all<R: ItemReader>(
        &self,
        reader: &mut R,
        position: Option<R::Position>,
    ) -> Vec<R::Item> {
        let expect =
            |what: &str, error: ItemError| -> ! { panic!("the reader cannot {what}: {error}") };
        reader.open(position, &self.scope).unwrap_or_else(|error| expect("open", error));
        let mut items = Vec::new();
        while let Some(item) = reader.read().unwrap_or_else(|error| expect("read", error)) {
            items.push(item);
        }
        reader.close().unwrap_or_else(|error| expect("close", error));
        items
    }
}

fn scope(
    job: &JobExecution,
    step: &StepExecution,
    partition: Option<Partition>,
    store: &ObservedStore,
    start: StepStart,
) -> StepScope {
    let job = JobScope::new(job, StopToken::default());
    StepScope::new(job, step, partition, &**store.repository(), start)
}

impl Debug for StepBench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepBench").field("scope", &self.scope).finish_non_exhaustive()
    }
}
