//! The jobs that can be started by name.
//!
//! ```
//! use batchwright::registry::{AppState, DuplicateJob, JobRegistry, JobSource};
//! use batchwright::{Job, TaskletStep};
//!
//! struct Rate(f64);
//!
//! let registry = JobRegistry::with_state(AppState::new().with(Rate(1.19)));
//! // Built when it is first used, from the state of the application.
//! registry.register_factory("bill", |state| {
//!     let rate = state.get::<Rate>()?.0;
//!     let step = TaskletStep::call("step", move || println!("{rate}"));
//!     Job::builder("bill").step(step).build().map_err(|error| error.to_string())
//! })?;
//! let twice = registry.register_factory("bill", |_| Err("never".to_owned()));
//! assert!(matches!(twice, Err(DuplicateJob { name }) if name == "bill"));
//! assert_eq!(JobSource::names(&registry)?, ["bill"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "discover")]
mod discover;
mod source;

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(feature = "discover")]
pub use discover::{DiscoveredJob, JobFactory};
pub use source::JobSource;

use crate::job::Job;
use crate::refusal::Refusal;

/// A function that builds a job on first use. Its error text names what is missing.
type Factory = Box<dyn FnOnce(&AppState) -> Result<Job, String> + Send>;

/// Jobs by name. Clones share the jobs.
#[derive(Clone, Default)]
pub struct JobRegistry {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: AppState,
    jobs: Mutex<BTreeMap<String, Entry>>,
}

enum Entry {
    Built(Arc<Job>),
    Lazy(Factory),
    /// The error of a factory that failed; the factory is not called again.
    Broken(String),
}

impl JobRegistry {
    /// Returns an empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns an empty registry whose factories get `state`.
    pub fn with_state(state: AppState) -> Self {
        Self { inner: Arc::new(Inner { state, jobs: Mutex::default() }) }
    }

    /// Adds a job.
    ///
    /// # Errors
    ///
    /// [`DuplicateJob`] when a job of that name exists; the existing job stays.
    pub fn register(&self, job: Job) -> Result<(), DuplicateJob> {
        self.add(job.name().to_owned(), Entry::Built(Arc::new(job)))
    }

    /// Adds a job that `make` builds on first use, once, from the application's state.
    ///
    /// # Errors
    ///
    /// [`DuplicateJob`] when a job of that name exists; the existing job stays.
    pub fn register_factory(
        &self,
        name: impl Into<String>,
        make: impl FnOnce(&AppState) -> Result<Job, String> + Send + 'static,
    ) -> Result<(), DuplicateJob> {
        self.add(name.into(), Entry::Lazy(Box::new(make)))
    }

    /// Adds `job` or replaces the job of the same name. Running executions keep the job that they began with.
    pub fn replace(&self, job: Job) {
        self.jobs().insert(job.name().to_owned(), Entry::Built(Arc::new(job)));
    }

    /// Removes a job; its history stays. Returns whether a job was removed.
    pub fn unregister(&self, name: &str) -> bool {
        self.jobs().remove(name).is_some()
    }

    /// Returns whether a job of that name exists. Calls no factory.
    pub fn has(&self, name: &str) -> bool {
        self.jobs().contains_key(name)
    }

    /// Returns the names of all jobs, sorted. Calls no factory.
    pub fn names(&self) -> Vec<String> {
        self.jobs().keys().cloned().collect()
    }

    /// Returns the job of that name; builds it if its factory was not called yet.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchJob`], or [`Refusal::InvalidDefinition`] when its factory failed.
    pub fn job(&self, name: &str) -> Result<Arc<Job>, Refusal> {
        let mut jobs = self.jobs();
        let Some(entry) = jobs.get_mut(name) else {
            let known = jobs.keys().cloned().collect();
            return Err(Refusal::NoSuchJob { name: name.to_owned(), known, broken: Vec::new() });
        };
        if let Entry::Lazy(_) = entry {
            let Entry::Lazy(make) = std::mem::replace(entry, Entry::Broken(String::new())) else {
                unreachable!("the entry was matched as `Lazy` above");
            };
            *entry = self.made(name, make);
        }
        match entry {
            Entry::Built(job) => Ok(Arc::clone(job)),
            Entry::Broken(reason) => {
                Err(Refusal::InvalidDefinition { job: name.to_owned(), reason: reason.clone() })
            }
            Entry::Lazy(_) => unreachable!("a lazy entry was built above"),
        }
    }

    fn made(&self, name: &str, make: Factory) -> Entry {
        let state = &self.inner.state;
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| make(state)))
            .unwrap_or_else(|payload| {
                Err(format!("its factory panicked: {}", crate::error::panic_message(&*payload)))
            });
        match made {
            Ok(job) if job.name() == name => Entry::Built(Arc::new(job)),
            Ok(job) => Entry::Broken(format!("its factory built a job named `{}`", job.name())),
            Err(reason) => Entry::Broken(reason),
        }
    }

    fn add(&self, name: String, entry: Entry) -> Result<(), DuplicateJob> {
        let mut jobs = self.jobs();
        if jobs.contains_key(&name) {
            return Err(DuplicateJob { name });
        }
        jobs.insert(name, entry);
        Ok(())
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.inner.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for JobRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobRegistry").field("jobs", &self.names()).finish()
    }
}

/// The error of registering a job whose name is taken. The registered job stays; `replace` replaces it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job `{name}` is already registered")]
pub struct DuplicateJob {
    /// The name.
    pub name: String,
}

impl DuplicateJob {
    /// Returns the stable code that scripts and dashboards may rely on.
    pub fn code(&self) -> &'static str {
        "duplicate_job"
    }
}

/// The values that an application shares with its jobs, one of each type.
#[derive(Default)]
pub struct AppState {
    values: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl AppState {
    /// Returns a state without values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `value`; replaces an earlier value of the same type.
    #[must_use]
    pub fn with<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.values.insert(TypeId::of::<T>(), Box::new(value));
        self
    }

    /// Returns the value of type `T`.
    ///
    /// # Errors
    ///
    /// A text that names the missing type.
    pub fn get<T: 'static>(&self) -> Result<&T, String> {
        let found = self.values.get(&TypeId::of::<T>()).and_then(|value| value.downcast_ref());
        found.ok_or_else(|| {
            format!(
                "the application shares no value of type `{}` with its jobs",
                std::any::type_name::<T>()
            )
        })
    }
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppState").field("values", &self.values.len()).finish()
    }
}
