//! The job runner: starts an execution of a batch job for each slot. Trigger and slot are identifying
//! parameters, so each slot has one job instance.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use batchwright::execution::{ExecutionId, JobExecution};
use batchwright::launch::{Launch, LaunchOptions};
use batchwright::operator::{JobHandle, OperatorError, Refusal};
use batchwright::parameters::{
    ParameterSchema, ParameterType, ParameterValue, SLOT_PARAMETER, TRIGGER_PARAMETER,
};
use batchwright::{BatchStatus, JobOperator, JobParameters, report};
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use crate::scheduler::dispatch::Stop;
use crate::scheduler::group::Firing;
use crate::scheduler::rule::{RuleSettings, Runner};
use crate::scheduler::time::{self, Micros};
use crate::scheduler::trigger::Outcome;

/// How often a server looks for changes by other processes in the store.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Starts jobs through an operator.
#[derive(Clone)]
pub struct JobStarter {
    pub(crate) operator: JobOperator,
    /// Number of workers that run queued executions.
    pub(crate) workers: Arc<AtomicUsize>,
    /// Whether this process begins nothing more: it claims no queued execution and fires no trigger.
    drained: Arc<AtomicBool>,
}

impl JobStarter {
    /// Starts the jobs of `operator`.
    pub fn new(operator: JobOperator) -> Self {
        Self { operator, workers: Arc::default(), drained: Arc::default() }
    }

    /// Returns whether this process begins nothing more.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::SeqCst)
    }

    /// Lets this process begin nothing more, or again what it finds. What runs goes on. Returns whether that is a change.
    pub(crate) fn set_drained(&self, is_drained: bool) -> bool {
        self.drained.swap(is_drained, Ordering::SeqCst) != is_drained
    }

    /// Returns the operator.
    pub fn operator(&self) -> &JobOperator {
        &self.operator
    }

    /// Checks that a rule with `settings` can start its job: the job exists, accepts the parameters, and none
    /// is missing. Rules with other runners pass.
    ///
    /// # Errors
    ///
    /// A sentence about the problem.
    pub fn check_rule(&self, settings: &RuleSettings) -> Result<(), String> {
        let Runner::Job { name, parameters } = &settings.runner else { return Ok(()) };
        let wrong = |reason| format!("job `{name}` does not accept its parameters: {reason}");
        let job = self.operator.explorer().job(name).map_err(|error| report(&error))?;
        let (key, slot, zone) = (String::new(), 0, TimeZone::UTC);
        let given = arguments(job.parameters(), key, slot, &zone, &parameters.0).map_err(wrong)?;
        job.parameters().complete(given).map(drop).map_err(|problems| wrong(problems.join("; ")))
    }

    fn start(&self, firing: &Firing, name: &str, given: &Map<String, Value>) -> Begun {
        let failed = |reason: String| Begun::Ended(Outcome::failed(reason, false));
        let parameters = match self.parameters(firing, name, given) {
            Ok(parameters) => parameters,
            Err(reason) => return failed(reason),
        };
        // A slot is started again when its server died: what it has completed is not to run twice.
        let triggered_by = Some(format!("schedule:{}", firing.key.identifier));
        let options =
            LaunchOptions { keep_complete: true, triggered_by, ..LaunchOptions::default() };
        match self.operator.launch(&Launch::start(name, parameters).options(options)) {
            Ok(handle) => Begun::Here(handle),
            // A server completed the execution and died before it recorded the outcome.
            Err(OperatorError::Refused(Refusal::AlreadyComplete { execution })) => {
                let done = format!("execution {execution} had COMPLETED; nothing ran");
                Begun::Ended(Outcome::Executed(Some(done)))
            }
            Err(OperatorError::Refused(Refusal::AlreadyRunning { execution, .. })) => {
                Begun::Elsewhere(execution)
            }
            Err(error @ OperatorError::Repository(_)) => {
                Begun::Ended(Outcome::failed(report(&error), true))
            }
            Err(error) => failed(report(&error)),
        }
    }

    fn parameters(
        &self,
        firing: &Firing,
        name: &str,
        given: &Map<String, Value>,
    ) -> Result<JobParameters, String> {
        let job = self.operator.explorer().job(name).map_err(|error| report(&error))?;
        let trigger = firing.key.identifier.clone();
        arguments(job.parameters(), trigger, firing.slot, &firing.zone, given)
    }

    fn look(&self, id: ExecutionId) -> Option<JobExecution> {
        self.operator.explorer().execution(id).ok()
    }
}

/// Returns the parameters of the execution that `trigger` starts for `slot`, including those of the rule,
/// `given`.
fn arguments(
    schema: &ParameterSchema,
    trigger: String,
    slot: Micros,
    zone: &TimeZone,
    given: &Map<String, Value>,
) -> Result<JobParameters, String> {
    let parameters = schema.parameters(given.clone()).map_err(|problems| problems.join("; "))?;
    let kind = schema.find(SLOT_PARAMETER).map(|declared| declared.kind);
    let slot = slot_value(slot, zone, kind)?;
    Ok(parameters.with(TRIGGER_PARAMETER, trigger).with(SLOT_PARAMETER, slot))
}

/// Returns the value of the parameter `slot`; as a date, the day of the slot in `zone`.
fn slot_value(
    slot: Micros,
    zone: &TimeZone,
    kind: Option<ParameterType>,
) -> Result<ParameterValue, String> {
    match kind {
        Some(ParameterType::Date) => {
            let day = time::timestamp(slot).to_zoned(zone.clone()).date();
            ParameterValue::parse(&day.to_string(), ParameterType::Date)
        }
        Some(kind) => ParameterValue::parse(&time::show_exact(slot), kind),
        None => Ok(time::show_exact(slot).into()),
    }
}

enum Begun {
    Here(JobHandle),
    /// Another process runs the execution of the slot.
    Elsewhere(ExecutionId),
    Ended(Outcome),
}

/// Starts the slot's execution, or continues it, and waits for its end.
pub(crate) async fn run(
    jobs: &JobStarter,
    firing: &Firing,
    name: &str,
    given: &Map<String, Value>,
    stop: impl Future<Output = Stop>,
) -> Outcome {
    let mut stop = std::pin::pin!(stop);
    loop {
        let (starter, one) = (jobs.clone(), firing.clone());
        let (name, given) = (name.to_owned(), given.clone());
        let begun = tokio::task::spawn_blocking(move || starter.start(&one, &name, &given)).await;
        match begun {
            Ok(Begun::Ended(outcome)) => return outcome,
            Ok(Begun::Here(handle)) => {
                return here(jobs, handle, firing.rule.settings.timeout(), stop).await;
            }
            Ok(Begun::Elsewhere(id)) => {
                tokio::select! {
                    stopped = &mut stop => {
                        if stopped == Stop::Replaced {
                            ask_to_stop(jobs, id).await;
                        }
                        return Outcome::Released;
                    }
                    () = tokio::time::sleep(POLL_INTERVAL) => {}
                }
                let starter = jobs.clone();
                let seen = tokio::task::spawn_blocking(move || starter.look(id)).await;
                // The next start handles an execution that completed, or whose owner died.
                if let Ok(Some(execution)) = seen
                    && matches!(execution.status, BatchStatus::Failed | BatchStatus::Stopped)
                    && execution.failure.as_ref().is_none_or(|failure| failure.code != "recovered")
                {
                    return outcome(&execution, Stop::No);
                }
            }
            Err(panic) => {
                return Outcome::failed(format!("the start of the job panicked: {panic}"), true);
            }
        }
    }
}

async fn here(
    jobs: &JobStarter,
    handle: JobHandle,
    timeout: Duration,
    stop: impl Future<Output = Stop>,
) -> Outcome {
    let id = handle.id();
    let mut handle = std::pin::pin!(handle);
    let mut stopped = Stop::No;
    let ended = tokio::select! {
        ended = &mut handle => ended,
        () = tokio::time::sleep(timeout) => {
            ask_to_stop(jobs, id).await;
            let reason = format!("execution {id} timed out after {}", time::show_duration(timeout));
            return match handle.await {
                Ok(execution) if execution.status == BatchStatus::Completed => outcome(&execution, stopped),
                _ => Outcome::failed(reason, true),
            };
        }
        asked = stop => match asked {
            // The execution has its own lease and continues; the server that fires the slot now waits for its
            // end.
            Stop::Lost => return Outcome::Released,
            asked => {
                stopped = asked;
                ask_to_stop(jobs, id).await;
                handle.await
            }
        },
    };
    match ended {
        Ok(execution) => outcome(&execution, stopped),
        Err(error) => {
            tracing::warn!(execution = %id, error = %report(&error), "the slot fires again");
            Outcome::Released
        }
    }
}

async fn ask_to_stop(jobs: &JobStarter, id: ExecutionId) {
    let operator = jobs.operator.clone();
    let asked = tokio::task::spawn_blocking(move || operator.stop(id)).await;
    if let Ok(Err(error)) = asked {
        tracing::debug!(execution = %id, %error, "cannot ask the execution to stop");
    }
}

fn outcome(execution: &JobExecution, stopped: Stop) -> Outcome {
    let summary = format!("execution {} {}", execution.id, execution.status);
    match execution.status {
        BatchStatus::Completed => Outcome::Executed(Some(summary)),
        BatchStatus::Stopped if stopped == Stop::Shutdown => Outcome::Released,
        status => {
            let reason = match &execution.failure {
                Some(failure) => format!("{summary}: {}", failure.message),
                None => summary,
            };
            // A deliberate stop is not retried.
            Outcome::failed(reason, status != BatchStatus::Stopped)
        }
    }
}

#[cfg(test)]
mod tests {
    use batchwright::parameters::ParameterDeclaration;

    use super::*;

    #[test]
    fn a_rule_that_gives_a_parameter_another_role_than_the_job_is_refused() {
        let schema = ParameterSchema {
            declared: vec![ParameterDeclaration::new("day", ParameterType::String)],
            open: false,
        };
        let parsed = |json: &str| {
            let given = serde_json::from_str(json).unwrap();
            arguments(&schema, "t".to_owned(), 0, &TimeZone::UTC, &given)
        };
        assert!(parsed(r#"{"day": {"value": "x", "identifying": null}}"#).is_ok());
        let refused = parsed(r#"{"day": {"value": "x", "identifying": false}}"#).unwrap_err();
        assert_eq!(refused, "parameter `day`: it is declared as identifying");
    }

    #[test]
    fn the_date_of_a_slot_is_the_day_in_the_zone_of_its_plan() {
        let slot = time::parse("2026-11-21T23:30:00Z").unwrap();
        let date = |zone: &str| {
            let zone = TimeZone::get(zone).unwrap();
            slot_value(slot, &zone, Some(ParameterType::Date)).unwrap().to_string()
        };
        assert_eq!(date("UTC"), "2026-11-21");
        assert_eq!(date("Europe/Berlin"), "2026-11-22");
        assert_eq!(date("America/New_York"), "2026-11-21");
    }
}
