//! Progressive steps: their settings and their work.

mod builder;
mod typed;
mod unit_work;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

pub use self::builder::ProgressiveBuilder;
use super::lane::{Halt, LaneRun};
use super::progress::UnitsSummary;
use crate::error::ItemError;
use crate::execution::JobExecution;
use crate::scope::StepScope;
use crate::store::StoredResponse;

/// What happens to an execution when a unit failed in all its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailed {
    /// The execution fails; a restart runs the unit again.
    #[default]
    Fail,
    /// The unit is recorded as skipped, and the execution continues.
    Continue,
}

/// The settings of a progressive step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) lanes: u32,
    pub(crate) target: Duration,
    pub(crate) chunk_units: u64,
    pub(crate) chunk_time: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) on_failed: OnFailed,
    pub(crate) unit_timeout: Duration,
}

/// The HTTP response that a progressive execution ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalResponse {
    /// Status, from 100 to 599.
    pub status: u16,
    /// Headers, in their order.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl FinalResponse {
    /// Returns a response with `value` as JSON and status 200.
    ///
    /// # Errors
    ///
    /// When `value` cannot be serialised as JSON.
    pub fn json(value: &impl Serialize) -> Result<Self, ItemError> {
        Ok(Self::new("application/json", serde_json::to_vec(value)?))
    }

    /// Returns a response with a body of that content type and status 200.
    pub fn new(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self { status: 200, headers, body: body.into() }
    }

    pub(crate) fn into_stored(self, at: Timestamp) -> StoredResponse {
        let Self { status, headers, body } = self;
        StoredResponse { status, headers, body, at, is_acknowledged: false }
    }

    /// Sets the status.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// A step that runs in slices: each slice runs as many units as fit its target time, in any process of the
/// store.
///
/// A progressive step is the only step of its job. Several lanes work on its units at the same time. Their
/// partial results are combined in the order of the units, so that the result does not depend on which lane
/// ran which unit.
///
/// ```
/// use batchwright::progressive::{FinalResponse, NumberedUnits, ProgressiveStep};
/// use batchwright::Job;
///
/// let step = ProgressiveStep::builder("sum")
///     .units(NumberedUnits::new(1000))
///     .process(|unit: &u64| Ok(Some(unit * unit)))
///     .reduce(|sum: Option<u64>, square| Ok(sum.unwrap_or(0) + square), |left, right| Ok(left + right))
///     .respond(|sum, _| FinalResponse::json(&sum))
///     .build();
/// let job = Job::builder("sum-of-squares").step(step).build()?;
/// # Ok::<(), batchwright::operator::Refusal>(())
/// ```
pub struct ProgressiveStep {
    pub(crate) name: String,
    pub(crate) work: Arc<dyn ProgressiveWork>,
}

impl ProgressiveStep {
    /// Returns a builder of a progressive step.
    pub fn builder(name: impl Into<String>) -> ProgressiveBuilder<(), ()> {
        ProgressiveBuilder::new(name.into())
    }
}

impl std::fmt::Debug for ProgressiveStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProgressiveStep").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The work of a progressive step, for its slices.
#[doc(hidden)]
pub struct ProgressiveBody(pub(crate) Arc<dyn ProgressiveWork>);

/// The plan of the units of an input, as it is stored.
pub(crate) struct Plan {
    pub(crate) text: String,
    /// `Ok`: the total number of units; `Err`: the number of ranks.
    pub(crate) extent: Result<u64, u32>,
}

/// The user's function for the end of an execution.
pub(crate) type OnEnd = dyn Fn(&StepScope, &JobExecution) -> Result<(), ItemError> + Send + Sync;

/// A progressive step with its types erased: one call for the whole of a slice.
pub(crate) trait ProgressiveWork: Send + Sync {
    fn settings(&self) -> Settings;

    fn plan(&self, scope: &StepScope) -> Result<Plan, ItemError>;

    fn work(&self, lane: &mut LaneRun<'_>) -> Result<(), Halt>;

    fn assemble(
        &self,
        partials: Vec<Option<String>>,
        summary: &UnitsSummary,
    ) -> Result<FinalResponse, ItemError>;

    fn on_end(&self) -> Option<&OnEnd>;
}
