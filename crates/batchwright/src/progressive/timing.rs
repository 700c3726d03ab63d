//! Measures how long units take: a histogram with decaying weights. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Number of buckets for each doubling of the time.
const BUCKETS_PER_OCTAVE: usize = 8;
/// Number of buckets for every number of nanoseconds in 64 bits.
const BUCKETS: usize = 64 * BUCKETS_PER_OCTAVE;
/// The relative weight of a sample after the next one: about a third after fifty samples.
const DECAY: f64 = 0.98;
/// The weight at which all weights are scaled back. Weights of new samples grow instead of old ones
/// shrinking, so that a sample changes one bucket.
const WEIGHT_MAX: f64 = 1e12;

/// The times of units in logarithmic buckets, eight to an octave. Each sample weighs two per cent less than
/// the next one. The histogram is stored with the lane, so that a new slice knows how long units take.
#[derive(Debug, Clone)]
pub(crate) struct UnitTimes {
    buckets: Box<[Bucket; BUCKETS]>,
    /// Weight of the next sample.
    weight: f64,
    samples: u64,
    last: Duration,
    /// An upper bound of all counted times, which costs nothing to keep.
    largest: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    weight: f64,
    /// Weighted sum of the times in nanoseconds: their mean is exact where all samples are equal.
    sum: f64,
}

/// The stored form: the buckets that are in use, each with its weight and mean.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Stored {
    samples: u64,
    last_ns: u64,
    buckets: BTreeMap<usize, (f32, f64)>,
}

impl Default for UnitTimes {
    fn default() -> Self {
        Self {
            buckets: Box::new([Bucket::default(); BUCKETS]),
            weight: 1.0,
            samples: 0,
            last: Duration::ZERO,
            largest: Duration::ZERO,
        }
    }
}

impl UnitTimes {
    /// Records that a unit took `time`.
    #[inline]
    pub(super) fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = &mut self.buckets[bucket_of(nanos)];
        bucket.weight += self.weight;
        bucket.sum += self.weight * nanos as f64;
        self.weight /= DECAY;
        self.samples = self.samples.saturating_add(1);
        self.last = time;
        self.largest = self.largest.max(time);
        if self.weight > WEIGHT_MAX {
            self.scale();
        }
    }

    /// Scales all weights back and clears buckets without noticeable weight.
    fn scale(&mut self) {
        /// Weight, relative to the next sample, up to which a bucket is cleared.
        const NOTHING: f64 = 1e-6;
        let weight = std::mem::replace(&mut self.weight, 1.0);
        let mut largest = 0;
        for (index, bucket) in self.buckets.iter_mut().enumerate() {
            *bucket = Bucket { weight: bucket.weight / weight, sum: bucket.sum / weight };
            match bucket.weight > NOTHING {
                true => largest = index,
                false => *bucket = Bucket::default(),
            }
        }
        self.largest = Duration::from_nanos(end_of(largest));
    }

    /// Returns the number of units that were timed.
    pub(super) fn samples(&self) -> u64 {
        self.samples
    }

    /// Returns the time of the last unit.
    pub(super) fn last(&self) -> Duration {
        self.last
    }

    /// Returns an upper bound of the times of all units that still count.
    pub(super) fn largest(&self) -> Duration {
        self.largest
    }

    /// Returns the mean time of a unit; zero without samples.
    pub(super) fn mean(&self) -> Duration {
        let (weight, sum) = self
            .buckets
            .iter()
            .fold((0.0, 0.0), |(weight, sum), one| (weight + one.weight, sum + one.sum));
        nanos(sum, weight)
    }

    /// Returns the time that the share `quantile` (from 0 to 1) of the units does not exceed; zero without
    /// samples.
    pub(super) fn quantile(&self, quantile: f64) -> Duration {
        let total: f64 = self.buckets.iter().map(|bucket| bucket.weight).sum();
        let above = total * (1.0 - quantile);
        let mut seen = 0.0;
        for bucket in self.buckets.iter().rev().filter(|bucket| bucket.weight > 0.0) {
            seen += bucket.weight;
            if seen >= above {
                return nanos(bucket.sum, bucket.weight);
            }
        }
        Duration::ZERO
    }

    /// Reads the text that [`to_json`](Self::to_json) wrote; any other text gives an empty histogram.
    pub(super) fn from_json(text: &str) -> Self {
        let stored: Stored = serde_json::from_str(text).unwrap_or_default();
        let mut times = Self::default();
        for (index, (weight, mean)) in stored.buckets {
            if let Some(bucket) = times.buckets.get_mut(index) {
                let weight = f64::from(weight);
                *bucket = Bucket { weight, sum: weight * mean };
                times.largest = Duration::from_nanos(end_of(index));
            }
        }
        times.samples = stored.samples;
        times.last = Duration::from_nanos(stored.last_ns);
        times
    }

    /// Returns the histogram as text for the store.
    pub(super) fn to_json(&self) -> String {
        /// Weight, relative to the next sample, up to which a bucket is not stored.
        const WORTH: f64 = 1e-4;
        let used = self.buckets.iter().enumerate().filter_map(|(index, bucket)| {
            let weight = bucket.weight / self.weight;
            (weight > WORTH).then(|| (index, (weight as f32, (bucket.sum / bucket.weight).round())))
        });
        let stored = Stored {
            samples: self.samples,
            last_ns: u64::try_from(self.last.as_nanos()).unwrap_or(u64::MAX),
            buckets: used.collect(),
        };
        serde_json::to_string(&stored).unwrap_or_default()
    }
}

fn nanos(sum: f64, weight: f64) -> Duration {
    if weight > 0.0 { Duration::from_nanos((sum / weight) as u64) } else { Duration::ZERO }
}

/// Returns the bucket of a time: the position of the leading bit is the octave, and the next three bits are
/// the bucket within it.
#[inline]
fn bucket_of(nanos: u64) -> usize {
    if nanos < BUCKETS_PER_OCTAVE as u64 {
        return nanos as usize;
    }
    let octave = nanos.ilog2() as usize;
    (octave - 2) * BUCKETS_PER_OCTAVE + ((nanos >> (octave - 3)) & 7) as usize
}

/// Returns the first time after a bucket.
fn end_of(index: usize) -> u64 {
    let next = index + 1;
    if next < BUCKETS_PER_OCTAVE {
        return next as u64;
    }
    let (octave, place) = (next / BUCKETS_PER_OCTAVE + 2, next % BUCKETS_PER_OCTAVE);
    match 1u64.checked_shl(octave as u32) {
        Some(begin) => begin + place as u64 * (begin / BUCKETS_PER_OCTAVE as u64),
        None => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn times(of: impl IntoIterator<Item = u64>) -> UnitTimes {
        let mut times = UnitTimes::default();
        of.into_iter().for_each(|micros| times.record(Duration::from_micros(micros)));
        times
    }

    #[test]
    fn a_constant_time_is_told_exactly() {
        let times = times(std::iter::repeat_n(200_123, 5000));
        for time in [times.mean(), times.quantile(0.5), times.quantile(0.95)] {
            let off = time.abs_diff(Duration::from_micros(200_123));
            assert!(off < Duration::from_nanos(50), "{time:?}");
        }
    }

    #[test]
    fn one_unit_in_ten_is_the_ninety_fifth_percentile_and_not_the_median() {
        let times = times((0..400).map(|n| if n % 10 == 3 { 110_000 } else { 10_000 }));
        assert!(times.quantile(0.95) > Duration::from_millis(109));
        assert!(times.quantile(0.5) < Duration::from_millis(11));
    }

    #[test]
    fn old_times_are_forgotten() {
        let mut times = times(std::iter::repeat_n(1_000, 5000));
        (0..250).for_each(|_| times.record(Duration::from_millis(200)));
        assert!(times.mean() > Duration::from_millis(195));
    }

    #[test]
    fn no_text_makes_a_memory_that_misleads() {
        for text in ["", "null", "[1]", r#"{"buckets":{"9999":[1,1]}}"#] {
            assert_eq!(UnitTimes::from_json(text).mean(), Duration::ZERO, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_time_lies_in_its_bucket(nanos in any::<u64>()) {
            let index = bucket_of(nanos);
            prop_assert!(index < BUCKETS);
            prop_assert!(nanos < end_of(index) || end_of(index) == u64::MAX);
            prop_assert!(index == 0 || nanos >= end_of(index - 1));
        }

        #[test]
        fn what_is_stored_is_remembered(of in prop::collection::vec(1u64..10_000_000, 1..300)) {
            let times = times(of);
            let again = UnitTimes::from_json(&times.to_json());
            prop_assert_eq!(again.samples(), times.samples());
            prop_assert_eq!(again.last(), times.last());
            let (mean, then) = (again.mean().as_secs_f64(), times.mean().as_secs_f64());
            prop_assert!((mean / then - 1.0).abs() < 0.01, "{mean} {then}");
            prop_assert!(again.largest() >= times.quantile(0.95));
        }
    }
}
