//! Builds an operator.

use std::sync::Arc;
use std::time::Duration;

use super::asynchronous::CALLS_MAX;
use super::heartbeat::Heartbeat;
use super::pool::Pool;
use super::{Inner, JobOperator};
use crate::clock::Clock;
use crate::event::{Events, Observer};
use crate::execution::owner::ProcessIdentity;
use crate::host::{Active, CommitHook, CommitPoint, Host, Permits};
use crate::lifecycle::ObservedStore;
use crate::registry::{JobRegistry, JobSource};
use crate::scope::JobScope;
use crate::store::JobRepository;

/// Builds a [`JobOperator`].
pub struct OperatorBuilder {
    pub(super) repository: Arc<dyn JobRepository>,
    pub(super) registry: JobRegistry,
    pub(super) more_jobs: Option<Arc<dyn JobSource>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) events: Events,
    pub(super) lease_timeout: Duration,
    pub(super) running_jobs_max: usize,
    pub(super) running_steps_max: usize,
    pub(super) commit_hook: Option<CommitHook>,
}

impl OperatorBuilder {
    /// Calls `hook` with the execution and the step's name before and after each commit of a step. Rehearsals
    /// and tests stop the execution, or kill the process, in it.
    #[must_use]
    pub fn commit_hook(
        mut self,
        hook: impl Fn(&JobScope, &str, CommitPoint) + Send + Sync + 'static,
    ) -> Self {
        self.commit_hook = Some(Arc::new(hook));
        self
    }

    /// Adds an observer of everything that executions do. [`JobOperator::events`] adds more later.
    #[must_use]
    pub fn observer(self, observer: impl Observer + 'static) -> Self {
        self.events.observe(observer);
        self
    }

    /// Sets the jobs that can be started by name. Default: none.
    #[must_use]
    pub fn registry(mut self, registry: JobRegistry) -> Self {
        self.registry = registry;
        self
    }

    /// Another source of jobs beside the registry, such as a folder of job files.
    #[must_use]
    pub fn jobs(mut self, jobs: impl JobSource + 'static) -> Self {
        self.more_jobs = Some(match self.more_jobs {
            None => Arc::new(jobs),
            Some(first) => Arc::new((first, jobs)),
        });
        self
    }

    /// Sets the clock. Default: the machine's clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets the time without a renewal after which another process may take an execution over. Default 30 s.
    /// The heartbeat renews a lease three times within it, so that one lost renewal does no harm.
    #[must_use]
    pub fn lease_timeout(mut self, timeout: Duration) -> Self {
        self.lease_timeout = timeout;
        self
    }

    /// Sets the maximum number of executions that run at once; others wait as `STARTING`. Default 8.
    #[must_use]
    pub fn running_jobs_max(mut self, jobs: usize) -> Self {
        self.running_jobs_max = jobs.max(1);
        self
    }

    /// Sets the maximum number of steps that run at once, over all executions; others wait as `STARTING`.
    /// Default: no limit.
    #[must_use]
    pub fn running_steps_max(mut self, steps: usize) -> Self {
        self.running_steps_max = steps.max(1);
        self
    }

    /// Builds the operator and starts its heartbeat.
    pub fn build(self) -> JobOperator {
        let active = Active::default();
        let host = Host {
            store: ObservedStore::new(Arc::clone(&self.repository), self.events.clone()),
            clock: Arc::clone(&self.clock),
            step_permits: Arc::new(Permits::new(self.running_steps_max)),
            commit_hook: self.commit_hook,
            owner: ProcessIdentity::current().to_string().into(),
            lease_timeout: self.lease_timeout,
            active: Arc::clone(&active),
            accept_changed_definition: false,
        };
        let heartbeat = Heartbeat::start(
            Arc::clone(&self.repository),
            Arc::clone(&self.clock),
            Arc::clone(&active),
            self.lease_timeout,
        );
        let registry = self.registry;
        let jobs: Arc<dyn JobSource> = match self.more_jobs {
            None => Arc::new(registry.clone()),
            Some(more) => Arc::new((registry.clone(), more)),
        };
        JobOperator {
            inner: Arc::new(Inner {
                registry,
                jobs,
                pool: Pool::new("batchwright job", self.running_jobs_max),
                calls: Pool::new("batchwright call", CALLS_MAX),
                stops: Pool::new("batchwright stop", CALLS_MAX),
                running_jobs_max: self.running_jobs_max,
                host,
                _heartbeat: heartbeat,
            }),
        }
    }
}
