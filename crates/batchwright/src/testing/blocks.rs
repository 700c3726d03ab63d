//! Readers and writers whose chunks pass between threads as blocks, for tests of the engine.

use crate::error::ItemError;
use crate::item::{
    Acknowledge, Block, ChunkTransaction, Encoder, ItemReader, ItemWriter, Total, forward_writer,
};
use crate::scope::StepScope;

/// A reader whose chunks are read as blocks, which another thread decodes, unless its failed reads can be repeated.
pub(super) struct InBlocks<R>(pub(super) R);

/// The results of some reads.
struct Reads<T> {
    results: std::vec::IntoIter<Result<T, ItemError>>,
    is_last: bool,
}

impl<T: Send> Block<T> for Reads<T> {
    fn records(&self) -> usize {
        self.results.len()
    }

    fn is_last(&self) -> bool {
        self.is_last
    }

    fn decode(&mut self, take: &mut dyn FnMut(T)) -> Result<(), ItemError> {
        for result in self.results.by_ref() {
            take(result?);
        }
        Ok(())
    }
}

impl<R: ItemReader<Item: 'static>> ItemReader for InBlocks<R> {
    type Item = R::Item;
    type Position = R::Position;

    fn open(&mut self, position: Option<R::Position>, scope: &StepScope) -> Result<(), ItemError> {
        self.0.open(position, scope)
    }

    fn read(&mut self) -> Result<Option<R::Item>, ItemError> {
        self.0.read()
    }

    fn position(&self) -> R::Position {
        self.0.position()
    }

    fn rereads(&self) -> bool {
        self.0.rereads()
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        self.0.pass_over()
    }

    fn reads_blocks(&self) -> bool {
        !self.0.rereads()
    }

    fn read_block(&mut self, records: usize) -> Result<Box<dyn Block<R::Item>>, ItemError> {
        let (mut results, mut is_last) = (Vec::new(), false);
        while results.len() < records && !is_last {
            match self.0.read().transpose() {
                Some(result) => results.push(result),
                None => is_last = true,
            }
        }
        Ok(Box::new(Reads { results: results.into_iter(), is_last }))
    }

    fn total(&self) -> Option<Total> {
        self.0.total()
    }

    fn done(&self) -> u64 {
        self.0.done()
    }

    fn acknowledger(&self) -> Option<Box<dyn Acknowledge<R::Position>>> {
        self.0.acknowledger()
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.0.close()
    }
}

/// A writer whose numbers are encoded before they are written; it checks that they are those that it is to write.
pub(super) struct Encoding<W>(pub(super) W);

fn encode(items: &[u64], bytes: &mut Vec<u8>) {
    bytes.extend(items.iter().flat_map(|item| item.to_be_bytes()));
}

impl<W: ItemWriter<u64>> ItemWriter<u64> for Encoding<W> {
    fn write(&mut self, items: &[u64], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        self.0.write(items, chunk)
    }

    fn encoder(&self) -> Option<Encoder<u64>> {
        Some(Box::new(|items, bytes| {
            encode(items, bytes);
            Ok(())
        }))
    }

    fn write_encoded(
        &mut self,
        items: &[u64],
        bytes: &[u8],
        chunk: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        let mut expected = Vec::new();
        encode(items, &mut expected);
        assert_eq!(bytes, expected, "the bytes are those of the items");
        self.0.write(items, chunk)
    }

    forward_writer!(0);
}
