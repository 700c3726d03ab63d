//! The rules of starting, restarting and taking over. Pure functions from the history to a decision.

use jiff::Timestamp;

use crate::execution::owner::{Liveness, ProcessIdentity};
use crate::execution::{BatchStatus, ExecutionId, JobExecution, StepExecution, TraceContext};
use crate::parameters::JobParameters;
use crate::refusal::Refusal;

/// What a start or a recovery does when the execution is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecoverMode {
    /// Refuses.
    Strict,
    /// Takes over when the lease has expired, or when the owner was a process of this host that has ended.
    #[default]
    Detect,
    /// Takes over even when the lease is valid. The old owner, if it is alive, can commit nothing more.
    Force,
}

/// Decides whether the owner of a running execution may be declared dead.
pub(crate) fn may_recover(
    execution: &JobExecution,
    mode: RecoverMode,
    now: Timestamp,
) -> Result<(), Refusal> {
    let has_ended = || {
        execution
            .owner
            .as_deref()
            .is_some_and(|owner| ProcessIdentity::liveness_of(owner) == Liveness::Dead)
    };
    match mode {
        RecoverMode::Force => Ok(()),
        // An execution without an owner is not lost: it is queued, or it runs in slices.
        _ if execution.owner.is_none() => Err(Refusal::running(execution)),
        RecoverMode::Detect if execution.is_stale(now) || has_ended() => Ok(()),
        RecoverMode::Detect | RecoverMode::Strict => Err(Refusal::running(execution)),
    }
}

/// A request to start an execution: what to start, with which parameters and options.
///
/// `JobOperator::launch` runs it in this process, `JobOperator::enqueue` stores it for any process.
#[derive(Debug, Clone)]
pub struct Launch {
    pub(crate) target: LaunchTarget,
    pub(crate) parameters: JobParameters,
    pub(crate) options: LaunchOptions,
}

/// What a launch starts.
#[derive(Debug, Clone)]
pub(crate) enum LaunchTarget {
    /// The instance of the job with the given parameters.
    Start(String),
    /// The next instance of the job.
    Next(String),
    /// The instance of the execution, once more.
    Restart(ExecutionId),
}

impl Launch {
    /// Starts the job `name` with `parameters`, or restarts its failed or stopped instance.
    pub fn start(name: impl Into<String>, parameters: JobParameters) -> Self {
        let target = LaunchTarget::Start(name.into());
        Self { target, parameters, options: LaunchOptions::default() }
    }

    /// Starts the next instance of the job `name`: the parameters of the newest instance, changed by the job's
    /// incrementer and then by [`parameters`](Self::parameters).
    pub fn next(name: impl Into<String>) -> Self {
        Self {
            target: LaunchTarget::Next(name.into()),
            parameters: JobParameters::new(),
            options: LaunchOptions::default(),
        }
    }

    /// Restarts execution `id`, which must be the newest of its instance, with the same parameters;
    /// [`parameters`](Self::parameters) may change those that are not identifying.
    pub fn restart(id: ExecutionId) -> Self {
        Self {
            target: LaunchTarget::Restart(id),
            parameters: JobParameters::new(),
            options: LaunchOptions::default(),
        }
    }

    /// Sets the parameters: those of a start, or what a next instance or a restart changes.
    #[must_use]
    pub fn parameters(mut self, parameters: JobParameters) -> Self {
        self.parameters = parameters;
        self
    }

    /// Sets the options.
    #[must_use]
    pub fn options(mut self, options: LaunchOptions) -> Self {
        self.options = options;
        self
    }
}

/// The options of a start, beyond the job's own rules.
#[derive(Debug, Clone, Default)]
pub struct LaunchOptions {
    /// Refuse to restart a failed or stopped execution.
    pub new_only: bool,
    /// Refuse to start a complete instance again although its job allows that: for a caller that may repeat a start.
    pub keep_complete: bool,
    /// What to do when the newest execution is running and its owner may be dead.
    pub recover: RecoverMode,
    /// Restart although the definition of the job changed since the last execution.
    pub accept_changed_definition: bool,
    /// Who or what asks for the start, as a kind and a name: `cli:maria@host`, `api:nightly-token`, `schedule:load`. It is
    /// stored with the execution and shown; at most 255 bytes are kept. Default: `None`, an application.
    pub triggered_by: Option<String>,
    /// The caller's place in its trace, stored with the execution, whose spans are a part of that trace. Default: `None`, a
    /// trace of its own.
    pub trace_parent: Option<TraceContext>,
    /// The request that starts the execution, if it may be sent twice: the repeated one is refused.
    pub request: Option<RequestKey>,
}

/// Distinguishes a repeated request from a new one. The store keeps the key as long as the execution that the
/// request started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// The key, chosen by the client: 1 to 255 visible ASCII characters.
    pub key: String,
    /// The hash of the request's content, 1 to 255 visible ASCII characters: another request with the same
    /// key is refused.
    pub fingerprint: String,
}

impl RequestKey {
    /// Returns whether `text` can be a key or a fingerprint, which any client can send in a header: 1 to 255 visible ASCII
    /// characters.
    pub fn is_valid(text: &str) -> bool {
        (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

/// The rules of a job for its restarts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaunchRules<'a> {
    /// Whether an instance may be restarted.
    pub restartable: bool,
    /// The node with which a complete instance begins again; `None` refuses to start it.
    pub again_from: Option<&'a str>,
    /// The fingerprint of the definition, if the job has one.
    pub fingerprint: Option<&'a str>,
    /// Where the definition was read from.
    pub source: Option<&'a str>,
}

/// What a start does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaunchDecision {
    /// The start creates the first execution of the instance.
    Fresh,
    /// The start restarts this execution.
    Restart(ExecutionId),
    /// The start runs this complete instance again, from its first node.
    Again(ExecutionId),
    /// The start closes this running execution, whose owner is dead, and restarts it.
    TakeOver(ExecutionId),
}

/// Decides a start of an instance whose executions are `history`, newest first.
///
/// # Errors
///
/// [`Refusal`]: the history, the job's rules or an option forbids the start.
pub(crate) fn decide(
    history: &[JobExecution],
    rules: LaunchRules<'_>,
    options: &LaunchOptions,
    now: Timestamp,
) -> Result<LaunchDecision, Refusal> {
    let Some(newest) = history.first() else { return Ok(LaunchDecision::Fresh) };
    let is_complete = newest.status == BatchStatus::Completed;
    if is_complete && (rules.again_from.is_none() || options.keep_complete) {
        return Err(Refusal::AlreadyComplete { execution: newest.id });
    }
    if let Some(abandoned) = history.iter().find(|one| one.status == BatchStatus::Abandoned) {
        return Err(Refusal::Abandoned { execution: abandoned.id });
    }
    let launch = match newest.status {
        BatchStatus::Completed => LaunchDecision::Again(newest.id),
        status if status.is_running() => {
            may_recover(newest, options.recover, now)?;
            LaunchDecision::TakeOver(newest.id)
        }
        status if status.is_restartable() => LaunchDecision::Restart(newest.id),
        status => {
            return Err(Refusal::NotRestartable {
                execution: newest.id,
                reason: format!("it is {status}"),
            });
        }
    };
    let refuse = |reason: &str| {
        Err(Refusal::NotRestartable { execution: newest.id, reason: reason.to_owned() })
    };
    if options.new_only {
        return refuse("the instance already exists, and the request allows only a new one");
    }
    if !rules.restartable {
        return refuse("the job is declared `restartable = false`");
    }
    let changed = match (rules.fingerprint, newest.fingerprint.as_deref()) {
        (Some(now), Some(then)) => now != then,
        _ => false,
    };
    if changed && !options.accept_changed_definition {
        return Err(Refusal::ChangedDefinition { execution: newest.id });
    }
    Ok(launch)
}

/// What the engine does with a step when its job runs.
#[derive(Debug)]
pub(crate) enum StepDecision {
    /// Skip the step: it completed, or its failure was handled. Nothing is recorded, and the flow takes the
    /// same transition as before.
    PassOver(Box<StepExecution>),
    /// Run the step from its beginning.
    Fresh,
    /// Resume the step from the checkpoint of this step execution.
    Resume(Box<StepExecution>),
    /// Fail: the step reached its start limit.
    LimitReached,
}

/// Decides about a step with `runs` step executions in this instance, of which `last` is the newest. With
/// `again` the step runs although it completed.
pub(crate) fn decide_step(
    last: Option<StepExecution>,
    runs: u32,
    start_limit: Option<u32>,
    again: bool,
) -> StepDecision {
    let is_done = |step: &StepExecution| step.status == BatchStatus::Completed || step.handled;
    let last = match last {
        Some(step) if is_done(&step) && !again => return StepDecision::PassOver(Box::new(step)),
        last => last,
    };
    if start_limit.is_some_and(|limit| runs >= limit) {
        return StepDecision::LimitReached;
    }
    match last {
        Some(step) if step.status != BatchStatus::Completed => StepDecision::Resume(Box::new(step)),
        _ => StepDecision::Fresh,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::ExecutionContext;
    use crate::execution::{ExitStatus, FlowState, InstanceId};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn execution(id: i64, status: BatchStatus) -> JobExecution {
        JobExecution {
            id: ExecutionId(id),
            instance_id: InstanceId(1),
            job: "j".to_owned(),
            status,
            exit: ExitStatus::executing(),
            parameters: JobParameters::new(),
            restart_of: None,
            created_at: NOW,
            started_at: None,
            ended_at: None,
            owner: Some("elsewhere".to_owned()),
            fence: 1,
            lease_until: Some(NOW),
            stop_requested: false,
            failure: None,
            warnings: Vec::new(),
            context: ExecutionContext::default(),
            fingerprint: Some("a".to_owned()),
            source: None,
            flow: FlowState::default(),
            parent: None,
            triggered_by: None,
            trace_parent: None,
            version: 1,
        }
    }

    fn launch(
        history: &[JobExecution],
        options: &LaunchOptions,
    ) -> Result<LaunchDecision, &'static str> {
        let rules = LaunchRules {
            restartable: true,
            again_from: None,
            fingerprint: Some("a"),
            source: None,
        };
        decide(history, rules, options, NOW).map_err(|refusal| refusal.code())
    }

    #[test]
    fn every_status_of_the_newest_execution_has_its_answer() {
        use BatchStatus::{
            Abandoned, Completed, Failed, Started, Starting, Stopped, Stopping, Unknown,
        };
        let plain = LaunchOptions::default();
        assert_eq!(launch(&[], &plain), Ok(LaunchDecision::Fresh));
        for (status, expected) in [
            (Starting, Err("already_running")),
            (Started, Err("already_running")),
            (Stopping, Err("already_running")),
            (Stopped, Ok(LaunchDecision::Restart(ExecutionId(2)))),
            (Failed, Ok(LaunchDecision::Restart(ExecutionId(2)))),
            (Completed, Err("already_complete")),
            (Abandoned, Err("abandoned")),
            (Unknown, Err("not_restartable")),
        ] {
            assert_eq!(launch(&[execution(2, status)], &plain), expected, "{status}");
        }
    }

    #[test]
    fn an_abandoned_execution_anywhere_in_the_history_refuses_the_instance() {
        let history = [execution(2, BatchStatus::Failed), execution(1, BatchStatus::Abandoned)];
        assert_eq!(launch(&history, &LaunchOptions::default()), Err("abandoned"));
    }

    #[test]
    fn a_running_execution_is_taken_over_only_when_its_lease_is_gone_or_by_force() {
        let alive = [execution(2, BatchStatus::Started)];
        let mut stale = alive.clone();
        stale[0].lease_until = Some(NOW - jiff::SignedDuration::from_secs(1));
        let taken = Ok(LaunchDecision::TakeOver(ExecutionId(2)));
        let refused = Err("already_running");
        for (mode, for_alive, for_stale) in [
            (RecoverMode::Strict, refused, refused),
            (RecoverMode::Detect, refused, taken),
            (RecoverMode::Force, taken, taken),
        ] {
            let options = LaunchOptions { recover: mode, ..LaunchOptions::default() };
            assert_eq!(launch(&alive, &options), for_alive, "{mode:?}");
            assert_eq!(launch(&stale, &options), for_stale, "{mode:?}");
        }
    }

    #[test]
    fn a_changed_definition_is_refused_until_it_is_accepted() {
        let history = [execution(2, BatchStatus::Failed)];
        let rules = LaunchRules {
            restartable: true,
            again_from: None,
            fingerprint: Some("b"),
            source: None,
        };
        let strict = decide(&history, rules, &LaunchOptions::default(), NOW);
        assert_eq!(strict.unwrap_err().code(), "changed_definition");
        let accepting =
            LaunchOptions { accept_changed_definition: true, ..LaunchOptions::default() };
        assert!(decide(&history, rules, &accepting, NOW).is_ok());
    }

    #[test]
    fn a_job_may_forbid_restarts_and_a_caller_may_insist_on_a_new_instance() {
        let history = [execution(2, BatchStatus::Failed)];
        let rules =
            LaunchRules { restartable: false, again_from: None, fingerprint: None, source: None };
        let refused = decide(&history, rules, &LaunchOptions::default(), NOW);
        assert_eq!(refused.unwrap_err().code(), "not_restartable");
        let new_only = LaunchOptions { new_only: true, ..LaunchOptions::default() };
        assert_eq!(launch(&history, &new_only), Err("not_restartable"));
    }
}
