//! The keys of each type of step, reader and writer.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Built, Problem, Text};
use crate::definition::{Reader, Step, Writer};

/// The types of a part of a job file, each with the keys that not all types have.
pub(super) type Types = Vec<(&'static str, Vec<&'static str>)>;

fn step_types() -> Types {
    let chunk: &[&str] =
        &["chunk", "reader", "processors", "writer", "skip", "retry", "parallelism", "read_ahead"];
    let command: &[&str] = &["argv", "dir", "env", "timeout", "grace", "exit_codes"];
    // Keys of the steps that do work themselves.
    let common = ["partition", "promote", "start_limit", "allow_start_if_complete"];
    let works = |own: &[&'static str]| [own, common.as_slice()].concat();
    let progressive = vec![
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
    vec![
        ("chunk", works(chunk)),
        ("command", works(command)),
        ("sql", works(&["sql", "url"])),
        ("job", vec!["job", "parameters", "promote", "start_limit", "allow_start_if_complete"]),
        ("flow", vec!["steps"]),
        ("split", vec!["branches"]),
        ("decision", vec!["exit"]),
        ("progressive", progressive),
    ]
}

fn reader_types() -> Types {
    vec![
        (
            "csv",
            vec![
                "path",
                "header",
                "columns",
                "null",
                "delimiter",
                "quote",
                "escape",
                "comment",
                "trim",
                "encoding",
                "decimal",
                "line_bytes_max",
                "if_changed",
            ],
        ),
        ("jsonl", vec!["path", "line_bytes_max", "if_changed"]),
        ("lines", vec!["path", "line_bytes_max", "if_changed"]),
        ("list", vec!["items"]),
        ("sequence", vec!["count"]),
        ("sql", vec!["url", "query", "params", "key"]),
    ]
}

fn writer_types() -> Types {
    vec![
        ("csv", vec!["path", "header", "columns", "null", "delimiter", "quote", "encoding"]),
        ("file", vec!["path"]),
        ("jsonl", vec!["path"]),
        ("lines", vec!["path", "field"]),
        ("none", vec![]),
        ("sql", vec!["url", "table", "mode", "key", "columns", "statement"]),
    ]
}

/// Returns the message about an unknown key at the bytes `at` of `text`, which lists the keys of the given
/// type.
pub(crate) fn of_unknown(text: &str, at: &std::ops::Range<usize>) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let (part, table, key) = holder("", table.get_ref(), at)?;
    let (what, types, of_all) = match part {
        "steps" => ("step", step_types(), &["name", "type", "on"][..]),
        "reader" => ("reader", reader_types(), &["type"][..]),
        "writer" => ("writer", writer_types(), &["type"][..]),
        _ => return None,
    };
    let kind = table.get("type").and_then(|kind| kind.get_ref().as_str());
    let kind = kind.or((what == "step").then_some("chunk"))?;
    let (_, keys) = types.iter().find(|(name, _)| *name == kind)?;
    let keys = [of_all, keys].concat().join(", ");
    Some(format!("there is no key `{key}`; a {what} of type `{kind}` has: {keys}"))
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

/// Refuses keys that belong to another type.
pub(super) fn only(what: &str, kind: &Text, given: &[(&str, bool)], allowed: &Types) -> Built<()> {
    let word = kind.get_ref().as_str();
    let Some((_, keys)) = allowed.iter().find(|(known, _)| *known == word) else {
        let known: Vec<_> = allowed.iter().map(|(known, _)| *known).collect();
        let message =
            format!("there is no {what} of type `{word}`; there are: {}", known.join(", "));
        return Err(Problem::at(kind, message));
    };
    match given.iter().find(|(key, is_given)| *is_given && !keys.contains(key)) {
        None => Ok(()),
        Some((key, _)) => {
            let keys = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
            let message = format!(
                "key `{key}` does not belong to a {what} of type `{word}`; its keys: {keys}"
            );
            Err(Problem::at(kind, message))
        }
    }
}

pub(super) fn keys_of_step(step: &Step, kind: &str) -> Built<()> {
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
        ("sql", step.sql.is_some()),
        ("url", step.url.is_some()),
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
    ];
    let span = step.kind.as_ref().map_or_else(|| step.name.span(), Spanned::span);
    let at = Spanned::new(span, kind.to_owned());
    only("step", &at, &given, &step_types())
}

pub(super) fn keys_of_reader(reader: &Reader) -> Built<()> {
    let given = [
        ("path", reader.path.is_some()),
        ("columns", reader.columns.is_some()),
        ("delimiter", reader.delimiter.is_some()),
        ("quote", reader.quote.is_some()),
        ("escape", reader.escape.is_some()),
        ("comment", reader.comment.is_some()),
        ("trim", reader.trim),
        ("header", reader.header.is_some()),
        ("null", reader.null.is_some()),
        ("encoding", reader.encoding.is_some()),
        ("decimal", reader.decimal.is_some()),
        ("line_bytes_max", reader.line_bytes_max.is_some()),
        ("if_changed", reader.if_changed.is_some()),
        ("count", reader.count.is_some()),
        ("items", reader.items.is_some()),
        ("url", reader.url.is_some()),
        ("query", reader.query.is_some()),
        ("params", reader.params.is_some()),
        ("key", reader.key.is_some()),
    ];
    only("reader", &reader.kind, &given, &reader_types())
}

pub(super) fn keys_of_writer(writer: &Writer) -> Built<()> {
    let given = [
        ("path", writer.path.is_some()),
        ("columns", writer.columns.is_some()),
        ("delimiter", writer.delimiter.is_some()),
        ("quote", writer.quote.is_some()),
        ("header", writer.header.is_some()),
        ("null", writer.null.is_some()),
        ("encoding", writer.encoding.is_some()),
        ("field", writer.field.is_some()),
        ("url", writer.url.is_some()),
        ("table", writer.table.is_some()),
        ("mode", writer.mode.is_some()),
        ("key", writer.key.is_some()),
        ("statement", writer.statement.is_some()),
    ];
    only("writer", &writer.kind, &given, &writer_types())
}
