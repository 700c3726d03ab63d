//! KCP, the line protocol of the scheduler: messages over TCP, each with one answer.

mod connection;
mod listener;
mod request;

pub mod client;

pub use crate::message::{Decoder, MESSAGE_MAX, Malformed, encode};
pub use listener::{Access, KcpSettings, Tls};
pub(crate) use listener::{Listener, acceptor};
