//! The progressive step as a step of its job.

use std::sync::Arc;

use super::{Step, StepEnd, StepKind, StepOptions, StepRun};
use crate::error::{ItemError, ItemErrorText, StepError};
use crate::progressive::{ProgressiveBody, ProgressiveStep};

/// A progressive step is the only step of its job, and has no options.
static NO_OPTIONS: StepOptions = StepOptions {
    start_limit: None,
    allow_start_if_complete: false,
    retry: None,
    timeout: None,
    listeners: Vec::new(),
};

impl Step for ProgressiveStep {
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> &StepOptions {
        &NO_OPTIONS
    }

    fn kind(&self) -> StepKind {
        StepKind::Progressive
    }

    fn progressive(&self) -> Option<ProgressiveBody> {
        Some(ProgressiveBody(Arc::clone(&self.work)))
    }

    fn run(&self, _: &mut StepRun<'_>) -> Result<StepEnd, StepError> {
        let source = ItemError::fatal("a progressive job cannot run as a step of another job");
        Err(StepError::Tasklet { step: self.name.clone(), source: ItemErrorText(source) })
    }
}
