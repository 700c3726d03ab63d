//! The names that most programs with jobs of their own need: `use batchwright::prelude::*`.

pub use crate::error::{ItemError, report};
pub use crate::execution::{BatchStatus, ExecutionId, JobExecution};
pub use crate::item::{
    ItemProcessor, ItemReader, ItemWriter, ListReader, ListWriter, NoWriter, Sequence,
};
pub use crate::job::{Job, JobFlow};
pub use crate::job_step::JobStep;
pub use crate::launch::LaunchOptions;
pub use crate::operator::{JobHandle, JobOperator};
pub use crate::parameters::{JobParameters, ParameterDeclaration, ParameterType};
pub use crate::partition::PartitionStep;
pub use crate::policy::{Completion, SkipPolicy};
pub use crate::registry::{JobRegistry, JobSource};
pub use crate::retry::{Backoff, RetryPolicy};
pub use crate::scope::StepScope;
pub use crate::step::{ChunkStepBuilder, CommandStep, Flow, Tasklet, TaskletCall, TaskletStep};
pub use crate::store::MemoryRepository;
