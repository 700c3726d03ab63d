//! Files with a schema: what is in the columns, every row once wherever the process dies. Each test runs with each format.
#![cfg(all(feature = "arrow", feature = "avro", feature = "parquet"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use batchwright::item::{ItemReader, ListReader, ListWriter};
use batchwright::testing::{CommitPoint, TestBench, conformance_of_reader};
use batchwright::{BatchStatus, ChunkStepBuilder};
use batchwright_items::Record;
use batchwright_items::format::AsRecords;
use batchwright_items::format::arrow::{ArrowColumns, ArrowReader, ArrowWriter};
use batchwright_items::format::avro::{AvroColumns, AvroReader, AvroWriter};
use batchwright_items::format::parquet::{ParquetColumns, ParquetReader, ParquetWriter};
use batchwright_items::format::typed::{ColumnRange, TypedColumn, ValueType};
use batchwright_items::transport::{Encode, FileWriter};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A format with a schema.
trait Format: 'static {
    /// The first bytes of a file.
    const MAGIC: &'static [u8];
    type Columns: Encode<Record> + Clone + Send + Sync + std::fmt::Debug + 'static;
    type Reader<T: DeserializeOwned + Send + Sync + 'static>: ItemReader<Item = T> + Clone + 'static;

    fn columns(columns: Vec<TypedColumn>) -> Result<Self::Columns, String>;
    fn writer(path: PathBuf, columns: Self::Columns) -> FileWriter<AsRecords<Self::Columns>>;
    fn reader<T: DeserializeOwned + Send + Sync + 'static>(path: &Path) -> Self::Reader<T>;
    fn some(path: &Path, names: &[&str]) -> Self::Reader<Value>;
    fn only(path: &Path, range: ColumnRange) -> Self::Reader<Row>;
}

/// Implements [`Format`] by the types of a format.
macro_rules! format_of {
    ($name:ident, $magic:expr, $columns:ident, $reader:ident, $writer:ident) => {
        struct $name;

        impl Format for $name {
            const MAGIC: &'static [u8] = $magic;
            type Columns = $columns;
            type Reader<T: DeserializeOwned + Send + Sync + 'static> = $reader<T>;

            fn columns(columns: Vec<TypedColumn>) -> Result<$columns, String> {
                $columns::new(columns)
            }

            fn writer(path: PathBuf, columns: $columns) -> $writer {
                $writer::new(path, columns)
            }

            fn reader<T: DeserializeOwned + Send + Sync + 'static>(path: &Path) -> $reader<T> {
                $reader::new(path)
            }

            fn some(path: &Path, names: &[&str]) -> $reader<Value> {
                $reader::new(path).columns(names.iter().copied())
            }

            fn only(path: &Path, range: ColumnRange) -> $reader<Row> {
                $reader::new(path).only(range)
            }
        }
    };
}

format_of!(Parquet, b"PAR1", ParquetColumns, ParquetReader, ParquetWriter);
format_of!(Arrow, b"ARROW1", ArrowColumns, ArrowReader, ArrowWriter);
format_of!(Avro, b"Obj\x01", AvroColumns, AvroReader, AvroWriter);

/// Makes a test of each function, for each format.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        mod parquet {
            $(#[test] fn $name() { super::$name::<super::Parquet>(); })*
        }
        mod arrow {
            $(#[test] fn $name() { super::$name::<super::Arrow>(); })*
        }
        mod avro {
            $(#[test] fn $name() { super::$name::<super::Avro>(); })*
        }
    };
}

tests!(
    the_reader_keeps_the_promises_of_readers,
    a_file_is_the_same_wherever_the_process_dies,
    a_file_without_rows_is_one,
    each_value_is_kept_or_refused,
    fields_and_columns_must_be_the_same,
    an_output_in_work_does_not_look_complete_and_is_not_continued_with_other_columns,
    a_chunk_without_rows_adds_nothing_to_a_file_that_has_begun,
    columns_that_cannot_be_are_refused,
    a_file_that_is_cut_or_no_file_fails_with_its_name,
    a_column_that_is_not_there_is_named,
    a_file_that_is_replaced_before_the_restart_is_refused,
    only_rows_in_a_range_are_read_wherever_the_process_dies,
    a_range_that_fits_no_column_is_refused,
);

/// A row with a value of each type that JSON has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    id: i64,
    text: Option<String>,
    share: Option<f64>,
    open: bool,
}

fn columns<F: Format>() -> F::Columns {
    let columns = vec![
        TypedColumn::new("id", ValueType::Integer).required(),
        TypedColumn::new("text", ValueType::Text),
        TypedColumn::new("share", ValueType::Float),
        TypedColumn::new("open", ValueType::Boolean).required(),
    ];
    F::columns(columns).unwrap()
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
fn write<F: Format>(path: &Path, rows: &[Row], chunk: usize, crash: u64) {
    let step = ChunkStepBuilder::new("write")
        .reader(ListReader::new(rows.to_vec()))
        .writer(F::writer(path.to_owned(), columns::<F>()))
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
fn read<F: Format>(path: &Path, crash: u64) -> Result<Vec<Row>, String> {
    let items = Arc::new(Mutex::new(Vec::new()));
    let step = ChunkStepBuilder::new("read")
        .reader(F::reader::<Row>(path))
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

fn the_reader_keeps_the_promises_of_readers<F: Format>() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.file");
    write::<F>(&path, &rows(11), 3, 0);
    conformance_of_reader(|| F::reader::<Row>(&path));
    conformance_of_reader(|| F::some(&path, &["open", "id"]));
}

fn a_file_is_the_same_wherever_the_process_dies<F: Format>() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, path) = (folder.path().join("whole"), folder.path().join("file"));
    write::<F>(&whole, &rows(11), 3, 0);
    for crash in 1..=5 {
        write::<F>(&path, &rows(11), 3, crash);
        assert_eq!(fs::read(&path).unwrap(), fs::read(&whole).unwrap(), "{crash}");
        assert_eq!(read::<F>(&path, crash).unwrap(), rows(11), "{crash}");
    }
}

fn a_file_without_rows_is_one<F: Format>() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.file");
    write::<F>(&path, &[], 3, 0);
    assert_eq!(read::<F>(&path, 0).unwrap(), []);
}

fn each_value_is_kept_or_refused<F: Format>() {
    let kinds = [
        ("text", ValueType::Text),
        ("integer", ValueType::Integer),
        ("float", ValueType::Float),
        ("decimal", ValueType::Decimal { precision: 6, scale: 2 }),
        ("long", ValueType::Decimal { precision: 28, scale: 4 }),
        ("boolean", ValueType::Boolean),
        ("date", ValueType::Date),
        ("time", ValueType::Time),
        ("timestamp", ValueType::Timestamp),
        ("datetime", ValueType::DateTime),
        ("bytes", ValueType::Bytes),
    ];
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| {
        let (_, kind) = kinds.iter().find(|(known, _)| *known == name).unwrap();
        let path = folder.path().join(format!("{name}.file"));
        let columns = vec![TypedColumn::new("value", *kind).required()];
        let columns = F::columns(columns).unwrap();
        let step = ChunkStepBuilder::new("write")
            .reader(ListReader::new(vec![json!({ "value": value })]))
            .writer(F::writer(path.clone(), columns))
            .build();
        let ended = TestBench::of_step(step).run();
        if let Some(failure) = ended.failure {
            return Err(failure.message);
        }
        let items = Arc::new(Mutex::new(Vec::new()));
        let step = ChunkStepBuilder::new("read")
            .reader(F::reader::<Value>(&path))
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

fn fields_and_columns_must_be_the_same<F: Format>() {
    let folder = tempfile::tempdir().unwrap();
    let write = |row: Value| {
        let columns = F::columns(vec![TypedColumn::new("price", ValueType::Float)]);
        let step = ChunkStepBuilder::new("write")
            .reader(ListReader::new(vec![row]))
            .writer(F::writer(folder.path().join("file"), columns.unwrap()))
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

fn an_output_in_work_does_not_look_complete_and_is_not_continued_with_other_columns<F: Format>() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.file");
    let columns = |scale| {
        let kind = ValueType::Decimal { precision: 9, scale };
        F::columns(vec![TypedColumn::new("n", kind)]).unwrap()
    };
    let scale = Arc::new(std::sync::atomic::AtomicU8::new(2));
    let (of_writer, of_step) = (Arc::clone(&scale), path.clone());
    let step = ChunkStepBuilder::new("write")
        .reader(ListReader::new((0..6).map(|n| json!({ "n": n })).collect::<Vec<_>>()))
        .writer_with(move |_| {
            let scale = of_writer.load(std::sync::atomic::Ordering::SeqCst);
            Ok(F::writer(of_step.clone(), columns(scale)))
        })
        .chunk_size(2)
        .build();
    let mut bench = TestBench::of_step(step);
    bench.crash_at(CommitPoint::After, 2);
    bench.run();
    let part = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&part).unwrap();
    assert!(
        bytes.starts_with(F::MAGIC) && !bytes.ends_with(b"PAR1") && !bytes.ends_with(b"ARROW1")
    );
    scale.store(3, std::sync::atomic::Ordering::SeqCst);
    let failure = bench.restart().failure.unwrap();
    assert!(failure.message.contains("begun with other columns"), "{failure:?}");
}

fn a_chunk_without_rows_adds_nothing_to_a_file_that_has_begun<F: Format>() {
    let (mut bytes, none) = (Vec::new(), Vec::<Row>::new());
    AsRecords(columns::<F>()).encode(&none, false, &mut bytes).unwrap();
    assert!(bytes.is_empty());
    AsRecords(columns::<F>()).encode(&none, true, &mut bytes).unwrap();
    assert!(bytes.starts_with(F::MAGIC));
}

fn columns_that_cannot_be_are_refused<F: Format>() {
    let column = |name: &str, kind| TypedColumn::new(name, kind);
    let decimal = |precision, scale| column("d", ValueType::Decimal { precision, scale });
    for (columns, what) in [
        (vec![], "needs a column"),
        (vec![column("a", ValueType::Text), column("a", ValueType::Date)], "`a` is there twice"),
        (vec![decimal(0, 0)], "1 to 28 digits"),
        (vec![decimal(29, 0)], "1 to 28 digits"),
        (vec![decimal(3, 4)], "no more than these after the point"),
    ] {
        let message = F::columns(columns).unwrap_err();
        assert!(message.contains(what), "{message}");
    }
}

fn a_file_that_is_cut_or_no_file_fails_with_its_name<F: Format>() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.file");
    write::<F>(&path, &rows(11), 3, 0);
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(13) {
        fs::write(&path, &whole[..length]).unwrap();
        let message = read::<F>(&path, 0).expect_err("the file is cut");
        assert!(message.contains("rows.file"), "{length}: {message}");
    }
    fs::write(&path, "id,name\n1,Ada\n").unwrap();
    let message = read::<F>(&path, 0).unwrap_err();
    assert!(message.contains("rows.file"), "{message}");
}

fn a_column_that_is_not_there_is_named<F: Format>() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.file");
    write::<F>(&path, &rows(2), 3, 0);
    let step = ChunkStepBuilder::new("read")
        .reader(F::some(&path, &["id", "colour"]))
        .writer(ListWriter::new(Arc::default()))
        .build();
    let message = TestBench::of_step(step).run().failure.unwrap().message;
    assert!(message.contains("`colour`; there are: id, text, share, open"), "{message}");
}

fn a_file_that_is_replaced_before_the_restart_is_refused<F: Format>() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.file");
    write::<F>(&path, &rows(11), 3, 0);
    let step = ChunkStepBuilder::new("read")
        .reader(F::reader::<Row>(&path))
        .writer(ListWriter::new(Arc::default()))
        .chunk_size(2)
        .build();
    let mut bench = TestBench::of_step(step);
    bench.crash_at(CommitPoint::After, 2);
    bench.run();
    write::<F>(&path, &rows(12), 3, 0);
    assert_eq!(bench.restart().failure.unwrap().code, "input_changed");
}

fn only_rows_in_a_range_are_read_wherever_the_process_dies<F: Format>() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.file");
    write::<F>(&path, &rows(40), 3, 0);
    let range = |column: &str, from: Option<&str>, to: Option<&str>| {
        let range = ColumnRange::of(column);
        let range = from.map_or(range.clone(), |from| range.from(from));
        to.map_or(range.clone(), |to| range.to(to))
    };
    for (range, accepts) in [
        (
            range("id", Some("10"), Some("20")),
            (|row: &Row| (10..=20).contains(&row.id)) as fn(&Row) -> bool,
        ),
        (range("id", Some("38"), None), |row| row.id >= 38),
        (range("id", None, Some("-1")), |_| false),
        (range("share", None, Some("0.45")), |row| row.share.is_some_and(|share| share <= 0.45)),
        (range("text", Some("row 2"), Some("row 2~")), |row| {
            row.text.as_deref().is_some_and(|text| text.starts_with("row 2"))
        }),
        (range("open", Some("true"), None), |row| row.open),
    ] {
        let expected: Vec<Row> = rows(40).into_iter().filter(accepts).collect();
        if !expected.is_empty() {
            conformance_of_reader(|| F::only(&path, range.clone()));
        }
        for crash in 0..=4 {
            let items = Arc::new(Mutex::new(Vec::new()));
            let reader = F::only(&path, range.clone());
            let step = ChunkStepBuilder::new("read")
                .reader(reader)
                .writer(ListWriter::new(Arc::clone(&items)))
                .chunk_size(2)
                .build();
            let mut bench = TestBench::of_step(step);
            bench.crash_at(CommitPoint::After, crash);
            if bench.run().status != BatchStatus::Completed {
                bench.restart();
            }
            assert_eq!(*items.lock().unwrap(), expected, "{range:?} {crash}");
        }
    }
}

fn a_range_that_fits_no_column_is_refused<F: Format>() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.file");
    write::<F>(&path, &rows(4), 3, 0);
    for (range, expected) in [
        (ColumnRange::of("colour").from("1"), "`only` names `colour`"),
        (ColumnRange::of("id").from("many"), "cannot compare column `id` with `many`"),
    ] {
        let step = ChunkStepBuilder::new("read")
            .reader(F::only(&path, range))
            .writer(ListWriter::new(Arc::default()))
            .build();
        let failure = TestBench::of_step(step).run().failure.unwrap();
        assert!(failure.message.contains(expected), "{failure:?}");
    }
}

fn are_the_same<F: Format>(rows: &[Row], chunk: usize, crash: u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.file");
    write::<F>(&path, rows, chunk, crash);
    assert_eq!(read::<F>(&path, crash).unwrap(), rows);
}

fn damage<F: Format>(changes: &[(prop::sample::Index, u8)]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.file");
    write::<F>(&path, &rows(11), 3, 0);
    let mut bytes = fs::read(&path).unwrap();
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    fs::write(&path, bytes).unwrap();
    if let Err(message) = read::<F>(&path, 0) {
        assert!(!message.contains("panicked"), "{message}");
    }
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
        let rows: Vec<Row> =
            values.into_iter().map(|(id, text, share, open)| Row { id, text, share, open }).collect();
        are_the_same::<Parquet>(&rows, chunk, crash);
        are_the_same::<Arrow>(&rows, chunk, crash);
        are_the_same::<Avro>(&rows, chunk, crash);
    }

    #[test]
    fn a_damaged_file_is_an_error_or_has_other_values_and_nothing_worse(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        damage::<Parquet>(&changes);
        damage::<Arrow>(&changes);
        damage::<Avro>(&changes);
    }
}
