//! Progressive execution: a long job carried forward by many short requests.
//!
//! A [`ProgressiveStep`] works through **units**. They lie in **segments**; a **lane** is a place for one
//! driver, and each of its requests is a **slice**: it takes the lane's lease, claims windows of units, commits
//! them with their position, and gives the lease back when its time is up. Nothing of that is remembered by
//! the process: the next slice may run anywhere.

mod budget;
mod lane;
mod lifecycle;
mod segments;
mod slice;
mod step;
mod timing;
mod units;

pub use lifecycle::OpenOptions;
pub(crate) use lifecycle::{OpenRequest, check_owner, close_stopped, open};
pub use segments::{Poison, Segment};
pub(crate) use slice::run_slice;
pub use slice::{
    ClientGone, LostClient, SliceAnswer, SliceError, SliceOrder, SliceOutcome, UnitProgress,
};
pub use step::{FinalResponse, OnFailed, ProgressiveBuilder, ProgressiveStep, UnitsSummary};
pub(crate) use step::{ProgressiveBody, ProgressiveWork};
pub use units::{
    Extent, ItemUnitReader, ItemUnits, ListUnits, NumberedUnits, UnitIndex, UnitRange, UnitReader,
    Units,
};
