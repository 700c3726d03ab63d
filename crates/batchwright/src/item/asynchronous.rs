//! Asynchronous readers, processors and writers. The engine drives them on the thread of their step, with a
//! runtime of its own (tokio) for sockets and timers; no thread of the application's runtime is blocked.

mod process;
mod read;
mod sink;
mod write;

pub use process::AsyncProcessor;
pub use read::{AsyncItemReader, AsyncReader, Page, PagePosition, StreamReader};
pub use sink::SinkWriter;
pub use write::{AsyncItemWriter, AsyncWriter};
