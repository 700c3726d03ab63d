//! When a recurring trigger fires: pure arithmetic on slots, which are microseconds since 1970.
//!
//! Daylight saving, as the [cron library](croner) decides it and our table of golden cases pins it: a fixed
//! time that the clock jumps over fires once, at the first moment behind the gap; one that the clock passes
//! twice fires once, the first time. Patterns with steps or wildcards in the hours or minutes follow real time
//! through both.

use std::str::FromStr;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, Zoned};
use sha2::{Digest, Sha256};

use super::time::{self, Micros};

/// Days that are jumped over before a plan is taken for one that never fires.
const EXCLUDED_DAYS_MAX: usize = 4_000;
/// Fires that a misfire policy makes good for, unless the plan says otherwise.
const MISFIRE_CAP_DEFAULT: usize = 100;
/// More would flood whatever runs them.
const MISFIRE_CAP_MAX: usize = 10_000;
/// Slots that wait behind a running one, unless the plan says otherwise.
const QUEUE_DEFAULT: usize = 10;
const QUEUE_MAX: usize = 1_000;
/// Every word with its value once, and some more.
const WORDS_MAX: usize = 40;
/// Excluded days of one plan.
const EXCLUSIONS_MAX: usize = 1_000;

/// The rule of a recurring trigger.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// When.
    pub recurrence: Recurrence,
    /// The zone of the cron expression and of the excluded days.
    pub zone: TimeZone,
    /// Days on which it does not fire.
    pub except: Vec<Exclusion>,
    /// Not before.
    pub from: Option<Micros>,
    /// Where an interval without `from` is counted from: when it was planned. Its slots go on in both directions, so
    /// that a clock which was ahead then keeps nothing from firing.
    pub anchor: Option<Micros>,
    /// Not after.
    pub until: Option<Micros>,
    /// Each slot fires up to so much later, by its identifier and time: always the same for one slot.
    pub jitter: Duration,
    /// What becomes of slots that passed while nobody could fire them.
    pub misfire: Misfire,
    /// At most so many of them fire.
    pub misfire_cap: usize,
    /// Those that are older do not.
    pub misfire_age: Option<Duration>,
    /// What becomes of a slot while an earlier one runs.
    pub overlap: Overlap,
}

/// When a plan fires.
#[derive(Debug, Clone, PartialEq)]
pub enum Recurrence {
    /// At the times of a cron expression: five fields, or six with seconds in front.
    Cron(Box<Cron>),
    /// Again and again after so long, counted from `from` or from when it was planned.
    Every(Duration),
}

/// What becomes of slots that passed while nobody could fire them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Misfire {
    /// Nothing: the next one fires.
    Skip,
    /// The newest one fires.
    #[default]
    Once,
    /// All fire, up to the cap and the age.
    All,
}

/// What becomes of a slot while an earlier one runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// It fires too.
    #[default]
    Allow,
    /// It does not fire.
    Skip,
    /// It waits, with at most so many others.
    Queue(usize),
    /// The earlier one is asked to stop; this one fires when it has.
    Replace,
}

impl Misfire {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }
}

impl Overlap {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
            Self::Queue(_) => "queue",
            Self::Replace => "replace",
        }
    }
}

/// Days on which a plan does not fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    /// From the first to the second, both included.
    Dates(Date, Date),
    /// The same in every year: (month, day) to (month, day).
    Yearly((i8, i8), (i8, i8)),
}

impl Exclusion {
    fn covers(self, date: Date) -> bool {
        let day = (date.month(), date.day());
        match self {
            Self::Dates(first, last) => (first..=last).contains(&date),
            Self::Yearly(first, last) if first <= last => (first..=last).contains(&day),
            // Over the end of the year.
            Self::Yearly(first, last) => day >= first || day <= last,
        }
    }
}

impl FromStr for Exclusion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        if let (Ok(first), Ok(last)) = (first.parse::<Date>(), last.parse::<Date>()) {
            return match first <= last {
                true => Ok(Self::Dates(first, last)),
                false => Err(format!("`{text}` ends before it begins")),
            };
        }
        let yearly = |text: &str| {
            // 2000 was a leap year: the 29th of February is a day.
            let date: Date = format!("2000-{text}").parse().ok()?;
            (text.len() == 5).then_some((date.month(), date.day()))
        };
        match (yearly(first), yearly(last)) {
            (Some(first), Some(last)) => Ok(Self::Yearly(first, last)),
            _ => Err(format!(
                "`{text}` is no day; examples: 2026-12-24, 2026-12-24..2027-01-01, 12-25"
            )),
        }
    }
}

impl std::fmt::Display for Exclusion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dates(first, last) if first == last => write!(f, "{first}"),
            Self::Dates(first, last) => write!(f, "{first}..{last}"),
            Self::Yearly(first, last) if first == last => {
                write!(f, "{:02}-{:02}", first.0, first.1)
            }
            Self::Yearly(first, last) => {
                write!(f, "{:02}-{:02}..{:02}-{:02}", first.0, first.1, last.0, last.1)
            }
        }
    }
}

/// Which of the slots that are due fire.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    /// These, in their order.
    pub fire: Vec<Micros>,
    /// These do not: the first and the last of them, and why.
    pub skipped: Option<(Micros, Micros, String)>,
    /// The next one; `None` when there is none.
    pub next: Option<Micros>,
}

impl Plan {
    /// A plan from its words: `cron EXPRESSION` or `every DURATION`, then any of `tz ZONE`, `except DAYS`,
    /// `from TIME`, `until TIME`, `jitter DURATION`, `misfire skip|once|all`, `misfire-cap N`,
    /// `misfire-age DURATION`, `overlap allow|skip|queue|replace`, `queue N`. An interval begins at `from`, or
    /// after its first length from `now`.
    ///
    /// # Errors
    ///
    /// A sentence about the first word that is wrong, or that the plan never fires.
    pub fn parse(words: &[impl AsRef<str>], now: Micros) -> Result<Self, String> {
        let plan = Self::read(words, now)?;
        match plan.first(now) {
            Some(_) => Ok(plan),
            None => Err("it never fires".to_owned()),
        }
    }

    /// As [`parse`](Self::parse), whether it ever fires or not: what was stored once is understood for ever.
    pub(super) fn read(words: &[impl AsRef<str>], now: Micros) -> Result<Self, String> {
        if words.len() > WORDS_MAX {
            return Err(format!("a recurring trigger has at most {WORDS_MAX} words"));
        }
        let mut pairs = words.chunks(2).map(|pair| match pair {
            [name, value] => Ok((name.as_ref(), value.as_ref())),
            _ => Err(format!("`{}` needs a value", pair[0].as_ref())),
        });
        let recurrence = match pairs.next().transpose()? {
            Some(("cron", text)) => match text.strip_prefix("@every ") {
                Some(interval) => Recurrence::Every(interval_of(interval)?),
                None => Recurrence::Cron(Box::new(cron(text)?)),
            },
            Some(("every", text)) => Recurrence::Every(interval_of(text)?),
            _ => return Err("a recurring trigger begins with `cron` or `every`".to_owned()),
        };
        let mut plan = Self {
            recurrence,
            zone: TimeZone::UTC,
            except: Vec::new(),
            from: None,
            anchor: None,
            until: None,
            jitter: Duration::ZERO,
            misfire: Misfire::default(),
            misfire_cap: MISFIRE_CAP_DEFAULT,
            misfire_age: None,
            overlap: Overlap::default(),
        };
        let (mut queue, mut seen) = (None, Vec::new());
        for pair in pairs {
            let (name, value) = pair?;
            match name {
                "tz" => plan.zone = zone(value)?,
                "except" => {
                    if value.split(',').count() > EXCLUSIONS_MAX {
                        return Err(format!("`except` names more than {EXCLUSIONS_MAX} days"));
                    }
                    let days = value.split(',').map(|day| day.trim().parse());
                    plan.except = days.collect::<Result<_, _>>()?;
                }
                "from" => plan.from = Some(time::parse(value)?),
                "anchor" => plan.anchor = Some(time::parse(value)?),
                "until" => plan.until = Some(time::parse(value)?),
                "jitter" => plan.jitter = time::duration(value)?,
                "misfire" => {
                    plan.misfire = match value {
                        "skip" => Misfire::Skip,
                        "once" => Misfire::Once,
                        "all" => Misfire::All,
                        _ => {
                            return Err(format!("misfire `{value}`: there are skip, once and all"));
                        }
                    };
                }
                "misfire-cap" => plan.misfire_cap = bounded(name, value, MISFIRE_CAP_MAX)?,
                "misfire-age" => plan.misfire_age = Some(time::duration(value)?),
                "overlap" => {
                    plan.overlap = match value {
                        "allow" => Overlap::Allow,
                        "skip" => Overlap::Skip,
                        "queue" => Overlap::Queue(QUEUE_DEFAULT),
                        "replace" => Overlap::Replace,
                        _ => {
                            return Err(format!(
                                "overlap `{value}`: there are allow, skip, queue and replace"
                            ));
                        }
                    };
                }
                "queue" => queue = Some(bounded(name, value, QUEUE_MAX)?),
                _ => {
                    return Err(format!(
                        "`{name}` is no word of a recurring trigger; a cron expression stands in quotes"
                    ));
                }
            }
            if seen.contains(&name) {
                return Err(format!("`{name}` is there twice"));
            }
            seen.push(name);
        }
        match (queue, plan.overlap) {
            (Some(length), Overlap::Queue(_)) => plan.overlap = Overlap::Queue(length),
            (Some(_), _) => return Err("`queue` goes with `overlap queue`".to_owned()),
            (None, _) => {}
        }
        if let (Recurrence::Every(interval), None) = (&plan.recurrence, plan.from) {
            plan.anchor.get_or_insert(now + time::micros_of(*interval));
        }
        Ok(plan)
    }

    /// Whether both fire by the same words, whenever they were said.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Self { anchor: None, ..self.clone() } == Self { anchor: None, ..other.clone() }
    }

    /// The words that [`parse`](Self::parse) makes it from.
    pub fn words(&self) -> Vec<String> {
        let mut words = match &self.recurrence {
            Recurrence::Cron(cron) => vec!["cron".to_owned(), cron.as_str().to_owned()],
            Recurrence::Every(interval) => vec!["every".to_owned(), time::show_duration(*interval)],
        };
        let mut word = |name: &str, value: String| words.extend([name.to_owned(), value]);
        if self.zone != TimeZone::UTC {
            word("tz", self.zone_name());
        }
        if !self.except.is_empty() {
            let days: Vec<_> = self.except.iter().map(Exclusion::to_string).collect();
            word("except", days.join(","));
        }
        if let Some(from) = self.from {
            word("from", time::show_exact(from));
        }
        if let Some(anchor) = self.anchor {
            word("anchor", time::show_exact(anchor));
        }
        if let Some(until) = self.until {
            word("until", time::show_exact(until));
        }
        if !self.jitter.is_zero() {
            word("jitter", time::show_duration(self.jitter));
        }
        if self.misfire != Misfire::default() {
            word("misfire", self.misfire.name().to_owned());
        }
        if self.misfire_cap != MISFIRE_CAP_DEFAULT {
            word("misfire-cap", self.misfire_cap.to_string());
        }
        if let Some(age) = self.misfire_age {
            word("misfire-age", time::show_duration(age));
        }
        if self.overlap != Overlap::default() {
            word("overlap", self.overlap.name().to_owned());
        }
        if let Overlap::Queue(length) = self.overlap {
            word("queue", length.to_string());
        }
        words
    }

    /// Name of its zone.
    pub fn zone_name(&self) -> String {
        self.zone.iana_name().unwrap_or("UTC").to_owned()
    }

    /// The first slot at `now` or later; of an interval, not before its first time.
    pub fn first(&self, now: Micros) -> Option<Micros> {
        self.next(now.max(self.anchor.unwrap_or(Micros::MIN)) - 1)
    }

    /// Whether it goes on in real time when the clock of its zone changes.
    pub(super) fn follows_real_time(&self) -> bool {
        match &self.recurrence {
            Recurrence::Cron(cron) => follows_real_time(cron),
            Recurrence::Every(_) => true,
        }
    }

    /// The first slot after `after`; `None` when there is none.
    pub fn next(&self, after: Micros) -> Option<Micros> {
        let mut after = after.max(self.from.map_or(Micros::MIN, |from| from - 1));
        for _ in 0..EXCLUDED_DAYS_MAX {
            let slot = self.next_of_recurrence(after)?;
            if self.until.is_some_and(|until| slot > until) {
                return None;
            }
            if self.except.is_empty() {
                return Some(slot);
            }
            let at = time::timestamp(slot).to_zoned(self.zone.clone());
            let Some(out) = self.except.iter().find(|days| days.covers(at.date())) else {
                return Some(slot);
            };
            // Not one slot after the other: the whole day is out, or all of them.
            let last = match out {
                Exclusion::Dates(_, last) => *last,
                Exclusion::Yearly(..) => at.date(),
            };
            let next_day = last.tomorrow().ok()?.to_zoned(self.zone.clone()).ok()?;
            after = (next_day.timestamp().as_microsecond() - 1).max(slot);
        }
        None
    }

    fn next_of_recurrence(&self, after: Micros) -> Option<Micros> {
        match &self.recurrence {
            Recurrence::Cron(cron) => {
                let after = Timestamp::from_microsecond(after).ok()?;
                if self.zone != TimeZone::UTC && !follows_real_time(cron) {
                    return Some(next_fixed(cron, &self.zone, after)?.as_microsecond());
                }
                let after = after.to_zoned(self.zone.clone());
                let next: Zoned = cron.find_next_occurrence(&after, false).ok()?;
                Some(next.timestamp().as_microsecond())
            }
            Recurrence::Every(interval) => {
                let interval = time::micros_of(*interval);
                let anchor = self.anchor.or(self.from).unwrap_or(0);
                let passed = (after - anchor).div_euclid(interval) + 1;
                let passed = if self.anchor.is_some() { passed } else { passed.max(0) };
                anchor.checked_add(passed.checked_mul(interval)?).filter(|slot| *slot <= time::MAX)
            }
        }
    }

    /// How much later than its time `slot` of trigger `identifier` fires.
    pub fn delay(&self, identifier: &str, slot: Micros) -> Micros {
        let jitter = time::micros_of(self.jitter);
        if jitter == 0 {
            return 0;
        }
        let hash =
            Sha256::new().chain_update(slot.to_be_bytes()).chain_update(identifier).finalize();
        let number = hash.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        (number % jitter.unsigned_abs()).cast_signed()
    }

    /// What happens at `now` when `slot` is the first that did not fire yet. Slots that are at most
    /// `misfire_after` late were not missed: all of them fire.
    pub fn due(&self, slot: Micros, now: Micros, misfire_after: Duration) -> Due {
        let missed = now - slot > time::micros_of(misfire_after) + time::micros_of(self.jitter);
        let wanted = match (missed, self.misfire) {
            (false, _) => MISFIRE_CAP_MAX,
            (true, Misfire::All) => self.misfire_cap,
            (true, Misfire::Once) => 1,
            (true, Misfire::Skip) => 0,
        };
        let oldest = match (missed, self.misfire_age) {
            (true, Some(age)) => now - time::micros_of(age),
            _ => Micros::MIN,
        };
        let newest = self.newest(slot, now, wanted.max(1));
        let last = newest.last().copied().unwrap_or(slot);
        let fire: Vec<Micros> = match wanted {
            0 => Vec::new(),
            _ => newest.into_iter().filter(|slot| *slot >= oldest).collect(),
        };
        let next = self.next(last);
        let first_fired = fire.first().copied();
        let skipped = match first_fired {
            Some(first) if first <= slot => None,
            Some(first) => Some((slot, first - 1)),
            None => Some((slot, last)),
        };
        let skipped = skipped.map(|(first, last)| {
            let policy = match self.misfire {
                Misfire::Skip => "misfire skip",
                Misfire::Once => "misfire once",
                Misfire::All => "misfire all, beyond its cap or age",
            };
            let told = format!(
                "missed: nobody could fire it from {} to {} ({policy})",
                time::show(first),
                time::show(last)
            );
            (first, last, told)
        });
        Due { fire, skipped, next }
    }

    /// The newest slots from `first` to `now`, at most `count`, oldest first. Looks back in growing windows:
    /// a plan that fires every second and was missed for a month is not walked through.
    fn newest(&self, first: Micros, now: Micros, count: usize) -> Vec<Micros> {
        let mut window = 60_000_000;
        loop {
            let start = now.saturating_sub(window).max(first);
            let mut found = Vec::new();
            let mut slot = self.next(start - 1).filter(|slot| *slot <= now);
            while let Some(one) = slot {
                found.push(one);
                slot = self.next(one).filter(|slot| *slot <= now);
            }
            if found.len() >= count || start == first {
                found.drain(..found.len().saturating_sub(count));
                return found;
            }
            window = window.saturating_mul(4);
        }
    }

    /// The plan in words, for people.
    pub fn describe(&self) -> String {
        let mut told = match &self.recurrence {
            Recurrence::Cron(cron) => {
                let told = in_words(cron);
                format!("{} ({})", told.trim_end_matches('.'), self.zone_name())
            }
            Recurrence::Every(interval) => format!("Every {}", time::show_duration(*interval)),
        };
        if let Some(from) = self.from {
            told.push_str(&format!(", from {}", time::show(from)));
        }
        if let Some(until) = self.until {
            told.push_str(&format!(", until {}", time::show(until)));
        }
        if !self.except.is_empty() {
            let days: Vec<_> = self.except.iter().map(Exclusion::to_string).collect();
            told.push_str(&format!(", never on {}", days.join(", ")));
        }
        if !self.jitter.is_zero() {
            told.push_str(&format!(", up to {} later", time::show_duration(self.jitter)));
        }
        told
    }
}

fn cron(text: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Optional).build();
    parser.parse(&usual(text)?).map_err(|error| format!("cron `{text}`: {error}"))
}

/// `text` in the words that the library knows: `@midnight`, `5/15` (from 5 in steps of 15) and week days that wrap
/// around, `FRI-MON`, are written otherwise there.
fn usual(text: &str) -> Result<String, String> {
    if text.trim().eq_ignore_ascii_case("@midnight") {
        return Ok("@daily".to_owned());
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if !(5..=6).contains(&fields.len()) || text.starts_with('@') {
        return Ok(text.to_owned());
    }
    let maxima: &[u8] = &[59, 59, 23, 31, 12, 7];
    let maxima = &maxima[6 - fields.len()..];
    let last = fields.len() - 1;
    let mut written = Vec::new();
    for (index, (field, max)) in fields.iter().zip(maxima).enumerate() {
        let parts: Vec<String> = field
            .split(',')
            .map(|part| match part.split_once('/') {
                Some((from, step)) if from.parse::<u8>().is_ok() => format!("{from}-{max}/{step}"),
                None if index == last => unwrapped(part),
                _ => part.to_owned(),
            })
            .collect();
        if index == last - 2 && parts.iter().any(|part| part.starts_with("L-")) {
            return Err(format!(
                "cron `{text}`: days before the last of the month cannot be written; use `L`, `LW` or a day"
            ));
        }
        written.push(parts.join(","));
    }
    Ok(written.join(" "))
}

/// A range of week days that wraps around the end of the week, as the days that it has.
fn unwrapped(part: &str) -> String {
    const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    let day = |text: &str| {
        let named = DAYS.iter().position(|name| name.eq_ignore_ascii_case(text));
        named.or_else(|| text.parse().ok().filter(|day| *day <= 7).map(|day: usize| day % 7))
    };
    match part.split_once('-').and_then(|(from, to)| Some((day(from)?, day(to)?))) {
        Some((from, to)) if from > to => {
            (from..7).chain(0..=to).map(|day| DAYS[day]).collect::<Vec<_>>().join(",")
        }
        _ => part.to_owned(),
    }
}

/// Whether it follows real time when the clock changes: one with a wildcard or a step among its seconds, minutes and
/// hours does, lists and ranges of fixed times do not.
fn follows_real_time(cron: &Cron) -> bool {
    let pattern = &cron.pattern;
    [&pattern.seconds, &pattern.minutes, &pattern.hours].into_iter().any(|field| {
        let whole = usize::from(field.max - field.min) + 1;
        field.from_wildcard || field.step != 1 || field.values().len() == whole
    })
}

/// The next of fixed times: one that the clock jumps over comes at the end of the gap, one that comes twice the first
/// time alone.
fn next_fixed(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    // The calendar on the wall, counted where no clock ever changes.
    let mut civil = zone.to_datetime(after).to_zoned(TimeZone::UTC).ok()?;
    loop {
        civil = cron.find_next_occurrence(&civil, false).ok()?;
        let there = zone.to_ambiguous_timestamp(civil.datetime());
        let is_gap = matches!(there.offset(), AmbiguousOffset::Gap { .. });
        let earlier = there.earlier().ok()?;
        let at = if is_gap { zone.following(earlier).next()?.timestamp() } else { earlier };
        if at > after {
            return Some(at);
        }
    }
}

/// A cron expression in words that say what it does: steps that do not divide their range evenly are told as the times
/// that they come to.
fn in_words(cron: &Cron) -> String {
    /// Where the library keeps that `LW` was written, the last weekday of the month; its words leave the `W` out.
    const LAST_WEEKDAY: u8 = 1 << 7;
    let mut pattern = cron.pattern.clone();
    for field in
        [&mut pattern.seconds, &mut pattern.minutes, &mut pattern.hours, &mut pattern.months]
    {
        let (span, step) = (field.max - field.min + 1, field.step);
        let stepped: Vec<_> = (field.min..=field.max).step_by(step.max(1).into()).collect();
        if step > 1 && (span % step != 0 || field.values() != stepped) {
            field.step = 1;
        }
    }
    let told = pattern.describe();
    match pattern.days.is_feature_enabled(LAST_WEEKDAY) {
        true => told.replace(
            "the last day of the month",
            "the last weekday (Monday to Friday) of the month",
        ),
        false => told,
    }
}

fn zone(name: &str) -> Result<TimeZone, String> {
    // The host's data first: they may be newer than ours. A host without them, or without this zone, ends no trigger.
    TimeZone::get(name)
        .or_else(|_| jiff::tz::TimeZoneDatabase::bundled().get(name))
        .map_err(|_| format!("there is no time zone `{name}`; example: Europe/Berlin"))
}

fn interval_of(text: &str) -> Result<Duration, String> {
    let interval = time::duration(text)?;
    match interval >= Duration::from_millis(100) {
        true => Ok(interval),
        false => Err(format!("`{text}` is too short; at least 100ms")),
    }
}

fn bounded(name: &str, value: &str, max: usize) -> Result<usize, String> {
    let number = value.parse().ok().filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| format!("{name} `{value}`: expected 1 to {max}"))
}
