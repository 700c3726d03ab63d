//! The memory repository keeps every promise of a repository.

#[test]
fn memory_keeps_the_promises_of_a_repository() {
    batchwright::testing::conformance(&batchwright::MemoryRepository::new());
}
