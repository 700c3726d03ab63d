//! Readers and writers of any kind with items of any type: as exact as in job files.
#![cfg(feature = "redis")]

use std::fs;
use std::sync::{Arc, Mutex};

use batchwright::ItemError;
use batchwright::item::{ItemReader, ListReader, ListWriter};
use batchwright::listener::{ListenerResult, SkipListener};
use batchwright::parameters::{ParameterDeclaration, ParameterSchema, ParameterType};
use batchwright::policy::SkipPolicy;
use batchwright::scope::StepScope;
use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, ChunkStepBuilder};
use batchwright_items::{
    BuildContext, ItemKind, Keys, KindRegistry, KindSchema, MakeReader, Names, PartMaker, Problem,
    Reads, Record, Value,
};
use batchwright_testkit::{Service, needs};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    note: Option<String>,
}

fn orders() -> Vec<Order> {
    (1..=7).map(|id| Order { id, note: (id % 2 == 0).then(|| format!("n{id}")) }).collect()
}

#[test]
fn items_are_copied_by_two_kinds_wherever_the_process_dies() {
    for crash in 0..=4 {
        let folder = tempfile::tempdir().unwrap();
        let parts = PartMaker::new(KindRegistry::builtin()).folder(folder.path());
        let lines = orders().into_iter().map(|one| serde_json::to_string(&one).unwrap() + "\n");
        fs::write(folder.path().join("in.jsonl"), lines.collect::<String>()).unwrap();
        let step = ChunkStepBuilder::new("copy")
            .reader_with(parts.reader::<Order>("type = \"jsonl\"\npath = \"in.jsonl\"").unwrap())
            .writer_with(parts.writer::<Order>("type = \"json\"\npath = \"out.json\"").unwrap())
            .chunk_size(2)
            .build();
        let mut bench = TestBench::of_step(step);
        bench.crash_at(CommitPoint::After, crash);
        let mut ended = bench.run();
        if ended.status != BatchStatus::Completed {
            ended = bench.restart();
        }
        assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
        let written = fs::read_to_string(folder.path().join("out.json")).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Order>>(&written).unwrap(), orders(), "{crash}");
    }
}

#[test]
fn messages_of_a_queue_are_items_and_are_acknowledged_once_they_are_committed() {
    let Some(url) = needs(Service::Redis) else { return };
    let list = format!("bw-parts-{}", std::process::id());
    let keys = format!("type = \"redis\"\nserver = \"{url}\"\nlist = \"{list}\"");
    let parts = PartMaker::new(KindRegistry::builtin());
    for crash in 0..=3 {
        let send = ChunkStepBuilder::new("send")
            .reader(ListReader::new(orders()))
            .writer_with(parts.writer::<Order>(&keys).unwrap())
            .build();
        assert_eq!(TestBench::of_step(send).run().status, BatchStatus::Completed);
        let received = Arc::default();
        let receive = ChunkStepBuilder::new("receive")
            .reader_with(parts.reader::<Order>(&keys).unwrap())
            .writer(ListWriter::new(Arc::clone(&received)))
            .chunk_size(3)
            .build();
        let mut bench = TestBench::of_step(receive);
        bench.crash_at(CommitPoint::After, crash);
        if bench.run().status != BatchStatus::Completed {
            assert_eq!(bench.restart().status, BatchStatus::Completed);
        }
        assert_eq!(*received.lock().unwrap(), orders(), "{crash}");
        let mut redis = redis::Client::open(url.as_str()).unwrap().get_connection().unwrap();
        let left: Vec<String> =
            redis::cmd("KEYS").arg(format!("{list}*")).query(&mut redis).unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_record_that_is_no_item_names_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.jsonl"), "{\"id\":1,\"note\":null}\n{\"note\":\"x\"}\n")
        .unwrap();
    let parts = PartMaker::new(KindRegistry::builtin()).folder(folder.path());
    let step = ChunkStepBuilder::new("read")
        .reader_with(parts.reader::<Order>("type = \"jsonl\"\npath = \"in.jsonl\"").unwrap())
        .writer(ListWriter::new(Arc::default()))
        .build();
    let failure = TestBench::of_step(step).run().failure.unwrap();
    assert!(failure.message.contains("missing field `id`"), "{failure:?}");
}

/// Numbers of an input that has passed an item once it has given it, and passes over the next one when it is asked to.
struct Pages {
    items: Vec<u64>,
    at: usize,
}

impl ItemReader for Pages {
    type Item = Record;
    type Position = usize;

    fn open(&mut self, position: Option<usize>, _: &StepScope) -> Result<(), ItemError> {
        self.at = position.unwrap_or(0);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        let Some(id) = self.items.get(self.at) else { return Ok(None) };
        self.at += 1;
        // The second one has no id.
        let name = if *id == 2 { "other" } else { "id" };
        let names: Names = Arc::new([name.into()]);
        Ok(Some(Record::single(&names, Value::Integer(i64::try_from(*id).unwrap()))))
    }

    fn position(&self) -> usize {
        self.at
    }

    fn rereads(&self) -> bool {
        true
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        self.at += 1;
        Ok(())
    }
}

struct PagesKind;

#[derive(Deserialize, schemars::JsonSchema)]
struct NoKeys {}

impl ItemKind for PagesKind {
    fn name(&self) -> &'static str {
        "pages"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().reader::<NoKeys>()
    }

    fn reader(&self, _: Keys<'_>, _: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        Ok(MakeReader::new(|_| Ok(Reads::records(Pages { items: (1..=4).collect(), at: 0 }))))
    }
}

/// Keeps the content of records that are skipped.
struct Letters(Arc<Mutex<Vec<Option<Vec<u8>>>>>);

impl<I, O> SkipListener<I, O> for Letters {
    fn on_skip_in_read(&self, _: &StepScope, error: &ItemError) -> ListenerResult {
        self.0.lock().unwrap().push(error.raw().map(<[u8]>::to_vec));
        Ok(())
    }
}

#[test]
fn a_bad_record_is_skipped_alone_with_its_content() {
    let parts = PartMaker::new(KindRegistry::builtin().with(PagesKind));
    let (items, skipped) = (Arc::default(), Arc::new(Mutex::new(Vec::new())));
    let letters = Arc::clone(&skipped);
    let step = ChunkStepBuilder::new("read")
        .reader_with(parts.reader::<Order>("type = \"pages\"").unwrap())
        .writer(ListWriter::new(Arc::clone(&items)))
        .skip(SkipPolicy::limit(1))
        .skip_listener(Letters(letters))
        .build();
    let ended = TestBench::of_step(step).run();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    let ids: Vec<u64> = items.lock().unwrap().iter().map(|order: &Order| order.id).collect();
    assert_eq!(ids, [1, 3, 4]);
    assert_eq!(*skipped.lock().unwrap(), [Some(b"{\"other\":2}".to_vec())]);
}

#[test]
fn an_input_that_lacks_a_column_of_the_keys_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.csv"), "Id,note\n1,a\n").unwrap();
    let parts = PartMaker::new(KindRegistry::builtin()).folder(folder.path());
    let keys = "type = \"csv\"\npath = \"in.csv\"\ncolumns = { id = \"integer\" }";
    let step = ChunkStepBuilder::new("read")
        .reader_with(parts.reader::<serde_json::Value>(keys).unwrap())
        .writer(ListWriter::new(Arc::default()))
        .build();
    let failure = TestBench::of_step(step).run().failure.unwrap();
    assert!(failure.message.contains("cannot find column `id`"), "{failure:?}");
}

#[test]
fn keys_that_are_wrong_are_refused_with_their_line() {
    let day = ParameterDeclaration::new("day", ParameterType::Date);
    let parameters = ParameterSchema { declared: vec![day], open: false };
    let parts = PartMaker::new(KindRegistry::builtin()).parameters(parameters);
    parts.reader::<Order>("type = \"csv\"\npath = \"${params.day}.csv\"").map(drop).unwrap();
    for (keys, expected) in [
        ("path = \"a\"", "need a `type`"),
        ("type = \"cvs\"\npath = \"a\"", "there is no reader of type `cvs`"),
        ("type = \"csv\"\npath = \"a\"\ncolour = 1", "line 3: there is no key `colour`"),
        ("type = \"csv\"\npath = \"${params.month}\"", "line 2: "),
        ("type = csv", "line 1"),
    ] {
        let refused = parts.reader::<Order>(keys).map(drop).unwrap_err();
        assert!(refused.contains(expected), "{keys}: {refused}");
    }
}
