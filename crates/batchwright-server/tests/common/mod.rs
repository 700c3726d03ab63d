//! Helpers for tests that start a server in a separate process.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

pub mod serving;

use std::path::PathBuf;

pub use batchwright_testkit::process::{Process, until};

/// Returns the path of the example `name`, which `cargo test` has built.
pub fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is missing: cargo builds examples with the tests", path.display());
    path
}
