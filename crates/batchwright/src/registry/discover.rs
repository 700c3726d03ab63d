//! Jobs that register themselves at link time. A convenience: nothing else depends on it.

use super::{AppState, DuplicateJob, JobRegistry};
use crate::job::Job;

/// A type that makes a job; `#[batchwright::job(name = "…")]` on it registers it.
pub trait JobFactory {
    /// The job, whose name must be the one of the attribute.
    ///
    /// # Errors
    ///
    /// A sentence that says what is missing.
    fn job(state: &AppState) -> Result<Job, String>;
}

/// What `#[batchwright::job]` generates for [`JobRegistry::discover`].
#[derive(Debug)]
#[doc(hidden)]
pub struct DiscoveredJob {
    /// Name of the job.
    pub name: &'static str,
    /// Crate that it is written in.
    pub origin: &'static str,
    /// Makes it.
    pub make: fn(&AppState) -> Result<Job, String>,
}

inventory::collect!(DiscoveredJob);

impl JobRegistry {
    /// Adds every job that carries `#[batchwright::job]` in any crate linked into this program.
    ///
    /// A crate that nothing refers to is not linked: say `use my_jobs as _;`. Returns how many there were.
    ///
    /// # Errors
    ///
    /// [`DuplicateJob`] when a name is taken; those found before it stay registered.
    pub fn discover(&self) -> Result<usize, DuplicateJob> {
        let mut count = 0;
        for found in inventory::iter::<DiscoveredJob> {
            self.register_factory(found.name, found.make)?;
            count += 1;
        }
        Ok(count)
    }
}
