//! Computes when a recurring trigger fires: pure arithmetic on slots, which are microseconds since 1970.
//!
//! Daylight saving follows the [cron library](croner), and a table of golden cases pins it: a fixed time that
//! the clock skips fires once, at the first moment after the gap; a fixed time that occurs twice fires once,
//! the first time. Patterns with steps or wildcards in the hours or minutes follow real time through both.

mod cron;

use std::str::FromStr;
use std::time::Duration;

use croner::Cron;
use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, Zoned};
use sha2::{Digest, Sha256};

use super::time::{self, Micros};

/// Excluded days that are skipped before a plan counts as one that never fires.
const EXCLUDED_DAYS_MAX: usize = 4_000;
/// Default maximum of missed slots that `misfire all` fires.
const MISFIRE_CAP_DEFAULT: usize = 100;
/// Largest `misfire-cap`: more fires at once would flood the runners.
const MISFIRE_CAP_MAX: usize = 10_000;
/// Default maximum of slots that wait while one runs.
const QUEUE_DEFAULT: usize = 10;
const QUEUE_MAX: usize = 1_000;
/// Most words of a plan: every word with its value once, and some more.
const WORDS_MAX: usize = 40;
/// Most exclusions of one plan.
const EXCLUSIONS_MAX: usize = 1_000;

/// The rule of a recurring trigger.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The times.
    pub recurrence: Recurrence,
    /// The zone of the cron expression and of the excluded days.
    pub zone: TimeZone,
    /// Days on which the trigger does not fire.
    pub except: Vec<Exclusion>,
    /// Earliest slot.
    pub from: Option<Micros>,
    /// Time from which an interval without `from` counts: one interval after it was planned. The slots extend
    /// in both directions, so that a clock that was ahead at that time does not delay the trigger.
    pub anchor: Option<Micros>,
    /// Latest slot.
    pub until: Option<Micros>,
    /// Longest extra delay of a slot. The delay is a hash of identifier and slot, so it is always the same
    /// for a slot.
    pub jitter: Duration,
    /// Policy for slots that were missed.
    pub misfire: Misfire,
    /// Most missed slots that fire.
    pub misfire_cap: usize,
    /// Age beyond which missed slots do not fire.
    pub misfire_age: Option<Duration>,
    /// Policy for a slot that comes while an earlier one runs.
    pub overlap: Overlap,
}

/// When a plan fires.
#[derive(Debug, Clone, PartialEq)]
pub enum Recurrence {
    /// At the times of a cron expression with five fields, or six with seconds first.
    Cron(Box<Cron>),
    /// At a fixed interval, counted from `from` or from the time of planning.
    Every(Duration),
}

/// The policy for slots that were missed because no server could fire them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Misfire {
    /// No missed slot fires.
    Skip,
    /// The newest missed slot fires.
    #[default]
    Once,
    /// All missed slots fire, up to the cap and the age.
    All,
}

/// The policy for a slot that comes while an earlier one runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// The slot fires too.
    #[default]
    Allow,
    /// The slot does not fire.
    Skip,
    /// The slot waits, at most this many at once.
    Queue(usize),
    /// The earlier slot is asked to stop; the later one fires when it has stopped.
    Replace,
}

impl Misfire {
    /// Returns the word of the policy in a plan.
    pub fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }
}

impl Overlap {
    /// Returns the word of the policy in a plan.
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
    /// From the first to the second (month, day) of every year, both included.
    Yearly((i8, i8), (i8, i8)),
}

impl Exclusion {
    fn covers(self, date: Date) -> bool {
        let day = (date.month(), date.day());
        match self {
            Self::Dates(first, last) => (first..=last).contains(&date),
            Self::Yearly(first, last) if first <= last => (first..=last).contains(&day),
            // Across the end of the year.
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
            // 2000 was a leap year, so the 29th of February exists.
            let date: Date = format!("2000-{text}").parse().ok()?;
            (text.len() == 5).then_some((date.month(), date.day()))
        };
        match (yearly(first), yearly(last)) {
            (Some(first), Some(last)) => Ok(Self::Yearly(first, last)),
            _ => Err(format!(
                "`{text}` is not a day; examples: 2026-12-24, 2026-12-24..2027-01-01, 12-25"
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

/// The decision about due slots.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    /// Slots that fire, in their order.
    pub fire: Vec<Micros>,
    /// Slots that do not fire: the first, the last, and the reason.
    pub skipped: Option<(Micros, Micros, String)>,
    /// The next slot; `None` at the end of the plan.
    pub next: Option<Micros>,
}

impl Plan {
    /// Parses the words of a plan: `cron EXPRESSION` or `every DURATION`, then any of `tz ZONE`, `except
    /// DAYS`, `from TIME`, `until TIME`, `jitter DURATION`, `misfire skip|once|all`, `misfire-cap N`,
    /// `misfire-age DURATION`, `overlap allow|skip|queue|replace`, `queue N`. An interval begins at `from`,
    /// or after its first length from `now`.
    ///
    /// # Errors
    ///
    /// A sentence about the first word that is wrong, or that the plan never fires.
    pub fn parse(words: &[impl AsRef<str>], now: Micros) -> Result<Self, String> {
        let plan = Self::read(words, now)?;
        match plan.first(now) {
            Some(_) => Ok(plan),
            None => Err("the plan never fires".to_owned()),
        }
    }

    /// Parses as [`parse`](Self::parse), but also accepts a plan that never fires again: a stored plan stays
    /// valid.
    pub(super) fn read(words: &[impl AsRef<str>], now: Micros) -> Result<Self, String> {
        if words.len() > WORDS_MAX {
            return Err(format!("a recurring trigger has at most {WORDS_MAX} words"));
        }
        let mut pairs = words.chunks(2).map(|pair| match pair {
            [name, value] => Ok((name.as_ref(), value.as_ref())),
            [name] if WORDS.contains(&name.as_ref()) => {
                Err(format!("`{}` needs a value", name.as_ref()))
            }
            _ => Err(unknown_word(pair[0].as_ref())),
        });
        let recurrence = match pairs.next().transpose()? {
            Some(("cron", text)) => match text.strip_prefix("@every ") {
                Some(interval) => Recurrence::Every(interval_of(interval)?),
                None => Recurrence::Cron(Box::new(cron::parse(text)?)),
            },
            Some(("every", text)) => Recurrence::Every(interval_of(text)?),
            _ => {
                return Err(
                    "a recurring trigger begins with `cron` or `every`; put a time with a space into quotes".to_owned()
                );
            }
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
                            return Err(format!(
                                "`misfire` must be skip, once or all, not `{value}`"
                            ));
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
                                "`overlap` must be allow, skip, queue or replace, not `{value}`"
                            ));
                        }
                    };
                }
                "queue" => queue = Some(bounded(name, value, QUEUE_MAX)?),
                _ => return Err(unknown_word(name)),
            }
            if seen.contains(&name) {
                return Err(format!("`{name}` occurs twice"));
            }
            seen.push(name);
        }
        match (queue, plan.overlap) {
            (Some(length), Overlap::Queue(_)) => plan.overlap = Overlap::Queue(length),
            (Some(_), _) => return Err("`queue` requires `overlap queue`".to_owned()),
            (None, _) => {}
        }
        if let (Recurrence::Every(interval), None) = (&plan.recurrence, plan.from) {
            plan.anchor.get_or_insert(now + time::micros_of(*interval));
        }
        Ok(plan)
    }

    /// Returns whether both plans have the same words, regardless of when they were planned.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Self { anchor: None, ..self.clone() } == Self { anchor: None, ..other.clone() }
    }

    /// Returns the words that [`parse`](Self::parse) accepts for this plan.
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

    /// Returns the name of the plan's zone.
    pub fn zone_name(&self) -> String {
        self.zone.iana_name().unwrap_or("UTC").to_owned()
    }

    /// Returns the first slot at `now` or later; of an interval, not before its anchor.
    pub fn first(&self, now: Micros) -> Option<Micros> {
        self.next(now.max(self.anchor.unwrap_or(Micros::MIN)) - 1)
    }

    /// Returns whether the plan follows real time when the clock of its zone changes.
    pub(super) fn follows_real_time(&self) -> bool {
        match &self.recurrence {
            Recurrence::Cron(cron) => follows_real_time(cron),
            Recurrence::Every(_) => true,
        }
    }

    /// Returns the first slot after `after`; `None` when there is none.
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
            // Skip the whole excluded range at once instead of slot by slot.
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

    /// Returns the jitter of `slot` of trigger `identifier`: how much later than its time the slot fires.
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

    /// Decides which slots fire at `now` when `slot` is the first that did not fire yet. Slots that are at
    /// most `misfire_after` late are not missed: all of them fire.
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
            let reason = format!(
                "missed: no server could fire it from {} to {} ({policy})",
                time::show(first),
                time::show(last)
            );
            (first, last, reason)
        });
        Due { fire, skipped, next }
    }

    /// Returns the newest slots from `first` to `now`, at most `count`, oldest first. Searches back in
    /// growing windows, so that a plan that fires every second and was missed for a month is not enumerated.
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

    /// Describes the plan in words.
    pub fn describe(&self) -> String {
        let mut text = match &self.recurrence {
            Recurrence::Cron(cron) => {
                let words = in_words(cron);
                format!("{} ({})", words.trim_end_matches('.'), self.zone_name())
            }
            Recurrence::Every(interval) => format!("Every {}", time::show_duration(*interval)),
        };
        if let Some(from) = self.from {
            text.push_str(&format!(", from {}", time::show(from)));
        }
        if let Some(until) = self.until {
            text.push_str(&format!(", until {}", time::show(until)));
        }
        if !self.except.is_empty() {
            let days: Vec<_> = self.except.iter().map(Exclusion::to_string).collect();
            text.push_str(&format!(", never on {}", days.join(", ")));
        }
        if !self.jitter.is_zero() {
            text.push_str(&format!(", up to {} later", time::show_duration(self.jitter)));
        }
        text
    }
}

/// Returns whether `cron` follows real time when the clock changes: an expression with a wildcard or a step
/// among its seconds, minutes and hours does; one with lists and ranges of fixed times does not.
fn follows_real_time(cron: &Cron) -> bool {
    let pattern = &cron.pattern;
    [&pattern.seconds, &pattern.minutes, &pattern.hours].into_iter().any(|field| {
        let whole = usize::from(field.max - field.min) + 1;
        field.from_wildcard || field.step != 1 || field.values().len() == whole
    })
}

/// Returns the next fixed time: one that the clock skips fires at the end of the gap, one that occurs twice
/// fires the first time only.
fn next_fixed(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    // Compute in local civil time, as if in UTC, where the clock never changes.
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

/// Describes a cron expression in words; steps that do not divide their range evenly are listed as their
/// times.
fn in_words(cron: &Cron) -> String {
    /// The library's flag for `LW`, the last weekday of the month; its description omits the `W`.
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
    let text = pattern.describe();
    match pattern.days.is_feature_enabled(LAST_WEEKDAY) {
        true => text.replace(
            "the last day of the month",
            "the last weekday (Monday to Friday) of the month",
        ),
        false => text,
    }
}

fn zone(name: &str) -> Result<TimeZone, String> {
    // Prefer the host's data, which may be newer than the bundled ones; those serve hosts without this zone.
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

/// The words of a plan.
const WORDS: [&str; 13] = [
    "cron",
    "every",
    "tz",
    "except",
    "from",
    "anchor",
    "until",
    "jitter",
    "misfire",
    "misfire-cap",
    "misfire-age",
    "overlap",
    "queue",
];

fn unknown_word(word: &str) -> String {
    format!("`{word}` is not a word of a recurring trigger; put a cron expression into quotes")
}

fn bounded(name: &str, value: &str, max: usize) -> Result<usize, String> {
    let number = value.parse().ok().filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| format!("`{name}` must be a number from 1 to {max}, not `{value}`"))
}
