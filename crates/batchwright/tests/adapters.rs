//! Parts made from functions and iterators, and the short ways to start and ask.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright::error::ErrorKind;
use batchwright::execution::InstanceId;
use batchwright::item::{
    ChannelReader, DeliveryWriter, FlatWriter, FromInput, FunctionReader, ItemReader,
    IteratorReader, KeyedReader, ListReader, NoWriter, PeekableReader, SeriesReader,
};
use batchwright::operator::{OperatorError, Refusal};
use batchwright::parameters::{ParameterDeclaration, ParameterType, ParameterValue};
use batchwright::policy::{Classifier, SkipPolicy};
use batchwright::retry::{Backoff, RetryPolicy};
use batchwright::step::{Flow, Step, TaskletStep};
use batchwright::testing::{self, StepBench};
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, ListWriter,
    MemoryRepository, Sequence,
};

fn operator(step: impl Step + 'static) -> JobOperator {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
    operator
}

/// Runs a step over `reader` that fails at each item once, and restarts it until it completes. Returns what was
/// written.
fn interrupted_at_every_item<R>(reader: R) -> Vec<u64>
where
    R: ItemReader<Item = u64> + Clone + 'static,
{
    let written = Arc::new(Mutex::new(Vec::new()));
    let failed = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
    let step = ChunkStepBuilder::new("step")
        .reader(reader)
        .process(move |n| match failed.lock().unwrap().insert(*n) {
            true => Err(ItemError::data("the first attempt fails")),
            false => Ok(Some(*n)),
        })
        .writer(ListWriter::new(Arc::clone(&written)))
        .chunk_size(1)
        .build();
    let operator = operator(step);
    let mut last = operator.run("job", JobParameters::new()).unwrap();
    while last.status == BatchStatus::Failed {
        last = operator.restart(last.id).unwrap().wait().unwrap();
    }
    assert_eq!(last.status, BatchStatus::Completed);
    let written = written.lock().unwrap();
    written.clone()
}

#[test]
fn a_reader_of_an_iterator_continues_after_the_last_committed_item() {
    let reader = IteratorReader::new(|read| Ok((1..=7).skip(read).map(Ok)));
    assert_eq!(interrupted_at_every_item(reader), [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_reader_made_from_a_function_continues_at_the_position_that_the_function_left() {
    let reader = FunctionReader::new(|last: &mut u64| {
        if *last == 7 {
            return Ok(None);
        }
        *last += 1;
        Ok(Some(*last))
    });
    assert_eq!(interrupted_at_every_item(reader), [1, 2, 3, 4, 5, 6, 7]);
}

/// Returns a reader of the lists in `lists`, by name; the record 0 cannot be read.
fn series(
    lists: &[(&'static str, &'static [u64])],
) -> SeriesReader<impl Fn(&str) -> Result<Records, ItemError> + Clone + use<>, Records> {
    let lists = lists.to_vec();
    SeriesReader::new(lists.clone().into_iter().map(|(name, _)| name), move |name| {
        let list = lists.iter().find(|(known, _)| *known == name);
        let (_, list) =
            list.ok_or_else(|| ItemError::data(format!("there is no list `{name}`")))?;
        Ok(FunctionReader::new(Box::new(|next: &mut usize| {
            let Some(item) = list.get(*next) else { return Ok(None) };
            *next += 1;
            match item {
                0 => Err(ItemError::data("the record is 0").at(format!("record {next}"))),
                item => Ok(Some(*item)),
            }
        })
            as Box<dyn FnMut(&mut usize) -> Result<Option<u64>, ItemError> + Send>))
    })
}

type Records =
    FunctionReader<usize, Box<dyn FnMut(&mut usize) -> Result<Option<u64>, ItemError> + Send>>;

#[test]
fn many_inputs_are_read_as_one_and_each_item_has_its_input_and_number() {
    let lists: &[(_, &[u64])] =
        &[("a", &[1, 2]), ("empty", &[]), ("b", &[3, 0, 4]), ("c", &[5]), ("last", &[])];
    testing::conformance_of_reader(|| series(lists));

    let written = Arc::new(Mutex::new(Vec::new()));
    let step = ChunkStepBuilder::new("step")
        .reader(series(lists))
        .process(|FromInput { input, number, item }| Ok(Some(format!("{input}{number}={item}"))))
        .writer(ListWriter::new(Arc::clone(&written)))
        .skip(SkipPolicy::limit(1))
        .build();
    let operator = operator(step);
    let ended = operator.run("job", JobParameters::new()).unwrap();
    assert_eq!(*written.lock().unwrap(), ["a1=1", "a2=2", "b1=3", "b3=4", "c1=5"]);
    let skips = operator.queries().skips(ended.id).unwrap();
    assert_eq!(skips[0].location.as_deref(), Some("b, record 2"));
}

#[test]
fn a_series_goes_on_with_inputs_that_were_added_and_refuses_those_that_appeared_before() {
    let bench = StepBench::new();
    let items = |lists: &[(&'static str, &'static [u64])], from| {
        let mut reader = series(lists);
        reader.open(from, bench.scope())?;
        let mut items = Vec::new();
        while let Some(one) = reader.read()? {
            items.push(one.item);
        }
        Ok::<_, ItemError>((items, reader.position()))
    };
    let (_, end) = items(&[("a", &[1]), ("c", &[2])], None).unwrap();
    let more: &[(_, &[u64])] = &[("a", &[1]), ("c", &[2]), ("d", &[3])];
    assert_eq!(items(more, Some(end.clone())).unwrap().0, [3]);
    for other in [
        &[("a", &[1][..]), ("b", &[9]), ("c", &[2])][..],
        &[("c", &[2])],
        &[("b", &[1]), ("c", &[2])],
    ] {
        let refused = items(other, Some(end.clone())).unwrap_err();
        assert_eq!(refused.kind().name(), "fatal.input_changed", "{refused}");
    }
    let missing = || {
        SeriesReader::new(["x"], |_: &str| -> Result<Records, _> {
            Err(ItemError::data("no such file"))
        })
    };
    let step = ChunkStepBuilder::new("step")
        .reader_with(move |_| Ok(missing()))
        .writer(NoWriter::new())
        .build();
    let failed = operator(step).run("job", JobParameters::new()).unwrap();
    assert!(failed.failure.unwrap().message.contains("cannot open the input `x`: no such file"));
}

#[test]
fn a_reader_that_shows_its_next_item_keeps_the_position_before_it() {
    let mut reader = PeekableReader::new(ListReader::new(vec![1, 2]));
    reader.open(None, StepBench::new().scope()).unwrap();
    let start = reader.position();
    assert_eq!(reader.peek(), Some(&1));
    assert_eq!(reader.peek(), Some(&1));
    assert_eq!(reader.position(), start);
    assert_eq!(reader.read().unwrap(), Some(1));
    assert_ne!(reader.position(), start);
    assert_eq!(reader.read().unwrap(), Some(2));
    assert_eq!(reader.peek(), None);
    assert_eq!(reader.read().unwrap(), None);
}

#[test]
fn a_record_that_cannot_be_shown_fails_the_next_read_and_not_the_group_before_it() {
    let items = || (1..=4).map(|n| if n == 3 { Err(ItemError::data("three")) } else { Ok(n) });
    let mut reader = PeekableReader::new(IteratorReader::new(move |read| Ok(items().skip(read))));
    reader.open(None, StepBench::new().scope()).unwrap();
    assert_eq!((reader.read().unwrap(), reader.peek()), (Some(1), Some(&2)));
    assert_eq!((reader.read().unwrap(), reader.peek()), (Some(2), None));
    assert_eq!(reader.position(), 2);
    assert_eq!(reader.read().unwrap_err().to_string(), "three");
    assert_eq!((reader.position(), reader.read().unwrap()), (3, Some(4)));
}

#[test]
fn an_input_that_cannot_be_opened_yet_is_retried_and_no_record_is_lost() {
    let left = Arc::new(AtomicU32::new(2));
    let reader = SeriesReader::new(["a", "b"], move |name| {
        let away = name == "b"
            && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        match away {
            true => Err(ItemError::new(ErrorKind::IO, "away")),
            false => Ok(ListReader::new(vec![format!("{name}1"), format!("{name}2")])),
        }
    });
    let written = Arc::new(Mutex::new(Vec::new()));
    let step = ChunkStepBuilder::new("step")
        .reader_with(move |_| Ok(reader.clone()))
        .process(|one| Ok(Some(one.item.clone())))
        .writer(ListWriter::new(Arc::clone(&written)))
        .retry(RetryPolicy::attempts(3))
        .build();
    let ended = operator(step).run("job", JobParameters::new()).unwrap();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    assert_eq!(*written.lock().unwrap(), ["a1", "a2", "b1", "b2"]);
}

#[test]
fn a_channel_whose_items_left_before_the_first_commit_is_refused_and_a_stop_ends_its_wait() {
    let (sender, receiver) = std::sync::mpsc::channel();
    (1..=3u64).for_each(|n| sender.send(n).unwrap());
    let step = ChunkStepBuilder::new("step")
        .reader(ChannelReader::new(receiver))
        .process(|n| if *n == 3 { Err(ItemError::data("three")) } else { Ok(Some(*n)) })
        .writer(NoWriter::new())
        .chunk_size(3)
        .build();
    let operator = operator(step);
    let failed = operator.run("job", JobParameters::new()).unwrap();
    let refused = operator.restart(failed.id).unwrap().wait().unwrap().failure.unwrap().message;
    assert!(refused.contains("after item 0: 3 items have left this channel"), "{refused}");
    drop(sender);

    let (sender, receiver) = std::sync::mpsc::channel::<u64>();
    let waits = ChunkStepBuilder::new("step")
        .reader(ChannelReader::new(receiver))
        .writer(NoWriter::new())
        .read_ahead(2)
        .build();
    let operator = self::operator(waits);
    let handle = operator.start("job", JobParameters::new()).unwrap();
    operator.stop(handle.id()).unwrap();
    assert_eq!(handle.wait().unwrap().status, BatchStatus::Stopped);
    drop(sender);
}

#[test]
fn keys_are_read_once_and_items_by_their_keys_and_a_restart_reads_the_keys_after_the_last() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let make = |fails: u32| {
        let (log, left) = (Arc::clone(&asked), Arc::new(AtomicU32::new(fails)));
        KeyedReader::new(
            |after: Option<&u64>| Ok((after.map_or(1, |last| last + 1)..=5).collect()),
            move |keys: &[u64]| {
                if left.swap(0, Ordering::SeqCst) > 0 {
                    return Err(ItemError::new(ErrorKind::IO, "away"));
                }
                log.lock().unwrap().push(keys.to_vec());
                Ok(keys.iter().map(|key| (*key != 3).then_some(key * 10)).collect())
            },
        )
        .batch(2)
    };
    testing::conformance_of_reader(|| make(0));
    asked.lock().unwrap().clear();

    let written = Arc::new(Mutex::new(Vec::new()));
    let step = ChunkStepBuilder::new("step")
        .reader(make(1))
        .writer(ListWriter::new(Arc::clone(&written)))
        .retry(RetryPolicy::attempts(2).on(Classifier::none().including("io")))
        .skip(SkipPolicy::limit(1))
        .build();
    let operator = operator(step);
    let ended = operator.run("job", JobParameters::new()).unwrap();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    assert_eq!(*written.lock().unwrap(), [10, 20, 40, 50]);
    assert_eq!(*asked.lock().unwrap(), [vec![1, 2], vec![3, 4], vec![5]]);
    let skips = operator.queries().skips(ended.id).unwrap();
    assert_eq!(skips[0].message, "there is no item with the key 3");
}

#[test]
fn a_channel_is_read_to_its_end_and_a_restart_is_refused_because_its_items_are_gone() {
    let (sender, receiver) = std::sync::mpsc::channel();
    (1..=4u64).for_each(|n| sender.send(n).unwrap());
    drop(sender);
    let step = ChunkStepBuilder::new("step")
        .reader(ChannelReader::new(receiver))
        .process(|n| if *n == 3 { Err(ItemError::data("three")) } else { Ok(Some(*n)) })
        .writer(NoWriter::new())
        .chunk_size(2)
        .build();
    let operator = operator(step);
    let failed = operator.run("job", JobParameters::new()).unwrap();
    assert_eq!(failed.status, BatchStatus::Failed);
    let refused = operator.restart(failed.id).unwrap().wait().unwrap();
    let message = refused.failure.unwrap().message;
    assert!(
        message.contains("cannot continue after item 2: 4 items have left this channel"),
        "{message}"
    );
}

#[test]
fn an_iterator_that_cannot_be_made_fails_the_step_and_one_bad_item_is_skipped_alone() {
    let broken = IteratorReader::new(|_| -> Result<std::iter::Empty<Result<u64, ItemError>>, _> {
        Err(ItemError::data("no such list"))
    });
    let step = ChunkStepBuilder::new("step").reader(broken).writer(NoWriter::new()).build();
    let failed = operator(step).run("job", JobParameters::new()).unwrap();
    assert!(failed.failure.unwrap().message.ends_with("failed to open its reader: no such list"));

    let written = Arc::new(Mutex::new(Vec::new()));
    let item = |n: u64| if n == 2 { Err(ItemError::data("two")) } else { Ok(n) };
    let step = ChunkStepBuilder::new("step")
        .reader(IteratorReader::new(move |read| Ok((1..=3).skip(read).map(item))))
        .writer(ListWriter::new(Arc::clone(&written)))
        .skip(SkipPolicy::limit(1))
        .build();
    operator(step).run("job", JobParameters::new()).unwrap();
    assert_eq!(*written.lock().unwrap(), [1, 3]);
}

#[test]
fn processors_that_are_set_one_after_another_all_run_in_their_order() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&seen);
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(10))
        .process(|n| Ok((n % 2 == 0).then_some(n * 10)))
        .processor(move |n: &u64| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Some(format!("{n}")))
        })
        .process(|text| Ok((text.len() == 2).then(|| format!("<{text}>"))))
        .writer(ListWriter::new(Arc::clone(&written)))
        .build();
    let operator = operator(step);
    let ended = operator.run("job", JobParameters::new()).unwrap();
    assert_eq!(*written.lock().unwrap(), ["<20>", "<40>", "<60>", "<80>"]);
    assert_eq!(
        seen.load(Ordering::Relaxed),
        5,
        "a filtered item does not reach the next processor"
    );
    let step = operator.explorer().step_summary(ended.id, "step").unwrap().unwrap();
    assert_eq!((step.counters.read, step.counters.filter, step.counters.write), (10, 6, 4));
    assert!(operator.explorer().step_summary(ended.id, "other").unwrap().is_none());
}

#[test]
fn a_processor_that_makes_several_outputs_of_one_input_has_them_written_together() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(3))
        .process(|n| Ok(Some((0..*n).map(|part| (*n, part)).collect::<Vec<_>>())))
        .writer(FlatWriter::new(ListWriter::new(Arc::clone(&written))))
        .build();
    let operator = operator(step);
    let ended = operator.run("job", JobParameters::new()).unwrap();
    assert_eq!(*written.lock().unwrap(), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]);
    let step = operator.explorer().step_summary(ended.id, "step").unwrap().unwrap();
    assert_eq!(step.counters.write, 3, "an input with its outputs is one item");
}

#[test]
fn a_function_that_delivers_gets_the_same_key_for_the_same_chunk() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&calls);
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(4))
        .writer(DeliveryWriter::call(move |items: &[u64], key| {
            let mut log = log.lock().unwrap();
            log.push((items.to_vec(), key.to_owned()));
            if log.len() == 2 { Err(ItemError::data("the second delivery fails")) } else { Ok(()) }
        }))
        .chunk_size(2)
        .build();
    let operator = operator(step);
    let failed = operator.run("job", JobParameters::new()).unwrap();
    operator.restart(failed.id).unwrap().wait().unwrap();
    let calls = calls.lock().unwrap();
    let chunks: Vec<_> = calls.iter().map(|(items, _)| items.clone()).collect();
    assert_eq!(chunks, [[1, 2], [3, 4], [3, 4]]);
    assert!(calls[0].1 != calls[1].1 && calls[1].1 == calls[2].1, "{calls:?}");
}

#[test]
fn a_function_without_arguments_is_a_step() {
    fn nothing() {}
    let ended = |step| operator(step).run("job", JobParameters::new()).unwrap();
    assert_eq!(ended(TaskletStep::call("step", nothing)).status, BatchStatus::Completed);
    let failed = ended(TaskletStep::call("step", || {
        std::fs::read("/no/such/file")?;
        Ok(())
    }));
    assert_eq!(failed.failure.unwrap().code, "tasklet_failed");
}

fn import() -> JobOperator {
    let job = Job::builder("import")
        .parameter(ParameterDeclaration::new("day", ParameterType::Date).required())
        .parameter(ParameterDeclaration::new("limit", ParameterType::Integer).default(10))
        .step(TaskletStep::call("step", || ()))
        .build()
        .unwrap();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(job).unwrap();
    operator
}

#[test]
fn parameters_of_a_json_text_have_the_declared_types() {
    let operator = import();
    let ended = operator.start_json("import", r#"{"day": "2026-11-28"}"#).unwrap().wait().unwrap();
    assert_eq!(ended.parameters.date("day").unwrap(), jiff::civil::date(2026, 11, 28));
    assert_eq!(ended.parameters.integer("limit").unwrap(), 10);
    for (json, problem) in [
        (r#"{"day": "soon"}"#, "parameter `day`: "),
        (r#"{"day": "2026-11-28", "limit": "x"}"#, "parameter `limit`: "),
        ("[1]", "the text is not a JSON object"),
    ] {
        let refused = operator.start_json("import", json).unwrap_err().to_string();
        assert!(refused.contains(problem), "{json}: {refused}");
    }
}

#[test]
fn an_execution_is_found_by_its_job_and_parameters() {
    let operator = import();
    let day = |day| JobParameters::new().with("day", jiff::civil::date(2026, 11, day));
    let first = operator.run("import", day(27)).unwrap();
    operator.run("import", day(28)).unwrap();
    let explorer = operator.explorer();
    let found = explorer.newest_with("import", day(27)).unwrap();
    assert_eq!(found.map(|one| one.id), Some(first.id), "defaults count");
    assert!(explorer.newest_with("import", day(29)).unwrap().is_none());
    let unknown = explorer.newest_with("other", day(27)).unwrap_err();
    assert!(matches!(unknown, OperatorError::Refused(Refusal::NoSuchJob { .. })), "{unknown}");
    let unknown = explorer.executions(InstanceId(99)).unwrap_err();
    assert_eq!(unknown.to_string(), "there is no instance 99");
}

#[test]
fn each_type_of_parameter_has_a_getter_that_refuses_other_types() {
    let now = jiff::Timestamp::UNIX_EPOCH;
    let all = JobParameters::new()
        .with("s", "x")
        .with("i", 7_u16)
        .with("f", 0.5)
        .with("b", true)
        .with("d", jiff::civil::date(2026, 11, 28))
        .with("t", now);
    assert_eq!((all.string("s"), all.integer("i"), all.float("f")), (Ok("x"), Ok(7), Ok(0.5)));
    assert_eq!((all.boolean("b"), all.timestamp("t")), (Ok(true), Ok(now)));
    assert_eq!(
        all.boolean("f").unwrap_err().to_string(),
        "the parameters are invalid: parameter `f` is of type float, expected boolean"
    );
    let integers: [ParameterValue; 7] = [
        1_i8.into(),
        1_i16.into(),
        1_i32.into(),
        1_i64.into(),
        1_u8.into(),
        1_u16.into(),
        1_u32.into(),
    ];
    assert!(integers.iter().all(|value| *value == ParameterValue::Integer(1)));
}

#[test]
fn parameters_become_a_struct_and_a_secret_is_not_repeated_in_the_error() {
    #[derive(Debug, serde::Deserialize)]
    struct Import {
        day: jiff::civil::Date,
        limit: Option<u8>,
    }
    let day = JobParameters::new().with("day", jiff::civil::date(2026, 11, 28));
    let import: Import = day.parse().unwrap();
    assert_eq!((import.day.day(), import.limit), (28, None));
    let wrong = day.with_non_identifying("limit", 300).parse::<Import>().unwrap_err();
    assert!(wrong.to_string().contains("parameter `limit`: ") && wrong.to_string().contains("300"));
    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only its type is used")]
    struct Login {
        password: u8,
    }
    let secrets: [ParameterValue; 4] = ["p\"w\\d".into(), "12".into(), 1e20.into(), 4711.into()];
    for secret in secrets {
        let given = JobParameters::new().with_non_identifying("password", secret.clone());
        let wrong = given.parse::<Login>().unwrap_err().to_string();
        let wanted = format!("parameter `password`: its value is not of type {}", secret.kind());
        assert!(wrong.ends_with(&wanted), "{wrong}");
    }
}

#[test]
fn a_json_text_that_is_no_object_is_not_repeated_because_it_may_be_a_secret() {
    let refused = import().start_json("import", r#""hunter2""#).unwrap_err().to_string();
    assert!(refused.contains("not a JSON object") && !refused.contains("hunter2"), "{refused}");
    let secret = r#"{"day": {"value": "hunter2", "secret": true}}"#;
    let refused = import().start_json("import", secret).unwrap_err().to_string();
    assert!(refused.contains("parameter `day`") && !refused.contains("hunter2"), "{refused}");
}

#[test]
fn an_iterator_needs_not_be_cloned() {
    let lines = |read| {
        let lines = std::io::BufRead::lines(std::io::Cursor::new("1\n2\n3\n4"));
        let numbers = lines.skip(read).map(|line| Ok(line?.parse::<u64>()?));
        Ok(Box::new(numbers) as Box<dyn Iterator<Item = Result<u64, ItemError>> + Send>)
    };
    assert_eq!(interrupted_at_every_item(IteratorReader::new(lines)), [1, 2, 3, 4]);
}

#[test]
fn a_tasklet_is_retried_in_a_new_transaction_with_the_same_key() {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&keys);
    let step = TaskletStep::new("send", move |call| {
        let begun = call.scope().context().has("begun");
        call.scope().context().put("begun", &true)?;
        assert!(!begun, "a failed call leaves nothing in the context");
        let mut keys = seen.lock().unwrap();
        keys.push(call.transaction().idempotency_key());
        match keys.len() {
            1 | 2 => Err(ItemError::new(ErrorKind::IO, "away")),
            _ => Ok(Flow::Finished),
        }
    })
    .retry(RetryPolicy::attempts(3));
    let ended = operator(step).run("job", JobParameters::new()).unwrap();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    let keys = keys.lock().unwrap();
    assert!(keys.len() == 3 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[test]
fn a_fatal_call_is_not_retried_and_a_stop_ends_the_wait_for_the_next_one() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let fatal = TaskletStep::call("fatal", move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Err::<(), _>(ItemError::fatal("never again"))
    });
    let fatal = fatal.retry(RetryPolicy::attempts(5));
    assert_eq!(
        operator(fatal).run("job", JobParameters::new()).unwrap().status,
        BatchStatus::Failed
    );
    assert_eq!(calls.load(Ordering::SeqCst), 1);

    let counted = Arc::clone(&calls);
    let wait = Backoff::Fixed(Duration::from_secs(3_600));
    let waits = TaskletStep::call("waits", move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Err::<(), ItemError>("away".into())
    })
    .retry(RetryPolicy::attempts(2).backoff(wait));
    let operator = operator(waits);
    let handle = operator.start("job", JobParameters::new()).unwrap();
    while calls.load(Ordering::SeqCst) < 2 {
        std::thread::yield_now();
    }
    operator.stop(handle.id()).unwrap();
    assert_eq!(handle.wait().unwrap().status, BatchStatus::Stopped);
}
