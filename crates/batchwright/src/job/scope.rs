//! The job execution as running code sees it.

use std::sync::Arc;

use crate::clock::StopToken;
use crate::context::ContextHandle;
use crate::execution::{ExecutionId, InstanceId, JobExecution};
use crate::parameters::JobParameters;

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

    /// Creates the scope of one of several parts that run concurrently: the part's changes to the job's
    /// context are merged when it commits, and `stop` can stop the part alone.
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
}
