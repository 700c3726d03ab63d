//! `schedule …`: manages the triggers in the store.
//!
//! A server that shares the store sees a change within a second.

use batchwright::JobOperator;
use batchwright::clock::{Clock, SystemClock};
use batchwright::operator::OperatorError;
use batchwright_server::{
    Answer, Explanation, LIST_MAX, Plan, Request, TriggerRow, TriggerStatus, When, explain, follow,
    plan_of, read_kairoi, show_time,
};
use serde_json::{Value, json};

use crate::args::{Global, ScheduleCommand};
use crate::context::who;
use crate::error::{self, CliError};
use crate::{output, store};

/// Number of requests in each commit of an import.
const IMPORT_BATCH: usize = 1_000;

/// Runs one of the verbs of triggers.
pub(super) fn schedule(global: &Global, command: &ScheduleCommand) -> Result<u8, CliError> {
    let now = SystemClock::default().now().as_microsecond();
    match command {
        ScheduleCommand::Set { identifier, when } => {
            let when = match when.as_slice() {
                [time] => When::parse(time).map_err(|problem| {
                    CliError::Usage(format!("the plan of the trigger is invalid: {problem}"))
                })?,
                words => When::Recurring(Box::new(plan(words, now)?)),
            };
            let set = Request::Set { identifier: identifier.clone(), when };
            let shown = ask(global, &[set, Request::Get { identifier: identifier.clone() }])?;
            tell_one(global, shown)
        }
        ScheduleCommand::Unset(args) => {
            ask(global, &[Request::Unset { identifier: args.identifier.clone() }])?;
            done(global, &args.identifier, "removed")
        }
        ScheduleCommand::Skip { identifier, slot } => skip(global, identifier, slot.as_ref(), now),
        ScheduleCommand::Fire { identifier, slots } => {
            let slots = slots.iter().map(slot).collect::<Result<_, _>>()?;
            ask(global, &[Request::Fire { identifier: identifier.clone(), slots }])?;
            done(global, identifier, "fires now")
        }
        ScheduleCommand::Pause(args) => {
            ask(global, &[Request::Pause { identifier: args.identifier.clone() }])?;
            done(global, &args.identifier, "paused")
        }
        ScheduleCommand::Resume(args) => {
            let identifier = args.identifier.clone();
            let resume = Request::Resume { identifier: identifier.clone() };
            tell_one(global, ask(global, &[resume, Request::Get { identifier }])?)
        }
        ScheduleCommand::List { prefix, limit, after } => {
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX).min(LIST_MAX);
            let request = Request::List {
                prefix: prefix.clone(),
                limit: limit.saturating_add(1),
                after: after.clone(),
            };
            let mut rows = triggers(ask(global, &[request])?);
            let has_more = rows.len() > limit;
            rows.truncate(limit);
            let code = list(global, &rows)?;
            if let Some(last) = rows.last().filter(|_| has_more) {
                let last = batchwright::text::shown(&last.key.identifier);
                output::more(rows.len(), &format!("--after '{last}', or another --limit"));
            }
            Ok(code)
        }
        ScheduleCommand::History(args) => {
            let request = Request::History { identifier: args.identifier.clone() };
            list(global, &triggers(ask(global, &[request])?))
        }
        ScheduleCommand::Explain { words, count } => {
            let count = usize::try_from(*count).unwrap_or(usize::MAX);
            tell_explanation(global, words, now, count)
        }
        ScheduleCommand::ImportKairoi { folder } => import(global, folder),
    }
}

/// Skips a time of a trigger, or the next one.
fn skip(
    global: &Global,
    identifier: &str,
    text: Option<&String>,
    now: i64,
) -> Result<u8, CliError> {
    let skip = match text {
        Some(text) => Request::Skip { identifier: identifier.to_owned(), slot: slot(text)? },
        None => {
            let history = Request::History { identifier: identifier.to_owned() };
            Request::skip_next(identifier, ask(global, &[history])?, now)
                .map_err(CliError::Schedule)?
        }
    };
    let skipped = skip.command().and_then(|command| command.detail).unwrap_or_default();
    ask(global, &[skip])?;
    done(global, identifier, &format!("does not fire for {skipped}"))
}

fn slot(text: &String) -> Result<i64, CliError> {
    match When::parse(text) {
        Ok(When::At(at)) => Ok(at),
        Ok(When::Recurring(_)) => Err(CliError::Usage(format!("`{text}` is no time"))),
        Err(problem) => Err(CliError::Usage(format!("--slot: {problem}"))),
    }
}

fn plan(words: &[String], now: i64) -> Result<Plan, CliError> {
    Plan::parse(words, now).map_err(|problem| {
        CliError::Usage(format!("the plan of the trigger is invalid: {problem}"))
    })
}

/// Executes `requests` in the store and returns the last answer.
pub(super) fn ask(global: &Global, requests: &[Request]) -> Result<Answer, CliError> {
    let mut last = Answer::Done;
    let nothing: Option<Vec<_>> = requests.iter().map(Request::answer_without_schedule).collect();
    if let Some(answers) = nothing
        && !store::is_there(global.store_url())?
    {
        for answer in answers {
            last = answer.map_err(CliError::Schedule)?;
        }
        return Ok(last);
    }
    let store = store::open(global.store_url())?;
    let mut schedule = store.schedule()?;
    for answer in follow(&mut schedule, &SystemClock::default(), requests)? {
        last = answer.map_err(CliError::Schedule)?;
    }
    let operator = JobOperator::new(store.repository);
    for command in requests.iter().filter_map(Request::command) {
        let (subject, detail) = (&command.subject, command.detail.as_deref());
        operator.audit(&who(), command.action, subject, detail).map_err(OperatorError::from)?;
    }
    Ok(last)
}

fn triggers(answer: Answer) -> Vec<TriggerRow> {
    match answer {
        Answer::Triggers(rows) => rows,
        _ => Vec::new(),
    }
}

fn as_json(row: &TriggerRow) -> Value {
    let time = |at: Option<i64>| at.map(show_time);
    json!({
        "identifier": row.key.identifier,
        "status": row.status.name(),
        "slot": show_time(row.slot),
        "due": time(row.due),
        "plan": row.plan,
        "attempts": row.attempt,
        "rule": row.rule,
        "fired_at": time(row.fired_at),
        "ended_at": time(row.ended_at),
        "reason": row.reason,
        "output": row.output,
    })
}

fn list(global: &Global, rows: &[TriggerRow]) -> Result<u8, CliError> {
    let data: Vec<_> = rows.iter().map(as_json).collect();
    let header = ["TRIGGER", "STATUS", "TIME (UTC)", "PLAN", "REASON"];
    output::list(global.format, &data, header, |row| {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        [text("identifier"), text("status"), text("slot"), text("plan"), text("reason")]
    })?;
    Ok(error::OK)
}

fn tell_one(global: &Global, answer: Answer) -> Result<u8, CliError> {
    let rows = triggers(answer);
    let Some(row) = rows.first() else { return Ok(error::OK) };
    output::document(global.format, &as_json(row), |_| {
        format!("{} is {}, {} UTC", row.key.identifier, row.status, show_time(row.slot))
    })?;
    Ok(error::OK)
}

pub(super) fn done(global: &Global, identifier: &str, what: &str) -> Result<u8, CliError> {
    output::document(global.format, &json!({"identifier": identifier, "done": what}), |_| {
        format!("{identifier} {what}")
    })?;
    Ok(error::OK)
}

fn tell_explanation(
    global: &Global,
    words: &[String],
    now: i64,
    count: usize,
) -> Result<u8, CliError> {
    let (identifier, plan, slots) = match words {
        [identifier] => {
            let request = Request::History { identifier: identifier.clone() };
            let rows = triggers(ask(global, &[request])?);
            if rows.first().is_some_and(|row| row.status == TriggerStatus::Paused) {
                tracing::warn!("{identifier} is paused: nothing fires until it is resumed");
            }
            let stored = rows.first().map(plan_of).transpose().map_err(CliError::Usage)?.flatten();
            match stored {
                Some(plan) => (identifier.as_str(), plan, rows.into_iter().skip(1).collect()),
                None => return tell_one(global, Answer::Triggers(rows)),
            }
        }
        words => ("", plan(words, now)?, Vec::new()),
    };
    let explained = explain(identifier, &plan, &slots, now, count);
    output::document(global.format, &explained, as_text)?;
    Ok(error::OK)
}

fn as_text(explained: &Explanation) -> String {
    let mut lines = vec![explained.rule.clone(), explained.policies.clone(), "Next:".to_owned()];
    lines.extend(explained.next.iter().map(|fire| format!("  {fire}")));
    if !explained.decided.is_empty() {
        let decided = explained.decided.join(", ");
        lines.push(format!("But not for {decided}, skipped or fired early by a command."));
    }
    if !explained.clock_changes.is_empty() {
        lines.push("When the clock changes:".to_owned());
        lines.extend(explained.clock_changes.iter().map(|change| format!("  {change}")));
    }
    lines.extend(explained.overlap.iter().map(|line| format!("So far: {line}")));
    lines.join("\n")
}

fn import(global: &Global, folder: &std::path::Path) -> Result<u8, CliError> {
    let data = read_kairoi(folder).map_err(|problem| {
        CliError::Usage(format!("cannot import the data of Kairoi: {problem}"))
    })?;
    let mut schedule = store::open(global.store_url())?.schedule()?;
    let mut problems = data.problems;
    let (mut rules, mut planned) = (0, 0);
    for batch in data.requests.chunks(IMPORT_BATCH) {
        let answers = follow(&mut schedule, &SystemClock::default(), batch)?;
        for (request, answer) in batch.iter().zip(answers) {
            match (answer, request) {
                (Err(refused), _) => problems.push(refused.message),
                (Ok(_), Request::SetRule { .. }) => rules += 1,
                (Ok(_), _) => planned += 1,
            }
        }
    }
    for problem in &problems {
        tracing::warn!("{problem}");
    }
    let summary = json!({
        "rules": rules, "triggers": planned, "ended": data.ended, "problems": problems,
    });
    output::document(global.format, &summary, |_| {
        format!(
            "imported {rules} rules and {planned} planned triggers; ignored {} ended triggers; {} problems",
            data.ended,
            problems.len()
        )
    })?;
    Ok(if problems.is_empty() { error::OK } else { error::FAILED })
}
