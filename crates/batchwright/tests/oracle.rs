//! The engine counts, commits and restarts exactly as the reference model says, whatever goes wrong,
//! whatever the chunk size, read ahead or in parallel.

use std::sync::{Arc, Mutex};

use batchwright::testing::FaultPlan;
use batchwright::testing::model::Case;
use batchwright::testing::oracle::{Shape, check};
use batchwright::{JobRepository, ListWriter, MemoryRepository};
use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;

fn faults() -> impl Strategy<Value = FaultPlan> {
    let some = || btree_set(1u64..25, 0..4);
    let flaky = || btree_map(1u64..25, 1u32..4, 0..3);
    let rare = || prop_oneof![4 => Just(Default::default()), 1 => btree_set(1u64..25, 1..2)];
    (some(), some(), some(), flaky(), flaky(), flaky(), rare(), rare(), some()).prop_map(
        |(read, process, write, read_flaky, process_flaky, write_flaky, fp, fw, filter)| {
            FaultPlan {
                read,
                process,
                write,
                read_flaky,
                process_flaky,
                write_flaky,
                fatal_process: fp,
                fatal_write: fw,
                filter,
                ..FaultPlan::default()
            }
        },
    )
}

prop_compose! {
    fn cases()(
        count in 0u64..25,
        chunk in 1u64..9,
        faults in faults(),
        skip_limit in prop_oneof![Just(None), (0u64..10).prop_map(Some)],
        retries in 0u32..4,
        stop_after_commits in prop_oneof![3 => Just(None), 1 => (1u64..6).prop_map(Some)],
    ) -> Case {
        // A reader that does not advance cannot know that there is nothing behind the fault.
        let mut faults = faults;
        faults.read.retain(|item| *item <= count);
        faults.read_flaky.retain(|item, _| *item <= count);
        Case { count, chunk, faults, skip_limit, retries, stop_after_commits }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_does_what_the_model_says(
        case in cases(),
        read_ahead in 0usize..4,
        parallelism in 1usize..4,
    ) {
        let rows = Arc::new(Mutex::new(Vec::new()));
        let repository: Arc<dyn JobRepository> = Arc::new(MemoryRepository::new());
        let writer = ListWriter::new(Arc::clone(&rows));
        let shape = Shape { read_ahead, parallelism };
        check(&repository, &writer, || rows.lock().unwrap().clone(), &case, shape);
    }
}
