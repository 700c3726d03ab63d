//! Files of Apache Parquet: what is in the columns, every row once wherever the process dies.
#![cfg(feature = "parquet")]

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use batchwright::item::{ListReader, ListWriter};
use batchwright::testing::{CommitPoint, TestBench, conformance_of_reader};
use batchwright::{BatchStatus, ChunkStepBuilder};
use batchwright_items::format::AsRecords;
use batchwright_items::format::parquet::{
    ParquetColumn, ParquetColumns, ParquetReader, ParquetType, ParquetWriter,
};
use batchwright_items::transport::Encode as _;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A row with a value of each type that JSON has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    id: i64,
    text: Option<String>,
    share: Option<f64>,
    open: bool,
}

fn columns() -> ParquetColumns {
    let columns = vec![
        ParquetColumn::new("id", ParquetType::Integer).required(),
        ParquetColumn::new("text", ParquetType::Text),
        ParquetColumn::new("share", ParquetType::Float),
        ParquetColumn::new("open", ParquetType::Boolean).required(),
    ];
    ParquetColumns::new(columns).unwrap()
}

fn rows(count: i64) -> Vec<Row> {
    (0..count)
        .map(|id| Row {
            id,
            text: (id % 3 != 0).then(|| format!("row {id} ä\n")),
            share: (id % 4 != 0).then_some(0.1 * f64::from(i32::try_from(id).unwrap())),
            open: id % 2 == 0,
        })
        .collect()
}

/// Writes `rows` in chunks of `chunk`, with a crash at commit `crash` unless it is 0.
fn write(path: &Path, rows: &[Row], chunk: usize, crash: u64) {
    let step = ChunkStepBuilder::new("write")
        .reader(ListReader::new(rows.to_vec()))
        .writer(ParquetWriter::new(path, columns()))
        .chunk_size(chunk)
        .build();
    let mut bench = TestBench::of_step(step);
    if crash > 0 {
        bench.crash_at(CommitPoint::After, crash);
    }
    let mut ended = bench.run();
    if crash > 0 && ended.status != BatchStatus::Completed {
        ended = bench.restart();
    }
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
}

/// Reads all rows, with a crash at commit `crash` unless it is 0.
fn read(path: &Path, crash: u64) -> Result<Vec<Row>, String> {
    let items = Arc::new(Mutex::new(Vec::new()));
    let step = ChunkStepBuilder::new("read")
        .reader(ParquetReader::<Row>::new(path))
        .writer(ListWriter::new(Arc::clone(&items)))
        .chunk_size(2)
        .build();
    let mut bench = TestBench::of_step(step);
    if crash > 0 {
        bench.crash_at(CommitPoint::After, crash);
    }
    let mut ended = bench.run();
    if crash > 0 && ended.status != BatchStatus::Completed {
        ended = bench.restart();
    }
    let items = items.lock().unwrap().clone();
    match ended.failure {
        None => Ok(items),
        Some(failure) => Err(failure.message),
    }
}

#[test]
fn the_reader_keeps_the_promises_of_readers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    write(&path, &rows(11), 3, 0);
    conformance_of_reader(|| ParquetReader::<Row>::new(&path));
    conformance_of_reader(|| ParquetReader::<Value>::new(&path).columns(["open", "id"]));
}

#[test]
fn a_file_is_the_same_wherever_the_process_dies() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, path) = (folder.path().join("whole"), folder.path().join("file"));
    write(&whole, &rows(11), 3, 0);
    for crash in 1..=5 {
        write(&path, &rows(11), 3, crash);
        assert_eq!(fs::read(&path).unwrap(), fs::read(&whole).unwrap(), "{crash}");
        assert_eq!(read(&path, crash).unwrap(), rows(11), "{crash}");
    }
}

#[test]
fn a_file_without_rows_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.parquet");
    write(&path, &[], 3, 0);
    assert_eq!(read(&path, 0).unwrap(), []);
}

#[test]
fn each_value_is_kept_or_refused() {
    let kinds = [
        ("text", ParquetType::Text),
        ("integer", ParquetType::Integer),
        ("float", ParquetType::Float),
        ("decimal", ParquetType::Decimal { precision: 6, scale: 2 }),
        ("long", ParquetType::Decimal { precision: 28, scale: 4 }),
        ("boolean", ParquetType::Boolean),
        ("date", ParquetType::Date),
        ("time", ParquetType::Time),
        ("timestamp", ParquetType::Timestamp),
        ("datetime", ParquetType::DateTime),
        ("bytes", ParquetType::Bytes),
    ];
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| {
        let (_, kind) = kinds.iter().find(|(known, _)| *known == name).unwrap();
        let path = folder.path().join(format!("{name}.parquet"));
        let columns = vec![ParquetColumn::new("value", *kind).required()];
        let columns = ParquetColumns::new(columns).unwrap();
        let step = ChunkStepBuilder::new("write")
            .reader(ListReader::new(vec![json!({ "value": value })]))
            .writer(ParquetWriter::new(&path, columns))
            .build();
        let ended = TestBench::of_step(step).run();
        if let Some(failure) = ended.failure {
            return Err(failure.message);
        }
        let items = Arc::new(Mutex::new(Vec::new()));
        let step = ChunkStepBuilder::new("read")
            .reader(ParquetReader::<Value>::new(&path))
            .writer(ListWriter::new(Arc::clone(&items)))
            .build();
        let ended = TestBench::of_step(step).run();
        assert_eq!(ended.status, BatchStatus::Completed, "{name} {value} {:?}", ended.failure);
        let items = items.lock().unwrap().clone();
        Ok(items[0]["value"].clone())
    };
    for (name, value, read) in [
        ("text", json!(""), json!("")),
        ("text", json!({ "a": [1, null] }), json!("{\"a\":[1,null]}")),
        ("integer", json!(i64::MIN), json!(i64::MIN)),
        ("integer", json!("-7"), json!(-7)),
        ("float", json!(5e-324), json!(5e-324)),
        ("float", json!(9_007_199_254_740_992_i64), json!(9_007_199_254_740_992.0)),
        ("decimal", json!("-1234.5"), json!(-1234.50)),
        // The exact digits are in the test of job files: JSON compares binary fractions.
        ("long", json!("-999999999999999999999999.9999"), json!(-1e24)),
        ("boolean", json!("true"), json!(true)),
        ("date", json!("0001-01-01"), json!("0001-01-01")),
        ("date", json!("9999-12-31"), json!("9999-12-31")),
        ("time", json!("23:59:59.999999"), json!("23:59:59.999999")),
        (
            "timestamp",
            json!("2026-11-29T12:00:00.000001+02:00"),
            json!("2026-11-29T10:00:00.000001Z"),
        ),
        ("timestamp", json!("1905-01-01T00:00:00Z"), json!("1905-01-01T00:00:00Z")),
        ("datetime", json!("2026-11-29T12:00:00"), json!("2026-11-29T12:00:00")),
        ("datetime", json!("2026-11-29 12:00:00.5"), json!("2026-11-29T12:00:00.5")),
        ("bytes", json!("CAfe00"), json!("cafe00")),
    ] {
        let found = write(name, &value).unwrap();
        assert_eq!(found, read, "{name} {value}");
    }
    for (name, value, what) in [
        ("integer", json!("7.5"), "`7.5` is not an integer"),
        ("integer", json!(9_223_372_036_854_775_808_u64), "is not an integer"),
        ("float", json!(9_007_199_254_740_993_i64), "that a binary fraction of 64 bits holds"),
        ("float", json!("9007199254740993"), "that a binary fraction of 64 bits holds"),
        ("float", json!(u64::MAX), "that a binary fraction of 64 bits holds"),
        ("float", json!("1e999"), "that a binary fraction of 64 bits holds"),
        ("float", json!("nan"), "that a binary fraction of 64 bits holds"),
        ("bytes", json!("cafe0"), "no bytes in hexadecimal digits"),
        ("decimal", json!("1.005"), "more than 2 digits after the point"),
        ("decimal", json!("12345.00"), "more than 4 digits before the point"),
        ("decimal", json!("much"), "is no decimal"),
        ("boolean", json!("yes"), "is not `true` or `false`"),
        ("date", json!("29.11.2026"), "is not a date"),
        ("date", json!("2026-11-29T23:30:00-05:00"), "is not a date"),
        ("time", json!("2026-11-29T06:30:00"), "is not a time"),
        ("time", json!("06:30:00+01:00"), "is not a time"),
        ("datetime", json!("2026-11-29T06:30:00+01:00"), "without an offset"),
        ("datetime", json!("2026-11-29"), "without an offset"),
        ("time", json!("23:59:59.9999999"), "below a microsecond"),
        ("timestamp", json!("2026-11-29T12:00:00"), "is not an instant with its offset"),
        ("text", Value::Null, "there is no value"),
    ] {
        let message = write(name, &value).unwrap_err();
        assert!(message.contains("column `value`") && message.contains(what), "{message}");
    }
}

#[test]
fn fields_and_columns_must_be_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let write = |row: Value| {
        let columns = ParquetColumns::new(vec![ParquetColumn::new("price", ParquetType::Float)]);
        let step = ChunkStepBuilder::new("write")
            .reader(ListReader::new(vec![row]))
            .writer(ParquetWriter::new(folder.path().join("file"), columns.unwrap()))
            .build();
        TestBench::of_step(step).run().failure.map(|failure| failure.message)
    };
    assert_eq!(write(json!({ "price": 1.5 })), None);
    assert_eq!(write(json!({ "price": null })), None);
    let extra = write(json!({ "price": 1.5, "prize": 2 })).unwrap();
    assert!(extra.contains("field `prize`"), "{extra}");
    let missing = write(json!({})).unwrap();
    assert!(missing.contains("column `price`"), "{missing}");
}

#[test]
fn an_output_in_work_does_not_look_complete_and_is_not_continued_with_other_columns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    let columns = |scale| {
        let kind = ParquetType::Decimal { precision: 9, scale };
        ParquetColumns::new(vec![ParquetColumn::new("n", kind)]).unwrap()
    };
    let scale = Arc::new(std::sync::atomic::AtomicU8::new(2));
    let (of_writer, of_step) = (Arc::clone(&scale), path.clone());
    let step = ChunkStepBuilder::new("write")
        .reader(ListReader::new((0..6).map(|n| json!({ "n": n })).collect::<Vec<_>>()))
        .writer_with(move |_| {
            let scale = of_writer.load(std::sync::atomic::Ordering::SeqCst);
            Ok(ParquetWriter::new(&of_step, columns(scale)))
        })
        .chunk_size(2)
        .build();
    let mut bench = TestBench::of_step(step);
    bench.crash_at(CommitPoint::After, 2);
    bench.run();
    let part = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&part).unwrap();
    assert!(bytes.starts_with(b"PAR1") && !bytes.ends_with(b"PAR1"));
    scale.store(3, std::sync::atomic::Ordering::SeqCst);
    let failure = bench.restart().failure.unwrap();
    assert!(failure.message.contains("begun with other columns"), "{failure:?}");
}

#[test]
fn a_chunk_without_rows_adds_nothing_to_a_file_that_has_begun() {
    let (mut bytes, none) = (Vec::new(), Vec::<Row>::new());
    AsRecords(columns()).encode(&none, false, &mut bytes).unwrap();
    assert!(bytes.is_empty());
    AsRecords(columns()).encode(&none, true, &mut bytes).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
}

#[test]
fn columns_that_cannot_be_are_refused() {
    let column = |name: &str, kind| ParquetColumn::new(name, kind);
    let decimal = |precision, scale| column("d", ParquetType::Decimal { precision, scale });
    for (columns, what) in [
        (vec![], "needs a column"),
        (
            vec![column("a", ParquetType::Text), column("a", ParquetType::Date)],
            "`a` is there twice",
        ),
        (vec![decimal(0, 0)], "1 to 28 digits"),
        (vec![decimal(29, 0)], "1 to 28 digits"),
        (vec![decimal(3, 4)], "no more than these after the point"),
    ] {
        let message = ParquetColumns::new(columns).unwrap_err();
        assert!(message.contains(what), "{message}");
    }
}

#[test]
fn a_file_that_is_cut_or_no_file_fails_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    write(&path, &rows(11), 3, 0);
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(13) {
        fs::write(&path, &whole[..length]).unwrap();
        let message = read(&path, 0).expect_err("the file is cut");
        assert!(message.contains("rows.parquet"), "{length}: {message}");
    }
    fs::write(&path, "id,name\n1,Ada\n").unwrap();
    let message = read(&path, 0).unwrap_err();
    assert!(message.contains("rows.parquet"), "{message}");
}

#[test]
fn a_column_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    write(&path, &rows(2), 3, 0);
    let step = ChunkStepBuilder::new("read")
        .reader(ParquetReader::<Value>::new(&path).columns(["id", "colour"]))
        .writer(ListWriter::new(Arc::default()))
        .build();
    let message = TestBench::of_step(step).run().failure.unwrap().message;
    assert!(message.contains("no column `colour`; there are: id, text, share, open"), "{message}");
}

#[test]
fn a_file_that_is_replaced_before_the_restart_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    write(&path, &rows(11), 3, 0);
    let step = ChunkStepBuilder::new("read")
        .reader(ParquetReader::<Row>::new(&path))
        .writer(ListWriter::new(Arc::default()))
        .chunk_size(2)
        .build();
    let mut bench = TestBench::of_step(step);
    bench.crash_at(CommitPoint::After, 2);
    bench.run();
    write(&path, &rows(12), 3, 0);
    assert_eq!(bench.restart().failure.unwrap().code, "input_changed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn rows_are_the_same_after_writing_and_reading(
        values in prop::collection::vec(
            (any::<i64>(), any::<Option<String>>(), prop::option::of(prop::num::f64::NORMAL), any::<bool>()),
            0..30,
        ),
        chunk in 1..12_usize,
        crash in 0..6_u64,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        let rows: Vec<Row> =
            values.into_iter().map(|(id, text, share, open)| Row { id, text, share, open }).collect();
        write(&path, &rows, chunk, crash);
        prop_assert_eq!(read(&path, crash).unwrap(), rows);
    }

    #[test]
    fn a_damaged_file_is_an_error_or_has_other_values_and_nothing_worse(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        write(&path, &rows(11), 3, 0);
        let mut bytes = fs::read(&path).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fs::write(&path, bytes).unwrap();
        if let Err(message) = read(&path, 0) {
            prop_assert!(!message.contains("panicked"), "{}", message);
        }
    }
}
