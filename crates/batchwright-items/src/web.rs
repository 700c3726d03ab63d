//! APIs of web servers: pages of items, items that are sent, questions about items, and single calls.

mod exchange;
mod kind;
mod processor;
mod reader;
mod step;
mod writer;

pub(crate) use kind::WebKind;
