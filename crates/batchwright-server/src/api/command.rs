//! The commands for executions: for one, and for all that a search finds.

use axum::http::StatusCode;
use batchwright::BatchStatus::{self, Failed, Started, Starting, Stopped, Stopping};
use batchwright::execution::{ExecutionId, JobExecution};
use batchwright::launch::{Launch, LaunchOptions, RecoverMode};
use batchwright::query::{ExecutionFilter, ExecutionSearch};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Api, Problem};

/// A command for executions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verb {
    /// Asks a running execution to stop at its next chunk boundary.
    Stop,
    /// Restarts a failed or stopped execution.
    Restart,
    /// Gives a failed or stopped execution up: it is never restarted.
    Abandon,
    /// Closes an execution whose owner is lost, so that it can be restarted.
    Recover,
}

impl Verb {
    pub(super) const ALL: [Self; 4] = [Self::Stop, Self::Restart, Self::Abandon, Self::Recover];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Abandon => "abandon",
            Self::Recover => "recover",
        }
    }

    pub(super) fn from_name(name: &str) -> Result<Self, Problem> {
        let known = Self::ALL.into_iter().find(|verb| verb.name() == name);
        known.ok_or_else(|| Problem::invalid(format!("`{name}` is no command for executions")))
    }

    /// Returns the statuses of the executions for which the command makes sense.
    fn statuses(self) -> &'static [BatchStatus] {
        match self {
            Self::Stop | Self::Recover => &[Starting, Started, Stopping],
            Self::Restart | Self::Abandon => &[Failed, Stopped],
        }
    }

    fn fits(self, one: &JobExecution, now: Timestamp) -> bool {
        match self {
            Self::Stop => one.status.is_running(),
            Self::Recover => one.is_stale(now),
            Self::Restart | Self::Abandon => one.status.is_restartable(),
        }
    }
}

impl Api {
    /// Returns the newest `limit` executions of the search `words` for which the command makes sense; `true`: there are more.
    pub(super) fn matching(
        &self,
        verb: Verb,
        words: &str,
        limit: usize,
    ) -> Result<(Vec<ExecutionId>, bool), Problem> {
        let now = self.operator().clock().now();
        let filter = ExecutionFilter {
            statuses: verb.statuses().to_vec(),
            newest_of_instance: matches!(verb, Verb::Restart | Verb::Abandon),
            ..ExecutionFilter::default()
        };
        let search = ExecutionSearch::parse(words, now).map_err(Problem::invalid)?;
        let Some(search) = search.and(&filter) else {
            return Ok((Vec::new(), false));
        };
        let fits = |one: &JobExecution| verb.fits(one, now);
        Ok(search.find_all(self.operator().queries(), limit, now, fits)?)
    }

    /// Gives a command for an execution, and returns the execution that changed; for a restart, the new one. A refusal has the
    /// commands that the execution allows.
    pub(super) fn give(
        &self,
        who: &str,
        verb: Verb,
        id: ExecutionId,
    ) -> Result<ExecutionId, Problem> {
        self.give_now(who, verb, id).map_err(|problem| self.with_allowed(problem, id))
    }

    /// Adds the commands that the execution allows to a refusal.
    pub(super) fn with_allowed(&self, problem: Problem, id: ExecutionId) -> Problem {
        let row = match problem.status() == StatusCode::CONFLICT {
            true => self.operator().queries().execution(id).ok().flatten(),
            false => None,
        };
        let Some(row) = row else { return problem };
        let now = self.operator().clock().now();
        // Of an instance only the newest execution goes on, and a replay is continued by a command of its own.
        let newest = ExecutionFilter::of_instance(row.instance_id).limit(1);
        let newest = self.operator().queries().executions(&newest).unwrap_or_default();
        let is_newest = newest.first().is_none_or(|newest| newest.id == id);
        let goes_on = is_newest && self.refuse_replay(id).is_ok();
        let fits = |verb: &Verb| {
            verb.fits(&row, now) && (goes_on || !matches!(verb, Verb::Restart | Verb::Abandon))
        };
        problem.of_status(row.status, Verb::ALL.into_iter().filter(fits).collect())
    }

    fn give_now(&self, who: &str, verb: Verb, id: ExecutionId) -> Result<ExecutionId, Problem> {
        let operator = self.operator();
        if matches!(verb, Verb::Restart | Verb::Abandon) {
            self.refuse_replay(id)?;
        }
        match verb {
            Verb::Stop => drop(operator.stop(id)?),
            Verb::Abandon => drop(operator.abandon(id)?),
            Verb::Recover => {
                let before = operator.explorer().execution(id)?.status;
                if operator.recover(id, RecoverMode::Detect)?.status == before {
                    return Ok(id);
                }
            }
            Verb::Restart => {
                self.check_worker()?;
                let triggered_by = Some(who.to_owned());
                let options = LaunchOptions { triggered_by, ..LaunchOptions::default() };
                // The start of the new execution stores who gave the command, in the audit, too.
                return Ok(operator.enqueue(&Launch::restart(id).options(options))?.id);
            }
        }
        self.audit(who, verb.name(), &format!("execution {id}"), None);
        Ok(id)
    }
}
