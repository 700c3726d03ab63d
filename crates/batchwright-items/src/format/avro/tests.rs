//! Files that no writer makes.

use std::sync::{Arc, Mutex};

use batchwright::item::ListWriter;
use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, ChunkStepBuilder};

use batchwright_testkit::fuzz::run;

use super::writer::{put_bytes, put_number};
use super::*;
use crate::transport::MemorySource;

const SYNC: [u8; SYNC_BYTES] = [7; SYNC_BYTES];

/// A file with `schema` and blocks of a number of records and bytes.
fn file(schema: &str, blocks: &[(i64, &[u8])]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    put_number(1, &mut bytes);
    put_bytes(b"avro.schema", &mut bytes);
    put_bytes(schema.as_bytes(), &mut bytes);
    put_number(0, &mut bytes);
    bytes.extend(SYNC);
    for (count, content) in blocks {
        put_number(*count, &mut bytes);
        put_bytes(content, &mut bytes);
        bytes.extend(SYNC);
    }
    bytes
}

fn schema(fields: &str) -> String {
    format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#)
}

/// Reads the file in chunks of `chunk`, with a crash at commit `crash` unless it is 0, and restarts it twice; returns what was read
/// and the last failure.
fn read(bytes: Vec<u8>, chunk: usize, crash: u64) -> (Vec<Record>, Option<String>) {
    let items = Arc::new(Mutex::new(Vec::new()));
    let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new("in.avro", bytes));
    let step = ChunkStepBuilder::new("read")
        .reader_with(move |_| Ok(AvroReader::<Record>::decoding(Arc::clone(&source), Ok)))
        .writer(ListWriter::new(Arc::clone(&items)))
        .chunk_size(chunk)
        .build();
    let mut bench = TestBench::of_step(step);
    if crash > 0 {
        bench.crash_at(CommitPoint::After, crash);
    }
    let mut ended = bench.run();
    for _ in 0..2 {
        if ended.status != BatchStatus::Completed {
            ended = bench.restart();
        }
    }
    let items = items.lock().unwrap().clone();
    (items, ended.failure.map(|failure| failure.message))
}

#[test]
fn a_block_with_more_records_than_it_says_fails_and_none_is_lost_by_a_restart() {
    let schema = schema(r#"{"name": "n", "type": "long"}"#);
    // Five records, and it says two.
    let bytes = file(&schema, &[(1, &[2]), (2, &[4, 6, 8, 10, 12]), (1, &[14])]);
    for (chunk, crash) in [(1, 0), (2, 0), (3, 0), (1, 1), (1, 2), (2, 1)] {
        let (items, failure) = read(bytes.clone(), chunk, crash);
        let failure = failure.unwrap();
        assert!(failure.contains("3 bytes follow") && failure.contains("in.avro"), "{failure}");
        assert!(items.len() <= 2, "{chunk} {crash}: {}", items.len());
    }
    let (_, failure) = read(file(&schema, &[(0, &[2])]), 1, 0);
    assert!(failure.unwrap().contains("1 bytes follow"));
    let (items, failure) = read(file(&schema, &[(0, &[]), (1, &[2]), (0, &[])]), 1, 1);
    assert_eq!((items.len(), failure), (1, None));
}

#[test]
fn values_without_bytes_take_no_memory_without_end() {
    let null = schema(r#"{"name": "n", "type": "null"}"#);
    let (_, failure) = read(file(&null, &[(i64::MAX, &[])]), 1_000_000, 0);
    assert!(failure.unwrap().contains("values without bytes"));
    // Ten to the power of nine nulls.
    let mut inner = r#""null""#.to_owned();
    for level in 0..9 {
        let fields: Vec<String> = (0..10)
            .map(|n| match n {
                0 => format!(r#"{{"name": "f0", "type": {inner}}}"#),
                n if level == 0 => format!(r#"{{"name": "f{n}", "type": "null"}}"#),
                n => format!(r#"{{"name": "f{n}", "type": "L{}"}}"#, level - 1),
            })
            .collect();
        inner = format!(
            r#"{{"type": "record", "name": "L{level}", "fields": [{}]}}"#,
            fields.join(",")
        );
    }
    let nested = schema(&format!(r#"{{"name": "n", "type": {inner}}}"#));
    let (_, failure) = read(file(&nested, &[(1, &[])]), 1, 0);
    let failure = failure.unwrap();
    assert!(failure.contains("values"), "{failure}");
}

#[test]
fn a_bad_record_has_its_number_and_the_next_one_is_read() {
    let schema = schema(r#"{"name": "n", "type": {"type": "long", "logicalType": "time-micros"}}"#);
    let bytes = file(&schema, &[(2, &[2, 1]), (1, &[4])]);
    let (_, failure) = read(bytes, 1, 0);
    let failure = failure.unwrap();
    assert!(failure.contains("record 2") && failure.contains("field `n`"), "{failure}");
}

#[test]
fn a_list_of_many_levels_is_read() {
    // Nodes with a next one: 50 levels of records.
    let schema = schema(r#"{"name": "next", "type": ["null", "R"]}"#);
    let bytes = [&[2; 50][..], &[0]].concat();
    let (items, failure) = read(file(&schema, &[(1, &bytes)]), 1, 0);
    assert_eq!((items.len(), failure), (1, None));
}

#[test]
fn a_header_that_is_wrong_or_endless_is_refused() {
    for (bytes, expected) in [
        (b"Obj\x02".to_vec(), "no file of Avro"),
        (b"Obj".to_vec(), "no file of Avro"),
        (b"Obj\x01".to_vec(), "ends too early"),
        // A million entries without bytes.
        ([&MAGIC[..], &[0x80, 0x89, 0x7a], &[0; 3_000_000]].concat(), "more than 1000 entries"),
        // A value of a gigabyte, which never comes.
        (
            [&MAGIC[..], &[2, 2, b'k', 0x80, 0x80, 0x80, 0x80, 0x08], &vec![0; 40_000_000]]
                .concat(),
            "too long",
        ),
        ([&MAGIC[..], &[0], &SYNC].concat(), "no schema"),
    ] {
        let (_, failure) = read(bytes, 1, 0);
        let failure = failure.unwrap();
        assert!(failure.contains(expected) && failure.contains("in.avro"), "{failure}");
    }
}

#[test]
fn fuzz_of_files() {
    let fields = r#"{"name": "a", "type": ["null", {"type": "array", "items": "string"}]},
        {"name": "b", "type": {"type": "map", "values": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}}},
        {"name": "c", "type": ["null", "R"]}, {"name": "d", "type": {"type": "enum", "name": "E", "symbols": ["x", "y"]}},
        {"name": "e", "type": {"type": "long", "logicalType": "timestamp-nanos"}}, {"name": "f", "type": "double"}"#;
    let record: &[u8] = &[
        2, 4, 2, b'p', 4, b'q', b'r', 0, 2, 2, b'k', 4, 1, 2, 0, 0, 2, 200, 1, 0, 0, 0, 0, 0, 0, 0,
        0,
    ];
    let whole = file(&schema(fields), &[(1, record), (2, &[record, record].concat())]);
    let (items, failure) = read(whole.clone(), 2, 0);
    assert_eq!((items.len(), failure), (3, None));
    let header = whole.len() - 3 * record.len() - 2 * (SYNC_BYTES + 2);
    run("files of Avro", 3_000, |rng| {
        let mut bytes = whole.clone();
        for _ in 0..=rng.below(3) {
            // More often after the header, whose changes are refused at once.
            let from = if rng.below(4) == 0 { 0 } else { header };
            let at = from + rng.below(bytes.len() - from);
            match rng.below(3) {
                0 => bytes[at] = rng.below(256) as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, rng.below(256) as u8),
            }
        }
        let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new("in.avro", bytes));
        let mut reader = AvroReader::<Record>::decoding(source, Ok);
        let Ok(mut open) = reader.begin() else { return };
        // It ends: each record has bytes, or counts as one without.
        while let Ok(Some(_)) = open.next() {}
        reader.open = None;
    });
}
