//! Test support: faults, benches for jobs and for single parts, and the conformance suites of readers, writers and
//! repositories. [`fault`], [`SimClock`] and [`CommitPoint`] are always there, the rest with the feature `testing`.
//!
//! This module has no substitutes for real parts: it makes real parts fail.

pub mod fault;
mod sim_clock;

#[cfg(feature = "testing")]
mod bench;
#[cfg(feature = "testing")]
mod blocks;
#[cfg(feature = "testing")]
mod conformance;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod model;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod oracle;
#[cfg(feature = "testing")]
mod parts;
#[cfg(feature = "testing")]
mod promises;
#[cfg(feature = "testing")]
mod random;
#[cfg(feature = "testing")]
mod schedule;
#[cfg(feature = "testing")]
mod unit_shape;

pub use crate::host::CommitPoint;
#[cfg(feature = "testing")]
pub use bench::{TestBench, assert_lines};
#[cfg(feature = "testing")]
pub use conformance::conformance;
#[cfg(feature = "testing")]
pub use parts::StepBench;
#[cfg(feature = "testing")]
pub use promises::{conformance_of_reader, conformance_of_writer};
#[cfg(feature = "testing")]
pub use random::SimRng;
#[cfg(feature = "testing")]
pub use schedule::conformance_of_schedule;
pub use sim_clock::SimClock;
#[cfg(feature = "testing")]
pub use unit_shape::UnitShape;
