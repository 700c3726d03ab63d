//! Jobs within jobs (engine rows 109 to 111), and values passed from step to step (rows 31 to 39, 126 to
//! 130).

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use batchwright::execution::{ExitStatus, JobExecution};
use batchwright::job::{increment, next_day};
use batchwright::job_step::JobStep;
use batchwright::launch::Launch;
use batchwright::listener::Promotion;
use batchwright::parameters::{ParameterDeclaration, ParameterType};
use batchwright::query::ExecutionFilter;
use batchwright::step::{Flow, StepOptions};
use batchwright::{
    BatchStatus, ItemError, Job, JobOperator, JobParameters, MemoryRepository, TaskletStep,
};

fn operator(job: Job) -> JobOperator {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(job).unwrap();
    operator
}

fn restart(operator: &JobOperator, of: &JobExecution) -> JobExecution {
    operator.restart(of.id).unwrap().wait().unwrap()
}

/// Returns a child job that fails while `broken` is true, and otherwise ends with `code`.
fn child(broken: &Arc<Mutex<bool>>, code: &'static str) -> Job {
    let broken = Arc::clone(broken);
    let step = TaskletStep::new("work", move |_| match *broken.lock().unwrap() {
        true => Err(ItemError::data("not today")),
        false => Ok(Flow::FinishedWith(ExitStatus::new(code))),
    });
    Job::builder("child").step(step).next(increment("run", 1)).build().unwrap()
}

fn executions(operator: &JobOperator, job: &str) -> Vec<JobExecution> {
    operator.queries().executions(&ExecutionFilter::of_job(job)).unwrap()
}

#[test]
fn row_109_a_restart_of_the_parent_restarts_the_same_child_with_the_same_parameters() {
    let broken = Arc::new(Mutex::new(true));
    let extracted = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&extracted);
    let step = JobStep::new("call", child(&broken, "COMPLETED")).parameters(move |scope| {
        let mut extracted = counter.lock().unwrap();
        *extracted += 1;
        let day = scope.parameters().get("day").unwrap().value.clone();
        Ok(JobParameters::new().with("day", day).with("attempt", *extracted))
    });
    let operator = operator(Job::builder("parent").step(step).build().unwrap());
    let given = JobParameters::new().with("day", "monday");
    let failed = operator.start("parent", given).unwrap().wait().unwrap();
    assert_eq!(failed.failure.as_ref().unwrap().code, "job_failed");
    *broken.lock().unwrap() = false;
    assert_eq!(restart(&operator, &failed).status, BatchStatus::Completed);
    let children = executions(&operator, "child");
    assert_eq!(children.len(), 2, "one instance, two executions");
    assert_eq!(children[0].instance_id, children[1].instance_id);
    assert_eq!(children[0].parameters, children[1].parameters);
    assert_eq!(*extracted.lock().unwrap(), 1, "extracted once");
    assert_eq!(children[1].parent, Some(failed.id), "linked");
}

#[test]
fn row_110_how_the_child_ends_is_how_the_step_ends_and_a_stop_is_passed_on() {
    let operator = operator(
        Job::builder("parent")
            .step(JobStep::new("call", child(&Arc::default(), "COMPLETED WITH LUCK")))
            .build()
            .unwrap(),
    );
    let done = operator.start("parent", JobParameters::new()).unwrap().wait().unwrap();
    assert_eq!(
        (done.status, done.exit.code.as_str()),
        (BatchStatus::Completed, "COMPLETED WITH LUCK")
    );

    let (entered, inside) = channel();
    let entered = Mutex::new(entered);
    let endless = TaskletStep::new("endless", move |_| {
        let _ = entered.lock().unwrap().send(());
        Ok(Flow::Continue)
    });
    let child = Job::builder("child").step(endless).build().unwrap();
    let parent = Job::builder("parent").step(JobStep::new("call", child)).build().unwrap();
    let operator = self::operator(parent);
    let running = operator.start("parent", JobParameters::new()).unwrap();
    inside.recv().unwrap();
    operator.stop(running.id()).unwrap();
    assert_eq!(running.wait().unwrap().status, BatchStatus::Stopped);
    assert_eq!(executions(&operator, "child")[0].status, BatchStatus::Stopped);
}

#[test]
fn row_110_the_exit_code_of_a_failed_child_is_the_steps() {
    let fails = TaskletStep::new("work", |_| Ok(Flow::FinishedWith(ExitStatus::new("BAD"))));
    let child =
        Job::builder("child").step(fails).on("BAD").fail("FAILED ON PURPOSE").build().unwrap();
    let operator =
        operator(Job::builder("parent").step(JobStep::new("call", child)).build().unwrap());
    let failed = operator.start("parent", JobParameters::new()).unwrap().wait().unwrap();
    assert_eq!(failed.exit.code, "FAILED ON PURPOSE");
}

#[test]
fn row_111_a_child_with_a_sequence_still_gets_the_extracted_parameters() {
    let step = JobStep::new("call", child(&Arc::default(), "COMPLETED"));
    let operator = operator(Job::builder("parent").step(step).build().unwrap());
    let given = JobParameters::new().with("x", 7);
    operator.start("parent", given.clone()).unwrap().wait().unwrap();
    assert_eq!(executions(&operator, "child")[0].parameters, given);
}

#[test]
fn a_child_that_is_complete_for_these_parameters_fails_a_fresh_step() {
    let step = || {
        JobStep::new("call", child(&Arc::default(), "COMPLETED"))
            .parameters(|_| Ok(JobParameters::new()))
    };
    let operator = operator(Job::builder("parent").step(step()).build().unwrap());
    operator.start("parent", JobParameters::new().with("n", 1)).unwrap().wait().unwrap();
    let second =
        operator.start("parent", JobParameters::new().with("n", 2)).unwrap().wait().unwrap();
    let failure = second.failure.unwrap();
    assert_eq!(failure.code, "job_failed");
    assert!(failure.message.contains("complete"), "{}", failure.message);
    // A restart has the same result: another instance's child does not count.
    let second =
        operator.queries().executions(&ExecutionFilter::of_job("parent")).unwrap()[0].clone();
    assert_eq!(restart(&operator, &second).failure.unwrap().code, "job_failed");
}

fn counting(listener: Promotion, code: &'static str) -> Job {
    let first = TaskletStep::new("count", move |call| {
        call.scope().context().put("orders", &17)?;
        Ok(Flow::FinishedWith(ExitStatus::new(code)))
    });
    let options = StepOptions { listeners: vec![Arc::new(listener)], ..StepOptions::default() };
    Job::builder("job").step(first.options(options)).on("*").end("X").build().unwrap()
}

#[test]
fn row_39_keys_are_promoted_on_the_codes_that_are_named_and_strictly_if_asked() {
    let run = |job| operator(job).start("job", JobParameters::new()).unwrap().wait().unwrap();
    assert_eq!(
        run(counting(Promotion::of(["orders"]), "COMPLETED")).context.get::<i64>("orders").unwrap(),
        17
    );
    assert!(!run(counting(Promotion::of(["orders"]), "ODD")).context.has("orders"));
    assert!(run(counting(Promotion::of(["orders"]).on(["O?D"]), "ODD")).context.has("orders"));
    assert!(run(counting(Promotion::of(["none"]), "COMPLETED")).context.is_empty(), "left out");
    let step = TaskletStep::new("a", |_| Ok(Flow::Finished));
    let strict: Arc<dyn batchwright::listener::StepListener> =
        Arc::new(Promotion::of(["none"]).strict());
    let step = step.options(StepOptions { listeners: vec![strict], ..StepOptions::default() });
    let failure = run(Job::builder("job").step(step).build().unwrap()).failure.unwrap();
    assert_eq!(failure.code, "listener_failed");
    assert!(failure.message.contains("`none`"), "{}", failure.message);
}

#[test]
fn validators_are_all_asked_and_nothing_is_stored_when_one_refuses() {
    let step = TaskletStep::new("a", |_| Ok(Flow::Finished));
    let job = Job::builder("job")
        .parameter(ParameterDeclaration::new("n", ParameterType::Integer))
        .validate(|_| Err("`n` is odd".to_owned()))
        .validate(|_| Ok(()))
        .validate(|_| Err("`n` is small".to_owned()))
        .step(step)
        .build()
        .unwrap();
    let operator = operator(job);
    let refused = operator.start("job", JobParameters::new().with("n", 1)).unwrap_err();
    assert_eq!(refused.code(), "invalid_parameters");
    let message = refused.to_string();
    assert!(message.contains("`n` is odd") && message.contains("`n` is small"), "{message}");
    assert_eq!(operator.explorer().instance_count("job").unwrap(), 0);
}

#[test]
fn row_126_next_counts_up_from_the_newest_instance_and_keeps_the_rest() {
    let step = TaskletStep::new("a", |_| Ok(Flow::Finished));
    let operator =
        operator(Job::builder("job").step(step).next(increment("run", 1)).build().unwrap());
    let next = |given: JobParameters| {
        let launch = Launch::next("job").parameters(given);
        operator.launch(&launch).unwrap().wait().unwrap().parameters
    };
    assert_eq!(
        next(JobParameters::new().with("x", "a")),
        JobParameters::new().with("run", 1).with("x", "a")
    );
    assert_eq!(next(JobParameters::new()), JobParameters::new().with("run", 2).with("x", "a"));
}

#[test]
fn a_day_follows_a_day_once_there_is_a_first_one() {
    let step = TaskletStep::new("a", |_| Ok(Flow::Finished));
    let operator =
        operator(Job::builder("job").step(step).next(next_day("day", 1)).build().unwrap());
    let refused = operator.next("job").unwrap_err();
    assert!(refused.to_string().contains("`day`"), "{refused}");
    let first = jiff::civil::date(2026, 12, 31);
    operator.start("job", JobParameters::new().with("day", first)).unwrap().wait().unwrap();
    let second = operator.next("job").unwrap().wait().unwrap();
    assert_eq!(second.parameters, JobParameters::new().with("day", jiff::civil::date(2027, 1, 1)));
}
