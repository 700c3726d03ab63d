//! The engine counts, commits and restarts exactly as the reference model does, with any faults, any chunk
//! size, read-ahead or parallel processing.

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use batchwright::store::JobRepository;
use batchwright::testing::model::Case;
use batchwright::testing::oracle::{Shape, check};
use batchwright::{ListWriter, MemoryRepository};
use common::cases;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_does_what_the_model_says(
        case in cases(),
        read_ahead in 0usize..4,
        parallelism in 1usize..=4,
    ) {
        let rows = Arc::new(Mutex::new(Vec::new()));
        let repository: Arc<dyn JobRepository> = Arc::new(MemoryRepository::new());
        let writer = ListWriter::new(Arc::clone(&rows));
        let shape = Shape { read_ahead, parallelism };
        // The memory repository has no constraints.
        let case = Case { refused: BTreeSet::new(), ..case };
        check(&repository, "numbers", &writer, || rows.lock().unwrap().clone(), || {}, &case, shape);
    }
}
