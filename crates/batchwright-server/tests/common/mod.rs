//! A program that serves, in a folder of its own, and a browser to use it with.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

pub mod serving;

use std::path::PathBuf;

pub use batchwright_testkit::process::{Process, until};

/// The example of that name, as `cargo test` built it.
pub fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is missing: cargo builds examples with the tests", path.display());
    path
}
