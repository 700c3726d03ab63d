//! The program around the command: its own jobs and kinds.

use batchwright::JobRegistry;
use batchwright_items::{ItemKind, KindRegistry};

/// The jobs and kinds of a program that offers the verbs of the command.
#[derive(Debug, Clone)]
pub struct Program {
    pub(crate) registry: JobRegistry,
    pub(crate) kinds: KindRegistry,
}

impl Program {
    /// A program with the jobs of `registry` and the kinds of Batchwright.
    pub fn new(registry: JobRegistry) -> Self {
        Self { registry, kinds: KindRegistry::builtin() }
    }

    /// Lets job files name `kind` as the type of a reader, a writer, a processor or a step.
    #[must_use]
    pub fn kind(mut self, kind: impl ItemKind + 'static) -> Self {
        self.kinds = self.kinds.with(kind);
        self
    }
}

impl From<JobRegistry> for Program {
    fn from(registry: JobRegistry) -> Self {
        Self::new(registry)
    }
}
