//! APIs of web servers: pages of items, items that are sent, and single calls.

mod exchange;
mod kind;
mod reader;
mod step;
mod writer;

pub(crate) use kind::WebKind;
