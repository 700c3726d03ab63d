//! Rows of progressive executions: who drives them, where they stand, what they answered.

use std::time::Duration;

use jiff::Timestamp;

use crate::error::RepositoryError;
use crate::execution::{Counters, ExecutionId, StepExecutionId};
use crate::owner::{Liveness, ProcessIdentity};
use crate::progressive::Segment;

/// An execution that is carried forward by slices. Never changed once it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressiveExecution {
    /// The execution.
    pub execution: ExecutionId,
    /// Its only step.
    pub step: StepExecutionId,
    /// When a slice should end, counted from the arrival of its request.
    pub target: Duration,
    /// Whether its segments may be split.
    pub is_split: bool,
    /// Units in all, when they are known.
    pub units_total: Option<u64>,
    /// What its units need to be found again, as JSON.
    pub plan: String,
    /// Hash of the token that its lanes must show, if there is one.
    pub owner_hash: Option<String>,
    /// Whether servers drive it by themselves.
    pub is_server_driven: bool,
}

/// A place for one driver: one request at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// The execution that it belongs to.
    pub execution: ExecutionId,
    /// Its number in the execution, from 0.
    pub rank: u32,
    /// Its name for clients, given by the server.
    pub id: String,
    /// Number of the last answered request; 0: none yet.
    pub seq: u64,
    /// That answer.
    pub answer: Option<String>,
    /// Number that every commit of its worker must still match.
    pub fence: i64,
    /// The process that works for it.
    pub owner: Option<String>,
    /// Until when, unless it renews.
    pub lease_until: Option<Timestamp>,
    /// How long its units took, as JSON.
    pub times: String,
    /// Slices that ended.
    pub slices: u64,
    /// How long the last one took.
    pub last_slice: Duration,
    /// What the checkpoint at its end cost.
    pub checkpoint_cost: Duration,
}

impl Lane {
    /// Nobody's, under a new fence: whoever worked for it can commit nothing more.
    pub(crate) fn freed(&self) -> Self {
        Self { fence: self.fence + 1, owner: None, lease_until: None, ..self.clone() }
    }

    /// Whether somebody may be working for it.
    pub fn is_live(&self, now: Timestamp) -> bool {
        let gone = |owner: &str| ProcessIdentity::liveness_of(owner) == Liveness::Gone;
        self.lease_until.is_some_and(|until| until > now)
            && !self.owner.as_deref().is_some_and(gone)
    }
}

/// The final response of a progressive execution, as the step assembled it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResponse {
    /// HTTP status.
    pub status: u16,
    /// Headers, in their order.
    pub headers: Vec<(String, String)>,
    /// The body; empty once the response was acknowledged.
    pub body: Vec<u8>,
    /// When it was assembled.
    pub at: Timestamp,
    /// Whether a client said that it has it.
    pub is_acknowledged: bool,
}

/// What is known of a progressive execution at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressiveState {
    /// What was fixed when it was opened.
    pub row: ProgressiveExecution,
    /// Its lanes, by rank.
    pub lanes: Vec<Lane>,
    /// Its segments in the order of the units, without their partials.
    pub segments: Vec<Segment>,
}

/// Questions about progressive executions.
#[expect(clippy::missing_errors_doc, reason = "each fails with what the store reports, no more")]
pub trait ProgressiveQueries {
    /// What is known of execution `id`; `None` when it is not progressive.
    fn progressive_state(
        &self,
        id: ExecutionId,
    ) -> Result<Option<ProgressiveState>, RepositoryError>;

    /// The final response of execution `id`.
    fn response(&self, id: ExecutionId) -> Result<Option<StoredResponse>, RepositoryError>;

    /// Executions that servers drive and that are not at their end, oldest first.
    fn server_driven(&self) -> Result<Vec<ExecutionId>, RepositoryError>;
}

/// The part of a unit of work that progressive executions need.
#[expect(clippy::missing_errors_doc, reason = "each fails with what the store reports, no more")]
pub trait ProgressiveRows {
    /// A new progressive execution.
    fn insert_progressive(&mut self, row: &ProgressiveExecution) -> Result<(), RepositoryError>;

    /// What was fixed when it was opened.
    fn progressive(
        &mut self,
        id: ExecutionId,
    ) -> Result<Option<ProgressiveExecution>, RepositoryError>;

    /// A new lane.
    fn insert_lane(&mut self, lane: &Lane) -> Result<(), RepositoryError>;

    /// Its lanes, by rank.
    fn lanes_of(&mut self, id: ExecutionId) -> Result<Vec<Lane>, RepositoryError>;

    /// Replaces the lane whose fence is still `fence`. Returns whether it was.
    fn update_lane(&mut self, lane: &Lane, fence: i64) -> Result<bool, RepositoryError>;

    /// Extends the lease of a lane whose fence is still `fence`. Returns whether it was.
    fn renew_lane(
        &mut self,
        lane: &Lane,
        fence: i64,
        until: Timestamp,
    ) -> Result<bool, RepositoryError>;

    /// A new segment; `id` of `segment` is ignored.
    fn insert_segment(&mut self, segment: &Segment) -> Result<i64, RepositoryError>;

    /// Its segments in the order of the units, without their partials.
    fn segments_of(&mut self, id: ExecutionId) -> Result<Vec<Segment>, RepositoryError>;

    /// What the units of segment `id` were reduced to.
    fn partial_of(&mut self, id: i64) -> Result<Option<String>, RepositoryError>;

    /// Replaces what the worker of a segment knows of it: everything but its bounds.
    fn update_segment(&mut self, segment: &Segment) -> Result<(), RepositoryError>;

    /// Replaces who works on a segment, up to where, and what is known of its poison.
    fn claim_segment(&mut self, segment: &Segment) -> Result<(), RepositoryError>;

    /// Ends segment `id` at `end`.
    fn cut_segment(&mut self, id: i64, end: u64) -> Result<(), RepositoryError>;

    /// Whether the execution is still `lease`'s, and whether a stop is requested; it stays so until this unit
    /// of work ends.
    fn hold_execution(&mut self, lease: &super::Lease) -> Result<Option<bool>, RepositoryError>;

    /// Adds to the counters of a step.
    fn add_counters(
        &mut self,
        step: StepExecutionId,
        more: &Counters,
        at: Timestamp,
    ) -> Result<(), RepositoryError>;

    /// The final response.
    fn insert_response(
        &mut self,
        id: ExecutionId,
        response: &StoredResponse,
    ) -> Result<(), RepositoryError>;

    /// Marks the response as acknowledged and lets go of its body. Returns whether there was one.
    fn acknowledge_response(&mut self, id: ExecutionId) -> Result<bool, RepositoryError>;

    /// Marks responses that were assembled before `before` as acknowledged. Returns how many.
    fn expire_responses(&mut self, before: Timestamp) -> Result<u64, RepositoryError>;
}
