//! Decisions: code that chooses the next transition of a flow.

use crate::error::ItemError;
use crate::execution::StepExecution;
use crate::scope::JobScope;

/// The input of a [`Decider`]. All of it is stored, so that a restart decides the same.
#[derive(Debug)]
pub struct Decision<'a> {
    /// The job execution.
    pub scope: &'a JobScope,
    /// The newest execution of each step of the instance that has run, in the order in which they began.
    pub steps: &'a [StepExecution],
}

impl Decision<'_> {
    /// Returns the newest execution of step `name`.
    pub fn step(&self, name: &str) -> Option<&StepExecution> {
        self.steps.iter().find(|step| step.name == name)
    }
}

/// A function that chooses the code of a decision.
///
/// The flow calls `decide` on every pass, also after a restart. The result must depend on the [`Decision`]
/// alone.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a decision",
    note = "give a function `|decision: &Decision<'_>| Ok(code)` that returns a `String`, or implement `Decider`"
)]
pub trait Decider: Send + Sync {
    /// Returns the code that the transitions of the decision are matched with.
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
