//! Test support: benches for jobs and for single parts, and the conformance suites of readers, writers and
//! repositories.
//!
//! This module has no substitutes for real parts: it makes real parts fail.

mod bench;
mod conformance;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod oracle;
mod parts;
mod promises;
mod random;
mod schedule;
mod unit_shape;

pub use bench::{TestBench, assert_lines};
pub use conformance::conformance;
pub use parts::StepBench;
pub use promises::{conformance_of_reader, conformance_of_writer};
pub use random::SimRng;
pub use schedule::conformance_of_schedule;
pub use unit_shape::UnitShape;
