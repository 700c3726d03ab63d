//! What a process needs that carries executions forward. Today: ending gracefully on a signal.

mod shutdown;

pub use shutdown::Shutdown;
