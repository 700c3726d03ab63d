//! What running code may know of the job execution that it works in.

use std::sync::Arc;

use crate::clock::StopToken;
use crate::context::ContextHandle;
use crate::execution::{ExecutionId, InstanceId, JobExecution};
use crate::parameters::JobParameters;

/// What listeners and steps may know of the job execution that they work in. Cheap to clone.
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
    context: ContextHandle,
    stop: StopToken,
}

impl JobScope {
    pub(crate) fn new(execution: &JobExecution, stop: StopToken) -> Self {
        Self {
            inner: Arc::new(JobScopeParts {
                job: execution.job.clone(),
                instance_id: execution.instance_id,
                execution_id: execution.id,
                parameters: execution.parameters.clone(),
                context: ContextHandle::new(execution.context.clone()),
                stop,
            }),
        }
    }

    /// The same execution for one of several parts of it that run side by side: what this one changes in the
    /// job's context is merged when it commits, and it can be asked to stop by `stop` alone.
    pub(crate) fn beside(&self, stop: StopToken) -> Self {
        let JobScopeParts { job, instance_id, execution_id, parameters, context, .. } =
            &*self.inner;
        Self {
            inner: Arc::new(JobScopeParts {
                job: job.clone(),
                instance_id: *instance_id,
                execution_id: *execution_id,
                parameters: parameters.clone(),
                context: context.fork(),
                stop,
            }),
        }
    }

    /// Name of the job.
    pub fn job(&self) -> &str {
        &self.inner.job
    }

    /// Number of the instance.
    pub fn instance_id(&self) -> InstanceId {
        self.inner.instance_id
    }

    /// Number of the execution.
    pub fn execution_id(&self) -> ExecutionId {
        self.inner.execution_id
    }

    /// Everything it was started with.
    pub fn parameters(&self) -> &JobParameters {
        &self.inner.parameters
    }

    /// The job's own state, inherited by the next execution of the instance.
    pub fn context(&self) -> &ContextHandle {
        &self.inner.context
    }

    /// Asks long-running code to return early.
    pub fn stop(&self) -> &StopToken {
        &self.inner.stop
    }
}
