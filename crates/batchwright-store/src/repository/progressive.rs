//! Reads and writes the rows of progressive executions.

use std::time::Duration;

use batchwright::error::RepositoryError;
use batchwright::execution::{Counters, ExecutionId, StepExecutionId};
use batchwright::store::{
    Held, Lane, Lease, ProgressiveExecution, ProgressiveQueries, ProgressiveRows, ProgressiveState,
    Segment, StoredResponse,
};
use jiff::Timestamp;

use super::SqlRepository;
use super::rows::{self, Read, count, micros, some_micros, values};
use super::transaction::{SqlTransaction, json};
use crate::database::{SqlError, SqlRow, SqlValue};

fn duration(row: &SqlRow<'_>, column: &str) -> Read<Duration> {
    Ok(Duration::from_micros(row.read::<u64>(column)?))
}

fn span(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn rank(row: &SqlRow<'_>, column: &str) -> Read<u32> {
    let rank: i64 = row.read(column)?;
    u32::try_from(rank).map_err(|error| SqlError::corrupt(column, error))
}

fn progressive(row: &SqlRow<'_>) -> Read<ProgressiveExecution> {
    Ok(ProgressiveExecution {
        execution: ExecutionId(row.read("execution_id")?),
        step: StepExecutionId(row.read("step_id")?),
        target: duration(row, "target")?,
        is_split: row.read("is_split")?,
        units_total: row.read("units_total")?,
        plan: row.read("plan")?,
        owner_hash: row.read("owner_hash")?,
        is_server_driven: row.read("server_driven")?,
    })
}

fn lane(row: &SqlRow<'_>) -> Read<Lane> {
    Ok(Lane {
        execution: ExecutionId(row.read("execution_id")?),
        rank: rank(row, "lane_rank")?,
        id: row.read("id")?,
        seq: row.read("seq")?,
        answer: row.read("answer")?,
        fence: row.read("fence")?,
        owner: row.read("owner")?,
        lease_until: rows::some_time(row, "lease_until")?,
        times: row.read("times")?,
        slices: row.read("slices")?,
        last_slice: duration(row, "last_slice")?,
        checkpoint_cost: duration(row, "checkpoint_cost")?,
    })
}

fn segment(row: &SqlRow<'_>) -> Read<Segment> {
    let lane: Option<i64> = row.read("lane_rank")?;
    Ok(Segment {
        id: row.read("id")?,
        execution: ExecutionId(row.read("execution_id")?),
        rank: rank(row, "rank_of")?,
        start: row.read("start_at")?,
        position: row.read("position")?,
        claimed: row.read("claimed")?,
        end: row.read("end_at")?,
        is_closed: row.read("is_closed")?,
        lane: lane.and_then(|lane| u32::try_from(lane).ok()),
        done: row.read("done")?,
        failed: row.read("failed")?,
        failure_record: rows::json(row, "poison")?,
        partial: None,
    })
}

fn response(row: &SqlRow<'_>) -> Read<StoredResponse> {
    let status: i64 = row.read("status")?;
    Ok(StoredResponse {
        status: u16::try_from(status).map_err(|error| SqlError::corrupt("status", error))?,
        headers: rows::json(row, "headers")?,
        body: row.read("body")?,
        at: rows::time(row, "at")?,
        is_acknowledged: row.read("acknowledged")?,
    })
}

/// Returns the values of a lane in the order of the table's columns.
fn lane_values(lane: &Lane) -> Vec<SqlValue<'_>> {
    values![
        lane.execution.0,
        lane.rank,
        &lane.id,
        count(lane.seq),
        lane.answer.as_deref(),
        lane.fence,
        lane.owner.as_deref(),
        some_micros(lane.lease_until),
        &lane.times,
        count(lane.slices),
        span(lane.last_slice),
        span(lane.checkpoint_cost),
    ]
    .to_vec()
}

impl ProgressiveRows for SqlTransaction<'_> {
    fn insert_progressive(&mut self, row: &ProgressiveExecution) -> Result<(), RepositoryError> {
        let values = values![
            row.execution.0,
            row.step.0,
            span(row.target),
            row.is_split,
            row.units_total.map(count),
            &row.plan,
            row.owner_hash.as_deref(),
            row.is_server_driven,
        ];
        self.change(&self.statements.insert_progressive, values).map(drop)
    }

    fn progressive(
        &mut self,
        id: ExecutionId,
    ) -> Result<Option<ProgressiveExecution>, RepositoryError> {
        self.one(&self.statements.progressive, values![id.0], progressive)
    }

    fn update_total(&mut self, id: ExecutionId, total: u64) -> Result<(), RepositoryError> {
        self.change(&self.statements.update_total, values![id.0, count(total)]).map(drop)
    }

    fn insert_lane(&mut self, lane: &Lane) -> Result<(), RepositoryError> {
        self.change(&self.statements.insert_lane, &lane_values(lane)).map(drop)
    }

    fn lanes_of(&mut self, id: ExecutionId) -> Result<Vec<Lane>, RepositoryError> {
        self.many(&self.statements.lanes_of, values![id.0], lane)
    }

    fn update_lane(&mut self, lane: &Lane, fence: i64) -> Result<bool, RepositoryError> {
        let mut values = lane_values(lane);
        values.push(fence.into());
        Ok(self.change(&self.statements.update_lane, &values)? == 1)
    }

    fn renew_lane(
        &mut self,
        lane: &Lane,
        fence: i64,
        until: Timestamp,
    ) -> Result<bool, RepositoryError> {
        let values = values![lane.execution.0, lane.rank, fence, micros(until)];
        Ok(self.change(&self.statements.renew_lane, values)? == 1)
    }

    fn insert_segment(&mut self, segment: &Segment) -> Result<i64, RepositoryError> {
        let values = values![
            segment.execution.0,
            segment.rank,
            count(segment.start),
            count(segment.position),
            count(segment.claimed),
            segment.end.map(count),
            segment.is_closed,
            segment.lane,
            count(segment.done),
            count(segment.failed),
            json(&segment.failure_record)?,
            segment.partial.as_deref(),
        ];
        self.insert(&self.statements.insert_segment, values)
    }

    fn segments_of(&mut self, id: ExecutionId) -> Result<Vec<Segment>, RepositoryError> {
        self.many(&self.statements.segments_of, values![id.0], segment)
    }

    fn partial_of(&mut self, id: i64) -> Result<Option<String>, RepositoryError> {
        let found =
            self.one(&self.statements.partial_of, values![id], |row| row.read("partial"))?;
        Ok(found.flatten())
    }

    fn update_segment(&mut self, segment: &Segment) -> Result<(), RepositoryError> {
        let values = values![
            segment.id,
            count(segment.position),
            count(segment.claimed),
            segment.is_closed,
            segment.lane,
            count(segment.done),
            count(segment.failed),
            json(&segment.failure_record)?,
            segment.partial.as_deref(),
        ];
        self.change(&self.statements.update_segment, values).map(drop)
    }

    fn claim_segment(&mut self, segment: &Segment) -> Result<(), RepositoryError> {
        let failure_record = json(&segment.failure_record)?;
        let values = values![segment.id, segment.lane, count(segment.claimed), failure_record];
        self.change(&self.statements.claim_segment, values).map(drop)
    }

    fn cut_segment(&mut self, id: i64, end: u64) -> Result<(), RepositoryError> {
        self.change(&self.statements.cut_segment, values![id, count(end)]).map(drop)
    }

    fn hold_execution(&mut self, lease: &Lease) -> Result<Held, RepositoryError> {
        let fenced = values![lease.execution.0, lease.fence];
        let stop =
            self.one(&self.statements.check_lease, fenced, |row| row.read("stop_requested"))?;
        Ok(stop.map_or(Held::Lost, Held::with_stop))
    }

    fn add_counters(
        &mut self,
        step: StepExecutionId,
        more: &Counters,
        at: Timestamp,
    ) -> Result<(), RepositoryError> {
        let values = values![
            step.0,
            count(more.read),
            count(more.write),
            count(more.filter),
            count(more.read_skip),
            count(more.process_skip),
            count(more.write_skip),
            count(more.commit),
            count(more.rollback),
            micros(at),
        ];
        self.change(&self.statements.add_counters, values).map(drop)
    }

    fn insert_response(
        &mut self,
        id: ExecutionId,
        response: &StoredResponse,
    ) -> Result<(), RepositoryError> {
        let values = values![
            id.0,
            response.status,
            json(&response.headers)?,
            response.body.as_slice(),
            micros(response.at),
            response.is_acknowledged,
        ];
        self.change(&self.statements.insert_response, values).map(drop)
    }

    fn acknowledge_response(&mut self, id: ExecutionId) -> Result<bool, RepositoryError> {
        let values = values![id.0, true, Vec::new(), false];
        Ok(self.change(&self.statements.acknowledge_response, values)? == 1)
    }

    fn expire_responses(&mut self, before: Timestamp) -> Result<u64, RepositoryError> {
        let values = values![micros(before), true, Vec::new(), false];
        self.change(&self.statements.expire_responses, values)
    }
}

impl ProgressiveQueries for SqlRepository {
    fn progressive_state(
        &self,
        id: ExecutionId,
    ) -> Result<Option<ProgressiveState>, RepositoryError> {
        let values = values![id.0];
        let Some(row) = self.ask_one(&self.statements.progressive, values, progressive)? else {
            return Ok(None);
        };
        let lanes = self.ask(&self.statements.lanes_of, values, lane)?;
        let segments = self.ask(&self.statements.segments_of, values, segment)?;
        Ok(Some(ProgressiveState { row, lanes, segments }))
    }

    fn response(&self, id: ExecutionId) -> Result<Option<StoredResponse>, RepositoryError> {
        self.ask_one(&self.statements.response, values![id.0], response)
    }

    fn server_driven(&self) -> Result<Vec<ExecutionId>, RepositoryError> {
        self.ask(&self.statements.server_driven, values![true], |row| {
            row.read("execution_id").map(ExecutionId)
        })
    }
}
