//! Requests to the schedule, and their answers.

use batchwright::store::schedule::{ServerRow, TriggerRow};

use super::condition::Condition;
use super::rule::{Rule, RuleSettings};
use super::time::{self, Micros};
use super::trigger::{Refused, SLOTS_KEPT, When};

/// Longest identifier or pattern in bytes, which every store can index.
pub(crate) const IDENTIFIER_MAX: usize = 2_000;
/// Most triggers in one answer.
pub const LIST_MAX: usize = 1_000;

/// A request to the schedule.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Plan a trigger, in place of the one with that name.
    Set {
        /// Name of the trigger.
        identifier: String,
        /// When it fires.
        when: When,
    },
    /// Remove a trigger.
    Unset {
        /// Name of the trigger.
        identifier: String,
    },
    /// Set or unset a trigger or a rule, if the condition is met.
    Conditional {
        /// What must be true.
        condition: Condition,
        /// The change.
        change: Box<Request>,
    },
    /// Pause a trigger: it does not fire.
    Pause {
        /// Name of the trigger.
        identifier: String,
    },
    /// Resume a paused trigger.
    Resume {
        /// Name of the trigger.
        identifier: String,
    },
    /// Skip a coming time of a recurring trigger: it does not fire for that time.
    Skip {
        /// Name of the trigger.
        identifier: String,
        /// The time, in microseconds since 1970.
        slot: Micros,
    },
    /// Get one trigger.
    Get {
        /// Name of the trigger.
        identifier: String,
    },
    /// Get one trigger and its slots, the oldest first.
    History {
        /// Name of the trigger.
        identifier: String,
    },
    /// List triggers in the order of their names.
    List {
        /// Only names with this prefix.
        prefix: String,
        /// Maximum of triggers, up to one more than [`LIST_MAX`]: with one more than the client wants, the server
        /// sees whether there are more.
        limit: usize,
        /// Only names after this one; empty for all.
        after: String,
    },
    /// Store a rule, in place of the one with that name.
    SetRule {
        /// Name of the rule.
        identifier: String,
        /// Prefix of the triggers that the rule applies to.
        pattern: String,
        /// The runner, and how it is called.
        settings: RuleSettings,
    },
    /// Remove a rule.
    UnsetRule {
        /// Name of the rule.
        identifier: String,
    },
    /// List all rules in the order of their names.
    Rules,
    /// Fire a trigger now: a recurring one for each of `slots`, whose planned times may be past, any other one for its own time. A
    /// slot that was executed does not fire again.
    Fire {
        /// Name of the trigger.
        identifier: String,
        /// The planned times of a recurring trigger, in microseconds since 1970; empty for the present time.
        slots: Vec<Micros>,
    },
    /// List the triggers and slots that fire next, in the order of their times.
    Upcoming {
        /// Maximum of rows.
        limit: usize,
    },
    /// List the triggers and slots that ended, the newest first.
    Ended {
        /// Only those that ended at this time or later, in microseconds since 1970.
        since: Micros,
        /// Maximum of rows.
        limit: usize,
    },
    /// List the servers that fire triggers.
    Servers,
}

impl Request {
    /// Returns about how much memory the answer takes, in bytes.
    pub(crate) fn answer_size(&self) -> usize {
        /// Estimate for a trigger with its name, plan and reason.
        const TRIGGER_BYTES: usize = 2_048;
        match self {
            Self::List { limit, .. } | Self::Upcoming { limit } | Self::Ended { limit, .. } => {
                limit * TRIGGER_BYTES
            }
            Self::History { .. } => SLOTS_KEPT * TRIGGER_BYTES,
            _ => 0,
        }
    }
}

impl Request {
    /// Returns the skip of the next time of a trigger that was neither skipped nor fired early. `history` is the answer to
    /// [`Request::History`], `now` in microseconds since 1970.
    ///
    /// # Errors
    ///
    /// When the trigger has no further time.
    pub fn skip_next(identifier: &str, history: Answer, now: Micros) -> Result<Self, Refused> {
        let slot = super::trigger::next_time(&history.triggers(), now)?;
        Ok(Self::Skip { identifier: identifier.to_owned(), slot })
    }

    /// Returns the change that a conditional request makes, or the request itself.
    pub(super) fn change(&self) -> &Self {
        match self {
            Self::Conditional { change, .. } => change.change(),
            other => other,
        }
    }

    /// Returns verb, subject and details of a request that changes the schedule, as the audit has them; secrets are masked.
    pub fn command(&self) -> Option<ScheduleCommand> {
        let (action, kind, identifier, detail) = match self.change() {
            Self::Set { identifier, when } => {
                ("set", "trigger", identifier, Some(crate::message::line(&when.words())))
            }
            Self::Unset { identifier } => ("unset", "trigger", identifier, None),
            Self::Pause { identifier } => ("pause", "trigger", identifier, None),
            Self::Resume { identifier } => ("resume", "trigger", identifier, None),
            Self::Skip { identifier, slot } => {
                ("skip", "trigger", identifier, Some(time::show(*slot)))
            }
            Self::SetRule { identifier, pattern, settings } => {
                let runner = crate::message::line(&settings.words());
                let detail = format!("triggers that begin with `{pattern}`: {}", runner.trim_end());
                ("set", "rule", identifier, Some(detail))
            }
            Self::UnsetRule { identifier } => ("unset", "rule", identifier, None),
            Self::Fire { identifier, slots } => {
                let slots: Vec<_> = slots.iter().map(|slot| time::show(*slot)).collect();
                ("fire", "trigger", identifier, Some(slots.join(", ")))
            }
            Self::Conditional { .. }
            | Self::Get { .. }
            | Self::History { .. }
            | Self::List { .. }
            | Self::Rules
            | Self::Upcoming { .. }
            | Self::Ended { .. }
            | Self::Servers => return None,
        };
        let detail = detail.filter(|text| !text.is_empty());
        Some(ScheduleCommand { action, subject: format!("{kind} {identifier}"), detail })
    }

    /// Returns the answer of a store that has no schedule yet; `None` for a request that creates one.
    pub fn answer_without_schedule(&self) -> Option<Result<Answer, Refused>> {
        Some(match self.change() {
            Self::Conditional { .. } | Self::Set { .. } | Self::SetRule { .. } => return None,
            Self::Unset { identifier }
            | Self::Pause { identifier }
            | Self::Resume { identifier }
            | Self::Skip { identifier, .. }
            | Self::Get { identifier }
            | Self::Fire { identifier, .. }
            | Self::History { identifier } => Err(Refused::no_trigger(identifier)),
            Self::List { .. } | Self::Upcoming { .. } | Self::Ended { .. } => {
                Ok(Answer::Triggers(Vec::new()))
            }
            Self::Servers => Ok(Answer::Servers(Vec::new())),
            Self::UnsetRule { identifier } => Err(Refused::no_rule(identifier)),
            Self::Rules => Ok(Answer::Rules(Vec::new())),
        })
    }
}

/// A command about the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleCommand {
    /// The verb: `set`, `unset`, `pause`, `resume`, `fire`.
    pub action: &'static str,
    /// `trigger NAME` or `rule NAME`.
    pub subject: String,
    /// When a trigger fires, or what a rule runs.
    pub detail: Option<String>,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The change is durable.
    Done,
    /// The requested triggers.
    Triggers(Vec<TriggerRow>),
    /// The requested rules.
    Rules(Vec<Rule>),
    /// The requested servers.
    Servers(Vec<ServerRow>),
}

impl Answer {
    /// Returns the triggers of the answer; none when it has something else.
    pub(crate) fn triggers(self) -> Vec<TriggerRow> {
        match self {
            Self::Triggers(rows) => rows,
            Self::Done | Self::Rules(_) | Self::Servers(_) => Vec::new(),
        }
    }

    /// Returns the rules of the answer; none when it has something else.
    pub(crate) fn rules(self) -> Vec<Rule> {
        match self {
            Self::Rules(rules) => rules,
            Self::Done | Self::Triggers(_) | Self::Servers(_) => Vec::new(),
        }
    }
}
