//! Explains a plan in words.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::plan::{Overlap, Plan};
use super::time::{self, Micros};
use super::trigger::is_decided;
use super::{TriggerRow, TriggerStatus};

/// How far ahead `explain` looks for changes of the clock.
const CHANGES_WITHIN_DAYS: i64 = 370;
/// Most fires listed of one day on which the clock changes.
const FIRES_OF_A_DAY_MAX: usize = 6;

/// The explanation of a plan.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Explanation {
    /// The rule in words.
    pub rule: String,
    /// The policies in words.
    pub policies: String,
    /// The next fires, in the plan's zone.
    pub next: Vec<String>,
    /// The coming times that a command has skipped, or fired early, in the plan's zone.
    pub decided: Vec<String>,
    /// The fires on days on which the clock changes.
    pub clock_changes: Vec<String>,
    /// How long past fires took, compared with the time between two fires.
    pub overlap: Option<String>,
}

/// Explains `plan` of trigger `identifier` at `now` (microseconds since 1970), with its next `count` fires.
/// `slots` are the rows of its past slots.
pub fn explain(
    identifier: &str,
    plan: &Plan,
    slots: &[TriggerRow],
    now: Micros,
    count: usize,
) -> Explanation {
    let (mut next, mut decided) = (Vec::new(), Vec::new());
    let mut slot = plan.first(now);
    while let Some(at) = slot.filter(|_| next.len() < count) {
        match is_decided(slots, at) {
            true => decided.push(at),
            false => next.push(at),
        }
        slot = plan.next(at);
    }
    let shown = |at: &Micros| shown(*at, plan, identifier);
    Explanation {
        rule: plan.describe(),
        policies: policies(plan),
        overlap: overlap(plan, slots, &next),
        clock_changes: clock_changes(plan, now),
        next: next.iter().map(shown).collect(),
        decided: decided.iter().map(shown).collect(),
    }
}

fn shown(at: Micros, plan: &Plan, identifier: &str) -> String {
    let local = time::timestamp(at).to_zoned(plan.zone.clone());
    let mut text = local.strftime("%Y-%m-%d %H:%M:%S %Z").to_string();
    if plan.zone != TimeZone::UTC {
        text.push_str(&format!(" ({} UTC)", time::show(at)));
    }
    match plan.delay(identifier, at) {
        0 => {}
        delay => {
            let delay = Duration::from_micros(delay.unsigned_abs()).as_millis();
            text.push_str(&format!(", {delay} ms later by its jitter"));
        }
    }
    text
}

fn policies(plan: &Plan) -> String {
    use super::plan::Misfire;
    let misfire = match plan.misfire {
        Misfire::Skip => "slots missed while no server ran do not fire".to_owned(),
        Misfire::Once => "of slots missed while no server ran the newest fires".to_owned(),
        Misfire::All => {
            let age = plan
                .misfire_age
                .map(|age| format!(" that are not older than {}", time::show_duration(age)));
            let cap = plan.misfire_cap;
            format!(
                "slots missed while no server ran all fire, the newest {cap}{}",
                age.unwrap_or_default()
            )
        }
    };
    let overlap = match plan.overlap {
        Overlap::Allow => "a slot fires although an earlier one still runs".to_owned(),
        Overlap::Skip => "a slot does not fire while an earlier one runs".to_owned(),
        Overlap::Queue(length) => {
            format!("a slot waits while an earlier one runs, with at most {length}")
        }
        Overlap::Replace => "a slot ends an earlier one that still runs".to_owned(),
    };
    format!("{misfire}; {overlap}")
}

/// Describes the fires on the days of the coming year on which the clock of the plan's zone changes.
fn clock_changes(plan: &Plan, now: Micros) -> Vec<String> {
    let start = time::timestamp(now);
    let end = start.checked_add((CHANGES_WITHIN_DAYS * 24).hours()).unwrap_or(Timestamp::MAX);
    let mut sentences = Vec::new();
    for change in plan.zone.following(start).take_while(|change| change.timestamp() < end) {
        let at = change.timestamp();
        let before = at.checked_sub(1.second()).map(|at| plan.zone.to_offset(at));
        let Ok(before) = before else { continue };
        let shift = i64::from(change.offset().seconds()) - i64::from(before.seconds());
        if shift == 0 {
            continue;
        }
        let local = at.to_zoned(plan.zone.clone());
        let date = local.date();
        let from = before.to_datetime(at).time();
        let Ok(midnight) = date.to_zoned(plan.zone.clone()) else { continue };
        let Ok(next_midnight) = date.tomorrow().and_then(|day| day.to_zoned(plan.zone.clone()))
        else {
            continue;
        };
        let mut fires = Vec::new();
        let mut slot = plan.first(midnight.timestamp().as_microsecond());
        while let Some(one) = slot.filter(|one| *one < next_midnight.timestamp().as_microsecond()) {
            fires.push(
                time::timestamp(one)
                    .to_zoned(plan.zone.clone())
                    .strftime("%H:%M:%S %Z")
                    .to_string(),
            );
            if fires.len() > FIRES_OF_A_DAY_MAX {
                break;
            }
            slot = plan.next(one);
        }
        let direction = if shift > 0 { "forward" } else { "back" };
        let fires = match fires.len() {
            0 => "it does not fire that day".to_owned(),
            many if many > FIRES_OF_A_DAY_MAX && plan.follows_real_time() => {
                "it follows real time through the change".to_owned()
            }
            many if many > FIRES_OF_A_DAY_MAX => {
                format!("it fires at {}, …", fires[..FIRES_OF_A_DAY_MAX].join(", "))
            }
            _ => format!("it fires at {}", fires.join(", ")),
        };
        sentences.push(format!(
            "{date}: the clock goes {direction} from {} to {}; {fires}",
            from.strftime("%H:%M"),
            local.strftime("%H:%M")
        ));
    }
    sentences
}

/// Compares the duration of past fires with the time between the next ones.
fn overlap(plan: &Plan, slots: &[TriggerRow], next: &[Micros]) -> Option<String> {
    let mut lengths: Vec<Micros> = slots
        .iter()
        .filter(|row| row.status != TriggerStatus::Skipped)
        .filter_map(|row| Some(row.ended_at? - row.fired_at?))
        .collect();
    lengths.sort_unstable();
    let (median, longest) = (*lengths.get(lengths.len() / 2)?, *lengths.last()?);
    let gap = next.windows(2).map(|pair| pair[1] - pair[0]).min()?;
    let length =
        |micros: Micros| time::show_duration(Duration::from_millis(micros.unsigned_abs() / 1_000));
    let verdict = match (longest > gap, median > gap) {
        (_, true) => "most fires run into the next one",
        (true, _) => "the longest would have run into the next one",
        _ => "none would have run into the next one",
    };
    let policy = plan.overlap.name();
    Some(format!(
        "its last {} fires took {} (median) to {} (longest), the shortest time between two is {}: {verdict} \
         (overlap {policy})",
        lengths.len(),
        length(median),
        length(longest),
        length(gap)
    ))
}
