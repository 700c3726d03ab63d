//! Progressive execution: a long job carried forward by many short requests.
//!
//! A [`ProgressiveStep`] works through **units**. They lie in **segments**; a **lane** is a place for one
//! driver, and each of its requests is a **slice**: it takes the lane's lease, claims windows of units, commits
//! them with their position, and gives the lease back when its time is up. Nothing of that is remembered by
//! the process: the next slice may run anywhere.

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

pub(crate) use lifecycle::{check_owner, close_stopped};
pub use opening::OpenOptions;
pub(crate) use opening::{OpenRequest, open};
pub use progress::{UnitProgress, UnitsSummary};
pub use pulse::{ClientGone, LostClient};
pub use segments::{Poison, Segment};
pub(crate) use slice::run_slice;
pub use slice::{SliceAnswer, SliceError, SliceOrder, SliceOutcome};
pub use step::{FinalResponse, OnFailed, ProgressiveBuilder, ProgressiveStep};
pub(crate) use step::{ProgressiveBody, ProgressiveWork};
pub use units::{
    Extent, ItemUnitReader, ItemUnits, ListUnits, NumberedUnits, UnitIndex, UnitRange, UnitReader,
    Units,
};
