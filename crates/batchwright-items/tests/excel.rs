//! Sheets of Excel: what is in the cells, and every row once wherever the process dies.
#![cfg(feature = "excel")]

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use batchwright::error::ErrorKind;
use batchwright::item::{ItemReader, ListWriter};
use batchwright::policy::{Classifier, SkipPolicy};
use batchwright::testing::{CommitPoint, StepBench, TestBench, conformance_of_reader};
use batchwright::{BatchStatus, ChunkStepBuilder};
use batchwright_items::format::excel::ExcelReader;
use rust_xlsxwriter::{ExcelDateTime, Format, Formula, Workbook, Worksheet};
use serde_json::{Value, json};

/// Writes a workbook of a sheet `Notes` and the sheet that `fill` fills, called `Data`.
fn book(path: &Path, fill: impl Fn(&mut Worksheet)) {
    let mut book = Workbook::new();
    book.add_worksheet().set_name("Notes").unwrap().write(0, 0, "note").unwrap();
    fill(book.add_worksheet().set_name("Data").unwrap());
    book.save(path).unwrap();
}

/// Rows with a header, beginning in the third row and the second column, and an empty row.
fn mixed(sheet: &mut Worksheet) {
    for (column, name) in ["id", "name", "price", "day", "at", "open"].into_iter().enumerate() {
        sheet.write(2, u16::try_from(column).unwrap() + 1, name).unwrap();
    }
    let (day, both) = (
        Format::new().set_num_format("yyyy-mm-dd"),
        Format::new().set_num_format("yyyy-mm-dd hh:mm"),
    );
    for (row, id) in [(3, 1), (4, 2), (6, 3), (7, 4)] {
        sheet.write(row, 1, id).unwrap();
        if id != 2 {
            sheet.write(row, 2, format!("<{id}> ä")).unwrap();
        }
        sheet.write(row, 3, f64::from(id) / 4.0).unwrap();
        sheet
            .write_with_format(row, 4, ExcelDateTime::from_ymd(2026, 11, 29).unwrap(), &day)
            .unwrap();
        let at = ExcelDateTime::from_ymd(2026, 11, 29).unwrap().and_hms(6, 30, 0.0).unwrap();
        sheet.write_with_format(row, 5, at, &both).unwrap();
        sheet.write(row, 6, id % 2 == 0).unwrap();
    }
}

fn reader(path: &Path) -> ExcelReader<Value> {
    ExcelReader::new(path).sheet("Data")
}

/// Reads all rows by chunks of one, with a crash at commit `crash` unless it is 0; rows that fail are skipped.
fn read<R>(reader: R, crash: u64) -> (Vec<Value>, Vec<Value>, Option<String>)
where
    R: ItemReader<Item = Value> + Clone + 'static,
{
    let folder = tempfile::tempdir().unwrap();
    let dead = folder.path().join("dead");
    let items = Arc::new(Mutex::new(Vec::new()));
    let step = ChunkStepBuilder::new("read")
        .reader(reader)
        .writer(ListWriter::new(Arc::clone(&items)))
        .chunk_size(1)
        .skip(SkipPolicy::limit(9).on(Classifier::none().including("data")))
        .dead_letters(&dead)
        .build();
    let mut bench = TestBench::of_step(step);
    if crash > 0 {
        bench.crash_at(CommitPoint::After, crash);
    }
    let mut ended = bench.run();
    if crash > 0 {
        assert_ne!(ended.status, BatchStatus::Completed);
        ended = bench.restart();
    }
    let letters = fs::read_to_string(&dead).unwrap_or_default();
    let letters = letters.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let items = items.lock().unwrap().clone();
    (items, letters, ended.failure.map(|failure| failure.message))
}

#[test]
fn cells_have_their_types_and_every_row_is_read_once_wherever_the_process_dies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("book.xlsx");
    book(&path, mixed);
    let row = |id: i64| {
        json!({
            "id": id,
            "name": if id == 2 { Value::Null } else { json!(format!("<{id}> ä")) },
            "price": if id == 4 { json!(1) } else { json!(f64::from(i32::try_from(id).unwrap()) / 4.0) },
            "day": "2026-11-29",
            "at": "2026-11-29T06:30:00",
            "open": id % 2 == 0,
        })
    };
    let expected: Vec<Value> = (1..=4).map(row).collect();
    assert_eq!(read(reader(&path), 0), (expected.clone(), Vec::new(), None));
    for crash in 1..=4 {
        assert_eq!(read(reader(&path), crash).0, expected, "crash at {crash}");
    }
    conformance_of_reader(|| reader(&path));
    let first = ExcelReader::<Value>::new(&path).header(false);
    assert_eq!(read(first, 0).0, [json!({"c1": "note"})]);
}

#[test]
fn a_row_with_an_error_or_a_value_without_a_name_is_one_bad_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("book.xlsx");
    book(&path, |sheet| {
        sheet.write(0, 0, "a").unwrap().write(0, 1, "b").unwrap();
        sheet.write(1, 0, 1).unwrap();
        sheet.write_formula(2, 1, Formula::new("=1/0").set_result("#DIV/0!")).unwrap();
        sheet.write(3, 0, 3).unwrap().write(3, 2, "over").unwrap();
        sheet.write(4, 1, 4).unwrap();
    });
    let (items, letters, failure) = read(reader(&path), 0);
    assert_eq!(failure, None);
    assert_eq!(items.first(), Some(&json!({"a": 1, "b": null})));
    assert_eq!(items.last(), Some(&json!({"a": null, "b": 4})));
    let over = letters.last().unwrap();
    assert_eq!(over["location"], "row 4");
    assert_eq!(over["content"], "3\tover");
    assert!(
        over["message"].as_str().unwrap().contains("column C has a value and no name"),
        "{over}"
    );
}

#[test]
fn what_is_no_workbook_and_what_has_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("book.xlsx");
    book(&path, mixed);
    let whole = fs::read(&path).unwrap();
    let fails = |bytes: &[u8], sheet: &str| {
        fs::write(&path, bytes).unwrap();
        read(ExcelReader::new(&path).sheet(sheet), 0).2.expect("it fails")
    };
    assert!(fails(&whole, "data").contains("no sheet `data`; its sheets are: Notes, Data"));
    assert!(fails(b"id,name\n1,x\n", "Data").contains("it is no workbook"));
    for length in (0..whole.len()).step_by(97) {
        let message = fails(&whole[..length], "Data");
        assert!(message.contains("book.xlsx"), "{length}: {message}");
    }
    fs::write(&path, &whole).unwrap();
    let (mut first, bench) = (reader(&path), StepBench::new());
    first.open(None, bench.scope()).unwrap();
    first.read().unwrap();
    let position = first.position();
    first.close().unwrap();
    book(&path, |sheet| mixed(sheet.set_column_width(0, 20).unwrap()));
    let refused = reader(&path).open(Some(position), bench.scope()).unwrap_err();
    assert_eq!(*refused.kind(), ErrorKind::INPUT_CHANGED);
    let mut other = reader(&path).may_have_changed();
    other.open(Some(position), bench.scope()).unwrap();
    assert_eq!(other.read().unwrap().unwrap()["id"], 2);
}
