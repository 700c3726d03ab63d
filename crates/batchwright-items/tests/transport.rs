//! Each format reads from each source and writes to each sink, exactly, wherever the step fails.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use batchwright::item::{Ending, ItemReader};
use batchwright::scope::StepScope;
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, MemoryRepository,
};
use batchwright_items::format::csv::CsvReader;
use batchwright_items::format::json::{JsonArray, JsonReader};
use batchwright_items::format::json_lines::{JsonLine, JsonLines, JsonLinesReader};
use batchwright_items::format::lines::{LineInput, LineReader, Lines};
use batchwright_items::transport::{ByteSink, ByteSource, EncodedWriter, MemorySource};

/// Number of records of each input.
const RECORDS: u64 = 9;

/// A sink in memory, shared by all executions.
#[derive(Clone, Default)]
struct MemorySink {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// The length at the last committed position, and at the newest position.
    lengths: (u64, u64),
    is_write_only: bool,
}

impl MemorySink {
    fn cut(&mut self, length: u64) {
        self.bytes.lock().unwrap().truncate(usize::try_from(length).unwrap());
    }
}

impl ByteSink for MemorySink {
    type Position = u64;

    fn open(&mut self, position: Option<u64>, _: &StepScope) -> Result<(), ItemError> {
        let position = position.unwrap_or(0);
        self.lengths = (position, position);
        self.cut(position);
        Ok(())
    }

    fn length(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn begun(&self) -> Option<Arc<dyn ByteSource>> {
        let bytes = self.bytes.lock().unwrap().clone();
        let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new("the sink", bytes));
        (!self.is_write_only).then_some(source)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ItemError> {
        self.bytes.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }

    fn position(&mut self) -> Result<u64, ItemError> {
        self.lengths.1 = self.length();
        Ok(self.lengths.1)
    }

    fn committed(&mut self) {
        self.lengths.0 = self.lengths.1;
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.cut(self.lengths.0);
        Ok(())
    }

    fn close(&mut self, _: Ending) -> Result<(), ItemError> {
        Ok(())
    }
}

/// Copies all items of `reader`, with one failure at item `fails_at`, and returns what is in the sink.
fn copied<R>(reader: R, fails_at: u64) -> String
where
    R: ItemReader + Clone + 'static,
    R::Item: serde::Serialize + Clone + 'static,
{
    let (sink, seen) = (MemorySink::default(), Arc::new(AtomicU64::new(0)));
    let step = ChunkStepBuilder::new("copy")
        .reader(reader)
        .processor(move |item: &R::Item| match seen.fetch_add(1, Ordering::SeqCst) == fails_at {
            true => Err(ItemError::fatal("on purpose")),
            false => Ok(Some(item.clone())),
        })
        .writer(EncodedWriter::to(sink.clone(), JsonLines))
        .chunk_size(2)
        .build();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("copy").step(step).build().unwrap()).unwrap();
    let mut ended = operator.start("copy", JobParameters::new()).unwrap().wait().unwrap();
    if fails_at < RECORDS {
        assert_eq!(ended.status, BatchStatus::Failed, "at {fails_at}");
        ended = operator.restart(ended.id).unwrap().wait().unwrap();
    }
    assert_eq!(ended.status, BatchStatus::Completed, "at {fails_at}: {:?}", ended.failure);
    let bytes = sink.bytes.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// Copies with a failure at each item: the output is always that of the copy without one.
fn is_exact<R>(reader: &R)
where
    R: ItemReader + Clone + 'static,
    R::Item: serde::Serialize + Clone + 'static,
{
    let expected = copied(reader.clone(), u64::MAX);
    assert_eq!(expected.lines().count() as u64, RECORDS);
    for fails_at in 0..RECORDS {
        assert_eq!(copied(reader.clone(), fails_at), expected, "at {fails_at}");
    }
}

/// Returns records that are longer than what a restart compares before its position.
fn text(record: impl Fn(u64, &str) -> String) -> Vec<u8> {
    let long = "long ".repeat(50);
    (0..RECORDS).map(|n| record(n, &long)).collect::<String>().into_bytes()
}

fn source(bytes: Vec<u8>) -> Arc<dyn ByteSource> {
    Arc::new(MemorySource::new("the input", bytes))
}

#[test]
fn lines_in_memory_are_copied_exactly() {
    let input = LineInput::of(source(text(|n, long| format!("line {n}, ä {long}\n"))));
    is_exact(&LineReader::of(input, Lines));
}

#[test]
fn json_lines_in_memory_are_copied_exactly() {
    let input = LineInput::of(source(text(|n, long| format!("{{\"{long}\":{n}}}\n\n"))));
    is_exact(&JsonLinesReader::<BTreeMap<String, u64>>::of(input, JsonLine::default()));
}

#[test]
fn json_in_memory_is_copied_exactly() {
    let elements = String::from_utf8(text(|n, long| format!("{{\"{long}\":{n}}},\n"))).unwrap();
    let document = format!("{{\"data\": {{\"all\": [{}]}}}}", elements.trim_end_matches(",\n"));
    let reader = JsonReader::<BTreeMap<String, u64>>::within("", "$.data.all");
    is_exact(&reader.from_source(source(document.into_bytes())));
}

#[cfg(feature = "xml")]
#[test]
fn xml_in_memory_is_copied_exactly() {
    let elements = text(|n, long| format!("<one><n>{n}</n><text>{long}</text></one>"));
    let document = [&b"<all>\n<part>"[..], &elements, b"</part>\n</all>"].concat();
    let reader =
        batchwright_items::format::xml::XmlReader::<BTreeMap<String, String>>::new("", "one");
    is_exact(&reader.from_source(source(document)));
}

#[test]
fn csv_in_memory_is_copied_exactly() {
    let records = text(|n, long| format!("{n},\"a\nb {n} {long}\"\n"));
    let input = source([b"n,text\n".to_vec(), records].concat());
    is_exact(&CsvReader::<(u64, String)>::new("").from_source(input));
}

#[test]
fn a_document_in_a_sink_that_cannot_be_read_back_has_its_end() {
    let sink = MemorySink { is_write_only: true, ..MemorySink::default() };
    let input = LineInput::of(source(b"1\n2\n".to_vec()));
    let step = ChunkStepBuilder::new("copy")
        .reader(LineReader::of(input, Lines))
        .writer(EncodedWriter::to(sink.clone(), JsonArray))
        .build();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("copy").step(step).build().unwrap()).unwrap();
    let ended = operator.start("copy", JobParameters::new()).unwrap().wait().unwrap();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    assert_eq!(*sink.bytes.lock().unwrap(), b"[\n\"1\",\n\"2\"\n]\n");
}

#[test]
fn a_restart_refuses_other_bytes_than_those_of_the_checkpoint() {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    let run = |bytes: &[u8], fails: bool| {
        let input = LineInput::of(Arc::new(MemorySource::new("the input", bytes)));
        let step = ChunkStepBuilder::new("copy")
            .reader(LineReader::of(input, Lines))
            .processor(move |line: &String| match fails && line == "c" {
                true => Err(ItemError::fatal("on purpose")),
                false => Ok(Some(line.clone())),
            })
            .writer(EncodedWriter::to(MemorySink::default(), Lines))
            .chunk_size(1)
            .build();
        operator.registry().replace(Job::builder("copy").step(step).build().unwrap());
        operator.start("copy", JobParameters::new()).unwrap().wait().unwrap()
    };
    assert_eq!(run(b"a\nb\nc\n", true).status, BatchStatus::Failed);
    let failure = run(b"a\nx\nc\n", false).failure.unwrap();
    assert!(failure.message.contains("it is not the file"), "{}", failure.message);
}
