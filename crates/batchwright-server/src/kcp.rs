//! KCP, the line protocol of the scheduler: messages over TCP, each with one answer.

mod connection;
mod listener;
mod message;
mod request;

pub mod client;

pub use listener::{Access, KcpSettings, Tls};
pub(crate) use listener::{Listener, acceptor};
pub use message::{Decoder, MESSAGE_MAX, Malformed, encode};
pub(crate) use message::{line, words};
