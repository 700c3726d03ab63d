//! Memory keeps every promise that a repository makes.

#[test]
fn memory_keeps_the_promises_of_a_repository() {
    batchwright::testing::conformance(&batchwright::MemoryRepository::new());
}
