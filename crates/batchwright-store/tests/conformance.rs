//! SQLite keeps every promise that a repository makes.

use batchwright::testing::conformance;
use batchwright_store::{SqliteOptions, SqliteRepository};

#[test]
fn sqlite_keeps_the_promises_of_a_repository() {
    let dir = tempfile::tempdir().unwrap();
    conformance(&SqliteRepository::open(dir.path().join("a.db")).unwrap());
}

#[test]
fn two_prefixes_in_one_file_are_two_stores() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    for prefix in ["one_", "two_"] {
        let options = SqliteOptions { prefix: prefix.to_owned(), ..SqliteOptions::default() };
        conformance(&SqliteRepository::open_with(&path, &options).unwrap());
    }
}
