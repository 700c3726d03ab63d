//! Who works on what: segments of units, windows of segments, and what a lane without work takes. Pure.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::execution::ExecutionId;

/// A stretch of the units of an execution, carried forward by at most one lane at a time.
///
/// `start ≤ position ≤ claimed ≤ end`: what lies before `position` is accounted for, what lies before
/// `claimed` is being worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Number given by the store.
    pub id: i64,
    /// The execution it belongs to.
    pub execution: ExecutionId,
    /// The rank whose units these are, where the units cannot be split; 0 where they can.
    pub rank: u32,
    /// Its first unit.
    pub start: u64,
    /// The first unit that is not accounted for.
    pub position: u64,
    /// The end of the window that is being worked on; `position` while nobody works.
    pub claimed: u64,
    /// The first unit behind it; `None`: where its reader ends.
    pub end: Option<u64>,
    /// Whether all of it is accounted for.
    pub is_closed: bool,
    /// The lane that works on it, or did so last.
    pub lane: Option<u32>,
    /// Units that succeeded.
    pub done: u64,
    /// Units that were given up.
    pub failed: u64,
    /// What is known of units that killed, hung or failed.
    pub poison: Poison,
    /// What its units were reduced to, as JSON; `None` before the first.
    pub partial: Option<String>,
}

/// Units that did harm, in one segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Poison {
    /// The unit that `attempts` belong to.
    #[serde(skip_serializing_if = "is_zero")]
    pub unit: u64,
    /// Attempts at that unit that failed, or that ended with the death of its worker while no other unit was in work.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// A worker died somewhere before this unit: until there, chunks are small.
    #[serde(skip_serializing_if = "is_zero")]
    pub careful_until: u64,
    /// Units of such a chunk.
    #[serde(skip_serializing_if = "is_zero")]
    pub careful_chunk: u64,
}

impl Poison {
    /// Attempts at `unit` so far.
    #[inline]
    pub(crate) fn attempts_at(&self, unit: u64) -> u32 {
        if self.unit == unit { self.attempts } else { 0 }
    }

    /// One more attempt at `unit` did not succeed.
    pub(crate) fn count_attempt(&mut self, unit: u64) {
        (self.attempts, self.unit) = (self.attempts_at(unit).saturating_add(1), unit);
    }

    /// `unit` is over: what is known of it is forgotten.
    #[inline]
    pub(crate) fn forget(&mut self, unit: u64) {
        if self.attempts > 0 && self.unit == unit {
            (self.attempts, self.unit) = (0, 0);
        }
    }
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Segment {
    /// A segment that nobody worked on.
    pub fn new(execution: ExecutionId, rank: u32, start: u64, end: Option<u64>) -> Self {
        Self {
            id: 0,
            execution,
            rank,
            start,
            position: start,
            claimed: start,
            end,
            is_closed: end == Some(start),
            lane: None,
            done: 0,
            failed: 0,
            poison: Poison::default(),
            partial: None,
        }
    }

    /// Units that nobody works on.
    fn rest(&self) -> u64 {
        self.end.map_or(u64::MAX, |end| end - self.claimed)
    }

    fn window(&self, units: u64) -> u64 {
        let until = self.position.saturating_add(units.max(1));
        self.end.map_or(until, |end| until.min(end))
    }

    /// Its worker is gone and left a window of about `units` units behind. Where each unit is committed alone, the
    /// unit in work has one attempt more. Else nobody knows which unit it was, and none is charged: chunks are
    /// smaller from now on, and smaller again, until units are alone.
    fn bury(&mut self, units: u64, each_unit_alone: bool) {
        if self.claimed <= self.position {
            return;
        }
        let suspects = match self.careful_chunk_at(self.position) {
            Some(chunk) => chunk,
            None if each_unit_alone => 1,
            None => self.claimed - self.position,
        };
        match suspects {
            1 => self.poison.count_attempt(self.position),
            _ => {
                // A window is a hundred milliseconds: small chunks are ten of them, beside which a commit is cheap.
                let is_second = self.careful_chunk_at(self.position).is_some();
                let chunk = if is_second { 1 } else { (units / 10).max(1) };
                let until = self.claimed.min(self.position.saturating_add(suspects));
                self.suspect(until, chunk);
            }
        }
        self.claimed = self.position;
    }

    /// Chunks of `chunk` units from here to `until`.
    pub(crate) fn suspect(&mut self, until: u64, chunk: u64) {
        (self.poison.careful_until, self.poison.careful_chunk) = (until, chunk);
    }

    /// Units of a chunk that begins with unit `begin`, where a unit that does harm is looked for.
    #[inline]
    pub(crate) fn careful_chunk_at(&self, begin: u64) -> Option<u64> {
        (begin < self.poison.careful_until).then_some(self.poison.careful_chunk.max(1))
    }
}

/// What a lane does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It works on this segment up to its `claimed`.
    Window(usize),
    /// It works on this new segment, the upper end of the one at the index, which now ends where this begins.
    Stolen(usize, Box<Segment>),
    /// Others work on all that is left.
    Wait,
    /// Nothing is left.
    AllClosed,
}

/// The claim of lane `me`: its own segment first, then one that nobody works on, then the upper half of the
/// unclaimed rest of the largest one. `is_live` says of other lanes whether somebody works for them now.
pub(crate) fn claim(
    segments: &mut [Segment],
    me: u32,
    is_live: &dyn Fn(u32) -> bool,
    units: u64,
    rules: ClaimRules,
) -> Claim {
    let mine = |segment: &Segment| segment.lane == Some(me);
    let is_free = |segment: &Segment| segment.lane.is_none_or(|lane| lane == me || !is_live(lane));
    let found = segments
        .iter_mut()
        .enumerate()
        .filter(|(_, segment)| !segment.is_closed && is_free(segment))
        .min_by_key(|(_, segment)| (!mine(segment), segment.lane.is_some(), segment.start));
    if let Some((index, segment)) = found {
        segment.bury(units, rules.each_unit_alone);
        segment.lane = Some(me);
        segment.claimed = segment.window(units);
        return Claim::Window(index);
    }
    let can_be_cut =
        |segment: &Segment| rules.may_split && !segment.is_closed && segment.rest() > 0;
    let largest = (0..segments.len())
        .filter(|index| can_be_cut(&segments[*index]))
        .max_by_key(|index| (segments[*index].rest(), Reverse(segments[*index].start)));
    if let Some(index) = largest
        && let Some(end) = segments[index].end
    {
        let victim = &mut segments[index];
        let middle = victim.claimed + victim.rest() / 2;
        victim.end = Some(middle);
        let mut stolen = Segment::new(victim.execution, victim.rank, middle, Some(end));
        stolen.lane = Some(me);
        stolen.claimed = stolen.window(units);
        return Claim::Stolen(index, Box::new(stolen));
    }
    match segments.iter().all(|segment| segment.is_closed) {
        true => Claim::AllClosed,
        false => Claim::Wait,
    }
}

/// What holds for every claim of an execution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClaimRules {
    /// Whether segments may be split.
    pub may_split: bool,
    /// Whether every unit is committed alone.
    pub each_unit_alone: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: ClaimRules = ClaimRules { may_split: true, each_unit_alone: false };

    fn segments(of: &[(u64, u64, u64, Option<u32>)]) -> Vec<Segment> {
        of.iter()
            .zip(1..)
            .map(|((position, claimed, end, lane), id)| Segment {
                id,
                position: *position,
                claimed: *claimed,
                lane: *lane,
                ..Segment::new(ExecutionId(1), 0, *position, Some(*end))
            })
            .collect()
    }

    fn all_live(_: u32) -> bool {
        true
    }

    #[test]
    fn a_lane_goes_on_with_its_own_segment_one_window_at_a_time() {
        let mut all = segments(&[(0, 0, 50, Some(1)), (50, 50, 100, Some(0))]);
        assert_eq!(claim(&mut all, 0, &all_live, 20, RULES), Claim::Window(1));
        assert_eq!(all[1].claimed, 70);
    }

    #[test]
    fn a_window_has_at_least_one_unit_and_never_passes_the_end() {
        let mut all = segments(&[(0, 0, 50, Some(0))]);
        claim(&mut all, 0, &all_live, 0, RULES);
        assert_eq!(all[0].claimed, 1);
        claim(&mut all, 0, &all_live, 500, RULES);
        assert_eq!(all[0].claimed, 50);
    }

    #[test]
    fn a_lane_without_work_takes_the_upper_half_of_the_largest_unclaimed_rest() {
        let mut all = segments(&[(0, 10, 30, Some(0)), (40, 50, 151, Some(1))]);
        let Claim::Stolen(1, stolen) = claim(&mut all, 2, &all_live, 20, RULES) else {
            panic!("nothing was stolen")
        };
        assert_eq!((stolen.start, stolen.claimed, stolen.end), (100, 120, Some(151)));
        assert_eq!((all[1].claimed, all[1].end), (50, Some(100)));
    }

    #[test]
    fn the_last_unclaimed_unit_can_be_taken_and_a_claimed_one_cannot() {
        let mut all = segments(&[(0, 9, 10, Some(0))]);
        assert!(matches!(claim(&mut all, 1, &all_live, 5, RULES), Claim::Stolen(0, _)));
        let mut all = segments(&[(0, 10, 10, Some(0))]);
        assert_eq!(claim(&mut all, 1, &all_live, 5, RULES), Claim::Wait);
    }

    #[test]
    fn what_cannot_be_split_is_not_stolen() {
        let rules = ClaimRules { may_split: false, ..RULES };
        let mut all = segments(&[(0, 10, 1000, Some(0))]);
        assert_eq!(claim(&mut all, 1, &all_live, 5, rules), Claim::Wait);
    }

    #[test]
    fn a_segment_whose_worker_died_is_taken_whole_and_then_carefully() {
        let mut all = segments(&[(0, 40, 1000, Some(0))]);
        let dead = |lane: u32| lane != 0;
        let careful = |careful_until, careful_chunk| Poison {
            careful_until,
            careful_chunk,
            ..Poison::default()
        };
        assert_eq!(claim(&mut all, 1, &dead, 40, RULES), Claim::Window(0));
        assert_eq!(all[0].poison, careful(40, 4));
        // The next worker dies too: of one of four.
        all[0].position = 8;
        assert_eq!(claim(&mut all, 2, &|lane| lane == 2, 40, RULES), Claim::Window(0));
        assert_eq!(all[0].poison, careful(12, 1));
        // Now units are alone. The first death is charged to the unit in work; it says nothing of those before.
        all[0].position = 10;
        assert_eq!(claim(&mut all, 3, &|lane| lane == 3, 40, RULES), Claim::Window(0));
        assert_eq!(all[0].poison, Poison { unit: 10, attempts: 1, ..careful(12, 1) });
        // The death of another worker at another unit starts that unit's own count.
        all[0].position = 11;
        assert_eq!(claim(&mut all, 4, &|lane| lane == 4, 40, RULES), Claim::Window(0));
        assert_eq!(all[0].poison, Poison { unit: 11, attempts: 1, ..careful(12, 1) });
    }

    #[test]
    fn with_every_unit_committed_alone_the_unit_in_work_is_known_at_once() {
        let rules = ClaimRules { each_unit_alone: true, ..RULES };
        let mut all = segments(&[(0, 1, 10, Some(0))]);
        claim(&mut all, 0, &all_live, 1, rules);
        assert_eq!(all[0].poison.attempts, 1);
    }

    #[test]
    fn only_when_every_segment_is_closed_nothing_is_left() {
        let mut all = segments(&[(0, 10, 10, Some(0)), (10, 10, 10, None)]);
        all.iter_mut().for_each(|segment| segment.is_closed = true);
        assert_eq!(claim(&mut all, 1, &all_live, 5, RULES), Claim::AllClosed);
    }
}
