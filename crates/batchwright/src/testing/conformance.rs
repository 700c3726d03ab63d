//! The conformance suite of repositories: the same promises, tested on every implementation.

use std::time::Duration;

use jiff::Timestamp;

use crate::audit::AuditEntry;
use crate::context::ExecutionContext;
use crate::error::RepositoryError;
use crate::event::{Event, Subject};
use crate::execution::{
    BatchStatus, Counters, ExecutionId, ExitStatus, Failure, FlowState, InstanceId, JobExecution,
    Phase, Progress, ProgressUnit, SkipRecord, StepExecution, StepExecutionId,
};
use crate::launch::RequestKey;
use crate::parameters::JobParameters;
use crate::query::{ExecutionFilter, InstancePage, OutcomeCount};
use crate::store::{
    CheckpointUpdate, FailureRecord, Held, JobRepository, Lane, Lease, ProgressiveExecution,
    Segment, StoredResponse,
};

/// Runs the whole suite against `repository`, which must be empty.
///
/// # Panics
///
/// When `repository` does not keep a promise; the message names it.
pub fn conformance(repository: &dyn JobRepository) {
    what_is_not_committed_leaves_no_trace(repository);
    rows_come_back_as_they_went_in(repository);
    the_store_itself_refuses_a_second_running_execution(repository);
    the_second_of_two_writers_is_told_that_it_lost(repository);
    a_checkpoint_is_saved_only_under_the_current_fence(repository);
    leases_are_renewed_only_under_the_current_fence(repository);
    lists_are_newest_first_and_paged(repository);
    lists_of_many_executions_need_one_query_each(repository);
    the_audit_is_newest_first_and_paged(repository);
    a_request_is_remembered_as_long_as_what_it_started(repository);
    a_progressive_execution_comes_back_as_it_went_in(repository);
    a_lane_changes_only_under_its_current_fence(repository);
    deletion_takes_everything_that_belongs_to_an_execution(repository);
}

fn now() -> Timestamp {
    Timestamp::from_microsecond(1_795_305_600_123_456).expect("a valid moment")
}

fn instance(repository: &dyn JobRepository, job: &str, key: &str) -> InstanceId {
    let mut tx = repository.begin().expect("begin");
    let instance = tx.insert_instance(job, key, now()).expect("a new instance");
    tx.commit().expect("commit");
    instance.id
}

fn execution_of(instance_id: InstanceId, job: &str) -> JobExecution {
    JobExecution {
        id: ExecutionId(0),
        instance_id,
        job: job.to_owned(),
        status: BatchStatus::Started,
        exit: ExitStatus::executing(),
        parameters: JobParameters::new().with("n", i64::MAX).with_non_identifying("s", "ä,b=c"),
        restart_of: None,
        created_at: now(),
        started_at: Some(now()),
        ended_at: None,
        owner: Some("owner".to_owned()),
        fence: 1,
        lease_until: Some(now()),
        stop_requested: false,
        failure: None,
        warnings: vec!["one".to_owned()],
        context: ExecutionContext::default(),
        fingerprint: Some("f".to_owned()),
        source: Some("jobs/a.toml".to_owned()),
        flow: FlowState::default(),
        parent: None,
        triggered_by: Some("cli:ä".to_owned()),
        trace_parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00".parse().ok(),
        version: 1,
    }
}

fn store(repository: &dyn JobRepository, execution: &JobExecution) -> JobExecution {
    let mut tx = repository.begin().expect("begin");
    let id = tx.insert_execution(execution).expect("a new execution");
    tx.commit().expect("commit");
    JobExecution { id, version: 1, ..execution.clone() }
}

fn step_of(execution_id: ExecutionId) -> StepExecution {
    let mut context = ExecutionContext::default();
    context.put("k", &(i64::MAX - 1)).expect("an integer is JSON");
    StepExecution {
        id: StepExecutionId(0),
        execution_id,
        name: "load".to_owned(),
        partition: None,
        status: BatchStatus::Started,
        exit: ExitStatus::executing(),
        counters: Counters { read: 3, ..Counters::default() },
        checkpoint: Some("{}".to_owned()),
        context,
        started_at: now(),
        progress: Some(Progress { done: 3, total: 9, unit: ProgressUnit::Bytes }),
        updated_at: now(),
        ended_at: None,
        failure: Some(Failure::new("c", "m")),
        handled: true,
        begun_by: Some(StepExecutionId(7)),
    }
}

fn store_step(repository: &dyn JobRepository, step: &StepExecution) -> StepExecution {
    let mut tx = repository.begin().expect("begin");
    let id = tx.insert_step(step).expect("a new step execution");
    tx.commit().expect("commit");
    StepExecution { id, ..step.clone() }
}

fn what_is_not_committed_leaves_no_trace(repository: &dyn JobRepository) {
    let id = instance(repository, "trace", "kept");
    let execution = store(repository, &execution_of(id, "trace"));
    let step = store_step(repository, &step_of(execution.id));
    {
        let mut tx = repository.begin().expect("begin");
        tx.insert_instance("trace", "dropped", now()).expect("inserted");
        let ended = JobExecution { status: BatchStatus::Failed, ..execution.clone() };
        tx.update_execution(&ended).expect("updated");
        let counted = StepExecution { counters: Counters::default(), ..step.clone() };
        tx.update_step(&counted).expect("updated");
        tx.insert_skips(step.id, &[skip()]).expect("inserted");
        tx.insert_event(&event(execution.id)).expect("inserted");
        tx.delete_execution(execution.id).expect("deleted");
    }
    assert_eq!(repository.instance_count("trace").unwrap(), 1, "the dropped instance is missing");
    assert_eq!(repository.execution(execution.id).unwrap(), Some(execution.clone()), "untouched");
    assert_eq!(repository.step(step.id).unwrap(), Some(step), "untouched");
    assert!(repository.skips(execution.id).unwrap().is_empty(), "no skip was kept");
    assert!(repository.events(execution.id).unwrap().is_empty(), "no event was kept");
}

fn skip() -> SkipRecord {
    SkipRecord {
        step: "load".to_owned(),
        phase: Phase::Process,
        item: 7,
        location: Some("line 8".to_owned()),
        kind: "data".to_owned(),
        message: "no".to_owned(),
        content: Some("1,2".to_owned()),
    }
}

fn event(execution: ExecutionId) -> Event {
    let subject = Subject::Step { execution, job: "rows".into(), step: "load".into() };
    Event::of_status(now(), subject, BatchStatus::Started, Some("a note".to_owned()))
}

fn rows_come_back_as_they_went_in(repository: &dyn JobRepository) {
    let id = instance(repository, "rows", "k");
    let mut execution = store(repository, &execution_of(id, "rows"));
    let step = store_step(repository, &step_of(execution.id));
    let mut tx = repository.begin().expect("begin");
    tx.insert_skips(step.id, &[skip()]).expect("inserted");
    tx.insert_event(&event(execution.id)).expect("inserted");
    execution.context.put("list", &[1, 2]).expect("a list is JSON");
    execution.status = BatchStatus::Completed;
    execution.ended_at = Some(now());
    execution.failure = Some(Failure::new("c", "m"));
    tx.update_execution(&execution).expect("updated");
    assert_eq!(
        tx.execution(execution.id).unwrap().map(|one| one.status),
        Some(BatchStatus::Completed),
        "a transaction sees its own changes"
    );
    tx.commit().expect("commit");
    let after = JobExecution { version: 2, ..execution };
    assert_eq!(repository.execution(after.id).unwrap(), Some(after.clone()), "the execution");
    assert_eq!(repository.steps(after.id).unwrap(), std::slice::from_ref(&step), "the step");
    assert_eq!(repository.step(step.id).unwrap(), Some(step), "the step by id");
    assert_eq!(repository.skips(after.id).unwrap(), [skip()], "the skip");
    assert_eq!(repository.events(after.id).unwrap(), [event(after.id)], "the event");
    let found = repository.instance(id).unwrap().expect("the instance");
    assert_eq!((found.job.as_str(), found.key.as_str()), ("rows", "k"));
}

fn the_store_itself_refuses_a_second_running_execution(repository: &dyn JobRepository) {
    let id = instance(repository, "twice", "k");
    let first = store(repository, &execution_of(id, "twice"));
    let mut tx = repository.begin().expect("begin");
    let second = tx.insert_execution(&execution_of(id, "twice"));
    assert!(matches!(second, Err(RepositoryError::Conflict { .. })), "two run: {second:?}");
    drop(tx);
    let mut tx = repository.begin().expect("begin");
    tx.update_execution(&JobExecution { status: BatchStatus::Failed, ..first }).expect("ends");
    tx.insert_execution(&execution_of(id, "twice")).expect("the first one has ended");
    let again = tx.insert_instance("twice", "k", now());
    assert!(matches!(again, Err(RepositoryError::Conflict { .. })), "one key, one instance");
}

fn the_second_of_two_writers_is_told_that_it_lost(repository: &dyn JobRepository) {
    let id = instance(repository, "version", "k");
    let execution = store(repository, &execution_of(id, "version"));
    let mut tx = repository.begin().expect("begin");
    tx.update_execution(&execution).expect("the first writer wins");
    let late = tx.update_execution(&execution);
    assert!(matches!(late, Err(RepositoryError::Conflict { .. })), "a stale write: {late:?}");
}

fn a_checkpoint_is_saved_only_under_the_current_fence(repository: &dyn JobRepository) {
    let id = instance(repository, "fence", "k");
    let execution = store(repository, &execution_of(id, "fence"));
    let step = store_step(repository, &step_of(execution.id));
    let counters = Counters { read: 5, write: 4, commit: 1, ..Counters::default() };
    let save = |fence: i64| {
        let mut tx = repository.begin().expect("begin");
        let held = tx.save_checkpoint(&CheckpointUpdate {
            lease: Lease { execution: execution.id, fence },
            step: step.id,
            counters: &counters,
            progress: Some(Progress { done: 5, total: 9, unit: ProgressUnit::Items }),
            checkpoint: r#"{"sequence":1}"#,
            step_context: Some(r#"{"a":1}"#),
            job_context: Some(r#"{"b":2}"#),
            at: now(),
        })?;
        tx.commit().map(|()| held)
    };
    let lost = save(2);
    assert!(matches!(lost, Err(RepositoryError::LeaseLost { .. })), "another fence: {lost:?}");
    assert_eq!(repository.step(step.id).unwrap(), Some(step.clone()), "nothing was saved");
    assert_eq!(save(1).expect("the owner may"), Held::Yes, "no stop is requested");
    let saved = repository.step(step.id).unwrap().expect("the step");
    assert_eq!(saved.counters, counters, "counters");
    let progress = Progress { done: 5, total: 9, unit: ProgressUnit::Items };
    assert_eq!(saved.progress, Some(progress), "progress");
    assert_eq!(saved.checkpoint.as_deref(), Some(r#"{"sequence":1}"#), "checkpoint");
    assert_eq!(saved.context.get::<i32>("a").unwrap(), 1, "step context");
    let job = repository.execution(execution.id).unwrap().expect("the execution");
    assert_eq!(job.context.get::<i32>("b").unwrap(), 2, "job context");
    let mut tx = repository.begin().expect("begin");
    tx.update_execution(&JobExecution { stop_requested: true, ..job.clone() }).expect("asked");
    tx.commit().expect("commit");
    let asked = save(1).expect("still the owner");
    assert_eq!(asked, Held::StopRequested, "the owner's next commit reports the stop");
    let mut tx = repository.begin().expect("begin");
    let ended = JobExecution { status: BatchStatus::Failed, ..reload(&mut *tx, job.id) };
    tx.update_execution(&ended).expect("ended");
    tx.commit().expect("commit");
    assert!(matches!(save(1), Err(RepositoryError::LeaseLost { .. })), "an ended execution");
}

fn reload(tx: &mut dyn crate::store::Transaction, id: ExecutionId) -> JobExecution {
    tx.execution(id).expect("readable").expect("there")
}

fn leases_are_renewed_only_under_the_current_fence(repository: &dyn JobRepository) {
    let id = instance(repository, "lease", "k");
    let execution = store(repository, &execution_of(id, "lease"));
    let until = now() + Duration::from_secs(9);
    let renew = |fence: i64| {
        let mut tx = repository.begin().expect("begin");
        let renewed = tx.renew_lease(&Lease { execution: execution.id, fence }, until);
        tx.commit().expect("commit");
        renewed.expect("answered")
    };
    assert_eq!(renew(2), Held::Lost, "another owner's fence");
    assert_eq!(renew(1), Held::Yes, "the owner's, no stop requested");
    let found = repository.execution(execution.id).unwrap().expect("the execution");
    assert_eq!(found.lease_until, Some(until));
}

fn lists_are_newest_first_and_paged(repository: &dyn JobRepository) {
    let ids: Vec<_> = (0..5).map(|key| instance(repository, "list", &key.to_string())).collect();
    let page = repository.instances("list", InstancePage::first(2)).unwrap();
    assert_eq!(page.iter().map(|one| one.id).collect::<Vec<_>>(), [ids[4], ids[3]]);
    instance(repository, "list", "added");
    let next = repository.instances("list", InstancePage::after(ids[3], 2)).unwrap();
    assert_eq!(
        next.iter().map(|one| one.id).collect::<Vec<_>>(),
        [ids[2], ids[1]],
        "a page stays where it is while instances are added"
    );
    let middle = repository.instances("list", InstancePage::at(2, 2)).unwrap();
    assert_eq!(middle.iter().map(|one| one.id).collect::<Vec<_>>(), [ids[3], ids[2]]);
    let executions: Vec<_> =
        ids.iter().map(|id| store(repository, &execution_of(*id, "list")).id).collect();
    let filter = ExecutionFilter::of_job("list");
    assert_eq!(repository.execution_count(&filter).unwrap(), 5);
    let two = repository.executions(&filter.clone().limit(2)).unwrap();
    assert_eq!(two.iter().map(|one| one.id).collect::<Vec<_>>(), [executions[4], executions[3]]);
    assert_eq!(repository.running("list").unwrap().len(), 5, "all of them run");
    let failed = filter.clone().status(BatchStatus::Failed);
    assert!(repository.executions(&failed).unwrap().is_empty(), "none failed");
    let middle = repository.executions(&filter.clone().offset(1).limit(2)).unwrap();
    assert_eq!(middle.iter().map(|one| one.id).collect::<Vec<_>>(), [executions[3], executions[2]]);
    assert_eq!(repository.executions(&filter.clone().offset(4)).unwrap().len(), 1, "the oldest");
    let older = ExecutionFilter { before: Some(executions[1]), ..filter };
    assert_eq!(repository.executions(&older).unwrap().len(), 1, "older than the second");
    assert_eq!(repository.executions(&ExecutionFilter::of_instance(ids[0])).unwrap().len(), 1);
    assert!(repository.job_names().unwrap().is_sorted(), "names are sorted");
    assert!(repository.job_names().unwrap().contains(&"list".to_owned()));
}

fn deletion_takes_everything_that_belongs_to_an_execution(repository: &dyn JobRepository) {
    let id = instance(repository, "deleted", "k");
    let execution = store(repository, &execution_of(id, "deleted"));
    let step = store_step(repository, &step_of(execution.id));
    let mut tx = repository.begin().expect("begin");
    tx.insert_skips(step.id, &[skip()]).expect("inserted");
    tx.insert_event(&event(execution.id)).expect("inserted");
    tx.delete_execution(execution.id).expect("deleted");
    tx.commit().expect("commit");
    assert_eq!(repository.execution(execution.id).unwrap(), None);
    assert_eq!(repository.step(step.id).unwrap(), None);
    assert!(repository.skips(execution.id).unwrap().is_empty());
    assert!(repository.events(execution.id).unwrap().is_empty());
    assert_eq!(repository.instance(id).unwrap(), None, "its instance had no other execution");
}

fn a_request_is_remembered_as_long_as_what_it_started(repository: &dyn JobRepository) {
    let id = instance(repository, "requested", "k");
    let execution = store(repository, &execution_of(id, "requested")).id;
    let request = RequestKey { key: "K~".to_owned(), fingerprint: "f".to_owned() };
    let mut tx = repository.begin().expect("begin");
    assert_eq!(tx.request(&request.key).expect("ask"), None);
    tx.insert_request(&request, execution).expect("a request");
    drop(tx);
    let mut tx = repository.begin().expect("begin");
    assert_eq!(tx.request(&request.key).expect("ask"), None, "it was not committed");
    tx.insert_request(&request, execution).expect("a request");
    tx.commit().expect("commit");
    let mut tx = repository.begin().expect("begin");
    assert_eq!(tx.request(&request.key).expect("ask"), Some((request.clone(), execution)));
    assert_eq!(tx.request("k~").expect("ask"), None, "keys are not folded");
    let second = tx.insert_request(&request, execution);
    assert!(matches!(second, Err(RepositoryError::Conflict { .. })), "{second:?}");
    drop(tx);
    delete(repository, execution);
    let mut tx = repository.begin().expect("begin");
    assert_eq!(tx.request(&request.key).expect("ask"), None, "purged with its execution");
}

/// A progressive execution with one lane and two segments.
fn progressive(repository: &dyn JobRepository, job: &str) -> (ProgressiveExecution, Lane) {
    let instance = instance(repository, job, "k");
    let mut tx = repository.begin().expect("begin");
    let execution = tx.insert_execution(&execution_of(instance, job)).expect("an execution");
    let step = tx.insert_step(&step_of(execution)).expect("a step");
    let row = ProgressiveExecution {
        execution,
        step,
        target: Duration::from_millis(1500),
        is_split: true,
        units_total: Some(u64::from(u32::MAX) * 100),
        plan: r#"{"every":1}"#.to_owned(),
        owner_hash: Some("hash".to_owned()),
        is_server_driven: true,
    };
    let lane = Lane {
        execution,
        rank: 0,
        id: "0123".to_owned(),
        seq: 7,
        answer: Some("{}".to_owned()),
        fence: 3,
        owner: Some("owner".to_owned()),
        lease_until: Some(now()),
        times: "{}".to_owned(),
        slices: 4,
        last_slice: Duration::from_micros(999_999),
        checkpoint_cost: Duration::from_micros(250),
    };
    tx.slices().insert_progressive(&row).expect("a progressive execution");
    tx.slices().insert_lane(&lane).expect("a lane");
    for (start, end) in [(50, Some(100)), (0, Some(50))] {
        let segment = Segment::new(execution, 0, start, end);
        tx.slices().insert_segment(&segment).expect("a segment");
    }
    tx.commit().expect("commit");
    (row, lane)
}

fn a_progressive_execution_comes_back_as_it_went_in(repository: &dyn JobRepository) {
    let (row, lane) = progressive(repository, "slices");
    let id = row.execution;
    let state = repository.slices().progressive_state(id).expect("ask").expect("is progressive");
    assert_eq!((&state.row, &state.lanes), (&row, &vec![lane]));
    let bounds: Vec<_> = state.segments.iter().map(|one| (one.start, one.end)).collect();
    assert_eq!(bounds, [(0, Some(50)), (50, Some(100))], "segments are in the order of units");
    assert_eq!(repository.slices().server_driven().expect("ask"), [id]);

    let mut tx = repository.begin().expect("begin");
    let mut segment = tx.slices().segments_of(id).expect("ask").remove(0);
    tx.slices().cut_segment(segment.id, 40).expect("a cut");
    segment.position = 30;
    segment.claimed = 35;
    segment.lane = Some(2);
    segment.done = 29;
    segment.failed = 1;
    segment.failure_record =
        FailureRecord { unit: 25, attempts: 2, search_until: 33, search_chunk: 4 };
    segment.partial = Some("null".to_owned());
    tx.slices().update_segment(&segment).expect("an update");
    let counters =
        Counters { read: 30, write: 29, process_skip: 1, commit: 1, ..Counters::default() };
    tx.slices().add_counters(row.step, &counters, now()).expect("counters");
    tx.slices().update_total(id, 77).expect("a total");
    tx.commit().expect("commit");
    let mut tx = repository.begin().expect("begin");
    let now_stored = tx.slices().progressive(id).expect("ask").expect("is progressive");
    assert_eq!(now_stored, ProgressiveExecution { units_total: Some(77), ..row.clone() });
    let stored = tx.slices().segments_of(id).expect("ask").remove(0);
    let expected = Segment { end: Some(40), partial: None, ..segment.clone() };
    assert_eq!(stored, expected, "a worker with the old end does not undo a cut");
    assert_eq!(tx.slices().partial_of(segment.id).expect("ask").as_deref(), Some("null"));
    let claimed =
        Segment { lane: None, claimed: 30, failure_record: FailureRecord::default(), ..stored };
    tx.slices().claim_segment(&claimed).expect("a claim");
    assert_eq!(tx.slices().segments_of(id).expect("ask")[0], claimed);
    drop(tx);
    let step = repository.step(row.step).expect("ask").expect("exists");
    assert_eq!((step.counters.write, step.counters.process_skip), (29, 1));

    let response = StoredResponse {
        status: 201,
        headers: vec![("content-type".to_owned(), "text/plain; ä".to_owned())],
        body: vec![0, 255, 10],
        at: now(),
        is_acknowledged: false,
    };
    let mut tx = repository.begin().expect("begin");
    tx.slices().insert_response(id, &response).expect("a response");
    tx.commit().expect("commit");
    assert_eq!(repository.slices().response(id).expect("ask"), Some(response.clone()));
    let mut tx = repository.begin().expect("begin");
    assert_eq!(tx.slices().expire_responses(now()).expect("expire"), 0, "it is not that old");
    assert!(tx.slices().acknowledge_response(id).expect("acknowledge"));
    assert!(!tx.slices().acknowledge_response(id).expect("again"));
    tx.commit().expect("commit");
    let released = StoredResponse { body: Vec::new(), is_acknowledged: true, ..response };
    assert_eq!(repository.slices().response(id).expect("ask"), Some(released));
    delete(repository, id);
    assert_eq!(repository.slices().progressive_state(id).expect("ask"), None);
    assert_eq!(repository.slices().response(id).expect("ask"), None);
}

fn a_lane_changes_only_under_its_current_fence(repository: &dyn JobRepository) {
    let (row, lane) = progressive(repository, "fences");
    let lease = Lease { execution: row.execution, fence: 1 };
    let mut tx = repository.begin().expect("begin");
    let held = tx.slices().hold_execution(&lease).expect("ask");
    assert_eq!(held, Held::Yes, "a stop is not requested");
    let stale = Lease { fence: 0, ..lease };
    assert_eq!(tx.slices().hold_execution(&stale).expect("ask"), Held::Lost);
    let taken = Lane { fence: 4, owner: None, lease_until: None, ..lane.clone() };
    assert!(!tx.slices().update_lane(&taken, 2).expect("ask"), "the fence is 3");
    assert!(!tx.slices().renew_lane(&lane, 2, now()).expect("ask"));
    assert!(tx.slices().renew_lane(&lane, 3, now()).expect("ask"));
    assert!(tx.slices().update_lane(&taken, 3).expect("ask"));
    assert!(!tx.slices().update_lane(&lane, 3).expect("ask"), "the former owner comes back");
    assert_eq!(tx.slices().lanes_of(row.execution).expect("ask"), [taken]);
    drop(tx);
    delete(repository, row.execution);
}

fn lists_of_many_executions_need_one_query_each(repository: &dyn JobRepository) {
    let (first, second) = (instance(repository, "many", "1"), instance(repository, "many", "2"));
    let later = now() + Duration::from_secs(90);
    let ended = |instance, created_at, status| {
        store(repository, &JobExecution { created_at, status, ..execution_of(instance, "many") }).id
    };
    let failed = ended(first, now(), BatchStatus::Failed);
    let completed = ended(first, later, BatchStatus::Completed);
    let alone = ended(second, later, BatchStatus::Failed);
    for id in [alone, failed] {
        store_step(repository, &step_of(id));
    }
    let steps = repository.steps_of(&[failed, completed, alone]).expect("ask");
    assert_eq!(steps.iter().map(|one| one.execution_id).collect::<Vec<_>>(), [alone, failed]);
    assert_eq!(repository.steps_of(&[]).expect("ask"), []);
    let done = StepExecution { status: BatchStatus::Completed, ..step_of(failed) };
    store_step(repository, &done);
    let broken = StepExecution { status: BatchStatus::Failed, ..step_of(failed) };
    let broken = store_step(repository, &broken);
    let found = |limit| {
        let steps = repository.steps_not_completed(failed, limit).expect("ask");
        steps.iter().map(|one| one.id).collect::<Vec<_>>()
    };
    assert_eq!((found(9), found(1)), (vec![broken.id, steps[1].id], vec![broken.id]));

    let mut filter = ExecutionFilter::of_job("many").status(BatchStatus::Failed);
    filter.newest_of_instance = true;
    let newest = repository.executions(&filter).expect("ask");
    assert_eq!(newest.iter().map(|one| one.id).collect::<Vec<_>>(), [alone], "no restart follows");
    assert_eq!(repository.execution_count(&filter).expect("ask"), 1);
    let of_jobs = repository.newest_of_jobs().expect("ask");
    let of_this = of_jobs.iter().filter(|one| one.job == "many").map(|one| one.id);
    assert_eq!(of_this.collect::<Vec<_>>(), [alone]);

    let count = |period, status| OutcomeCount { period, status, count: 1 };
    let mut outcomes = repository.outcomes(now() + Duration::from_micros(1), 60).expect("ask");
    outcomes.sort_by_key(|one| one.status.name());
    assert_eq!(outcomes, [count(1, BatchStatus::Completed), count(1, BatchStatus::Failed)]);

    let before = repository.last_event().expect("ask");
    let mut tx = repository.begin().expect("begin");
    for id in [failed, completed] {
        let subject = Subject::Execution { id, job: "many".into() };
        tx.insert_event(&Event::of_status(now(), subject, BatchStatus::Failed, None))
            .expect("an event");
    }
    tx.commit().expect("commit");
    let events = repository.events_after(before, 10).expect("ask");
    assert_eq!(
        events.iter().map(|(_, one)| one.execution()).collect::<Vec<_>>(),
        [Some(failed), Some(completed)]
    );
    assert_eq!(repository.last_event().expect("ask"), events[1].0);
    assert_eq!(repository.events_after(before, 1).expect("ask"), events[..1]);
    assert_eq!(repository.events_after(events[0].0, 10).expect("ask"), events[1..]);
    for id in [failed, completed, alone] {
        delete(repository, id);
    }
}

fn the_audit_is_newest_first_and_paged(repository: &dyn JobRepository) {
    let mut tx = repository.begin().expect("begin");
    for subject in ["execution 1", "execution ä"] {
        let entry = AuditEntry {
            id: 0,
            at: now(),
            who: "cli:maria".to_owned(),
            action: "stop".to_owned(),
            subject: subject.to_owned(),
            detail: (subject == "execution 1").then(|| "x".to_owned()),
        };
        tx.insert_audit(&entry).expect("an entry");
    }
    tx.commit().expect("commit");
    let all = repository.audit(None, 10).expect("ask");
    assert_eq!(
        all.iter().map(|one| &*one.subject).collect::<Vec<_>>(),
        ["execution ä", "execution 1"]
    );
    assert_eq!(
        (&*all[1].who, all[1].at, all[1].detail.as_deref()),
        ("cli:maria", now(), Some("x"))
    );
    assert_eq!(repository.audit(Some(all[0].id), 10).expect("ask"), all[1..]);
    assert_eq!(repository.audit(None, 1).expect("ask"), all[..1]);
}

fn delete(repository: &dyn JobRepository, id: ExecutionId) {
    let mut tx = repository.begin().expect("begin");
    tx.delete_execution(id).expect("deleted");
    tx.commit().expect("commit");
}
