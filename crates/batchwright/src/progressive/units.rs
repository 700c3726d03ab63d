//! Sources of units.

mod items;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::items::{ItemUnitReader, ItemUnits, UnitIndex};
use crate::error::ItemError;
use crate::scope::StepScope;

/// The number of units, and whether a lane may begin at any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent<P> {
    /// A number of units, numbered from 0; a reader can be opened at each of them. The plan is stored with
    /// the execution and makes opening fast: an index, a length.
    Split(u64, P),
    /// A number of ranks, each with units of its own, numbered from 0 until its reader ends; and the plan.
    Ranks(u32, P),
}

/// The units for which a reader is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitRange {
    /// The rank whose units are read; 0 where units can be split.
    pub rank: u32,
    /// The first unit.
    pub from: u64,
}

/// The units of a progressive step. One value serves all executions and lanes.
pub trait Units: Send + Sync {
    /// A unit.
    type Unit: Send;
    /// The data that is stored with the execution to open readers.
    type Plan: Serialize + DeserializeOwned + Send;
    /// The reader of the units.
    type Reader: UnitReader<Unit = Self::Unit>;

    /// Examines the input once, when an execution is opened and has no number yet.
    ///
    /// # Errors
    ///
    /// The execution is not opened; nothing was stored.
    fn extent(&self, scope: &StepScope) -> Result<Extent<Self::Plan>, ItemError>;

    /// Returns the total number of units as far as it is known now, for the progress; asked at the beginning of each slice.
    /// It may be an estimate and may change. Default: none, which leaves the number that [`extent`](Self::extent) returned.
    ///
    /// # Errors
    ///
    /// The execution fails and can be restarted.
    fn total(&self, plan: &Self::Plan, scope: &StepScope) -> Result<Option<u64>, ItemError> {
        let _ = (plan, scope);
        Ok(None)
    }

    /// Opens a reader whose first unit is the first of `range`.
    ///
    /// # Errors
    ///
    /// The execution fails and can be restarted.
    fn open(
        &self,
        plan: &Self::Plan,
        range: UnitRange,
        scope: &StepScope,
    ) -> Result<Self::Reader, ItemError>;
}

/// Reads units in their order.
pub trait UnitReader: Send {
    /// A unit.
    type Unit;

    /// Returns the next unit; `None` after the last one.
    ///
    /// # Errors
    ///
    /// The attempt at this unit failed. A new reader is opened for the next attempt and for the units after
    /// it.
    fn next(&mut self) -> Result<Option<Self::Unit>, ItemError>;
}

/// Units that are the numbers from 0 to `count`, `count` excluded.
#[derive(Clone)]
pub struct NumberedUnits {
    count: Arc<Count>,
}

type Count = dyn Fn(&StepScope) -> Result<u64, ItemError> + Send + Sync;

impl NumberedUnits {
    /// Returns `count` units.
    pub fn new(count: u64) -> Self {
        Self::with(move |_| Ok(count))
    }

    /// Returns as many units as `count` returns when an execution is opened.
    ///
    /// ```
    /// use batchwright::progressive::NumberedUnits;
    ///
    /// let units = NumberedUnits::with(|scope| Ok(u64::try_from(scope.parameters().integer("pages")?)?));
    /// ```
    pub fn with(
        count: impl Fn(&StepScope) -> Result<u64, ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self { count: Arc::new(count) }
    }
}

impl std::fmt::Debug for NumberedUnits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NumberedUnits").finish_non_exhaustive()
    }
}

/// Reads consecutive numbers.
#[derive(Debug)]
pub struct NumberReader(u64);

impl UnitReader for NumberReader {
    type Unit = u64;

    #[inline]
    fn next(&mut self) -> Result<Option<u64>, ItemError> {
        self.0 += 1;
        Ok(Some(self.0 - 1))
    }
}

impl Units for NumberedUnits {
    type Unit = u64;
    type Plan = ();
    type Reader = NumberReader;

    fn extent(&self, scope: &StepScope) -> Result<Extent<()>, ItemError> {
        Ok(Extent::Split((self.count)(scope)?, ()))
    }

    fn open(&self, (): &(), range: UnitRange, _: &StepScope) -> Result<NumberReader, ItemError> {
        Ok(NumberReader(range.from))
    }
}

/// Units that are the elements of a list, which is made anew for each reader.
pub struct ListUnits<T> {
    list: Arc<MakeList<T>>,
}

type MakeList<T> = dyn Fn(&StepScope) -> Result<Vec<T>, ItemError> + Send + Sync;

impl<T> ListUnits<T> {
    /// Returns the elements of the list that `list` makes. `list` must make the same list whenever it is
    /// called for the same instance.
    pub fn new(
        list: impl Fn(&StepScope) -> Result<Vec<T>, ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self { list: Arc::new(list) }
    }
}

impl<T> std::fmt::Debug for ListUnits<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListUnits").finish_non_exhaustive()
    }
}

/// Reads the elements of a list.
#[derive(Debug)]
pub struct ListUnitReader<T>(std::vec::IntoIter<T>);

impl<T: Send> UnitReader for ListUnitReader<T> {
    type Unit = T;

    fn next(&mut self) -> Result<Option<T>, ItemError> {
        Ok(self.0.next())
    }
}

impl<T: Send> Units for ListUnits<T> {
    type Unit = T;
    type Plan = ();
    type Reader = ListUnitReader<T>;

    fn extent(&self, scope: &StepScope) -> Result<Extent<()>, ItemError> {
        Ok(Extent::Split((self.list)(scope)?.len() as u64, ()))
    }

    fn open(
        &self,
        (): &(),
        range: UnitRange,
        scope: &StepScope,
    ) -> Result<ListUnitReader<T>, ItemError> {
        let mut list = (self.list)(scope)?;
        let from = usize::try_from(range.from).unwrap_or(usize::MAX).min(list.len());
        list.drain(..from);
        Ok(ListUnitReader(list.into_iter()))
    }
}
