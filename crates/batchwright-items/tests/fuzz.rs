//! Readers, writers and templates under random inputs: the readers of all file formats read any bytes, give the same
//! records from a file, from each position in it, from its parts and from a pipe, and read what the writers write.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use batchwright::ItemError;
use batchwright::item::{ChunkTransaction, Ending, ItemReader, ItemWriter};
use batchwright::parameters::{
    JobParameters, ParameterDeclaration, ParameterSchema, ParameterType, ParameterValue,
};
use batchwright::partition::{ByteRanges, Partitioner};
use batchwright::scope::StepScope;
use batchwright::step::{Flow, TaskletStep};
use batchwright::testing::TestBench;
use batchwright::{BatchStatus, error::ErrorKind};
use batchwright_items::format::csv::CsvReader;
use batchwright_items::format::lines::LineReader;
use batchwright_items::{
    BoxedReader, BuildContext, Keys, KindRegistry, Known, Record, Template, Value,
};
use batchwright_testkit::fuzz::{Rng, run};
use toml::de::DeTable;
use toml::{Table, Value as Toml};

/// Maximum number of raw bytes that an error keeps of a record: the longest line that is not too long.
const RAW_BYTES_MAX: usize = 1024 * 1024;
/// Size of one read of a file; records on both sides of it are put together from two reads.
const READ_BYTES: usize = 64 * 1024;

/// Pieces of all formats.
const PIECES: &[&[u8]] = &[
    b"\n",
    b"\r\n",
    b"\r",
    b",",
    b";",
    b"\t",
    b"\"",
    b"\"\"",
    b"'",
    b"\\",
    b"\\\"",
    b"#",
    b" ",
    b"id,amount,day\n",
    b"a",
    b"1,2.50,2026-11-28\n",
    b"2,\"x\ny\",\"\"\"q\"\n",
    b"\xef\xbb\xbf",
    b"\xc3\xa4",
    b"\xc3",
    b"\xff",
    b"\0",
    b"{\"id\":1,\"amount\":-0.10}\n",
    b"{\"a\":[1,{\"b\":null}],\"c\":\"\\u00e4\\ud83d\\ude00\"}",
    b"[[[[",
    b"NULL",
    b"    12true    ",
    b"[",
    b"]",
    b",{}",
    b"<item>",
    b"</item>",
    b"<item/>",
    b"<p:b a='>'>",
    b"</p:b>",
    b"<!-- -->",
    b"<![CDATA[]]>",
    b"<?x ?>",
    b"&lt;",
    b"&x;",
];

/// Texts that the formats read without an error.
const VALID: [&str; 7] = [
    "id,amount,day\n1,2.50,2026-11-28\n2,\"1,5\nx\",\"say \"\"hi\"\"\"\r\n3,,\n",
    "{\"id\":1,\"name\":\"Ada\"}\n\n{\"id\":2,\"name\":\"Gr\\u00e4ce\",\"l\":[1.10,{\"x\":null}]}\n",
    "one\n\ntwo\r\nthree",
    "   1Ada     \n   2Grace   \n   3Åse\n",
    "[{\"id\":1,\"name\":\"Ada\"} ,\n{\"id\":2,\"l\":[1.10,{\"x\":\"]\\\"\"}]}, {}]\n",
    "{\"a\":[{}],\"b\":\"}\",\"items\":[{\"id\":1},{\"id\":\"ä\"}],\"c\":{\"d\":[]}}",
    "<?xml version=\"1.0\"?>\n<p:all xmlns:p='x'><item id='1'>a&#228;<b>1</b><b/></item>\n<!-- --><g><item><![CDATA[<]]></item></g></p:all>",
];

/// The result of one read: the record, or the error with its location and raw bytes.
type Outcome = Result<String, String>;

fn outcome(result: Result<Record, ItemError>) -> Outcome {
    match result {
        Ok(record) => Ok(format!("{:?} {:?}", record.names(), record.values())),
        Err(error) => {
            let raw = error.raw().unwrap_or_default();
            assert!(raw.len() <= RAW_BYTES_MAX, "{} raw bytes", raw.len());
            Err(format!("{error:?} {raw:?}"))
        }
    }
}

/// Reads to the end; returns each outcome with the position after it.
fn rest(reader: &mut BoxedReader, most: usize) -> Vec<(Outcome, String)> {
    let mut all = Vec::new();
    while let Some(result) = reader.read().transpose() {
        let fatal = result.as_ref().is_err_and(|error| !error.kind().is_a("data"));
        all.push((outcome(result), reader.position().get().to_owned()));
        assert!(all.len() <= most, "the reader does not reach the end");
        if fatal {
            break;
        }
    }
    all
}

/// Returns the scope of a step with `parameters`.
fn scope_with(parameters: JobParameters) -> StepScope {
    let found = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&found);
    let step = TaskletStep::new("scope", move |call| {
        *kept.lock().unwrap() = Some(call.scope().clone());
        Ok(Flow::Finished)
    });
    TestBench::of_step(step).run_with(parameters);
    let scope = found.lock().unwrap().take();
    scope.unwrap()
}

/// Runs `work` within a step, because writers need its transaction.
fn within_a_step(work: impl Fn(&StepScope, &mut ChunkTransaction<'_>) + Send + Sync + 'static) {
    let step = TaskletStep::new("work", move |call| {
        let scope = call.scope().clone();
        work(&scope, call.transaction());
        Ok(Flow::Finished)
    });
    assert_eq!(TestBench::of_step(step).run().status, BatchStatus::Completed);
}

/// Builds a part of `kind` from its keys with `build`; `None` if the keys contradict each other.
fn built<T>(
    keys: &Table,
    folder: &Path,
    build: impl FnOnce(Keys<'_>, &BuildContext<'_>) -> Option<T>,
) -> Option<T> {
    let text = toml::to_string(keys).unwrap();
    let table = DeTable::parse(&text).unwrap();
    let (span, schema) = (0..text.len(), ParameterSchema::default());
    let known = Known { schema: &schema, partition: None, file_number: None };
    build(
        Keys::new("part", "kind", &span, table.get_ref()),
        &BuildContext::new(folder, &known, false),
    )
}

fn reader(kind: &str, keys: &Table, folder: &Path, scope: &StepScope) -> Option<BoxedReader> {
    let kinds = KindRegistry::builtin();
    let kind = kinds.find("reader", kind).unwrap();
    built(keys, folder, |keys, cx| {
        let made = kind.reader(keys, cx).ok()?;
        Some((made.make)(scope).unwrap())
    })
}

const KINDS: [&str; 6] = ["csv", "json", "jsonl", "lines", "fixed_width", "xml"];

/// Returns random keys of a reader of `kind`.
fn reader_keys(rng: &mut Rng, kind: &str) -> Table {
    let mut keys = Table::new();
    let mut put = |name: &str, value: Toml| drop(keys.insert(name.to_owned(), value));
    put("path", "input".into());
    if rng.one_in(2) {
        let max = rng.of(&[0_i64, 1, 7, 40, 70_000]);
        put(if is_document(kind) { "element_bytes_max" } else { "line_bytes_max" }, max.into());
    }
    match kind {
        "csv" => {
            put("header", rng.one_in(2).into());
            put("trim", rng.one_in(3).into());
            if rng.one_in(2) {
                put("delimiter", rng.of(&[";", "\t", "|", " ", "a"]).into());
            }
            if rng.one_in(3) {
                put("quote", rng.of(&["", "'"]).into());
            }
            if rng.one_in(4) {
                put("escape", "\\".into());
            }
            if rng.one_in(4) {
                put("comment", "#".into());
            }
            if rng.one_in(4) {
                put("encoding", rng.of(&["windows-1252", "shift_jis", "gbk"]).into());
            }
            if rng.one_in(4) {
                put("null", vec!["NULL", ""].into());
            }
        }
        "fixed_width" => {
            let types = ["string", "integer", "decimal", "boolean", "date", "timestamp"];
            let column = |name: &str, width: i64, kind: &str| {
                let one: Table =
                    [("name", name.into()), ("width", width.into()), ("type", kind.into())]
                        .map(|(name, value): (&str, Toml)| (name.to_owned(), value))
                        .into_iter()
                        .collect();
                Toml::Table(one)
            };
            let first = column("id", rng.of(&[1, 4]), rng.of(&types));
            let second = column("name", rng.of(&[1, 8, 65_536]), "string");
            put("columns", vec![first, second].into());
        }
        "json" if rng.one_in(2) => put("items_at", "items".into()),
        "xml" => put("element", rng.of(&["item", "b"]).into()),
        _ => {}
    }
    keys
}

/// Whether the records of `kind` are elements of a document, which ends where it is not well-formed.
fn is_document(kind: &str) -> bool {
    ["json", "xml"].contains(&kind)
}

/// Returns the bytes of a random file.
fn file(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = match rng.below(3) {
        0 => rng.bytes(PIECES, 30),
        _ => {
            let valid = rng.of(&VALID);
            rng.mutated_bytes(valid.as_bytes(), PIECES)
        }
    };
    if rng.one_in(30) {
        // The end of the first read is anywhere in these bytes.
        let line = [&[b'x'; 4_095][..], b"\n"].concat();
        let filler: &[u8] = rng.of(&[b"x", b"\"", b"\r", &line]);
        let count = READ_BYTES / filler.len() - rng.below((bytes.len() + 8) / filler.len() + 1);
        let at = rng.below(bytes.len() + 1);
        bytes.splice(at..at, filler.repeat(count));
    }
    bytes
}

#[test]
fn a_reader_that_is_resumed_gives_the_records_that_were_left() {
    let folder = tempfile::tempdir().unwrap();
    let scope = scope_with(JobParameters::new());
    run("readers", 200, |rng| {
        let kind = rng.of(&KINDS);
        let (keys, bytes) = (reader_keys(rng, kind), file(rng));
        fs::write(folder.path().join("input"), &bytes).unwrap();
        let Some(mut whole) = reader(kind, &keys, folder.path(), &scope) else { return };
        let what = || format!("{kind} {keys:?} {:?}", String::from_utf8_lossy(&bytes));
        if whole.open(None, &scope).is_err() {
            return;
        }
        let begin = whole.position().get().to_owned();
        let all = rest(&mut whole, bytes.len() + 1);
        assert!(whole.done() <= bytes.len() as u64, "{}", what());
        drop(whole);
        let mut positions: Vec<&String> =
            std::iter::once(&begin).chain(all.iter().map(|(_, after)| after)).collect();
        if is_document(kind) && all.last().is_some_and(|(last, _)| last.is_err()) {
            // Nothing follows where a document is not well-formed.
            positions.pop();
        }
        assert_eq!(positions.iter().collect::<BTreeSet<_>>().len(), positions.len(), "{}", what());
        // Each position of a short file; of a long one, some.
        let step = if positions.len() < 50 { 1 } else { 1 + positions.len() / 4 };
        for (index, position) in positions.iter().enumerate().step_by(step) {
            let mut resumed = reader(kind, &keys, folder.path(), &scope).unwrap();
            let position = serde_json::value::RawValue::from_string((*position).clone()).unwrap();
            resumed.open(Some(position), &scope).unwrap();
            let left = rest(&mut resumed, bytes.len() + 1);
            assert!(left == all[index..], "{} at {index}: {left:?} {:?}", what(), &all[index..]);
        }
    });
}

#[test]
fn a_pipe_gives_the_records_of_the_file_whatever_its_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let scope = scope_with(JobParameters::new());
    run("pipes", 250, |rng| {
        let kind = rng.of(&KINDS);
        let (mut keys, mut bytes) = (reader_keys(rng, kind), file(rng));
        // All pieces fit into the buffer of the pipe.
        bytes.truncate(4_096);
        fs::write(folder.path().join("input"), &bytes).unwrap();
        let Some(mut whole) = reader(kind, &keys, folder.path(), &scope) else { return };
        let opened = whole.open(None, &scope).map_err(|error| error.kind().clone());
        let of_file = opened.map(|()| outcomes(&mut whole, bytes.len() + 1));
        drop(whole);

        let (end, mut pipe) = std::io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", end.as_raw_fd());
        keys.insert("path".to_owned(), path.into());
        let mut streamed = reader(kind, &keys, folder.path(), &scope).unwrap();
        let mut pieces = Vec::new();
        let mut left = &bytes[..];
        while !left.is_empty() {
            let (piece, later) = left.split_at(left.len().min(1 + rng.below(9)));
            pieces.push(piece);
            left = later;
        }
        let of_pipe = std::thread::scope(|threads| {
            threads.spawn(move || {
                for piece in pieces {
                    pipe.write_all(piece).unwrap();
                    std::thread::yield_now();
                }
            });
            let opened = streamed.open(None, &scope).map_err(|error| error.kind().clone());
            opened.map(|()| outcomes(&mut streamed, bytes.len() + 1))
        });
        drop(end);
        assert_eq!(of_pipe, of_file, "{kind} {keys:?} {:?}", String::from_utf8_lossy(&bytes));
    });
}

fn outcomes(reader: &mut BoxedReader, most: usize) -> Vec<Outcome> {
    rest(reader, most).into_iter().map(|(outcome, _)| outcome).collect()
}

/// Reads all items of a typed reader. Locations are left out: a reader of a part does not know the number of its line.
fn items<R: ItemReader<Item: std::fmt::Debug>>(
    mut reader: R,
    scope: &StepScope,
) -> Result<Vec<Result<String, ErrorKind>>, ErrorKind> {
    reader.open(None, scope).map_err(|error| error.kind().clone())?;
    let mut all = Vec::new();
    while let Some(item) = reader.read().transpose() {
        let item = item.map(|item| format!("{item:?}"));
        all.push(item.map_err(|error| error.kind().clone()));
        assert!(all.len() < 200_000, "the reader does not reach the end");
    }
    Ok(all)
}

#[test]
fn the_parts_of_a_file_have_the_records_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("input");
    let scope = scope_with(JobParameters::new());
    run("parts", 200, |rng| {
        let (bytes, count) = (file(rng), 1 + rng.below(9));
        fs::write(&path, &bytes).unwrap();
        let what = || format!("{count} parts of {:?}", String::from_utf8_lossy(&bytes));
        let count = u32::try_from(count).unwrap();
        let bounds = |ranges: ByteRanges| -> Vec<(u64, u64)> {
            let parts = ranges.partitions(&scope).unwrap();
            let of = |name: &str, part: &batchwright::scope::Partition| {
                part.values.get::<u64>(name).unwrap()
            };
            parts.iter().map(|part| (of("start", part), of("end", part))).collect()
        };

        let lines = LineReader::new(&path).line_bytes_max(70_000);
        let whole = items(lines.clone(), &scope).unwrap();
        let parts = bounds(ByteRanges::lines(&path, count));
        let parts = parts
            .into_iter()
            .flat_map(|(start, end)| items(lines.clone().bytes(start, end), &scope).unwrap());
        assert_eq!(parts.collect::<Vec<_>>(), whole, "lines: {}", what());

        let csv = CsvReader::<Vec<String>>::new(&path);
        let Ok(whole) = items(csv.clone(), &scope) else { return };
        if whole.iter().any(Result::is_err) {
            // A quote that is never closed costs one line of the whole, and one part of the parts.
            return;
        }
        let parts = bounds(ByteRanges::csv(&path, count));
        let parts = parts
            .into_iter()
            .flat_map(|(start, end)| items(csv.clone().bytes(start, end), &scope).unwrap());
        assert_eq!(parts.collect::<Vec<_>>(), whole, "csv: {}", what());
    });
}

/// Texts of fields, with all characters that a format must protect.
const TEXTS: &[&str] = &[
    "a", "Ada", " ", ",", ";", "\t", "\"", "'", "\\", "\n", "\r", "\r\n", "#", "ä", "", "NULL",
    "{", "1", "\u{feff}", "😀",
];

/// Returns the keys of a writer of `kind` and those of a reader of its output; the names of the fields; whether the
/// format removes blanks.
fn written_keys(rng: &mut Rng, kind: &str) -> (Table, Table, Vec<String>) {
    let mut keys = Table::new();
    let mut names = vec!["x".to_owned()];
    let mut put = |name: &str, value: Toml| drop(keys.insert(name.to_owned(), value));
    match kind {
        "csv" => {
            for _ in 0..rng.below(3) {
                let name = rng.text(TEXTS, 3).replace('\u{feff}', "");
                if !name.is_empty() && !names.contains(&name) {
                    names.push(name);
                }
            }
            if rng.one_in(2) {
                put("delimiter", rng.of(&[";", "\t", "|", " ", "a"]).into());
            }
            if rng.one_in(3) {
                put("quote", rng.of(&["", "'"]).into());
            }
            if rng.one_in(4) {
                put("encoding", rng.of(&["windows-1252", "shift_jis", "gbk"]).into());
            }
            if rng.one_in(3) {
                put("header", false.into());
                put("columns", names.clone().into());
            }
            put("line_end", rng.of(&["lf", "crlf"]).into());
            put("quote_all", rng.one_in(3).into());
            put("byte_order_mark", rng.one_in(3).into());
        }
        "fixed_width" => {
            put("line_end", rng.of(&["lf", "crlf"]).into());
            let mut column = |align: &str| -> Toml {
                let width = rng.of(&[1_i64, 6, 20]);
                let mut one = Table::new();
                one.insert("name".to_owned(), "x".into());
                one.insert("width".to_owned(), width.into());
                one.insert("align".to_owned(), align.into());
                Toml::Table(one)
            };
            put("columns", vec![column("right")].into());
        }
        "lines" => put("field", "x".into()),
        "xml" => {
            put("element", "b".into());
            names.push("y".to_owned());
            if rng.one_in(2) {
                put("attributes", vec!["x"].into());
            }
        }
        _ => names.push("y".to_owned()),
    }
    let mut of_reader = keys.clone();
    for key in ["field", "attributes", "line_end", "quote_all", "byte_order_mark"] {
        of_reader.remove(key);
    }
    if let Some(Toml::Array(columns)) = of_reader.get_mut("columns") {
        for column in columns.iter_mut().filter_map(Toml::as_table_mut) {
            column.remove("align");
        }
    }
    (keys, of_reader, names)
}

#[test]
fn what_a_writer_writes_is_what_a_reader_reads() {
    let folder = tempfile::tempdir().unwrap();
    within_a_step(move |scope, transaction| {
        let file = Cell::new(0_u64);
        run("writers", 200, |rng| {
            file.set(file.get() + 1);
            let path: Toml = format!("out{}", file.get()).into();
            let kind = rng.of(&KINDS);
            let (mut keys, mut of_reader, names) = written_keys(rng, kind);
            keys.insert("path".to_owned(), path.clone());
            of_reader.insert("path".to_owned(), path);
            let shared: Arc<[Arc<str>]> =
                names.iter().map(|name| Arc::from(name.as_str())).collect();
            let records: Vec<Record> = (0..rng.below(6))
                .map(|_| {
                    let value = |rng: &mut Rng| match kind {
                        "json" | "jsonl" if rng.one_in(3) => {
                            Value::Integer(rng.number().cast_signed())
                        }
                        "json" | "jsonl" if rng.one_in(6) => {
                            Value::Float(f64::from_bits(rng.bits()))
                        }
                        // A byte order mark at the beginning of a file is not a part of its first value.
                        _ => Value::text(&rng.text(TEXTS, 4).replace('\u{feff}', "")),
                    };
                    let values: Vec<_> = names.iter().map(|_| value(rng)).collect();
                    Record::new(Arc::clone(&shared), values)
                })
                .collect();
            let kinds = KindRegistry::builtin();
            let writer = kinds.find("writer", kind).unwrap();
            let made = built(&keys, folder.path(), |keys, cx| writer.writer(keys, cx).ok());
            let Some(made) = made else { return };
            let mut writer = made(scope).unwrap();
            writer.open(None, scope).unwrap();
            let mut written = Vec::new();
            for chunk in records.chunks(1 + rng.below(3)) {
                // What the format cannot express is refused, and the chunk leaves nothing.
                match writer.write(chunk, transaction) {
                    Ok(()) => {
                        writer.position().unwrap();
                        writer.committed().unwrap();
                        written.extend_from_slice(chunk);
                    }
                    Err(_) => writer.rolled_back().unwrap(),
                }
            }
            if writer.close(Ending::Complete).is_err() {
                assert!(written.is_empty(), "{kind} {keys:?}: only the header cannot be written");
                return;
            }
            let Some(mut back) = reader(kind, &of_reader, folder.path(), scope) else { return };
            let shown = |record: &Record| -> Vec<String> {
                let text = |value: &Value| match kind {
                    // Its columns are filled with blanks.
                    "fixed_width" => value.to_string().trim().to_owned(),
                    "json" | "jsonl" => serde_json::to_string(value).unwrap(),
                    _ => value.to_string(),
                };
                record.values().iter().map(text).collect()
            };
            let expected: Vec<_> = written.iter().map(shown).collect();
            back.open(None, scope).unwrap();
            let mut found = Vec::new();
            while let Some(record) = back.read().unwrap() {
                if kind != "lines" {
                    assert_eq!(*record.names(), shared, "{kind} {keys:?}");
                }
                found.push(shown(&record));
            }
            assert_eq!(found, expected, "{kind} {keys:?}");
            fs::remove_file(folder.path().join(keys["path"].as_str().unwrap())).unwrap();
        });
    });
}

/// Pieces of texts with placeholders.
const TEMPLATES: &[&str] = &[
    "$",
    "{",
    "}",
    "${",
    "}",
    "${params.",
    "date",
    "at",
    "seq",
    "name",
    "none",
    "|",
    "%",
    "%Y%m%d",
    "%06d",
    "%d",
    "%999999999d",
    "%-5j",
    "%^20Q",
    "%:z",
    "%64d",
    ":-",
    "${job.name}",
    "${job.context.a}",
    "${step.context.b:-x}",
    "${partition.key}",
    "${env.HOME}",
    "${env.",
    "path/",
    "ä",
    " ",
    "\0",
];

const TEMPLATES_VALID: [&str; 4] = [
    "${params.date|%Y%m%d}.csv",
    "in/${params.seq|%06d}-${params.name:-unknown}.csv",
    "${job.name} ${job.context.a:-1} ${params.at|%H:%M:%S%.3f}",
    "${params.date|%A %-d %B %Y}",
];

fn schema() -> ParameterSchema {
    let declared = [
        ("date", ParameterType::Date),
        ("at", ParameterType::Timestamp),
        ("seq", ParameterType::Integer),
        ("name", ParameterType::String),
        ("none", ParameterType::Integer),
    ];
    let declared =
        declared.map(|(name, kind)| ParameterDeclaration::new(name, kind)).into_iter().collect();
    ParameterSchema { declared, open: false }
}

#[test]
fn a_template_renders_its_texts_unchanged_and_its_names_as_their_values() {
    let parsed = |text: &str, kind| ParameterValue::parse(text, kind).unwrap();
    let parameters = JobParameters::new()
        .with("date", parsed("2026-11-28", ParameterType::Date))
        .with("at", parsed("2026-11-28T06:30:00.25Z", ParameterType::Timestamp))
        .with("seq", -42)
        .with("name", "${params.date}");
    let scope = scope_with(parameters);
    let schema = schema();
    let known = Known { schema: &schema, partition: None, file_number: None };
    let rendered = |text: &str| {
        let template = Template::parse(text, &known)?;
        template.render(&scope).map_err(|error| error.to_string())
    };
    run("templates", 20_000, |rng| {
        let text = match rng.below(3) {
            0 => rng.text(TEMPLATES, 8),
            _ => {
                let valid = rng.of(&TEMPLATES_VALID);
                rng.mutated_text(valid, TEMPLATES)
            }
        };
        let found = rendered(&text);
        if !text.contains("${") {
            assert_eq!(found.as_ref(), Ok(&text), "a text without placeholders");
        }
        let Ok(found) = found else { return };
        assert!(found.len() <= text.len() * 300 + 10_000, "{text:?}: {} bytes", found.len());
        // A value is filled in as it is: the placeholder in `name` is not replaced.
        let around = format!("<{text}>${{params.name}}");
        assert_eq!(rendered(&around), Ok(format!("<{found}>${{params.date}}")), "{text:?}");
        assert_eq!(rendered(&format!("{text}|{text}")), Ok(format!("{found}|{found}")), "{text:?}");
    });
}
