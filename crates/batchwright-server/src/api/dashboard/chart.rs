//! Pictures as SVG: outcomes over time, durations of a job, steps of an execution. Colours come from the stylesheet.

use batchwright::BatchStatus;
use batchwright::execution::{ExecutionSummary, StepSummary};
use batchwright::query::OutcomeCount;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::parts::{count_of, cut, duration, exact, number, seconds, status_words, totals};
use super::view::View;

/// Draws the outcomes of `periods` equal periods that begin with `since`.
pub(super) fn outcomes(
    counts: &[OutcomeCount],
    periods: u32,
    since: Timestamp,
    seconds: u32,
) -> Markup {
    const WIDTH: u32 = 40;
    const HEIGHT: u64 = 80;
    let of = |period: u32| counts.iter().filter(move |one| one.period == period);
    let highest = (0..periods).map(|period| of(period).map(|one| one.count).sum()).max();
    let highest = highest.unwrap_or(0);
    let total: u64 = counts.iter().map(|one| one.count).sum();
    let failed = counts.iter().filter(|one| one.status == BatchStatus::Failed);
    let failed: u64 = failed.map(|one| one.count).sum();
    let label = format!("{total} executions in the last {periods} hours, {failed} of them failed");
    let begin =
        |period: u32| since + SignedDuration::from_secs(i64::from(period) * i64::from(seconds));
    let mut by_status: Vec<(&str, u64)> = Vec::new();
    for one in counts {
        let word = status_words(one.status, false).2;
        match by_status.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += one.count,
            None => by_status.push((word, one.count)),
        }
    }
    html! {
        svg.outcomes viewBox=(format!("0 0 {} {HEIGHT}", periods * WIDTH)) preserveAspectRatio="none" role="img" aria-label=(label) {
            @for period in 0..periods {
                @let x = period * WIDTH + 3;
                g {
                    title { (exact(begin(period))) @for one in of(period) { ", " (one.count) " " (status_words(one.status, false).2) } }
                    rect.floor x=(x) y=(HEIGHT - 1) width=(WIDTH - 6) height="1" {}
                    @for (y, height, class) in stacked(of(period), highest, HEIGHT) {
                        rect.(class) x=(x) y=(y) width=(WIDTH - 6) height=(height) {}
                    }
                }
            }
        }
        div.axis aria-hidden="true" {
            @for period in (0..periods).step_by(6) {
                span data-hour=(format!("{:.0}", begin(period))) { (begin(period).strftime("%H:00")) }
            }
        }
        p.hint {
            (number(total)) " accepted" @for (index, (word, count)) in by_status.iter().enumerate() { (if index == 0 { ": " } else { ", " }) (number(*count)) " " (word.to_lowercase()) }
            @if total > 0 { "; at most " (number(highest)) " in an hour" } "."
        }
    }
}

/// Returns position, height and class of the parts of a bar, which have at least two units each.
fn stacked<'a>(
    counts: impl Iterator<Item = &'a OutcomeCount>,
    highest: u64,
    height: u64,
) -> Vec<(u64, u64, &'static str)> {
    let mut sorted: Vec<_> = counts.collect();
    sorted.sort_by_key(|one| (one.status == BatchStatus::Failed, one.status.name()));
    let (mut parts, mut top) = (Vec::new(), height);
    for one in sorted {
        let part = (one.count * (height - 8) / highest.max(1)).max(2);
        top = top.saturating_sub(part);
        parts.push((top, part, status_words(one.status, false).0));
    }
    parts
}

/// What a chart of a job's executions measures.
#[derive(Clone, Copy)]
pub(super) enum Measure {
    /// How long they took.
    Duration,
    /// How many items they have written.
    Written,
}

impl Measure {
    fn of(self, one: &ExecutionSummary) -> Option<f64> {
        match self {
            Self::Duration => Some(seconds(one.started_at?, one.ended_at?)),
            #[expect(clippy::cast_precision_loss, reason = "a picture")]
            Self::Written => one.ended_at.map(|_| totals(&one.steps).0 as f64),
        }
    }

    fn shown(self, value: f64) -> String {
        match self {
            Self::Duration => duration(value),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it was a count"
            )]
            Self::Written => format!("{} items", number(value as u64)),
        }
    }
}

/// Draws a measure of the executions of a job, the oldest first, with the band between the middle and the 95th percentile.
pub(super) fn trend(view: &View, executions: &[ExecutionSummary], measure: Measure) -> Markup {
    const WIDTH: f64 = 720.0;
    const HEIGHT: f64 = 120.0;
    let ended: Vec<(&ExecutionSummary, f64)> =
        executions.iter().rev().filter_map(|one| Some((one, measure.of(one)?))).collect();
    let completed = ended.iter().filter(|(one, _)| one.status == BatchStatus::Completed);
    let mut sorted: Vec<f64> = completed.map(|(_, value)| *value).collect();
    sorted.sort_by(f64::total_cmp);
    let highest = ended.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let level = |value: f64| HEIGHT - 6.0 - value / highest.max(0.001) * (HEIGHT - 14.0);
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    let step = WIDTH / ended.len().max(1) as f64;
    let (middle, high) = (quantile(&sorted, 0.5), quantile(&sorted, 0.95));
    let shown = |value: f64| measure.shown(value);
    let label = match measure {
        Measure::Duration => "durations",
        Measure::Written => "written items",
    };
    html! {
        @if ended.is_empty() { p.empty { "No execution has ended yet." } }
        @else {
            svg.trend viewBox=(format!("0 0 {WIDTH:.0} {HEIGHT:.0}")) preserveAspectRatio="none" role="group"
                aria-label=(format!("{label} of the last {}, half of the completed ones at most {}", count_of(ended.len(), "execution"), shown(middle))) {
                @if !sorted.is_empty() {
                    rect.band x="0" y=(format!("{:.1}", level(high))) width=(WIDTH) height=(format!("{:.1}", (level(middle) - level(high)).max(1.0))) {}
                }
                @for (index, (execution, value)) in ended.iter().enumerate() {
                    @let (class, _, word) = status_words(execution.status, execution.stale);
                    @let named = format!("{} {word}, {}", execution.id, shown(*value));
                    a href=(view.url(&format!("/executions/{}", execution.id))) aria-label=(format!("execution {named}")) {
                        rect.bar.(class) x=(format!("{:.1}", at(index, step))) y=(format!("{:.1}", level(*value).min(HEIGHT - 7.0))) width=(format!("{:.1}", (step - 2.0).clamp(1.0, 24.0)))
                            height=(format!("{:.1}", (HEIGHT - 6.0 - level(*value)).max(1.0))) {
                            title { (named) }
                        }
                    }
                }
            }
            p.hint {
                "At most " b { (shown(highest)) } "."
                // Fewer have no half.
                @if sorted.len() > 2 { " Half of the completed ones: at most " b { (shown(middle)) } ", 95 %: at most " b { (shown(high)) } "." }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a picture")]
fn at(index: usize, step: f64) -> f64 {
    index as f64 * step + 1.0
}

/// Returns the value below which the part `share` of `sorted` lies, by the nearest rank.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a short list"
    )]
    let rank = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

/// Draws when each step and partition ran, with the ones that decided how long the execution took.
pub(super) fn gantt(execution: &ExecutionSummary, is_whole: bool, now: Timestamp) -> Markup {
    const WIDTH: f64 = 1_000.0;
    let steps = &*execution.steps;
    let begin = execution.started_at.unwrap_or(execution.created_at);
    let end = execution.ended_at.unwrap_or(now).max(begin);
    let whole = seconds(begin, end).max(0.001);
    let x = |at: Timestamp| seconds(begin, at).clamp(0.0, whole) / whole * WIDTH;
    // Of a part it is not known which ones decided.
    let critical = if is_whole { critical(steps, now) } else { Vec::new() };
    html! {
        @if steps.is_empty() { p.empty { "No step has begun." } }
        @else {
            table.gantt {
                caption.hidden { "Times of " (count_of(steps.len(), "step")) " in " (duration(whole)) }
                thead { tr { th { span.hidden { "Step" } } th { div.axis { @for quarter in 0..=4_u8 { span { (duration(whole * f64::from(quarter) / 4.0)) } } } } th { span.hidden { "Took" } } } }
                tbody { @for (index, step) in steps.iter().enumerate() {
                    @let (class, _, word) = status_words(step.status, false);
                    @let (from, to) = (x(step.started_at), x(step.ended_at.unwrap_or(now)));
                    @let took = duration(seconds(step.started_at, step.ended_at.unwrap_or(now)));
                    tr.critical[critical.contains(&index)] {
                        th scope="row" title=(name(step)) { (cut(&name(step), 40)) }
                        td { svg viewBox=(format!("0 0 {WIDTH:.0} 14")) preserveAspectRatio="none" role="img" aria-label=(format!("{word} in {took}, from {}", duration(seconds(begin, step.started_at)))) {
                            title { (name(step)) ": " (word) ", " (took) ", " (number(step.counters.read)) " read, " (number(step.counters.write)) " written" }
                            rect.bar.(class) x=(format!("{:.1}", from.min(WIDTH - 3.0))) y="0" width=(format!("{:.1}", (to - from).max(3.0))) height="14" {}
                        } }
                        td.right { (took) }
                    }
                } }
            }
            @if critical.len() > 1 {
                p.hint { "Bold: the steps that decided how long the execution took." }
            }
        }
    }
}

fn name(step: &StepSummary) -> String {
    match &step.partition {
        Some(partition) => format!("{} · {partition}", step.name),
        None => step.name.clone(),
    }
}

/// Returns the indexes of the critical path: from the step that ended last back, each time to the one that ended last before the
/// step began.
fn critical(steps: &[StepSummary], now: Timestamp) -> Vec<usize> {
    let end = |index: usize| steps[index].ended_at.unwrap_or(now);
    let whole = |index: &usize| steps[*index].partition.is_none();
    let mut path = Vec::new();
    let mut next = (0..steps.len()).filter(whole).max_by_key(|index| end(*index));
    while let Some(index) = next {
        path.push(index);
        let began = steps[index].started_at;
        let before = |other: &usize| whole(other) && !path.contains(other) && end(*other) <= began;
        next = (0..steps.len()).filter(before).max_by_key(|other| end(*other));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright::execution::{Counters, ExitStatus, StepExecutionId};

    fn step(name: &str, from: i64, to: i64) -> StepSummary {
        StepSummary {
            id: StepExecutionId(1),
            name: name.to_owned(),
            status: BatchStatus::Completed,
            exit: ExitStatus::completed(),
            counters: Counters::default(),
            started_at: Timestamp::from_second(from).unwrap(),
            ended_at: Some(Timestamp::from_second(to).unwrap()),
            failure: None,
            progress: None,
            estimate: None,
            partition: None,
            handled: false,
        }
    }

    #[test]
    fn the_critical_path_goes_back_from_the_last_end() {
        let mut partition = step("b", 2, 9);
        partition.partition = Some("1".to_owned());
        let steps =
            [step("a", 0, 2), step("short", 2, 4), step("b", 2, 9), partition, step("c", 9, 12)];
        assert_eq!(critical(&steps, Timestamp::UNIX_EPOCH), [4, 2, 0]);
        assert_eq!(critical(&[], Timestamp::UNIX_EPOCH), [0; 0]);
    }

    #[test]
    fn quantiles_are_values_of_the_list() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(
            [0.0, 0.5, 0.95, 1.0].map(|share| quantile(&sorted, share)),
            [1.0, 2.0, 4.0, 4.0]
        );
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
