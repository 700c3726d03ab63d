//! The items of any reader as units.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Extent, UnitRange, UnitReader, Units};
use crate::error::ItemError;
use crate::item::ItemReader;
use crate::step::StepScope;

/// Items that are counted, at most: whoever opens an execution waits for it.
const UNITS_MAX: u64 = 50_000_000;
/// Positions that are kept of an input, at most.
const POSITIONS_MAX: usize = 512;

/// The items of an [`ItemReader`], one unit each: records of a file, rows of a query.
///
/// When an execution is opened the input is read through once, to count it and to note a few hundred positions
/// in it; from then on a lane begins at any item by reading on from the last position before it. A record
/// that cannot be read is a unit that fails.
pub struct ItemUnits<R> {
    make: Arc<MakeReader<R>>,
}

type MakeReader<R> = dyn Fn(&StepScope) -> Result<R, ItemError> + Send + Sync;

impl<R: ItemReader> ItemUnits<R> {
    /// The items of what `make` makes; it is called for every lane.
    pub fn new(make: impl Fn(&StepScope) -> Result<R, ItemError> + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(make) }
    }
}

impl<R> std::fmt::Debug for ItemUnits<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ItemUnits").finish_non_exhaustive()
    }
}

/// Positions of a reader in front of every so many items.
#[derive(Debug, Serialize, Deserialize)]
pub struct UnitIndex {
    every: u64,
    /// As JSON text, the first one in front of item `every`.
    positions: Vec<String>,
}

impl UnitIndex {
    /// Reads `reader`, which is open, to its end.
    fn of<R: ItemReader>(reader: &mut R) -> Result<(u64, Self), ItemError> {
        let (mut count, mut index) = (0, Self { every: 1, positions: Vec::new() });
        while pass(reader)? {
            count += 1;
            if count > UNITS_MAX {
                return Err(ItemError::fatal(format!(
                    "count the input: it has more than {UNITS_MAX} items; a source of your own can say how many \
                     there are without reading them"
                )));
            }
            if count % index.every == 0 {
                index.positions.push(serde_json::to_string(&reader.position())?);
            }
            if index.positions.len() > POSITIONS_MAX {
                // Every second one stays: those in front of the multiples of twice as many.
                let mut number = 0;
                index.positions.retain(|_| {
                    number += 1;
                    number % 2 == 0
                });
                index.every *= 2;
            }
        }
        Ok((count, index))
    }
}

/// Goes past one item. Whether there was one: a record that cannot be read is one too.
fn pass<R: ItemReader>(reader: &mut R) -> Result<bool, ItemError> {
    match reader.read() {
        Ok(item) => Ok(item.is_some()),
        Err(error) if *error.kind() == crate::error::ErrorKind::FATAL => Err(error),
        Err(_) if reader.rereads() => reader.pass_over().map(|()| true),
        Err(_) => Ok(true),
    }
}

/// Reads items as units.
pub struct ItemUnitReader<R: ItemReader>(R);

impl<R: ItemReader> std::fmt::Debug for ItemUnitReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ItemUnitReader").finish_non_exhaustive()
    }
}

impl<R: ItemReader> UnitReader for ItemUnitReader<R> {
    type Unit = R::Item;

    fn next(&mut self) -> Result<Option<R::Item>, ItemError> {
        self.0.read()
    }
}

impl<R: ItemReader> Drop for ItemUnitReader<R> {
    fn drop(&mut self) {
        if let Err(error) = self.0.close() {
            tracing::debug!(%error, "a reader of units was not closed");
        }
    }
}

impl<R: ItemReader> Units for ItemUnits<R> {
    type Unit = R::Item;
    type Plan = UnitIndex;
    type Reader = ItemUnitReader<R>;

    fn extent(&self, scope: &StepScope) -> Result<Extent<UnitIndex>, ItemError> {
        let mut reader = (self.make)(scope)?;
        reader.open(None, scope)?;
        let read = UnitIndex::of(&mut reader);
        reader.close()?;
        let (count, index) = read?;
        Ok(Extent::Split(count, index))
    }

    fn open(
        &self,
        index: &UnitIndex,
        range: UnitRange,
        scope: &StepScope,
    ) -> Result<ItemUnitReader<R>, ItemError> {
        let mut reader = (self.make)(scope)?;
        // The position in front of the last multiple at or before the unit.
        let multiple = range.from / index.every.max(1);
        let stored = match usize::try_from(multiple).ok().and_then(|at| at.checked_sub(1)) {
            Some(at) => index.positions.get(at),
            None => None,
        };
        let position = stored.map(|text| serde_json::from_str(text)).transpose()?;
        reader.open(position, scope)?;
        let mut reader = ItemUnitReader(reader);
        let behind =
            if stored.is_some() { range.from - multiple * index.every } else { range.from };
        for _ in 0..behind {
            if !pass(&mut reader.0)? {
                break;
            }
        }
        Ok(reader)
    }
}
