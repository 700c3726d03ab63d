//! Decisions: code that chooses where a flow goes on.

use crate::error::ItemError;
use crate::execution::StepExecution;
use crate::job::JobScope;

/// What a [`Decider`] may look at: everything is stored, so that a restart decides the same.
#[derive(Debug)]
pub struct Decision<'a> {
    /// The execution around it.
    pub scope: &'a JobScope,
    /// The newest execution of each step of the instance that has one, in the order in which they began.
    pub steps: &'a [StepExecution],
}

impl Decision<'_> {
    /// The newest execution of step `name`.
    pub fn step(&self, name: &str) -> Option<&StepExecution> {
        self.steps.iter().find(|step| step.name == name)
    }
}

/// Chooses the code by which a flow goes on.
///
/// It is asked on every pass, on a restart too, and must depend on nothing but what it is shown.
pub trait Decider: Send + Sync {
    /// The code that the transitions of the decision are matched with.
    ///
    /// # Errors
    ///
    /// Fails the job.
    fn decide(&self, decision: &Decision<'_>) -> Result<String, ItemError>;
}

impl<F> Decider for F
where
    F: Fn(&Decision<'_>) -> Result<String, ItemError> + Send + Sync,
{
    fn decide(&self, decision: &Decision<'_>) -> Result<String, ItemError> {
        self(decision)
    }
}
