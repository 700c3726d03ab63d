//! The job execution and the step execution as running code sees them.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::clock::StopToken;
use crate::context::{ContextError, ContextHandle, ExecutionContext};
use crate::error::ItemError;
use crate::event::Subject;
use crate::execution::{
    Counters, ExecutionId, InstanceId, JobExecution, StepExecution, StepExecutionId, TraceContext,
};
use crate::parameters::JobParameters;
use crate::store::{Durability, JobRepository};
use crate::threads;

/// The job execution as its listeners and steps see it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JobScope {
    inner: Arc<JobScopeParts>,
}

#[derive(Debug)]
struct JobScopeParts {
    job: String,
    instance_id: InstanceId,
    execution_id: ExecutionId,
    parameters: JobParameters,
    trace_parent: Option<TraceContext>,
    context: ContextHandle,
    stop: StopToken,
    /// Number of cores for the steps of this scope.
    cores: usize,
}

impl JobScope {
    pub(crate) fn new(execution: &JobExecution, stop: StopToken) -> Self {
        Self {
            inner: Arc::new(JobScopeParts {
                job: execution.job.clone(),
                instance_id: execution.instance_id,
                execution_id: execution.id,
                parameters: execution.parameters.clone(),
                trace_parent: execution.trace_parent,
                context: ContextHandle::new(execution.context.clone()),
                stop,
                cores: threads::cores(),
            }),
        }
    }

    /// Creates the scope of one of `parts` that run concurrently and share the cores: the part's changes to the job's
    /// context are merged when it commits, and `stop` can stop the part alone.
    pub(crate) fn for_concurrent_part(&self, stop: StopToken, parts: usize) -> Self {
        let JobScopeParts {
            job,
            instance_id,
            execution_id,
            parameters,
            trace_parent,
            context,
            cores,
            ..
        } = &*self.inner;
        Self {
            inner: Arc::new(JobScopeParts {
                job: job.clone(),
                instance_id: *instance_id,
                execution_id: *execution_id,
                parameters: parameters.clone(),
                trace_parent: *trace_parent,
                context: context.fork(),
                stop,
                cores: (cores / parts.max(1)).max(1),
            }),
        }
    }

    /// Returns the name of the job.
    pub fn job(&self) -> &str {
        &self.inner.job
    }

    /// Returns the number of the instance.
    pub fn instance_id(&self) -> InstanceId {
        self.inner.instance_id
    }

    /// Returns the number of the execution.
    pub fn execution_id(&self) -> ExecutionId {
        self.inner.execution_id
    }

    /// Returns all parameters of the execution.
    pub fn parameters(&self) -> &JobParameters {
        &self.inner.parameters
    }

    /// Returns the context of the job, inherited by the next execution of the instance.
    pub fn context(&self) -> &ContextHandle {
        &self.inner.context
    }

    /// Returns the stop token; long-running code polls it and returns early.
    pub fn stop(&self) -> &StopToken {
        &self.inner.stop
    }

    /// Returns the number of cores that the steps of this scope may use.
    pub(crate) fn cores(&self) -> usize {
        self.inner.cores
    }
}

/// The step execution as its reader, processor, writer or tasklet sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StepScope {
    inner: Arc<StepScopeParts>,
    sink_name: Option<Arc<str>>,
    /// A token for a part of the step, which receives the requests of the job's.
    stop: Option<StopToken>,
    /// Whether the partition is hidden.
    is_whole: bool,
}

#[derive(Debug)]
struct StepScopeParts {
    job: JobScope,
    step: String,
    id: StepExecutionId,
    round: StepExecutionId,
    partition: Option<Partition>,
    context: ContextHandle,
    store_id: String,
    durability: Durability,
    start: StepStart,
    /// Counters of the last commit.
    counters: Mutex<Counters>,
}

/// The relation of a step execution to earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepStart {
    /// The step begins: its first execution in the instance, or a rerun of a completed one.
    Fresh,
    /// The step continues an execution that failed or was stopped.
    Resumed,
    /// The step continues an execution that was taken from its owner; the former owner may still be running
    /// and may write to its open outputs.
    TakenOver,
}

impl StepScope {
    pub(crate) fn new(
        job: JobScope,
        step: &StepExecution,
        partition: Option<Partition>,
        repository: &dyn JobRepository,
        start: StepStart,
    ) -> Self {
        Self {
            inner: Arc::new(StepScopeParts {
                job,
                step: step.name.clone(),
                id: step.id,
                round: step.round(),
                partition,
                context: ContextHandle::new(step.context.clone()),
                store_id: repository.store_id().to_owned(),
                durability: repository.durability(),
                start,
                counters: Mutex::new(step.counters),
            }),
            sink_name: None,
            stop: None,
            is_whole: false,
        }
    }

    /// Returns this scope for member `number` of a composite writer: with a sink name of its own.
    pub(crate) fn of_member(&self, number: u8) -> Self {
        let sink_name = Some(format!("{}+{number}", self.sink_name()).into());
        Self { sink_name, ..self.clone() }
    }

    /// Returns this scope as if the step had no partitions, for what each partition needs as a whole, such as the rows of a lookup.
    #[must_use]
    pub fn without_partition(&self) -> Self {
        Self { is_whole: true, ..self.clone() }
    }

    /// Returns this scope with `stop` instead of the stop token of the job.
    pub(crate) fn with_stop(&self, stop: StopToken) -> Self {
        Self { stop: Some(stop), ..self.clone() }
    }

    /// Returns the name under which a sink with transactions of its own stores the commits of this writer: that of the
    /// step, followed by the place of the writer if it is part of a composite, such as `load+2`.
    pub fn sink_name(&self) -> &str {
        self.sink_name.as_deref().unwrap_or(&self.inner.step)
    }

    /// Returns the job execution.
    pub fn job(&self) -> &JobScope {
        &self.inner.job
    }

    /// Returns the name of the step, for a partition followed by its key: `load:p0003`.
    pub fn step(&self) -> &str {
        &self.inner.step
    }

    /// Returns the number of the step execution.
    pub fn id(&self) -> StepExecutionId {
        self.inner.id
    }

    /// Returns the step as the subject of an event.
    pub(crate) fn subject(&self) -> Subject {
        Subject::Step {
            execution: self.job().execution_id(),
            job: self.job().job().into(),
            step: self.step().into(),
        }
    }

    /// Returns the first step execution of the round that this one continues: itself, unless it was
    /// restarted. Together with the step's name and the instance, the round distinguishes a rerun of a
    /// completed step from the earlier run.
    pub fn round(&self) -> StepExecutionId {
        self.inner.round
    }

    /// Returns the span of the step execution: the parent of what it calls, in a header or variable `traceparent`.
    pub fn trace_context(&self) -> TraceContext {
        let (store, job) = (self.store_id(), &self.job().inner);
        let execution = TraceContext::of_execution(store, job.execution_id, job.trace_parent);
        TraceContext::of_step(store, self.id(), execution)
    }

    /// Returns the partition, in a partitioned step.
    pub fn partition(&self) -> Option<&Partition> {
        self.inner.partition.as_ref().filter(|_| !self.is_whole)
    }

    /// Returns a value of the partition: a bound, a path.
    ///
    /// # Errors
    ///
    /// Names the value when it is missing or of another type, or reports that the step has no partitions.
    pub fn partition_value<T: serde::de::DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<T, ItemError> {
        let partition = self.partition().ok_or_else(|| {
            ItemError::fatal(format!(
                "cannot use `{name}` of the partition: this step has no partitions"
            ))
        })?;
        Ok(partition.values.get(name)?)
    }

    /// Returns all parameters of the job execution.
    pub fn parameters(&self) -> &JobParameters {
        self.job().parameters()
    }

    /// Returns the counters of the step execution at its last commit.
    pub fn counters(&self) -> Counters {
        *self.inner.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_counters(&self, committed: Counters) {
        *self.inner.counters.lock().unwrap_or_else(PoisonError::into_inner) = committed;
    }

    /// Returns the context of the step: committed with each chunk, inherited on restart.
    pub fn context(&self) -> &ContextHandle {
        &self.inner.context
    }

    /// Returns the stop token; long-running code polls it and returns early.
    pub fn stop(&self) -> &StopToken {
        self.stop.as_ref().unwrap_or_else(|| self.job().stop())
    }

    /// Returns the globally unique name of the store; with instance and step, the key of a checkpoint kept in
    /// another database.
    pub fn store_id(&self) -> &str {
        &self.inner.store_id
    }

    /// Returns whether files must be synced before the checkpoint that refers to them.
    pub fn durability(&self) -> Durability {
        self.inner.durability
    }

    /// Returns the relation of this execution to earlier ones.
    pub fn start(&self) -> StepStart {
        self.inner.start
    }
}

/// An independent part of a step's input.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// Key of the partition within the step, the same in every execution of the instance.
    pub key: String,
    /// Values for the inner step: bounds, a path.
    pub values: ExecutionContext,
}

impl Partition {
    /// Creates a partition with a key and no values.
    pub fn new(key: impl Into<String>) -> Self {
        Self { key: key.into(), values: ExecutionContext::default() }
    }

    /// Adds a value for the inner step.
    ///
    /// # Errors
    ///
    /// When `value` cannot be serialized as JSON.
    pub fn with(mut self, name: &str, value: &impl Serialize) -> Result<Self, ContextError> {
        self.values.put(name, value)?;
        Ok(self)
    }
}
