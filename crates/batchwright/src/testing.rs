//! For tests, ours and yours: faults on demand, and the suite that every repository must pass.
//!
//! Nothing here stands for a real part: it makes real parts fail.

mod bench;
mod conformance;
mod faults;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod oracle;
mod random;
mod unit_shape;

pub use bench::{TestBench, assert_lines};
pub use conformance::conformance;
pub use faults::{
    Delays, FaultPlan, FaultyPosition, FaultyProcessor, FaultyReader, FaultyWriter, Kill, Numbered,
};
pub use random::SimRng;
pub use unit_shape::UnitShape;
