//! How long the units of a progressive step take, for tests and benchmarks of when slices end.

use super::SimRng;

/// How the times of units are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitShape {
    /// All the same.
    Constant,
    /// Evenly from half of the usual time to half as much again.
    HalfMoreOrLess,
    /// One in ten eleven times as long as the others.
    OneInTenElevenFold,
    /// Slower and slower: from a quarter up to the whole.
    Slower,
    /// Faster and faster: from the whole down to a quarter.
    Faster,
}

impl UnitShape {
    /// All of them, with a name for people.
    pub const ALL: [(Self, &str); 5] = [
        (Self::Constant, "constant"),
        (Self::HalfMoreOrLess, "±50 %"),
        (Self::OneInTenElevenFold, "one in ten 11 ×"),
        (Self::Slower, "slower, 4 ×"),
        (Self::Faster, "faster, 4 ×"),
    ];

    /// Time of a unit, of units that usually take `base`, in its unit of time. `at` says where in the whole work it
    /// stands, from 0 to 1.
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
