//! Chunks between threads: read but not decoded, and encoded but not written.

use crate::error::ItemError;

/// Records that a reader has read and not decoded yet; see [`ItemReader::read_block`](super::ItemReader::read_block).
///
/// ```
/// use batchwright::ItemError;
/// use batchwright::item::Block;
///
/// /// Lines with a number each.
/// struct Numbers {
///     lines: std::vec::IntoIter<String>,
///     is_last: bool,
/// }
///
/// impl Block<u64> for Numbers {
///     fn records(&self) -> usize {
///         self.lines.len()
///     }
///
///     fn is_last(&self) -> bool {
///         self.is_last
///     }
///
///     fn decode(&mut self, take: &mut dyn FnMut(u64)) -> Result<(), ItemError> {
///         for line in self.lines.by_ref() {
///             take(line.parse()?);
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait Block<T>: Send {
    /// Returns the number of records that are not decoded yet.
    fn records(&self) -> usize;

    /// Whether the input ends with these records.
    fn is_last(&self) -> bool;

    /// Passes the items of the records to `take`, up to the last one, or to one that cannot be decoded.
    ///
    /// # Errors
    ///
    /// The record is consumed: the next call goes on after it.
    fn decode(&mut self, take: &mut dyn FnMut(T)) -> Result<(), ItemError>;
}

/// A function that appends the bytes of outputs, at least one, to a buffer; see
/// [`ItemWriter::encoder`](super::ItemWriter::encoder).
///
/// ```
/// use batchwright::item::Encoder;
///
/// let mut lines: Encoder<u64> = Box::new(|numbers, bytes| {
///     numbers.iter().for_each(|number| bytes.extend(format!("{number}\n").bytes()));
///     Ok(())
/// });
/// let mut bytes = Vec::new();
/// lines(&[1, 2], &mut bytes)?;
/// assert_eq!(bytes, b"1\n2\n");
/// # Ok::<(), batchwright::ItemError>(())
/// ```
pub type Encoder<O> = Box<dyn FnMut(&[O], &mut Vec<u8>) -> Result<(), ItemError> + Send>;
