//! Where the jobs of an operator come from.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::JobRegistry;
use crate::job::Job;
use crate::refusal::Refusal;

/// A source of jobs: a registry, a folder of job files, or a pair of both.
///
/// An operator asks its source each time that it needs a job, so a source may answer with a newer definition than
/// before. Executions that run keep the job that they began with.
pub trait JobSource: Send + Sync {
    /// Returns the job `name`. `origin` is the place that an execution's job was read from ([`Job::source`]); the job of
    /// that place is preferred to another one of the same name.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchJob`] with the names that exist, or [`Refusal::InvalidDefinition`] when the job cannot be built or
    /// its name is used twice.
    fn job(&self, name: &str, origin: Option<&str>) -> Result<Arc<Job>, Refusal>;

    /// Returns the names of all jobs, sorted.
    ///
    /// # Errors
    ///
    /// [`Refusal::JobsUnreadable`] when the place of the jobs cannot be read.
    fn names(&self) -> Result<Vec<String>, Refusal>;
}

impl JobSource for JobRegistry {
    fn job(&self, name: &str, _: Option<&str>) -> Result<Arc<Job>, Refusal> {
        JobRegistry::job(self, name)
    }

    fn names(&self) -> Result<Vec<String>, Refusal> {
        Ok(JobRegistry::names(self))
    }
}

impl<S: JobSource + ?Sized> JobSource for Arc<S> {
    fn job(&self, name: &str, origin: Option<&str>) -> Result<Arc<Job>, Refusal> {
        (**self).job(name, origin)
    }

    fn names(&self) -> Result<Vec<String>, Refusal> {
        (**self).names()
    }
}

/// Two sources. A name that both of them have is refused.
impl<A: JobSource, B: JobSource> JobSource for (A, B) {
    fn job(&self, name: &str, origin: Option<&str>) -> Result<Arc<Job>, Refusal> {
        match (self.0.job(name, origin), self.1.job(name, origin)) {
            (Ok(one), Ok(other)) => match (one.source(), other.source()) {
                (from, _) if from.is_some() && from == origin => Ok(one),
                (_, from) if from.is_some() && from == origin => Ok(other),
                (from, same) if from.is_some() && from == same => Ok(one),
                _ => Err(twice(&one, &other)),
            },
            (
                Err(Refusal::NoSuchJob { mut known, mut broken, .. }),
                Err(Refusal::NoSuchJob { known: more, broken: others, .. }),
            ) => {
                known.extend(more);
                broken.extend(others);
                known.sort_unstable();
                known.dedup();
                Err(Refusal::NoSuchJob { name: name.to_owned(), known, broken })
            }
            (Err(Refusal::NoSuchJob { .. }), found) | (found, Err(Refusal::NoSuchJob { .. })) => {
                found
            }
            (Err(refusal), _) | (_, Err(refusal)) => Err(refusal),
        }
    }

    fn names(&self) -> Result<Vec<String>, Refusal> {
        let names: BTreeSet<String> = self.0.names()?.into_iter().chain(self.1.names()?).collect();
        Ok(names.into_iter().collect())
    }
}

fn twice(one: &Job, other: &Job) -> Refusal {
    let place = |job: &Job| job.source().map_or("the program".to_owned(), |at| format!("`{at}`"));
    Refusal::InvalidDefinition {
        job: one.name().to_owned(),
        reason: format!("both {} and {} define it; rename one of them", place(one), place(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::{Flow, TaskletStep};

    fn registry(names: &[&str]) -> JobRegistry {
        let registry = JobRegistry::new();
        for name in names {
            let step = TaskletStep::new("only", |_| Ok(Flow::Finished));
            registry.register(Job::builder(*name).step(step).build().unwrap()).unwrap();
        }
        registry
    }

    #[test]
    fn a_pair_of_sources_has_the_jobs_of_both_and_refuses_a_name_that_both_have() {
        let pair = (registry(&["a", "both"]), registry(&["b", "both"]));
        assert_eq!(JobSource::names(&pair).unwrap(), ["a", "b", "both"]);
        assert_eq!(pair.job("a", None).unwrap().name(), "a");
        assert_eq!(pair.job("b", None).unwrap().name(), "b");
        let refusal = pair.job("both", None).unwrap_err().to_string();
        assert!(refusal.contains("rename one"), "{refusal}");
        match pair.job("c", None).unwrap_err() {
            Refusal::NoSuchJob { known, .. } => assert_eq!(known, ["a", "b", "both"]),
            other => panic!("{other}"),
        }
    }
}
