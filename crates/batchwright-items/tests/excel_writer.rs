//! Workbooks that are written: what is in their cells, and the same bytes wherever the process dies.
#![cfg(feature = "excel")]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use batchwright::item::{ListReader, ListWriter};
use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, ChunkStepBuilder};
use batchwright_items::format::excel::{
    ExcelColumn, ExcelColumns, ExcelReader, ExcelType, ExcelWriter,
};
use serde_json::{Value, json};

fn names(names: &[&str]) -> ExcelColumns {
    ExcelColumns::new("Data", names.iter().map(|name| ExcelColumn::new(*name)).collect()).unwrap()
}

/// Writes `rows` in chunks of `chunk`, with a crash at commit `crash` unless it is 0; returns the message of a failure.
fn write(
    path: &Path,
    columns: &ExcelColumns,
    rows: Vec<Value>,
    (chunk, threads): (u64, usize),
    crash: u64,
) -> Option<String> {
    let step = ChunkStepBuilder::new("write")
        .reader(ListReader::new(rows))
        .writer(ExcelWriter::new(path, columns.clone()))
        .chunk_size(usize::try_from(chunk).unwrap())
        .parallelism(threads)
        .build();
    let mut bench = TestBench::of_step(step);
    if crash > 0 {
        bench.crash_at(CommitPoint::After, crash);
    }
    let mut ended = bench.run();
    if crash > 0 && ended.status != BatchStatus::Completed {
        ended = bench.restart();
    }
    ended.failure.map(|failure| failure.message)
}

fn read(path: &Path) -> Vec<Value> {
    let items = Arc::new(Mutex::new(Vec::new()));
    let step = ChunkStepBuilder::new("read")
        .reader(ExcelReader::<Value>::new(path).sheet("Data"))
        .writer(ListWriter::new(Arc::clone(&items)))
        .chunk_size(100)
        .build();
    let ended = TestBench::of_step(step).run();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    items.lock().unwrap().clone()
}

#[test]
fn a_workbook_is_the_same_wherever_the_process_dies_and_by_one_thread_and_several() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, path) = (folder.path().join("whole.xlsx"), folder.path().join("file.xlsx"));
    let columns = names(&["id", "text", "share"]);
    let row = |id: i64| json!({"id": id, "text": format!("row <{id}> ä\n"), "share": 0.5});
    let rows: Vec<Value> = (1..=23).map(row).collect();
    assert_eq!(write(&whole, &columns, rows.clone(), (4, 1), 0), None);
    assert_eq!(read(&whole), rows);
    for threads in [1, 2] {
        for crash in 1..=6 {
            assert_eq!(write(&path, &columns, rows.clone(), (4, threads), crash), None);
            assert_eq!(fs::read(&path).unwrap(), fs::read(&whole).unwrap(), "{threads} {crash}");
        }
    }
}

#[test]
fn a_workbook_without_rows_and_one_of_many_are_both_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("book.xlsx");
    assert_eq!(write(&path, &names(&["id"]), Vec::new(), (10, 1), 0), None);
    assert_eq!(read(&path), Vec::<Value>::new());
    let rows: Vec<Value> = (0..30_000).map(|id| json!({"id": id})).collect();
    assert_eq!(write(&path, &names(&["id"]), rows.clone(), (7_000, 2), 0), None);
    assert_eq!(read(&path), rows);
    // Compressed: one row needs some three bytes.
    assert!(fs::metadata(&path).unwrap().len() < 200_000);
}

#[test]
fn each_value_is_kept_in_a_cell_of_its_type_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cell.xlsx");
    let write = |kind: Option<ExcelType>, value: &Value| {
        let column = ExcelColumn::new("v");
        let column = kind.map_or(column.clone(), |kind| column.clone().kind(kind));
        let columns = ExcelColumns::new("Data", vec![ExcelColumn::new("id"), column]).unwrap();
        match write(&path, &columns, vec![json!({"id": 1, "v": value})], (1, 1), 0) {
            None => Ok(read(&path)[0]["v"].clone()),
            Some(message) => Err(message),
        }
    };
    use ExcelType::{Boolean, Date, DateTime, Number, Text, Time};
    for (kind, value, expected) in [
        (None, json!(null), json!(null)),
        (None, json!(true), json!(true)),
        (None, json!(-7), json!(-7)),
        (None, json!(999_999_999_999_999_i64), json!(999_999_999_999_999_i64)),
        // Excel would make 1234567890123450 of it.
        (None, json!(1_234_567_890_123_456_i64), json!("1234567890123456")),
        (None, json!(0.1), json!(0.1)),
        (None, json!("=1+1"), json!("=1+1")),
        (None, json!("  <a> & \"b\"\nä 𝄞"), json!("  <a> & \"b\"\nä 𝄞")),
        (None, json!("_x0041_ \u{1} _x"), json!("_x0041_ \u{1} _x")),
        (None, json!("12"), json!("12")),
        (None, json!([1, {"a": null}]), json!("[1,{\"a\":null}]")),
        (Some(Text), json!(12), json!("12")),
        (Some(Number), json!("12.50"), json!(12.5)),
        (Some(Number), json!("1e3"), json!(1000)),
        (Some(Number), json!("+5"), json!(5)),
        (Some(Number), json!("-0.0"), json!(0)),
        (None, json!("a\r\nb\rc"), json!("a\r\nb\rc")),
        (Some(Number), json!(""), json!(null)),
        (Some(Boolean), json!("false"), json!(false)),
        (Some(Date), json!("2026-11-29"), json!("2026-11-29")),
        (Some(Date), json!("1900-03-01"), json!("1900-03-01")),
        (Some(Date), json!("9999-12-31"), json!("9999-12-31")),
        (Some(DateTime), json!("2026-11-29T06:30:15"), json!("2026-11-29T06:30:15")),
        (Some(DateTime), json!("2026-11-29T06:30:00+01:00"), json!("2026-11-29T05:30:00")),
        (Some(Time), json!("23:59:59"), json!("23:59:59")),
    ] {
        assert_eq!(write(kind, &value), Ok(expected), "{kind:?} {value}");
    }
    for (kind, value, wanted) in [
        (Number, json!("12,5"), "`12,5` is not a number"),
        (Number, json!("NaN"), "`NaN` is not a number"),
        (Number, json!("1234567890.123456789"), "is not a number of at most 15 digits"),
        (Boolean, json!("yes"), "`yes` is not `true` or `false`"),
        (Date, json!("29.11.2026"), "`29.11.2026` is not a date"),
        (Date, json!("1900-02-28"), "is not a date from 1900-03-01 on"),
        (Date, json!("2026-11-29T23:59:59"), "`2026-11-29T23:59:59` is not a date"),
        (Time, json!("2026-11-29T10:00:00"), "is not a time"),
        (Time, json!("10:00+02:00"), "is not a time"),
        (DateTime, json!("2026-11-29T10:00:00[Europe/Berlin]"), "is not a timestamp"),
        (Number, json!("1e308"), "is not a number of at most 15 digits that Excel can hold"),
        (Number, json!("1e-400"), "is not a number of at most 15 digits that Excel can hold"),
        (Time, json!("25:00"), "`25:00` is not a time"),
        (DateTime, json!("now"), "`now` is not a timestamp"),
        (Text, json!("x".repeat(32_768)), "the text has more than 32767 characters"),
    ] {
        let refused = write(Some(kind), &value).unwrap_err();
        assert!(
            refused.contains("cannot write column `v`") && refused.contains(wanted),
            "{refused}"
        );
    }
}

#[test]
fn what_is_no_column_and_what_excel_refuses_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("book.xlsx");
    let refused = write(&path, &names(&["id"]), vec![json!({"id": 1, "b": 2})], (1, 1), 0).unwrap();
    assert!(refused.contains("cannot write field `b`: it is no column of the sheet"), "{refused}");
    for sheet in ["", "a/b", "'a", &"x".repeat(32), "a\u{1}"] {
        let refused = ExcelColumns::new(sheet, vec![ExcelColumn::new("a")]).unwrap_err();
        assert!(refused.contains("a sheet cannot be called"), "{refused}");
    }
    let column = || ExcelColumn::new("a");
    for format in
        ["#,##0.00;[Red]-#,##0.00", "\"[\"0\"]\"", "[$-409]dd.mm.yyyy", "0\\[", "_-* #,##0_-"]
    {
        assert!(ExcelColumns::new("S", vec![column().format(format)]).is_ok(), "{format}");
    }
    for (columns, wanted) in [
        (vec![], "a sheet has 1 to 16384 columns"),
        (vec![column(), column()], "the column `a` is there twice"),
        (vec![column().width(300.0)], "a width is between 0 and 255"),
        (vec![column().format("[[")], "`[[` is no number format of Excel"),
        (vec![column().format("\"x")], "is no number format of Excel"),
        (vec![column().format("0;0;0;0;0")], "is no number format of Excel"),
        (vec![column().format("")], "is no number format of Excel"),
        (vec![column().title("x".repeat(40_000))], "a title has at most 32767 characters"),
    ] {
        assert!(ExcelColumns::new("S", columns).unwrap_err().contains(wanted));
    }
}

#[test]
fn an_output_is_not_continued_with_other_columns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("book.xlsx");
    let is_wide = Arc::new(AtomicBool::new(false));
    let (of_writer, of_step) = (Arc::clone(&is_wide), path.clone());
    let step = ChunkStepBuilder::new("write")
        .reader(ListReader::new((1..=4).map(|id| json!({"id": id})).collect::<Vec<_>>()))
        .writer_with(move |_| {
            let columns: &[&str] = match of_writer.load(Ordering::SeqCst) {
                true => &["id", "more"],
                false => &["id"],
            };
            Ok(ExcelWriter::new(&of_step, names(columns)))
        })
        .chunk_size(1)
        .build();
    let mut bench = TestBench::of_step(step);
    bench.crash_at(CommitPoint::After, 2);
    assert_ne!(bench.run().status, BatchStatus::Completed);
    is_wide.store(true, Ordering::SeqCst);
    let failure = bench.restart().failure.unwrap().message;
    assert!(failure.contains("it was begun with other columns"), "{failure}");
}
