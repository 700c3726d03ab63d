//! Progressive execution: many short requests run a long job.
//!
//! A [`ProgressiveStep`] works through **units**, which are divided into **segments**. A **lane** serves one
//! driver, and each request of the driver runs a **slice**: the slice takes the lease of the lane, claims
//! windows of units, commits them with their position, and releases the lease when its time is over. All
//! state is in the store, so that the next slice may run in any process.
//!
//! ```
//! use batchwright::progressive::{Extent, ListUnits, UnitRange, UnitReader, Units};
//! use batchwright::progressive::{FinalResponse, ProgressiveBuilder, ProgressiveStep, UnitsSummary};
//! use batchwright::ItemError;
//! use batchwright::scope::StepScope;
//!
//! /// The pages of a service, of which only the number is known.
//! struct Pages;
//!
//! struct PageReader(u64);
//!
//! impl Units for Pages {
//!     type Unit = u64;
//!     type Plan = u64;
//!     type Reader = PageReader;
//!
//!     fn extent(&self, scope: &StepScope) -> Result<Extent<u64>, ItemError> {
//!         let pages = u64::try_from(scope.parameters().integer("pages")?)?;
//!         Ok(Extent::Split(pages, pages))
//!     }
//!
//!     fn open(&self, _: &u64, range: UnitRange, _: &StepScope) -> Result<PageReader, ItemError> {
//!         Ok(PageReader(range.from))
//!     }
//! }
//!
//! impl UnitReader for PageReader {
//!     type Unit = u64;
//!
//!     fn next(&mut self) -> Result<Option<u64>, ItemError> {
//!         self.0 += 1;
//!         Ok(Some(self.0 - 1))
//!     }
//! }
//!
//! let step = ProgressiveStep::builder("pages")
//!     .units(Pages)
//!     .process(|page: &u64| Ok(Some(*page)))
//!     .respond(|_: Option<()>, end: &UnitsSummary| FinalResponse::json(&end.units_done))
//!     .build();
//! let list = ProgressiveStep::builder("names")
//!     .units(ListUnits::new(|_| Ok(vec!["a", "b"])))
//!     .process(|name: &&str| Ok(Some(name.to_uppercase())))
//!     .build();
//! # let _: Option<ProgressiveBuilder<(), ()>> = None;
//! ```

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
