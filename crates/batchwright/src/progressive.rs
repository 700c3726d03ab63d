//! Progressive execution: many short requests run a long job.
//!
//! A [`ProgressiveStep`] works through **units**, which are divided into **segments**. A **lane** serves one
//! driver, and each request of the driver runs a **slice**: the slice takes the lease of the lane, claims
//! windows of units, commits them with their position, and releases the lease when its time is over. All
//! state is in the store, so that the next slice may run in any process.

mod budget;
mod claims;
mod lane;
mod lifecycle;
mod opening;
mod progress;
mod pulse;
mod segments;
mod slice;
mod step;
mod timing;
mod units;

pub(crate) use lifecycle::check_owner;
pub use opening::OpenOptions;
pub(crate) use opening::{OpenRequest, open};
pub use progress::{UnitProgress, UnitsSummary};
pub use pulse::{DisconnectSignal, OnDisconnect};
pub(crate) use slice::run_slice;
pub use slice::{SliceAnswer, SliceError, SliceOrder, SliceOutcome};
pub use step::{FinalResponse, OnFailed, ProgressiveBuilder, ProgressiveStep};
pub(crate) use step::{ProgressiveBody, ProgressiveWork};
pub use units::{
    Extent, ItemUnitReader, ItemUnits, ListUnits, NumberedUnits, UnitIndex, UnitRange, UnitReader,
    Units,
};
