//! Decides when a slice ends: before the unit that would exceed its target. Pure.

use std::time::Duration;

use super::timing::UnitTimes;

/// The number of samples below which only the last unit is used for the estimate.
pub(super) const SAMPLES_MIN: u64 = 8;

/// The time budget of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// The target time, counted from the arrival of the request.
    pub(super) target: Duration,
    /// The expected duration of the checkpoint at its end.
    pub(super) reserve: Duration,
}

impl Budget {
    /// Returns whether one more unit fits, `elapsed` after the arrival of the request.
    #[inline]
    pub(super) fn has_room(&self, elapsed: Duration, times: &UnitTimes) -> bool {
        let elapsed = elapsed + self.reserve;
        // Fast path, nearly always taken: even the slowest counted unit fits.
        if times.samples() >= SAMPLES_MIN && elapsed + times.largest() <= self.target {
            return true;
        }
        let guard = self.guard(times);
        elapsed + guard <= self.target + self.tolerance(guard)
    }

    /// Returns the time to keep free for the next unit: the 95th percentile. Where that is more than a
    /// quarter of the target, the median: keeping the time of a rare slow unit free would end most slices far
    /// too early.
    fn guard(&self, times: &UnitTimes) -> Duration {
        if times.samples() < SAMPLES_MIN {
            return times.last();
        }
        let most = times.quantile(0.95);
        if most > self.target / 4 { times.quantile(0.5) } else { most }
    }

    /// Returns the time by which long units may exceed the target. Without it, a slice of units that each
    /// take a fifth of the target would end after four of them.
    fn tolerance(&self, guard: Duration) -> Duration {
        (self.target / 50).min(guard / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SimRng, UnitShape};

    /// Returns the end of each slice and its slowest unit, as shares of the target, after one slice to warm
    /// up.
    fn slices(shape: UnitShape, base_ms: f64, target_ms: f64, seed: u64) -> Vec<(f64, f64)> {
        const SLICES: usize = 48;
        let mut random = SimRng(seed);
        let target = Duration::from_secs_f64(target_ms / 1e3);
        let mut times = UnitTimes::default();
        let mut ends = Vec::new();
        for slice in 0..=SLICES {
            times = UnitTimes::from_json(&times.to_json());
            let budget = Budget { target, reserve: Duration::from_millis(2) };
            let (mut elapsed, mut slowest) = (0.001, 0f64);
            loop {
                let at = slice as f64 / SLICES as f64;
                let unit = shape.unit(base_ms / 1e3, at, &mut random);
                elapsed += unit;
                slowest = slowest.max(unit);
                times.record(Duration::from_secs_f64(unit));
                if !budget.has_room(Duration::from_secs_f64(elapsed), &times) {
                    break;
                }
            }
            let scale = 1e3 / target_ms;
            ends.push(((elapsed + 0.002) * scale, slowest * scale));
        }
        ends.split_off(1)
    }

    fn nth(sorted: &[f64], share: f64) -> f64 {
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    }

    #[test]
    fn slices_end_where_they_should() {
        for base in [1.0, 10.0, 200.0] {
            for target in [1000.0, 2000.0] {
                for (shape, name) in UnitShape::ALL {
                    let of: Vec<_> =
                        (0..20).flat_map(|seed| slices(shape, base, target, seed)).collect();
                    let mut ends: Vec<f64> = of.iter().map(|(end, _)| *end).collect();
                    ends.sort_unstable_by(f64::total_cmp);
                    let (median, late) = (nth(&ends, 0.5), nth(&ends, 0.95));
                    let used = ends.iter().sum::<f64>() / ends.len() as f64;
                    let slow = of.iter().map(|(_, slowest)| *slowest).fold(0.0, f64::max);
                    let line = format!(
                        "{name} {base} ms, target {target}: median {median:.3}, p95 {late:.3}, \
                         used {used:.3}"
                    );
                    println!("{line}");
                    // No slice can end in time when more than half of all slices contain a unit that takes
                    // longer than a whole slice. Nine of ten units are quick, so this is the case from seven
                    // units on.
                    let units = target / base;
                    let is_hopeless = shape == UnitShape::OneInTenElevenFold
                        && base * 11.0 > target
                        && 0.9f64.powf(units) < 0.5;
                    assert!(is_hopeless || (0.90..=1.02).contains(&median), "{line}");
                    assert!(late <= 1.06 || late <= 1.0 + slow, "{line}");
                    assert!(used >= 0.90, "{line}");
                }
            }
        }
    }

    /// Thousands of traces with random unit times: no slice begins a unit after its target, so it exceeds the
    /// target at most by the unit in work.
    #[test]
    fn no_unit_begins_behind_the_target() {
        let mut random = SimRng(7);
        for _ in 0..3000 {
            let target = Duration::from_millis(100 + random.below(3000));
            let budget = Budget { target, reserve: Duration::from_micros(random.below(5000)) };
            let mut times = UnitTimes::default();
            for _ in 0..3 {
                let mut elapsed = Duration::from_micros(random.below(50_000));
                let mut began;
                loop {
                    began = elapsed;
                    let magnitude = 10u64.pow(2 + random.below(4) as u32);
                    let unit = Duration::from_micros(1 + random.below(magnitude));
                    elapsed += unit;
                    times.record(unit);
                    if !budget.has_room(elapsed, &times) {
                        break;
                    }
                }
                assert!(began <= target + target / 50, "{began:?} of {target:?}");
            }
        }
    }

    #[test]
    fn before_there_are_eight_samples_the_last_unit_says_how_long_the_next_one_takes() {
        let budget = Budget { target: Duration::from_secs(1), reserve: Duration::ZERO };
        let mut times = UnitTimes::default();
        times.record(Duration::from_millis(400));
        assert!(budget.has_room(Duration::from_millis(400), &times));
        assert!(!budget.has_room(Duration::from_millis(800), &times));
    }
}
