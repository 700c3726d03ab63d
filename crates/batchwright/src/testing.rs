//! Test support: fault injection, and the conformance suite that every repository must pass.
//!
//! This module has no substitutes for real parts: it makes real parts fail.

mod bench;
mod conformance;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod oracle;
mod random;
mod schedule;
mod unit_shape;

pub use bench::{TestBench, assert_lines};
pub use conformance::conformance;
pub use random::SimRng;
pub use schedule::conformance_of_schedule;
pub use unit_shape::UnitShape;
