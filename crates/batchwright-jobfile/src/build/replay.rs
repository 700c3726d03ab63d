//! The job that replays skipped records: the steps that skipped them, one after the other, with the corrected records as their
//! input.

use std::collections::BTreeSet;

use batchwright::TaskletStep;
use batchwright::parameters::{ParameterDeclaration, ParameterSchema, ParameterType};
use batchwright::partition::Partitioner;
use batchwright::scope::{Partition, StepScope};
use batchwright_items::{At, Problem};

use super::Built;
use crate::Replay;
use crate::definition::{Definition, Step};
use crate::replay::{
    Lists, REPLAY_AFTER, REPLAY_FROM, REPLAY_NUMBER, REPLAY_OF_INSTANCE, keep_lists,
};

/// Returns the steps of `definition` that skipped the records of `replay`.
pub(super) fn steps(definition: &mut Definition, replay: &Replay) -> Built<Vec<At<Step>>> {
    let mut flat = Vec::new();
    flatten(std::mem::take(&mut definition.steps), &mut flat);
    let mut missing: BTreeSet<&str> = replay.steps();
    let mut steps = Vec::new();
    for mut step in flat {
        let one = step.0.get_mut();
        let corrections = replay.of_step(one.name.get_ref(), one.partition.is_some(), false);
        if corrections.is_empty() {
            continue;
        }
        missing.retain(|name| !corrections.steps().any(|found| found == *name));
        if one.kind.as_ref().is_some_and(|kind| kind.get_ref() != "chunk") {
            let name = one.name.get_ref();
            let message =
                format!("the records of step `{name}` cannot be replayed: it is no chunk step");
            return Err(Problem::at(&one.name, message));
        }
        one.on.clear();
        (one.start_limit, one.allow_start_if_complete) = (None, false);
        steps.push(step);
    }
    match missing.first() {
        None => Ok(steps),
        Some(name) => {
            let message = format!(
                "the records of step `{name}` cannot be replayed: the job has no such step"
            );
            Err(Problem::at(&definition.name, message))
        }
    }
}

/// Returns the lists of records of all steps.
pub(super) fn lists(steps: &[At<Step>], replay: &Replay) -> Lists {
    let list = |step: &At<Step>| {
        let step = step.get_ref();
        let corrections = replay.of_step(step.name.get_ref(), step.partition.is_some(), false);
        (step.name.get_ref().clone(), corrections.list().clone())
    };
    steps.iter().map(list).collect()
}

/// Returns the step that stores the lists; each attempt has one of its own, so none is resumed.
pub(super) fn first_step(lists: Lists, replay: &Replay) -> TaskletStep {
    TaskletStep::new(replay.lists_step(), keep_lists(lists))
}

/// Collects `steps` and the steps within them, in their order.
fn flatten(steps: Vec<At<Step>>, flat: &mut Vec<At<Step>>) {
    for mut step in steps {
        let one = step.0.get_mut();
        let (inner, branches) = (one.steps.take(), one.branches.take());
        flat.push(step);
        flatten(inner.unwrap_or_default(), flat);
        for branch in branches.into_iter().flatten() {
            flatten(branch.into_inner().steps, flat);
        }
    }
}

/// Returns the partitioner of a replayed step: one partition has the records that all partitions of the step skipped.
pub(super) fn partition() -> impl Partitioner {
    |_: &StepScope| Ok(vec![Partition::new("replay")])
}

/// Adds the parameters of replays to those of the job.
pub(super) fn declare(schema: &mut ParameterSchema, name: &At<String>) -> Built<()> {
    let declare = ParameterDeclaration::new;
    let ours = [
        declare(REPLAY_OF_INSTANCE, ParameterType::Integer),
        declare(REPLAY_AFTER, ParameterType::Integer),
        declare(REPLAY_NUMBER, ParameterType::Integer).non_identifying(),
        declare(REPLAY_FROM, ParameterType::String).non_identifying(),
    ];
    if let Some(one) = ours.iter().find(|one| schema.find(&one.name).is_some()) {
        let message = format!("the job declares `{}`, a parameter that replays have", one.name);
        return Err(Problem::at(name, message));
    }
    schema.declared.extend(ours);
    Ok(())
}
