//! What a lane without work claims: windows of segments, and halves of them. Pure.

use std::cmp::Reverse;

use crate::store::Segment;

/// What a lane does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Work on the segment at this index up to its `claimed`.
    Window(usize),
    /// Work on this new segment, cut from the upper end of the segment at the index.
    Stolen(usize, Box<Segment>),
    /// Wait: other lanes work on all remaining units.
    Wait,
    /// Nothing: no units remain.
    AllClosed,
}

/// Claims work for lane `me`: its own segment first, then one on which no lane works, then the upper half of
/// the unclaimed rest of the largest one. `is_live` returns whether a lane has a live worker.
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
        segment.record_worker_death(units, rules.each_unit_alone);
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

/// The rules for every claim of an execution.
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
    use crate::execution::ExecutionId;
    use crate::store::FailureRecord;

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
    fn a_segment_whose_worker_died_is_claimed_whole_and_then_in_small_chunks() {
        let mut all = segments(&[(0, 40, 1000, Some(0))]);
        let dead = |lane: u32| lane != 0;
        let searched = |search_until, search_chunk| FailureRecord {
            search_until,
            search_chunk,
            ..FailureRecord::default()
        };
        assert_eq!(claim(&mut all, 1, &dead, 40, RULES), Claim::Window(0));
        assert_eq!(all[0].failure_record, searched(40, 4));
        // The next worker dies too, in a chunk of four units.
        all[0].position = 8;
        assert_eq!(claim(&mut all, 2, &|lane| lane == 2, 40, RULES), Claim::Window(0));
        assert_eq!(all[0].failure_record, searched(12, 1));
        // Now each unit is a chunk. The first death counts for the unit in work, not for the units before.
        all[0].position = 10;
        assert_eq!(claim(&mut all, 3, &|lane| lane == 3, 40, RULES), Claim::Window(0));
        assert_eq!(
            all[0].failure_record,
            FailureRecord { unit: 10, attempts: 1, ..searched(12, 1) }
        );
        // The death of another worker at another unit starts that unit's own count.
        all[0].position = 11;
        assert_eq!(claim(&mut all, 4, &|lane| lane == 4, 40, RULES), Claim::Window(0));
        assert_eq!(
            all[0].failure_record,
            FailureRecord { unit: 11, attempts: 1, ..searched(12, 1) }
        );
    }

    #[test]
    fn with_every_unit_committed_alone_the_unit_in_work_is_known_at_once() {
        let rules = ClaimRules { each_unit_alone: true, ..RULES };
        let mut all = segments(&[(0, 1, 10, Some(0))]);
        claim(&mut all, 0, &all_live, 1, rules);
        assert_eq!(all[0].failure_record.attempts, 1);
    }

    #[test]
    fn only_when_every_segment_is_closed_nothing_is_left() {
        let mut all = segments(&[(0, 10, 10, Some(0)), (10, 10, 10, None)]);
        all.iter_mut().for_each(|segment| segment.is_closed = true);
        assert_eq!(claim(&mut all, 1, &all_live, 5, RULES), Claim::AllClosed);
    }
}
