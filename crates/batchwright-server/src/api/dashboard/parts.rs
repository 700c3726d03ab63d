//! What several pages show: statuses, times, durations, numbers, progress, tables of executions.

use batchwright::BatchStatus;
use batchwright::execution::{ExecutionSummary, ProgressUnit, StepSummary};
use jiff::Timestamp;
use maud::{Markup, html};

use super::view::View;

/// Returns a whole number with its digits in groups of three.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Returns a count of things with its noun: `1 execution`, `2 executions`.
pub(super) fn count_of(count: usize, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {noun}{s}", number(count as u64))
}

/// Returns a duration in the two largest units that it has.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "above zero, cut")]
    let all = whole as u64;
    match all {
        0 => format!("{:.0} ms", whole * 1_000.0),
        1..60 => format!("{whole:.1} s"),
        60..3_600 => format!("{} min {:02} s", all / 60, all % 60),
        3_600..86_400 => format!("{} h {:02} min", all / 3_600, all / 60 % 60),
        _ => format!("{} d {:02} h", all / 86_400, all / 3_600 % 24),
    }
}

/// Returns the seconds from `from` to `to`.
pub(super) fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// Returns a time relative to now; a script shows the exact one in the viewer's zone.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> Markup {
    let distance = seconds(at, now);
    let text = match distance {
        -1.0..5.0 => "now".to_owned(),
        5.0.. => format!("{} ago", coarse(distance)),
        _ => format!("in {}", coarse(-distance)),
    };
    html! { time datetime=(format!("{at:.3}")) title=(exact(at)) data-ago="" { (text) } }
}

/// Returns a duration in its largest unit.
fn coarse(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "above zero, cut")]
    let all = seconds.max(0.0) as u64;
    match all {
        0..60 => format!("{all} s"),
        60..3_600 => format!("{} min", all / 60),
        3_600..172_800 => format!("{} h", all / 3_600),
        _ => format!("{} d", all / 86_400),
    }
}

/// Returns a time in UTC to the second.
pub(super) fn exact(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Returns a time in UTC that a script shows in the viewer's zone.
pub(super) fn clock(at: Timestamp) -> Markup {
    html! { time datetime=(format!("{at:.3}")) title=(exact(at)) data-clock="" { (at.strftime("%m-%d %H:%M:%S")) } }
}

/// Returns a time of the schedule, in microseconds since 1970.
pub(super) fn micros(at: i64) -> Timestamp {
    Timestamp::from_microsecond(at).unwrap_or_default()
}

/// Returns class, sign and word of a status; the sign tells it without its colour.
pub(super) fn status_words(
    status: BatchStatus,
    is_stale: bool,
) -> (&'static str, &'static str, &'static str) {
    match status {
        _ if is_stale => ("stale", "!", "Stale"),
        BatchStatus::Starting => ("starting", "…", "Starting"),
        BatchStatus::Started => ("running", "▸", "Running"),
        BatchStatus::Stopping => ("stopping", "▪", "Stopping"),
        BatchStatus::Stopped => ("stopped", "■", "Stopped"),
        BatchStatus::Completed => ("completed", "✓", "Completed"),
        BatchStatus::Failed => ("failed", "✕", "Failed"),
        BatchStatus::Abandoned => ("abandoned", "–", "Abandoned"),
        BatchStatus::Unknown => ("unknown", "?", "Unknown"),
    }
}

pub(super) fn status(status: BatchStatus, is_stale: bool) -> Markup {
    let (class, sign, word) = status_words(status, is_stale);
    html! { span.status.(class) { span aria-hidden="true" { (sign) } (word) } }
}

/// Returns the status of a trigger.
pub(super) fn trigger_status(name: &str) -> Markup {
    let (class, sign, word) = match name {
        "planned" => ("starting", "…", "Planned"),
        "triggered" => ("running", "▸", "Triggered"),
        "executed" => ("completed", "✓", "Executed"),
        "failed" => ("failed", "✕", "Failed"),
        "dead" => ("failed", "✕", "Dead"),
        "paused" => ("stopped", "■", "Paused"),
        "skipped" => ("abandoned", "–", "Skipped"),
        "ended" => ("unknown", "–", "Ended"),
        name => ("unknown", "–", name),
    };
    html! { span.status.(class) { span aria-hidden="true" { (sign) } (word) } }
}

/// Returns how far a step has come, with rate and probable end.
pub(super) fn progress(step: &StepSummary, now: Timestamp) -> Markup {
    html! {
        @if let Some(progress) = &step.progress {
            progress max=(progress.total) value=(progress.done.min(progress.total)) aria-label=(format!("progress of step {}", step.name)) {}
            span.figures {
                (percent(progress.done, progress.total)) " % of "
                @match progress.unit {
                    ProgressUnit::Items => { (number(progress.total)) " items" }
                    ProgressUnit::Bytes => { (bytes(progress.total)) }
                }
            }
        }
        @if let Some(estimate) = &step.estimate {
            span.figures {
                (rate(estimate.items_per_second))
                @if let Some(ends_at) = estimate.ends_at {
                    @if ends_at < now { ", overdue since " (ago(ends_at, now)) } @else { ", ends " (ago(ends_at, now)) }
                    span.hint title="if the rest of the input is read as fast as this execution has read so far" { " by rate" }
                }
            }
        }
    }
}

/// Returns how many items or units a second has.
pub(super) fn rate(items_per_second: f64) -> String {
    match items_per_second {
        10.0.. => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "above zero"
            )]
            let whole = items_per_second.round() as u64;
            format!("{}/s", number(whole))
        }
        _ => format!("{items_per_second:.1}/s"),
    }
}

fn percent(done: u64, total: u64) -> u64 {
    match total {
        0 => 100,
        total => u64::try_from(u128::from(done) * 100 / u128::from(total)).unwrap_or(100).min(100),
    }
}

pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1_000 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
    let mut size = count as f64 / 1_000.0;
    let mut unit = 0;
    while size >= 1_000.0 && unit + 1 < UNITS.len() {
        size /= 1_000.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// Returns the parameters as `name=value`, cut to what a row of a table has room for.
pub(super) fn parameters(execution: &ExecutionSummary) -> Markup {
    const SHOWN_MAX: usize = 4;
    let identifying = execution.parameters.iter().filter(|(_, one)| one.identifying);
    let rest = execution.parameters.len().saturating_sub(SHOWN_MAX);
    html! {
        @for (name, parameter) in identifying.take(SHOWN_MAX) {
            span.parameter { (name) "=" b { (cut(&parameter.value.to_string(), 40)) } }
            " "
        }
        @if rest > 0 { span.hint { "+" (rest) } }
    }
}

/// Returns an error code and its message, whose words in backticks are code.
pub(super) fn cause(code: &str, message: &str, letters_max: usize) -> Markup {
    html! { code { (code) } ": " (prose(&cut(message, letters_max))) }
}

/// Returns a text whose words in backticks are code.
pub(super) fn prose(text: &str) -> Markup {
    let parts: Vec<_> = text.split('`').collect();
    html! {
        @if parts.len().is_multiple_of(2) { (text) }
        @else {
            @for (index, part) in parts.into_iter().enumerate() {
                @if index.is_multiple_of(2) { (part) } @else { code { (part) } }
            }
        }
    }
}

/// Returns the beginning of a text, with a mark when something is left out.
pub(super) fn cut(text: &str, letters_max: usize) -> String {
    match text.char_indices().nth(letters_max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Returns a table that can be scrolled sideways; a heading that begins with `>` is that of a column of numbers.
pub(super) fn table(label: &str, headings: &[&str], rows: &Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(label) { table.list {
            thead { tr { @for heading in headings {
                @match heading.strip_prefix('>') { Some(heading) => th.right { (heading) }, None => th { (heading) } }
            } } }
            tbody { (rows) }
        } }
    }
}

/// Returns a table of executions; those of one job leave out its name.
pub(super) fn executions(
    view: &View,
    list: &[ExecutionSummary],
    with_job: bool,
    with_boxes: bool,
) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Executions" { table.list {
            thead { tr {
                @if with_boxes { th { span.hidden { "Selected" } } }
                th { "Execution" }
                @if with_job { th { "Job" } }
                th { "Status" } th { "Parameters, failure" } th { "Accepted" } th.right { "Took" } th.right { "Written" } th.right { "Skipped" } th { "By" }
            } }
            tbody { @for execution in list { (row(view, execution, with_job, with_boxes)) } }
        } }
    }
}

fn row(view: &View, execution: &ExecutionSummary, with_job: bool, with_boxes: bool) -> Markup {
    let id = execution.id;
    let (written, skipped) = totals(&execution.steps);
    html! {
        tr #(format!("execution-{id}")) {
            @if with_boxes { td { input type="checkbox" name="id" value=(id) form="bulk" aria-label=(format!("select execution {id}")); } }
            td { (view.execution(id)) }
            @if with_job { td { a href=(view.url(&job_path(&execution.job))) { (execution.job) } } }
            td { (status(execution.status, execution.stale)) }
            td.wide {
                (parameters(execution))
                @if let Some(failure) = &execution.failure {
                    div.failure title=(failure.message) { (cause(&failure.code, &failure.message, 120)) }
                }
                @if execution.status.is_running() {
                    @if let Some(step) = execution.steps.iter().rev().find(|step| step.status.is_running()) {
                        div.progress { span { (step.name) } (progress(step, view.now)) }
                    }
                }
            }
            td { (ago(execution.created_at, view.now)) }
            td.right { (took(execution, view.now)) }
            td.right { (number(written)) }
            td.right { @if skipped > 0 { a href=(view.url(&format!("/executions/{id}/skips"))) { (number(skipped)) } } @else { "0" } }
            td { (execution.triggered_by.as_deref().unwrap_or("application")) }
        }
    }
}

/// Returns the path of a job's page.
pub(super) fn job_path(name: &str) -> String {
    format!("/jobs/{}", super::super::page::percent(name))
}

/// Returns written and skipped items of all steps; a step with partitions has the sums of its partitions itself.
pub(super) fn totals(steps: &[StepSummary]) -> (u64, u64) {
    let whole = steps.iter().filter(|step| step.partition.is_none());
    whole.fold((0, 0), |(written, skipped), step| {
        (written + step.counters.write, skipped + step.counters.skips())
    })
}

pub(super) fn took(execution: &ExecutionSummary, now: Timestamp) -> Markup {
    let begin = execution.started_at.unwrap_or(execution.created_at);
    let end = execution.ended_at.unwrap_or(now);
    html! {
        @if execution.started_at.is_none() && execution.status.is_running() { span.hint { "queued" } }
        @else { (duration(seconds(begin, end))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_durations_are_written_for_people() {
        assert_eq!(
            ["0", "999", "1,000", "12,345,678"],
            [0, 999, 1_000, 12_345_678].map(number)[..]
        );
        let written = [0.004, 3.25, 61.0, 3_725.0, 200_000.0].map(duration);
        assert_eq!(written, ["4 ms", "3.2 s", "1 min 01 s", "1 h 02 min", "2 d 07 h"]);
        assert_eq!([999, 1_500, 2_340_000_000].map(bytes), ["999 B", "1.5 kB", "2.3 GB"]);
        assert_eq!((percent(0, 0), percent(1, 3), percent(u64::MAX, 1)), (100, 33, 100));
        assert_eq!((cut("äöü", 3), cut("äöüx", 3)), ("äöü".to_owned(), "äöü…".to_owned()));
    }
}
