//! Random plans of faults, shapes and sizes, shared by the oracle tests of every store.
#![allow(unreachable_pub, reason = "shared by path with the tests of another crate")]

use std::collections::BTreeSet;

use batchwright::testing::fault::FaultPlan;
use batchwright::testing::model::Case;
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
    pub fn cases()(
        count in 0u64..25,
        chunk in 1u64..9,
        faults in faults(),
        refused in prop_oneof![2 => Just(BTreeSet::new()), 1 => btree_set(1u64..25, 0..4)],
        skip_limit in prop_oneof![Just(None), (0u64..10).prop_map(Some)],
        retries in 0u32..4,
        stop_after_commits in prop_oneof![3 => Just(None), 1 => (1u64..6).prop_map(Some)],
    ) -> Case {
        // A reader that does not advance cannot detect that the input ends after the fault.
        let mut faults = faults;
        faults.read.retain(|item| *item <= count);
        faults.read_flaky.retain(|item, _| *item <= count);
        Case { count, chunk, faults, refused, skip_limit, retries, stop_after_commits }
    }
}
