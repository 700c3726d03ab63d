//! Durations of the units of a progressive step, for tests and benchmarks of the end of slices.

use super::SimRng;

/// The distribution of the durations of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitShape {
    /// All equal.
    Constant,
    /// Uniform from half of the usual time to one and a half times it.
    HalfMoreOrLess,
    /// One in ten takes eleven times as long as the others.
    OneInTenElevenFold,
    /// Increasing from a quarter of the usual time to all of it.
    Slower,
    /// Decreasing from the usual time to a quarter of it.
    Faster,
}

impl UnitShape {
    /// All shapes, with a name for people.
    pub const ALL: [(Self, &str); 5] = [
        (Self::Constant, "constant"),
        (Self::HalfMoreOrLess, "±50 %"),
        (Self::OneInTenElevenFold, "one in ten 11 ×"),
        (Self::Slower, "slower, 4 ×"),
        (Self::Faster, "faster, 4 ×"),
    ];

    /// Returns the duration of a unit whose usual duration is `base`, in the same unit of time. `at` is the
    /// position of the unit in the whole work, from 0 to 1.
    pub fn unit(self, base: f64, at: f64, random: &mut SimRng) -> f64 {
        match self {
            Self::Constant => base,
            Self::HalfMoreOrLess => base * (0.5 + random.unit()),
            Self::OneInTenElevenFold if random.unit() < 0.1 => base * 11.0,
            Self::OneInTenElevenFold => base,
            Self::Slower => base * 4f64.powf(at - 1.0),
            Self::Faster => base * 4f64.powf(-at),
        }
    }
}
