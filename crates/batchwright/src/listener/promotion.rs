//! Promotion of values from the context of a step to the context of its job.

use super::{ListenerResult, StepListener};
use crate::error::ItemError;
use crate::execution::{ExitStatus, StepExecution};
use crate::scope::StepScope;
use crate::text::matches;

/// Copies values of the step's context into the job's context when the step ends, so that later steps can
/// read them.
///
/// ```
/// use batchwright::listener::Promotion;
/// use batchwright::step::{Flow, StepOptions, TaskletCall};
/// use batchwright::TaskletStep;
/// use std::sync::Arc;
///
/// let step = TaskletStep::new("count", |call| {
///     call.scope().context().put("orders", &17)?;
///     Ok(Flow::Finished)
/// });
/// let promote = Arc::new(Promotion::of(["orders"]).strict());
/// let step = step.options(StepOptions { listeners: vec![promote], ..StepOptions::default() });
/// ```
#[derive(Debug, Clone)]
pub struct Promotion {
    keys: Vec<String>,
    codes: Vec<String>,
    strict: bool,
}

impl Promotion {
    /// Promotes `keys` when the exit code of the step matches `COMPLETED*`.
    pub fn of<S: Into<String>>(keys: impl IntoIterator<Item = S>) -> Self {
        let codes = vec![format!("{}*", ExitStatus::COMPLETED)];
        Self { keys: keys.into_iter().map(Into::into).collect(), codes, strict: false }
    }

    /// Promotes on these exit codes instead: `*` matches any characters, `?` one character.
    #[must_use]
    pub fn on<S: Into<String>>(mut self, codes: impl IntoIterator<Item = S>) -> Self {
        self.codes = codes.into_iter().map(Into::into).collect();
        self
    }

    /// Fails the step when a key is missing. Default: missing keys are ignored.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }
}

impl StepListener for Promotion {
    fn after_step(
        &self,
        scope: &StepScope,
        execution: &StepExecution,
    ) -> ListenerResult<Option<ExitStatus>> {
        if !self.codes.iter().any(|pattern| matches(pattern, &execution.exit.code)) {
            return Ok(None);
        }
        for key in &self.keys {
            if scope.context().has(key) {
                let value: serde_json::Value = scope.context().get(key)?;
                scope.job().context().put(key, &value)?;
            } else if self.strict {
                let step = scope.step();
                return Err(ItemError::fatal(format!(
                    "cannot promote `{key}`: the context of step `{step}` has no such value"
                )));
            }
        }
        Ok(None)
    }
}
