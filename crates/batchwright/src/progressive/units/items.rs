//! Units that are the items of an item reader.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Extent, UnitRange, UnitReader, Units};
use crate::error::ItemError;
use crate::item::ItemReader;
use crate::scope::StepScope;

/// Maximum number of items that are counted, because the client that opens an execution waits for the count.
const UNITS_MAX: u64 = 50_000_000;
/// Maximum number of positions that are stored of an input.
const POSITIONS_MAX: usize = 512;

/// Units that are the items of an [`ItemReader`]: records of a file, rows of a query.
///
/// When an execution is opened, the input is read once to count its items and to store a few hundred
/// positions. A lane begins at any item by reading from the last stored position before it. A record that
/// cannot be read is a unit that fails.
pub struct ItemUnits<R> {
    make: Arc<MakeReader<R>>,
}

type MakeReader<R> = dyn Fn(&StepScope) -> Result<R, ItemError> + Send + Sync;

impl<R: ItemReader> ItemUnits<R> {
    /// Returns the items of the reader that `make` makes; `make` is called for every lane.
    pub fn new(make: impl Fn(&StepScope) -> Result<R, ItemError> + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(make) }
    }
}

impl<R> std::fmt::Debug for ItemUnits<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ItemUnits").finish_non_exhaustive()
    }
}

/// Positions of a reader before every `every`-th item.
#[derive(Debug, Serialize, Deserialize)]
#[doc(hidden)]
pub struct UnitIndex {
    every: u64,
    /// The positions as JSON text, the first one before item `every`.
    positions: Vec<String>,
}

impl UnitIndex {
    /// Reads the open `reader` to its end and returns the number of items and the index.
    fn of<R: ItemReader>(reader: &mut R) -> Result<(u64, Self), ItemError> {
        let (mut count, mut index) = (0, Self { every: 1, positions: Vec::new() });
        while pass(reader)? {
            count += 1;
            if count > UNITS_MAX {
                return Err(ItemError::fatal(format!(
                    "the input has more than {UNITS_MAX} items; a custom `Units` source can give \
                     their number without reading them"
                )));
            }
            if count % index.every == 0 {
                index.positions.push(serde_json::to_string(&reader.position())?);
            }
            if index.positions.len() > POSITIONS_MAX {
                // Every second position stays: those before the multiples of the doubled distance.
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

/// Passes over one item. Returns whether an item existed; a record that cannot be read counts as one.
fn pass<R: ItemReader>(reader: &mut R) -> Result<bool, ItemError> {
    match reader.read() {
        Ok(item) => Ok(item.is_some()),
        Err(error) if *error.kind() == crate::error::ErrorKind::FATAL => Err(error),
        Err(_) if reader.rereads() => reader.pass_over().map(|()| true),
        Err(_) => Ok(true),
    }
}

/// Reads items as units.
#[doc(hidden)]
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
        // The position before the last multiple of `every` that is not after the unit.
        let multiple = range.from / index.every.max(1);
        let stored = match usize::try_from(multiple).ok().and_then(|at| at.checked_sub(1)) {
            Some(at) => index.positions.get(at),
            None => None,
        };
        let position = stored.map(|text| serde_json::from_str(text)).transpose()?;
        reader.open(position, scope)?;
        let mut reader = ItemUnitReader(reader);
        let passed =
            if stored.is_some() { range.from - multiple * index.every } else { range.from };
        for _ in 0..passed {
            if !pass(&mut reader.0)? {
                break;
            }
        }
        Ok(reader)
    }
}
