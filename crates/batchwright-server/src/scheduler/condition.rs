//! Conditions of a change: that the trigger or the rule is still the one that the client has seen. They are checked in the
//! transaction of the change, so two clients cannot both replace what they have read.

use batchwright::store::schedule::TriggerRow;
use sha2::{Digest, Sha256};

use super::rule::Rule;
use super::trigger::Refused;

/// What must be true of a trigger or a rule before it is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It does not exist, or is the same after the change: nothing is lost.
    NewOrSame,
    /// It does not exist.
    New,
    /// It exists.
    Exists,
    /// It exists, and its tag is one of these.
    Tagged(Vec<String>),
}

impl Condition {
    /// Checks the condition for `name`. `tag` is that of what exists, and `is_same` whether the change leaves it as it is.
    pub(super) fn check(
        &self,
        name: &str,
        tag: Option<&str>,
        is_same: bool,
    ) -> Result<(), Refused> {
        let is_met = match (self, tag) {
            (Self::NewOrSame, Some(_)) if !is_same => {
                let what = format!(
                    "{name} exists and is a different one: read it and send its `ETag` as `If-Match`, or `If-Match: *` to replace whatever it is; in a form, choose to replace it"
                );
                return Err(Refused::new(Refused::UNCONDITIONAL, what));
            }
            (Self::NewOrSame, _) => true,
            (Self::New, tag) => tag.is_none(),
            (Self::Exists, tag) => tag.is_some(),
            (Self::Tagged(tags), tag) => {
                tag.is_some_and(|tag| tags.iter().any(|known| known == tag))
            }
        };
        let what = match (is_met, tag) {
            (true, _) => return Ok(()),
            (false, None) => format!("{name} does not exist"),
            (false, Some(_)) if *self == Self::New => format!("{name} exists already"),
            (false, Some(_)) => format!("{name} was changed since it was read: read it again"),
        };
        Err(Refused::new(Refused::CHANGED, what))
    }
}

/// Returns the tag of a trigger's definition: its plan or its time. A firing does not change it.
pub(crate) fn trigger_tag(row: &TriggerRow) -> String {
    let definition = row.plan.clone().unwrap_or_else(|| row.slot.to_string());
    let hash = Sha256::digest(definition);
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the tag of a rule: the number of the change that stored it.
pub(crate) fn rule_tag(rule: &Rule) -> String {
    rule.sequence.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_is_met_by_what_it_names() {
        let tags = || Condition::Tagged(vec!["a".to_owned(), "b".to_owned()]);
        // The condition, the tag of what exists, whether the change makes no difference, and the code of the refusal.
        for (condition, tag, is_same, expected) in [
            (Condition::NewOrSame, None, false, None),
            (Condition::NewOrSame, Some("a"), true, None),
            (Condition::NewOrSame, Some("a"), false, Some(Refused::UNCONDITIONAL)),
            (Condition::New, None, false, None),
            (Condition::New, Some("a"), true, Some(Refused::CHANGED)),
            (Condition::Exists, None, false, Some(Refused::CHANGED)),
            (Condition::Exists, Some("a"), false, None),
            (tags(), Some("b"), false, None),
            (tags(), Some("c"), true, Some(Refused::CHANGED)),
            (tags(), None, false, Some(Refused::CHANGED)),
        ] {
            let refused = condition.check("trigger `x`", tag, is_same).err();
            assert_eq!(refused.map(|it| it.code), expected, "{condition:?} {tag:?} {is_same}");
        }
    }
}
