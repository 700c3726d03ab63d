//! Writers that change only what another writer writes.

/// Defines all of [`ItemWriter`](super::ItemWriter) but `write` by the writer in the field `$writer`, whose type is `W`.
macro_rules! forward_writer {
    ($writer:tt) => {
        type Position = W::Position;

        fn open(
            &mut self,
            position: Option<W::Position>,
            scope: &$crate::scope::StepScope,
        ) -> Result<Option<$crate::item::PreparedCommit>, $crate::error::ItemError> {
            self.$writer.open(position, scope)
        }

        fn position(&mut self) -> Result<W::Position, $crate::error::ItemError> {
            self.$writer.position()
        }

        fn chunk_items(&self) -> usize {
            self.$writer.chunk_items()
        }

        fn keeps_position(&self) -> bool {
            self.$writer.keeps_position()
        }

        fn prepares(&self) -> bool {
            self.$writer.prepares()
        }

        fn prepare(
            &mut self,
            commit: &$crate::item::PreparedCommit,
        ) -> Result<(), $crate::error::ItemError> {
            self.$writer.prepare(commit)
        }

        fn committed(&mut self) -> Result<(), $crate::error::ItemError> {
            self.$writer.committed()
        }

        fn rolled_back(&mut self) -> Result<(), $crate::error::ItemError> {
            self.$writer.rolled_back()
        }

        fn close(&mut self, ending: $crate::item::Ending) -> Result<(), $crate::error::ItemError> {
            self.$writer.close(ending)
        }
    };
}

pub(crate) use forward_writer;
