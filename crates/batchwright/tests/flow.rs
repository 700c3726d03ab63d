//! Flows (engine rows A11): order of nodes, handled failures, and what a restart runs.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier, Mutex};

use batchwright::execution::{ExitStatus, JobExecution};
use batchwright::item::NoWriter;
use batchwright::job::{Decision, JobBuilder, JobFlow};
use batchwright::policy::SkipPolicy;
use batchwright::step::Flow;
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, MemoryRepository,
    Sequence, TaskletStep,
};

/// The steps that ran, in their order, and the steps that fail.
#[derive(Clone, Default)]
struct World {
    ran: Arc<Mutex<Vec<String>>>,
    failing: Arc<Mutex<BTreeSet<String>>>,
}

impl World {
    fn failing(names: &[&str]) -> Self {
        let world = Self::default();
        world.failing.lock().unwrap().extend(names.iter().map(ToString::to_string));
        world
    }

    /// Returns a step that records its runs, and fails while `failing` contains it.
    fn step(&self, name: &str) -> TaskletStep {
        self.step_with(name, ExitStatus::COMPLETED)
    }

    fn step_with(&self, name: &str, code: &str) -> TaskletStep {
        let (world, code) = (self.clone(), code.to_owned());
        TaskletStep::new(name, move |call| {
            let name = call.scope().step().to_owned();
            world.ran.lock().unwrap().push(name.clone());
            if world.failing.lock().unwrap().contains(&name) {
                return Err(ItemError::data("this one fails"));
            }
            Ok(Flow::FinishedWith(ExitStatus::new(code.clone())))
        })
    }

    fn mend(&self) {
        self.failing.lock().unwrap().clear();
    }

    /// Returns the steps that ran since the last call.
    fn ran(&self) -> Vec<String> {
        std::mem::take(&mut *self.ran.lock().unwrap())
    }
}

fn job() -> JobBuilder {
    Job::builder("job")
}

fn operator(job: JobBuilder) -> JobOperator {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(job.build().unwrap()).unwrap();
    operator
}

fn start(operator: &JobOperator) -> JobExecution {
    operator.start("job", JobParameters::new()).unwrap().wait().unwrap()
}

fn restart(operator: &JobOperator, of: &JobExecution) -> JobExecution {
    operator.restart(of.id).unwrap().wait().unwrap()
}

/// Returns the faults of a job.
fn faults(job: JobBuilder) -> String {
    job.build().unwrap_err().to_string()
}

#[test]
fn row_95_transitions_match_exit_codes_with_stars_and_marks() {
    for (pattern, taken) in [("DONE*", true), ("D?NE", true), ("D*E", true), ("DONE?", false)] {
        let world = World::default();
        let operator = operator(
            job()
                .step(world.step_with("a", "DONE"))
                .on(pattern)
                .to("wanted")
                .on("*")
                .to("other")
                .step(world.step("other"))
                .on("COMPLETED")
                .end("OTHER")
                .step(world.step("wanted")),
        );
        start(&operator);
        assert_eq!(world.ran()[1], if taken { "wanted" } else { "other" }, "{pattern}");
    }
}

#[test]
fn row_96_the_most_specific_pattern_wins_in_any_order_and_ties_are_refused() {
    let world = World::default();
    let operator = operator(
        job()
            .step(world.step_with("a", "COMPLETED_WITH_SKIPS"))
            .on("*")
            .fail("STAR")
            .on("COMPLETED*")
            .end("PREFIX")
            .on("COMPLETED_WITH_SKIPS")
            .end("LITERAL")
            .on("**")
            .fail("STARS"),
    );
    assert_eq!(start(&operator).exit.code, "LITERAL");
    let tie = faults(job().step(world.step("a")).on("A*").end("X").on("*B").end("Y"));
    assert!(tie.contains("`A*` and `*B` of `a` match the same codes"), "{tie}");
    assert!(job().step(world.step("a")).on("A*").end("X").on("B*").end("Y").build().is_ok());
}

#[test]
fn row_97_a_handled_failure_goes_on_and_is_not_tried_again() {
    let world = World::failing(&["load", "report"]);
    let operator = operator(
        job()
            .step(world.step("load"))
            .on("FAILED")
            .to("repair")
            .step(world.step("repair"))
            .step(world.step("report")),
    );
    let failed = start(&operator);
    assert_eq!(failed.status, BatchStatus::Failed);
    assert_eq!(world.ran(), ["load", "repair", "report"]);
    let load = &operator.queries().steps(failed.id).unwrap()[0];
    assert_eq!((load.status, load.handled), (BatchStatus::Failed, true));
    world.mend();
    let done = restart(&operator, &failed);
    assert_eq!(done.status, BatchStatus::Completed);
    assert_eq!(world.ran(), ["report"], "the failure that was handled is history");
}

#[test]
fn row_98_a_code_that_nothing_matches_fails_the_job_and_names_both() {
    let world = World::default();
    let operator =
        operator(job().step(world.step_with("a", "ODD")).on("EVEN").end("X").step(world.step("b")));
    let failed = start(&operator);
    let failure = failed.failure.unwrap();
    assert_eq!(failure.code, "no_transition");
    assert!(
        failure.message.contains("`a`") && failure.message.contains("`ODD`"),
        "{}",
        failure.message
    );
    assert_eq!(world.ran(), ["a"]);
}

#[test]
fn row_99_without_transitions_completed_goes_on_and_a_failure_fails_the_job() {
    let world = World::default();
    let operator =
        operator(job().step(world.step_with("a", "COMPLETED_WITH_SKIPS")).step(world.step("b")));
    assert_eq!(start(&operator).status, BatchStatus::Completed);
    assert_eq!(world.ran(), ["a", "b"]);
    let world = World::failing(&["a"]);
    let operator = self::operator(job().step(world.step("a")).step(world.step("b")));
    let failed = start(&operator);
    assert_eq!(
        (failed.status, failed.failure.unwrap().code.as_str()),
        (BatchStatus::Failed, "tasklet_failed")
    );
    assert_eq!(world.ran(), ["a"]);
}

#[test]
fn row_100_an_end_completes_the_job_with_its_code_although_the_step_failed() {
    let world = World::failing(&["a"]);
    let operator = operator(
        job().step(world.step("a")).on("FAILED").end("DONE WITH ERRORS").step(world.step("b")),
    );
    let done = start(&operator);
    assert_eq!(
        (done.status, done.exit.code.as_str()),
        (BatchStatus::Completed, "DONE WITH ERRORS")
    );
    let again = operator.start("job", JobParameters::new()).unwrap_err();
    assert_eq!(again.code(), "already_complete");
}

#[test]
fn row_101_a_fail_is_restartable_and_fails_again_without_running_a_step() {
    let world = World::default();
    let operator = operator(job().step(world.step_with("a", "BAD")).on("BAD").fail("FAILED BADLY"));
    let failed = start(&operator);
    assert_eq!((failed.status, failed.exit.code.as_str()), (BatchStatus::Failed, "FAILED BADLY"));
    assert_eq!(world.ran(), ["a"]);
    let again = restart(&operator, &failed);
    assert_eq!((again.status, again.exit.code.as_str()), (BatchStatus::Failed, "FAILED BADLY"));
    assert!(world.ran().is_empty());
}

#[test]
fn row_102_a_stop_is_continued_behind_it_and_with_nothing_behind_there_is_nothing_to_do() {
    let world = World::default();
    let operator =
        operator(job().step(world.step("a")).on("COMPLETED").stop().step(world.step("b")));
    let stopped = start(&operator);
    assert_eq!(stopped.status, BatchStatus::Stopped);
    assert_eq!(world.ran(), ["a"]);
    assert_eq!(restart(&operator, &stopped).status, BatchStatus::Completed);
    assert_eq!(world.ran(), ["b"]);
    let operator = self::operator(job().step(world.step("a")).on("COMPLETED").stop());
    let stopped = start(&operator);
    let done = restart(&operator, &stopped);
    assert_eq!((done.status, done.exit.code.as_str()), (BatchStatus::Completed, "NOOP"));
}

#[test]
fn row_103_a_restart_point_is_where_the_restart_begins_also_when_that_one_fails() {
    let world = World::default();
    let operator = operator(
        job()
            .step(world.step("a"))
            .step(world.step("b"))
            .step(world.step_with("c", "WAIT"))
            .on("WAIT")
            .restart_at("b")
            .on("*")
            .end("X"),
    );
    let stopped = start(&operator);
    assert_eq!((stopped.status, world.ran().len()), (BatchStatus::Stopped, 3));
    world.failing.lock().unwrap().insert("c".to_owned());
    // The failing step's code matches `*`, so the job ends.
    let again = restart(&operator, &stopped);
    assert_eq!(world.ran(), ["b", "c"], "from that step, complete or not");
    assert_eq!(again.exit.code, "X");

    let world = World::default();
    let operator = self::operator(
        job()
            .step(world.step_with("a", "WAIT"))
            .on("WAIT")
            .restart_at("b")
            .step(world.step("b"))
            .step(world.step("c")),
    );
    let stopped = start(&operator);
    world.failing.lock().unwrap().insert("c".to_owned());
    let failed = restart(&operator, &stopped);
    assert_eq!(world.ran(), ["a", "b", "c"]);
    world.mend();
    restart(&operator, &failed);
    assert_eq!(
        world.ran(),
        ["c"],
        "the next restart goes on from there, and passes over what is done"
    );
}

#[test]
fn row_104_a_decision_is_made_on_every_pass_and_stored() {
    let world = World::failing(&["late"]);
    let asked = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&asked);
    let operator = operator(
        job()
            .step(world.step("load"))
            .decision("enough?", move |decision: &Decision<'_>| {
                *counter.lock().unwrap() += 1;
                assert!(decision.step("load").is_some(), "a decider sees the steps");
                Ok("YES".to_owned())
            })
            .on("YES")
            .to("late")
            .on("NO")
            .end("SKIPPED")
            .step(world.step("late")),
    );
    let failed = start(&operator);
    assert_eq!(failed.flow.decisions["enough?"], "YES");
    world.mend();
    assert_eq!(restart(&operator, &failed).status, BatchStatus::Completed);
    assert_eq!(*asked.lock().unwrap(), 2, "asked again by the restart");
    let first = faults(job().decision("d", |_: &Decision<'_>| Ok("X".to_owned())).on("X").end("X"));
    assert!(first.contains("decision `d` comes first"), "{first}");
}

#[test]
fn a_decision_that_no_transition_matches_fails_the_job_in_last_place_too() {
    let decide = |_: &Decision<'_>| Ok("Z".to_owned());
    let job = job().step(World::default().step("a")).decision("d", decide).on("X").end("X");
    assert_eq!(start(&operator(job)).failure.unwrap().code, "no_transition");
}

#[test]
fn a_decider_that_fails_fails_the_job() {
    let world = World::default();
    let operator = operator(
        job()
            .step(world.step("a"))
            .decision("d", |_: &Decision<'_>| Err(ItemError::data("cannot decide")))
            .on("*")
            .end("X"),
    );
    let failure = start(&operator).failure.unwrap();
    assert_eq!(failure.code, "decision_failed");
    assert!(failure.message.contains("`d`") && failure.message.contains("cannot decide"));
}

#[test]
fn row_105_branches_run_side_by_side_and_one_failure_fails_the_job_when_all_have_ended() {
    let world = World::failing(&["left"]);
    let meeting = Arc::new(Barrier::new(2));
    // Only branches that run concurrently pass the barrier.
    let meet = |name: &str| {
        let meeting = Arc::clone(&meeting);
        TaskletStep::new(name, move |_| {
            meeting.wait();
            Ok(Flow::Finished)
        })
    };
    let branch = |name: &str| JobFlow::builder(format!("{name} branch"));
    let operator = operator(
        job()
            .split(
                "both",
                [
                    branch("left").step(meet("meet left")).step(world.step("left")),
                    branch("right").step(meet("meet right")).step(world.step("right")),
                ],
            )
            .step(world.step("after")),
    );
    let failed = start(&operator);
    assert_eq!(failed.status, BatchStatus::Failed);
    let ran: BTreeSet<_> = world.ran().into_iter().collect();
    assert_eq!(ran.into_iter().collect::<Vec<_>>(), ["left", "right"]);
}

#[test]
fn row_106_a_restart_of_a_split_runs_only_unfinished_branches_from_where_they_stand() {
    let world = World::failing(&["a2"]);
    let operator = operator(
        job()
            .split(
                "both",
                [
                    JobFlow::builder("a").step(world.step("a1")).step(world.step("a2")),
                    JobFlow::builder("b").step(world.step("b1")).step(world.step("b2")),
                ],
            )
            .step(world.step("after")),
    );
    let failed = start(&operator);
    assert_eq!(failed.status, BatchStatus::Failed);
    let mut ran = world.ran();
    ran.sort_unstable();
    assert_eq!(
        ran,
        ["a1", "a2", "b1", "b2"],
        "the other branch finishes, what follows does not run"
    );
    world.mend();
    assert_eq!(restart(&operator, &failed).status, BatchStatus::Completed);
    assert_eq!(world.ran(), ["a2", "after"]);
}

#[test]
fn a_handled_failure_of_a_split_is_not_tried_again() {
    let world = World::failing(&["a1", "end"]);
    let branch = |name: &str| JobFlow::builder(format!("flow {name}")).step(world.step(name));
    let operator = operator(
        job()
            .split("both", [branch("a1"), branch("b1")])
            .on("FAILED")
            .to("end")
            .step(world.step("end")),
    );
    let failed = start(&operator);
    world.ran();
    world.mend();
    assert_eq!(restart(&operator, &failed).status, BatchStatus::Completed);
    assert_eq!(world.ran(), ["end"]);
}

#[test]
fn row_107_the_end_of_a_nested_flow_is_a_code_for_the_flow_around_it() {
    let world = World::default();
    let inner =
        JobFlow::builder("inner").step(world.step_with("i", "SMALL")).on("SMALL").end("TINY");
    let operator = operator(
        job()
            .nested(inner)
            .on("TINY")
            .to("tiny")
            .on("COMPLETED")
            .to("large")
            .step(world.step("large"))
            .on("COMPLETED")
            .end("LARGE")
            .step(world.step("tiny")),
    );
    start(&operator);
    assert_eq!(world.ran(), ["i", "tiny"]);
    let twice =
        faults(job().step(world.step("x")).nested(JobFlow::builder("f").step(world.step("x"))));
    assert!(twice.contains("two steps are called `x`"), "{twice}");
}

#[test]
fn a_stop_within_a_nested_flow_stops_the_job_and_is_continued_there() {
    let world = World::default();
    let inner = JobFlow::builder("inner")
        .step(world.step("i1"))
        .on("COMPLETED")
        .stop()
        .step(world.step("i2"));
    let operator = operator(job().step(world.step("a")).nested(inner).step(world.step("z")));
    let stopped = start(&operator);
    assert_eq!(
        (stopped.status, world.ran()),
        (BatchStatus::Stopped, vec!["a".to_owned(), "i1".to_owned()])
    );
    assert_eq!(restart(&operator, &stopped).status, BatchStatus::Completed);
    assert_eq!(world.ran(), ["i2", "z"]);
}

#[test]
fn row_108_every_place_is_reached_and_every_way_ends_or_the_job_is_refused() {
    let world = World::default();
    let step = |name: &str| world.step(name);
    let unreached = faults(job().step(step("a")).on("COMPLETED").end("X").step(step("b")));
    assert!(unreached.contains("no transition leads to `b`"), "{unreached}");
    let endless = faults(job().step(step("a")).step(step("b")).on("COMPLETED").to("a"));
    assert!(endless.contains("no path from `a` ends the flow"), "{endless}");
    let nowhere = faults(job().step(step("a")).on("FAILED").to("c"));
    assert!(nowhere.contains("goes to `c`, which does not exist; there are `a`"), "{nowhere}");
    assert!(faults(job()).contains("it has no step"));
    assert!(
        faults(job().step(step("a")).nested(JobFlow::builder("f")))
            .contains("flow `f` has no step")
    );
    assert!(faults(job().step(step("a")).split("s", [])).contains("split `s` has no branch"));
}

#[test]
fn a_loop_runs_its_steps_again_until_a_decision_leaves_it() {
    let world = World::default();
    let operator = operator(
        job()
            .step(world.step("poll"))
            .decision("ready?", |decision: &Decision<'_>| {
                let polls = decision.scope.context().get("polls").unwrap_or(0) + 1;
                decision.scope.context().put("polls", &polls)?;
                Ok(if polls < 3 { "NO" } else { "YES" }.to_owned())
            })
            .on("NO")
            .to("poll")
            .on("YES")
            .to("load")
            .step(world.step("load")),
    );
    assert_eq!(start(&operator).status, BatchStatus::Completed);
    assert_eq!(world.ran(), ["poll", "poll", "poll", "load"]);
}

#[test]
fn changes_of_the_jobs_context_in_branches_are_all_kept() {
    let branch = |name: &str| {
        let step = TaskletStep::new(name, |call| {
            let step = call.scope().step().to_owned();
            call.scope().job().context().put(&step, &step)?;
            Ok(Flow::Finished)
        });
        JobFlow::builder(format!("flow {name}")).step(step)
    };
    for _ in 0..50 {
        let names = ["a", "b", "c", "d"];
        let operator = operator(job().split("all", names.map(branch)));
        let done = start(&operator);
        assert_eq!(done.context.names().collect::<Vec<_>>(), names);
    }
}

#[test]
fn what_is_complete_but_for_skips_goes_where_completed_goes() {
    let codes = [("COMPLETED", "good"), ("COMPLETED_WITH_SKIPS", "good"), ("OTHER", "rest")];
    for (code, wanted) in codes {
        let world = World::default();
        let operator = operator(
            job()
                .step(world.step_with("a", code))
                .on("*")
                .to("rest")
                .on("COMPLETED")
                .to("good")
                .step(world.step("good"))
                .on("COMPLETED")
                .end("GOOD")
                .step(world.step("rest")),
        );
        start(&operator);
        assert_eq!(world.ran(), ["a", wanted], "{code}");
    }
}

#[test]
fn a_flow_says_that_one_of_its_steps_skipped_records() {
    let world = World::default();
    let operator =
        operator(job().step(world.step_with("a", "COMPLETED_WITH_SKIPS")).step(world.step("b")));
    assert_eq!(start(&operator).exit.code, "COMPLETED_WITH_SKIPS");
}

#[test]
fn a_transition_for_skips_comes_before_one_for_completed() {
    for pattern in ["COMPLETED_WITH_*", "*_SKIPS"] {
        let world = World::default();
        let operator = operator(
            job()
                .step(world.step_with("a", "COMPLETED_WITH_SKIPS"))
                .on(pattern)
                .to("review")
                .on("COMPLETED")
                .to("next")
                .step(world.step("next"))
                .on("COMPLETED")
                .end("NEXT")
                .step(world.step("review")),
        );
        start(&operator);
        assert_eq!(world.ran(), ["a", "review"], "{pattern}");
    }
}

#[test]
fn skips_before_a_stop_are_told_at_the_end_of_the_restart() {
    let world = World::default();
    let operator = operator(
        job()
            .step(world.step_with("a", "COMPLETED_WITH_SKIPS"))
            .on("COMPLETED")
            .stop()
            .step(world.step("b")),
    );
    let stopped = start(&operator);
    assert_eq!(stopped.status, BatchStatus::Stopped);
    assert_eq!(restart(&operator, &stopped).exit.code, "COMPLETED_WITH_SKIPS");
}

#[test]
fn a_step_that_a_flow_visits_twice_is_judged_by_the_skips_of_its_own_round() {
    let (round, is_cut) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(true)));
    let (loading, deciding, cut) = (Arc::clone(&round), Arc::clone(&round), Arc::clone(&is_cut));
    let count = TaskletStep::new("count", move |_| {
        *round.lock().unwrap() += 1;
        Ok(Flow::Finished)
    });
    let load = ChunkStepBuilder::new("load")
        .reader(Sequence::to(12))
        .processor(move |n: &u64| match (*loading.lock().unwrap(), *n) {
            // Eleven bad records in the first round; one in the second, which is interrupted.
            (1, 1..=11) | (2, 1) => Err(ItemError::data("a bad record")),
            (2, 10) if *cut.lock().unwrap() => Err(ItemError::fatal("the power is cut")),
            _ => Ok(Some(*n)),
        })
        .writer(NoWriter::new())
        .skip(SkipPolicy::limit(20))
        .chunk_size(1)
        .build();
    let operator = operator(
        job()
            .step(count)
            .step(load)
            .decision("enough?", move |_: &Decision<'_>| {
                Ok(if *deciding.lock().unwrap() < 2 { "AGAIN" } else { "ENOUGH" }.to_owned())
            })
            .on("AGAIN")
            .to("count")
            .on("ENOUGH")
            .end("ENOUGH"),
    );
    let failed = start(&operator);
    assert_eq!(failed.failure.as_ref().unwrap().code, "process_failed");
    *is_cut.lock().unwrap() = false;
    let done = restart(&operator, &failed);
    assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
}
