//! The keys of each type of step.

use batchwright_items::Problem;
use toml::de::{DeTable, DeValue};

use super::Step;

const CHUNK: &[&str] =
    &["chunk", "reader", "processors", "writer", "skip", "retry", "parallelism", "read_ahead"];
const COMMAND: &[&str] = &["argv", "dir", "env", "timeout", "grace", "exit_codes"];
const JOB: &[&str] =
    &["job", "parameters", "promote", "start_limit", "allow_start_if_complete", "retry_step"];
const PROGRESSIVE: &[&str] = &[
    "chunk",
    "reader",
    "processors",
    "writer",
    "lanes",
    "target",
    "max_attempts",
    "on_failed",
    "unit_timeout",
    "reduce",
];
/// Keys of the steps that do work themselves.
const WORK: &[&str] =
    &["partition", "promote", "start_limit", "allow_start_if_complete", "retry_step"];

/// The types of steps of this crate, each with lists of the keys that not all types have.
pub(crate) const STEP_TYPES: [(&str, &[&[&str]]); 7] = [
    ("chunk", &[CHUNK, WORK]),
    ("command", &[COMMAND, WORK]),
    ("job", &[JOB]),
    ("flow", &[&["steps"]]),
    ("split", &[&["branches"]]),
    ("decision", &[&["exit"]]),
    ("progressive", &[PROGRESSIVE]),
];

/// Returns the message about an unknown key at the bytes `at` of `text`, which lists the keys of the given
/// type.
pub(crate) fn of_unknown(text: &str, at: &std::ops::Range<usize>) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let (part, table, key) = holder("", table.get_ref(), at)?;
    if part != "steps" {
        return None;
    }
    let kind = table.get("type").and_then(|kind| kind.get_ref().as_str()).unwrap_or("chunk");
    let (_, keys) = STEP_TYPES.iter().find(|(name, _)| *name == kind)?;
    let keys = [&["name", "type", "on"][..], &keys.concat()].concat().join(", ");
    Some(format!("there is no key `{key}`; a step of type `{kind}` has: {keys}"))
}

/// Returns the table with the key at the bytes `at`, the name of the part it belongs to, and the key.
fn holder<'t>(
    part: &'t str,
    table: &'t DeTable<'t>,
    at: &std::ops::Range<usize>,
) -> Option<(&'t str, &'t DeTable<'t>, &'t str)> {
    let inside = |name: &'t str, value: &'t DeValue<'t>| match value {
        DeValue::Table(inner) => holder(name, inner, at),
        DeValue::Array(all) => all.iter().find_map(|one| match one.get_ref() {
            DeValue::Table(inner) => holder(name, inner, at),
            _ => None,
        }),
        _ => None,
    };
    table.iter().find_map(|(key, value)| match key.span() == *at {
        true => Some((part, table, key.get_ref().as_ref())),
        false => inside(key.get_ref(), value.get_ref()),
    })
}

/// Refuses keys that belong to another type of step.
pub(crate) fn refuse_foreign_keys(step: &Step, kind: &str) -> Result<(), Problem> {
    let given = [
        ("chunk", step.chunk.is_some()),
        ("reader", step.reader.is_some()),
        ("processors", !step.processors.is_empty()),
        ("writer", step.writer.is_some()),
        ("skip", step.skip.is_some()),
        ("retry", step.retry.is_some()),
        ("parallelism", step.parallelism.is_some()),
        ("read_ahead", step.read_ahead.is_some()),
        ("argv", step.argv.is_some()),
        ("dir", step.dir.is_some()),
        ("env", step.env.is_some()),
        ("timeout", step.timeout.is_some()),
        ("grace", step.grace.is_some()),
        ("exit_codes", step.exit_codes.is_some()),
        ("steps", step.steps.is_some()),
        ("branches", step.branches.is_some()),
        ("exit", step.exit.is_some()),
        ("job", step.job.is_some()),
        ("parameters", step.parameters.is_some()),
        ("partition", step.partition.is_some()),
        ("promote", !step.promote.is_empty()),
        ("lanes", step.lanes.is_some()),
        ("target", step.target.is_some()),
        ("max_attempts", step.max_attempts.is_some()),
        ("on_failed", step.on_failed.is_some()),
        ("unit_timeout", step.unit_timeout.is_some()),
        ("reduce", step.reduce.is_some()),
        ("start_limit", step.start_limit.is_some()),
        ("allow_start_if_complete", step.allow_start_if_complete),
        ("retry_step", step.retry_step.is_some()),
    ];
    let Some((_, keys)) = STEP_TYPES.iter().find(|(known, _)| *known == kind) else {
        return Ok(());
    };
    let keys = keys.concat();
    match given.iter().find(|(key, is_given)| *is_given && !keys.contains(key)) {
        None => Ok(()),
        Some((key, _)) => {
            let span = step.kind.as_ref().map_or_else(|| step.name.span(), |kind| kind.span());
            let keys = keys.join(", ");
            let message =
                format!("key `{key}` does not belong to a step of type `{kind}`; its keys: {keys}");
            Err(Problem { span: Some(span), message })
        }
    }
}
