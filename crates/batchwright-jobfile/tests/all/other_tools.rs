//! Files that are written here are read by other programs, and theirs are read here: columns, types and values are the same.
#![cfg(all(feature = "arrow", feature = "avro", feature = "parquet"))]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, Job};
use batchwright_jobfile::JobFolder;
use batchwright_testkit::{Service, needs};

fn job(folder: &Path, step: &str) -> Job {
    let file = folder.join("job.toml");
    fs::write(&file, format!("name = \"job\"\n[[steps]]\nname = \"copy\"\nchunk = 2\n{step}"))
        .unwrap();
    let job = JobFolder::new(folder).load(&file).unwrap();
    Arc::into_inner(job).expect("the folder of jobs is closed")
}

/// Runs the step with a crash at commit `crash`, unless it is 0, and the restart.
fn run(folder: &Path, step: &str, crash: u64) {
    let mut bench = TestBench::of(job(folder, step));
    if crash > 0 {
        bench.crash_at(CommitPoint::After, crash);
    }
    let mut ended = bench.run();
    if crash > 0 {
        assert_ne!(ended.status, BatchStatus::Completed);
        ended = bench.restart();
    }
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
}

/// Runs a program of Python in the folder and returns what it prints.
fn python(python: &str, folder: &Path, program: &str) -> String {
    let mut command = Command::new(python);
    let output = command.args(["-c", program]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const COLUMNS: &str = r#"
[steps.writer]
type = "parquet"
path = "out.parquet"
columns = [
    { name = "id", type = "integer", required = true },
    { name = "name", type = "string" },
    { name = "price", type = "decimal", precision = 12, scale = 3 },
    { name = "large", type = "decimal", precision = 28, scale = 4 },
    { name = "share", type = "float" },
    { name = "open", type = "boolean" },
    { name = "day", type = "date" },
    { name = "at", type = "time" },
    { name = "since", type = "timestamp" },
    { name = "local", type = "datetime" },
]
"#;

const CSV: &str = "\
id,name,price,large,share,open,day,at,since,local
1,\"Ada, \"\"L\"\"\",1.5,999999999999999999999999.9999,0.1,true,2026-11-29,06:30:00.25,2026-11-29T06:30:00+01:00,2026-11-29T06:30:00
2,,,,,,,,,
3,ä,-0.001,-0.0001,-1e300,false,0001-01-01,23:59:59.999999,1969-12-31T23:59:59.999999Z,0001-01-01T00:00:00
4,x,0,0,0,true,9999-12-31,00:00:00,2026-01-01T00:00:00Z,9999-12-31T23:59:59
5,y,1,1,1,true,2000-02-29,12:00:00,2000-02-29T12:00:00Z,2000-02-29T12:00:00
";

#[test]
fn duckdb_reads_what_is_written_here() {
    let Some(tools) = needs(Service::Tools) else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.csv"), CSV).unwrap();
    let step = format!("[steps.reader]\ntype = \"csv\"\npath = \"in.csv\"\n{COLUMNS}");
    run(folder.path(), &step, 2);
    let found = python(
        &tools,
        folder.path(),
        r#"
import duckdb
db = duckdb.connect()
db.execute("SET TimeZone = 'UTC'")
for name, kind, *_ in db.execute("DESCRIBE SELECT * FROM 'out.parquet'").fetchall():
    print(name, kind)
print(db.execute("SELECT count(DISTINCT row_group_id), max(num_values) FROM parquet_metadata('out.parquet')").fetchone())
for row in db.execute("SELECT COLUMNS(*)::VARCHAR FROM 'out.parquet' ORDER BY id").fetchall():
    print(*row, sep="|")
print(db.execute("SELECT count(*) FROM 'out.parquet' WHERE id > 3").fetchone())
"#,
    );
    let expected = "\
id BIGINT
name VARCHAR
price DECIMAL(12,3)
large DECIMAL(28,4)
share DOUBLE
open BOOLEAN
day DATE
at TIME
since TIMESTAMP WITH TIME ZONE
local TIMESTAMP
(3, 2)
1|Ada, \"L\"|1.500|999999999999999999999999.9999|0.1|true|2026-11-29|06:30:00.25|2026-11-29 05:30:00+00|2026-11-29 06:30:00
2||None|None|None|None|None|None|None|None
3|ä|-0.001|-0.0001|-1e+300|false|0001-01-01|23:59:59.999999|1969-12-31 23:59:59.999999+00|0001-01-01 00:00:00
4|x|0.000|0.0000|0.0|true|9999-12-31|00:00:00|2026-01-01 00:00:00+00|9999-12-31 23:59:59
5|y|1.000|1.0000|1.0|true|2000-02-29|12:00:00|2000-02-29 12:00:00+00|2000-02-29 12:00:00
(2,)
";
    assert_eq!(found, expected);
}

#[test]
fn what_is_written_here_is_read_here() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.csv"), CSV).unwrap();
    let write = format!("[steps.reader]\ntype = \"csv\"\npath = \"in.csv\"\n{COLUMNS}");
    for (kind, crash) in
        (0..=2).flat_map(|crash| ["arrow", "parquet", "avro"].map(|kind| (kind, crash)))
    {
        run(folder.path(), &write.replace("parquet", kind), crash);
        let step = format!(
            "[steps.reader]\ntype = \"{kind}\"\npath = \"*.{kind}\"\n\
             [steps.writer]\ntype = \"jsonl\"\npath = \"out.jsonl\"\n"
        );
        run(folder.path(), &step, crash);
        let lines = fs::read_to_string(folder.path().join("out.jsonl")).unwrap();
        let expected = "\
{\"id\":1,\"name\":\"Ada, \\\"L\\\"\",\"price\":1.500,\"large\":999999999999999999999999.9999,\"share\":0.1,\"open\":true,\"day\":\"2026-11-29\",\"at\":\"06:30:00.25\",\"since\":\"2026-11-29T05:30:00Z\",\"local\":\"2026-11-29T06:30:00\"}
{\"id\":2,\"name\":\"\",\"price\":null,\"large\":null,\"share\":null,\"open\":null,\"day\":null,\"at\":null,\"since\":null,\"local\":null}
{\"id\":3,\"name\":\"ä\",\"price\":-0.001,\"large\":-0.0001,\"share\":-1e+300,\"open\":false,\"day\":\"0001-01-01\",\"at\":\"23:59:59.999999\",\"since\":\"1969-12-31T23:59:59.999999Z\",\"local\":\"0001-01-01T00:00:00\"}";
        assert_eq!(lines.lines().take(3).collect::<Vec<_>>().join("\n"), expected);
        assert_eq!(lines.lines().count(), 5);
        for (only, ids) in [
            ("{ column = \"day\", from = \"2000-02-29\", to = \"2026-11-29\" }", "15"),
            ("{ column = \"price\", to = \"-0.001\" }", "3"),
            ("{ column = \"large\", from = \"1.0001\" }", "1"),
            ("{ column = \"since\", from = \"2026-01-01T00:00:00Z\" }", "14"),
            ("{ column = \"at\", from = \"12:00:00\" }, { column = \"id\", from = \"4\" }", "5"),
            ("{ column = \"name\", from = \"x\", to = \"y\" }", "45"),
        ] {
            let only = step.replace("[steps.writer]", &format!("only = [{only}]\n[steps.writer]"));
            run(folder.path(), &only, 0);
            let lines = fs::read_to_string(folder.path().join("out.jsonl")).unwrap();
            let found: String = lines.lines().map(|line| &line[6..7]).collect();
            assert_eq!(found, ids, "{kind} {only}");
        }
    }
}

#[test]
fn what_duckdb_writes_is_read_here() {
    let Some(tools) = needs(Service::Tools) else { return };
    let folder = tempfile::tempdir().unwrap();
    python(
        &tools,
        folder.path(),
        r#"
import duckdb
db = duckdb.connect()
db.execute("SET TimeZone = 'UTC'")
query = """SELECT 7::UTINYINT AS tiny, 18446744073709551615::UBIGINT AS most, 0.1::FLOAT AS single, 12.50::DECIMAL(5,2) AS short,
    -99999999999999999999.5::DECIMAL(30,1) AS long, '\\xCA\\xFE'::BLOB AS bytes, DATE '1969-12-31' AS day, TIME '23:59:59.5' AS at,
    TIMESTAMP '2026-11-29 06:30:00.123456' AS local, TIMESTAMPTZ '2026-11-29 06:30:00+01' AS since,
    TIMESTAMP_NS '2026-11-29 06:30:00.123456789' AS nanos, TIMESTAMP_MS '1960-01-01 00:00:00.001' AS millis,
    [1, NULL, 3] AS list, {'a': 'x', 'b': [DATE '2026-01-01']} AS struct, MAP {'k': 1.5} AS map, NULL::INTEGER AS none
    FROM range(5)"""
for codec in ["zstd", "snappy", "gzip", "lz4_raw", "uncompressed"]:
    db.execute(f"COPY ({query}) TO 'in-{codec}.parquet' (FORMAT parquet, COMPRESSION {codec}, ROW_GROUP_SIZE 2048)")
"#,
    );
    let step = "[steps.reader]\ntype = \"parquet\"\npath = \"in-*.parquet\"\n\
                [steps.writer]\ntype = \"jsonl\"\npath = \"out.jsonl\"\n";
    run(folder.path(), step, 4);
    let lines = fs::read_to_string(folder.path().join("out.jsonl")).unwrap();
    let expected = r#"{"tiny":7,"most":18446744073709551615,"single":0.1,"short":12.50,"long":-99999999999999999999.5,"bytes":"cafe","day":"1969-12-31","at":"23:59:59.5","local":"2026-11-29T06:30:00.123456","since":"2026-11-29T05:30:00Z","nanos":"2026-11-29T06:30:00.123456789","millis":"1960-01-01T00:00:00.001","list":[1,null,3],"struct":{"a":"x","b":["2026-01-01"]},"map":{"k":1.5},"none":null}"#;
    assert_eq!(lines.lines().count(), 25);
    for line in lines.lines() {
        assert_eq!(line, expected);
    }
}

#[test]
fn fastavro_reads_what_is_written_here() {
    let Some(tools) = needs(Service::Tools) else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.csv"), CSV).unwrap();
    let step = format!("[steps.reader]\ntype = \"csv\"\npath = \"in.csv\"\n{COLUMNS}");
    run(folder.path(), &step.replace("parquet", "avro"), 2);
    let found = python(
        &tools,
        folder.path(),
        r#"
import fastavro
with open("out.avro", "rb") as file:
    blocks = [list(block) for block in fastavro.block_reader(file)]
print([len(block) for block in blocks])
for record in sum(blocks, []):
    print(*record.values(), sep="|")
"#,
    );
    let expected = "\
[2, 2, 1]
1|Ada, \"L\"|1.500|999999999999999999999999.9999|0.1|True|2026-11-29|06:30:00.250000|2026-11-29 05:30:00+00:00|2026-11-29 06:30:00
2||None|None|None|None|None|None|None|None
3|ä|-0.001|-0.0001|-1e+300|False|0001-01-01|23:59:59.999999|1969-12-31 23:59:59.999999+00:00|0001-01-01 00:00:00
4|x|0.000|0.0000|0.0|True|9999-12-31|00:00:00|2026-01-01 00:00:00+00:00|9999-12-31 23:59:59
5|y|1.000|1.0000|1.0|True|2000-02-29|12:00:00|2000-02-29 12:00:00+00:00|2000-02-29 12:00:00
";
    assert_eq!(found, expected);
}

#[test]
fn what_fastavro_writes_is_read_here() {
    let Some(tools) = needs(Service::Tools) else { return };
    let folder = tempfile::tempdir().unwrap();
    python(
        &tools,
        folder.path(),
        r#"
import datetime, decimal, fastavro, uuid
def of(type, logical, **more):
    return {"type": type, "logicalType": logical, **more}
fields = {
    "int": "int", "long": "long", "single": "float", "double": "double", "bytes": "bytes",
    "short": of("bytes", "decimal", precision=5, scale=2),
    "fixed_decimal": {"type": "fixed", "name": "E", "size": 12, "logicalType": "decimal", "precision": 28, "scale": 1},
    "day": of("int", "date"), "at": of("int", "time-millis"), "at_micros": of("long", "time-micros"),
    "since": of("long", "timestamp-millis"), "since_micros": of("long", "timestamp-micros"),
    "local": of("long", "local-timestamp-micros"), "id": of("string", "uuid"),
    "fixed": {"type": "fixed", "name": "F", "size": 2}, "colour": {"type": "enum", "name": "C", "symbols": ["red", "blue"]},
    "list": {"type": "array", "items": ["null", "long"]}, "map": {"type": "map", "values": "double"},
    "one_of": ["null", "string", "long"],
    "tree": {"type": "record", "name": "Tree", "fields": [{"name": "n", "type": "int"}, {"name": "next", "type": ["null", "Tree"]}]},
    "none": ["null", "int"], "flag": "boolean",
}
schema = {"type": "record", "name": "shop.Row", "fields": [{"name": name, "type": type} for name, type in fields.items()]}
utc = datetime.timezone.utc
row = {
    "int": -1, "long": -2**63, "single": 0.1, "double": 1e-300, "bytes": b"\xca\xfe", "short": decimal.Decimal("-12.50"),
    "fixed_decimal": decimal.Decimal("-99999999999999999999.5"),
    "day": datetime.date(1969, 12, 31), "at": datetime.time(23, 59, 59, 500000), "at_micros": datetime.time(0, 0, 0, 1),
    "since": datetime.datetime(1960, 1, 1, 0, 0, 0, 1000, tzinfo=utc),
    "since_micros": datetime.datetime(2026, 11, 29, 6, 30, 0, 123456, tzinfo=utc),
    "local": datetime.datetime(2026, 11, 29, 6, 30), "id": uuid.UUID("12345678123456781234567812345678"),
    "fixed": b"\x00\xff", "colour": "blue", "list": [1, None, 3], "map": {"k": 1.5}, "one_of": 7,
    "tree": {"n": 1, "next": {"n": 2, "next": None}}, "none": None, "flag": True,
}
for codec in ["null", "deflate", "snappy", "zstandard", "bzip2", "xz"]:
    with open(f"in-{codec}.avro", "wb") as file:
        fastavro.writer(file, schema, [row] * 5, codec=codec, sync_interval=500)
"#,
    );
    let step = "[steps.reader]\ntype = \"avro\"\npath = \"in-*.avro\"\n\
                [steps.writer]\ntype = \"jsonl\"\npath = \"out.jsonl\"\n";
    run(folder.path(), step, 4);
    let lines = fs::read_to_string(folder.path().join("out.jsonl")).unwrap();
    let expected = r#"{"int":-1,"long":-9223372036854775808,"single":0.1,"double":1e-300,"bytes":"cafe","short":-12.50,"fixed_decimal":-99999999999999999999.5,"day":"1969-12-31","at":"23:59:59.5","at_micros":"00:00:00.000001","since":"1960-01-01T00:00:00.001Z","since_micros":"2026-11-29T06:30:00.123456Z","local":"2026-11-29T06:30:00","id":"12345678-1234-5678-1234-567812345678","fixed":"00ff","colour":"blue","list":[1,null,3],"map":{"k":1.5},"one_of":7,"tree":{"n":1,"next":{"n":2,"next":null}},"none":null,"flag":true}"#;
    assert_eq!(lines.lines().count(), 30);
    for line in lines.lines() {
        assert_eq!(line, expected);
    }
}

#[test]
fn pyarrow_reads_what_is_written_here() {
    let Some(tools) = needs(Service::Tools) else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.csv"), CSV).unwrap();
    let step = format!("[steps.reader]\ntype = \"csv\"\npath = \"in.csv\"\n{COLUMNS}");
    run(folder.path(), &step.replace("parquet", "arrow"), 2);
    let found = python(
        &tools,
        folder.path(),
        r#"
import pyarrow, pyarrow.feather
with pyarrow.ipc.open_file("out.arrow") as file:
    print(*[f"{field.name} {field.type}{'' if field.nullable else '!'}" for field in file.schema], sep="\n")
    print([file.get_batch(at).num_rows for at in range(file.num_record_batches)])
    table = file.read_all()
table.validate(full=True)
assert table.equals(pyarrow.feather.read_table("out.arrow"))
for row in table.to_pylist():
    print(*row.values(), sep="|")
"#,
    );
    let expected = "\
id int64!
name string
price decimal128(12, 3)
large decimal128(28, 4)
share double
open bool
day date32[day]
at time64[us]
since timestamp[us, tz=UTC]
local timestamp[us]
[2, 2, 1]
1|Ada, \"L\"|1.500|999999999999999999999999.9999|0.1|True|2026-11-29|06:30:00.250000|2026-11-29 05:30:00+00:00|2026-11-29 06:30:00
2||None|None|None|None|None|None|None|None
3|ä|-0.001|-0.0001|-1e+300|False|0001-01-01|23:59:59.999999|1969-12-31 23:59:59.999999+00:00|0001-01-01 00:00:00
4|x|0.000|0.0000|0.0|True|9999-12-31|00:00:00|2026-01-01 00:00:00+00:00|9999-12-31 23:59:59
5|y|1.000|1.0000|1.0|True|2000-02-29|12:00:00|2000-02-29 12:00:00+00:00|2000-02-29 12:00:00
";
    assert_eq!(found, expected);
}

#[test]
fn what_pyarrow_writes_is_read_here() {
    let Some(tools) = needs(Service::Tools) else { return };
    let folder = tempfile::tempdir().unwrap();
    python(
        &tools,
        folder.path(),
        r#"
import datetime, decimal, pyarrow as pa
utc = datetime.timezone.utc
at = datetime.datetime(2026, 11, 29, 6, 30, 0, 123456)
columns = {
    "tiny": (pa.uint8(), 7), "most": (pa.uint64(), 2**64 - 1), "least": (pa.int64(), -2**63), "half": (pa.float16(), 0.5),
    "single": (pa.float32(), 0.1), "double": (pa.float64(), 1e-300), "flag": (pa.bool_(), True), "none": (pa.null(), None),
    "text": (pa.large_string(), "ä"), "view": (pa.string_view(), "a view of more than twelve bytes"), "bytes": (pa.binary(), b"\xca\xfe"),
    "fixed": (pa.binary(2), b"\x00\xff"), "short": (pa.decimal128(5, 2), decimal.Decimal("-12.50")),
    "long": (pa.decimal256(40, 1), decimal.Decimal("-99999999999999999999.5")),
    "day": (pa.date32(), datetime.date(1969, 12, 31)), "day64": (pa.date64(), datetime.date(1969, 12, 31)),
    "seconds": (pa.time32("s"), datetime.time(23, 59, 59)), "nanos": (pa.time64("ns"), datetime.time(0, 0, 0, 1)),
    "local": (pa.timestamp("us"), at), "since": (pa.timestamp("ms", tz="Europe/Berlin"), at.replace(microsecond=1000, tzinfo=utc)),
    "list": (pa.list_(pa.int32()), [1, None, 3]), "pair": (pa.list_(pa.int8(), 2), [1, 2]),
    "struct": (pa.struct([("a", pa.string()), ("b", pa.list_(pa.date32()))]), {"a": "x", "b": [datetime.date(2026, 1, 1)]}),
    "map": (pa.map_(pa.string(), pa.float64()), [("k", 1.5)]),
}
arrays = {name: pa.array([value] * 5, kind) for name, (kind, value) in columns.items()}
arrays["word"] = pa.array(["red"] * 5).dictionary_encode()
arrays["runs"] = pa.RunEndEncodedArray.from_arrays(pa.array([2, 5], pa.int32()), pa.array(["r", "r"]))
table = pa.table(arrays)
def write(name, make, table, **options):
    with make(name, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=2)
for codec in [None, "lz4", "zstd"]:
    write(f"in-{codec}.arrow", pa.ipc.new_file, table, compression=codec)
    write(f"in-{codec}.arrows", pa.ipc.new_stream, table, compression=codec)
# A stream whose dictionaries become longer, and others.
words = pa.schema([("word", pa.dictionary(pa.int8(), pa.string()))])
for name, deltas in [("deltas", True), ("others", False)]:
    with pa.ipc.new_stream(f"words-{name}.arrows", words, options=pa.ipc.IpcWriteOptions(emit_dictionary_deltas=deltas)) as writer:
        for known in [["a", "b"], ["a", "b", "c"] if deltas else ["c", "a"]]:
            array = pa.DictionaryArray.from_arrays(pa.array(range(len(known)), pa.int8()), pa.array(known))
            writer.write_batch(pa.record_batch([array], schema=words))
"#,
    );
    let read = |pattern: &str, crash: u64| {
        let step = format!(
            "[steps.reader]\ntype = \"arrow\"\npath = \"{pattern}\"\n\
             [steps.writer]\ntype = \"jsonl\"\npath = \"out.jsonl\"\n"
        );
        run(folder.path(), &step, crash);
        fs::read_to_string(folder.path().join("out.jsonl")).unwrap()
    };
    let lines = read("in-*", 4);
    let expected = r#"{"tiny":7,"most":18446744073709551615,"least":-9223372036854775808,"half":0.5,"single":0.1,"double":1e-300,"flag":true,"none":null,"text":"ä","view":"a view of more than twelve bytes","bytes":"cafe","fixed":"00ff","short":-12.50,"long":-99999999999999999999.5,"day":"1969-12-31","day64":"1969-12-31","seconds":"23:59:59","nanos":"00:00:00.000001","local":"2026-11-29T06:30:00.123456","since":"2026-11-29T06:30:00.001Z","list":[1,null,3],"pair":[1,2],"struct":{"a":"x","b":["2026-01-01"]},"map":{"k":1.5},"word":"red","runs":"r"}"#;
    assert_eq!(lines.lines().count(), 30);
    for line in lines.lines() {
        assert_eq!(line, expected);
    }
    let words = |name: &str| {
        let lines = read(&format!("words-{name}.arrows"), 1);
        lines.lines().map(|line| line.split('"').nth(3).unwrap().to_owned()).collect::<String>()
    };
    assert_eq!((words("deltas"), words("others")), ("ababc".to_owned(), "abca".to_owned()));
}

#[test]
fn a_last_chunk_without_rows_adds_nothing() {
    // The end of the input is found in a chunk of its own, which another thread encodes.
    for rows in [2, 4, 6, 8, 10] {
        let folder = tempfile::tempdir().unwrap();
        let lines: String = (0..rows).map(|id| format!("{id},x\n")).collect();
        fs::write(folder.path().join("in.csv"), format!("id,name\n{lines}")).unwrap();
        let columns = "columns = [{ name = \"id\", type = \"integer\" }, { name = \"name\", type = \"string\" }]";
        let step = format!(
            "parallelism = 2\n[steps.reader]\ntype = \"csv\"\npath = \"in.csv\"\n\
             [steps.writer]\ntype = \"parquet\"\npath = \"out.parquet\"\n{columns}\n"
        );
        run(folder.path(), &step, 0);
        let step = "[steps.reader]\ntype = \"parquet\"\npath = \"out.parquet\"\n\
                    [steps.writer]\ntype = \"csv\"\npath = \"out.csv\"\n";
        run(folder.path(), step, 0);
        let copied = fs::read_to_string(folder.path().join("out.csv")).unwrap();
        assert_eq!(copied, format!("id,name\n{lines}"));
    }
}

/// Texts that formats must escape.
const TEXTS: &str = "\
id,name
1,\"a & b <c> \"\"d\"\" 'e'\"
2,\"two
lines\ttab\"
3,\"ä€𝄞 \\u0041\"
4,\"]]> &amp; --\"
5,  blanks \u{20}
";

#[test]
fn python_reads_what_is_written_here_and_the_reverse() {
    let Some(tools) = needs(Service::Tools) else { return };
    for (kind, keys, read, write) in [
        (
            "json",
            "",
            "rows = [[row['id'], row['name']] for row in json.load(open('out.json'))]",
            "json.dump([{'id': id, 'name': name} for id, name in rows], open('in.json', 'w'), indent=2)",
        ),
        (
            "jsonl",
            "",
            "rows = [[row['id'], row['name']] for row in map(json.loads, open('out.jsonl'))]",
            "open('in.jsonl', 'w').write(''.join(json.dumps({'id': id, 'name': name}) + '\\n' for id, name in rows))",
        ),
        (
            "xml",
            "element = \"item\"\n",
            "rows = [[row.find('id').text, row.find('name').text] for row in xml.parse('out.xml').getroot()]",
            "root = xml.Element('items')\n\
             for id, name in rows:\n    row = xml.SubElement(root, 'item')\n    xml.SubElement(row, 'id').text = id\n    xml.SubElement(row, 'name').text = name\n\
             xml.ElementTree(root).write('in.xml', encoding='utf-8', xml_declaration=True)",
        ),
        (
            "csv",
            "",
            "rows = list(csv.reader(open('out.csv', newline='')))[1:]",
            "csv.writer(open('in.csv', 'w', newline='')).writerows([['id', 'name'], *rows])",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("texts.csv"), TEXTS).unwrap();
        let step = format!(
            "reader = {{ type = \"csv\", path = \"texts.csv\" }}\n[steps.writer]\ntype = \"{kind}\"\npath = \"out.{kind}\"\n"
        );
        run(folder.path(), &step, 2);
        let program = format!(
            "import csv, json, xml.etree.ElementTree as xml\n{read}\nprint(json.dumps(rows))\n{write}\n"
        );
        let rows: Vec<Vec<String>> =
            serde_json::from_str(&python(&tools, folder.path(), &program)).unwrap();
        let expected = [
            ("1", "a & b <c> \"d\" 'e'"),
            ("2", "two\nlines\ttab"),
            ("3", "ä€𝄞 \\u0041"),
            ("4", "]]> &amp; --"),
            ("5", "  blanks  "),
        ];
        let found: Vec<_> = rows.iter().map(|row| (&*row[0], &*row[1])).collect();
        assert_eq!(found, expected, "{kind}");
        let step = format!(
            "writer = {{ type = \"jsonl\", path = \"back.jsonl\" }}\n[steps.reader]\ntype = \"{kind}\"\npath = \"in.{kind}\"\n{keys}"
        );
        run(folder.path(), &step, 2);
        let back = fs::read_to_string(folder.path().join("back.jsonl")).unwrap();
        let back: Vec<serde_json::Value> =
            back.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let found: Vec<_> = back
            .iter()
            .map(|row| (row["id"].as_str().unwrap(), row["name"].as_str().unwrap()))
            .collect();
        assert_eq!(found, expected, "{kind}");
    }
}

#[cfg(feature = "excel")]
#[test]
fn openpyxl_reads_what_is_written_here() {
    let Some(tools) = needs(Service::Tools) else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.csv"), CSV.replace("0001-01-01,23", "2000-01-01,23")).unwrap();
    let step = r##"
reader = { type = "csv", path = "in.csv" }
processors = [{ type = "map", drop = ["large", "local"] }]
[steps.writer]
type = "excel"
path = "out.xlsx"
sheet = "Prices & <more>"
columns = [
    { name = "id", type = "number" },
    { name = "name", title = "Name of \"it\"", width = 20 },
    { name = "price", type = "number", format = "#,##0.000" },
    { name = "share", type = "number" },
    { name = "open", type = "boolean" },
    { name = "day", type = "date", format = "dd.mm.yyyy" },
    { name = "at", type = "time" },
    { name = "since", type = "string" },
]
"##;
    run(folder.path(), step, 2);
    let found = python(
        &tools,
        folder.path(),
        r#"
import openpyxl, zipfile
assert zipfile.ZipFile("out.xlsx").testzip() is None
book = openpyxl.load_workbook("out.xlsx")
sheet = book["Prices & <more>"]
for row in sheet.iter_rows(values_only=True):
    print(row)
print(sheet.freeze_panes, sheet.column_dimensions["B"].width, sheet["A1"].font.b, sheet["A2"].font.b)
print(sheet["C2"].number_format, sheet["F2"].number_format, sheet["G2"].number_format)
"#,
    );
    let wanted = r#"('id', 'Name of "it"', 'price', 'share', 'open', 'day', 'at', 'since')
(1, 'Ada, "L"', 1.5, 0.1, True, datetime.datetime(2026, 11, 29, 0, 0), datetime.time(6, 30, 0, 250000), '2026-11-29T06:30:00+01:00')
(2, '', None, None, None, None, None, '')
(3, 'ä', -0.001, -1e+300, False, datetime.datetime(2000, 1, 1, 0, 0), datetime.time(23, 59, 59, 999000), '1969-12-31T23:59:59.999999Z')
(4, 'x', 0, 0, True, datetime.datetime(9999, 12, 31, 0, 0), datetime.time(0, 0), '2026-01-01T00:00:00Z')
(5, 'y', 1, 1, True, datetime.datetime(2000, 2, 29, 0, 0), datetime.time(12, 0), '2000-02-29T12:00:00Z')
A2 20.0 True False
#,##0.000 dd.mm.yyyy hh:mm:ss
"#;
    assert_eq!(found, wanted);
}

#[cfg(feature = "excel")]
#[test]
fn what_openpyxl_writes_is_read_here() {
    let Some(tools) = needs(Service::Tools) else { return };
    let folder = tempfile::tempdir().unwrap();
    python(
        &tools,
        folder.path(),
        r#"
import datetime, openpyxl
book = openpyxl.Workbook()
sheet = book.active
sheet.append(["id", "name", "price", "open", "day", "at"])
sheet.append([1, "Ada \"L\" <&>\n\tä 𝄞", 1.5, True, datetime.date(2026, 11, 29), datetime.datetime(2026, 11, 29, 6, 30)])
sheet.append([2, None, -0.001, False, None, None])
sheet.append([123456789012345, "12", 1e300, None, datetime.date(1900, 3, 1), None])
book.save("in.xlsx")
"#,
    );
    let step = "reader = { type = \"excel\", path = \"in.xlsx\" }\nwriter = { type = \"jsonl\", path = \"out\" }\n";
    run(folder.path(), step, 1);
    assert_eq!(
        fs::read_to_string(folder.path().join("out")).unwrap(),
        "{\"id\":1,\"name\":\"Ada \\\"L\\\" <&>\\n\\tä 𝄞\",\"price\":1.5,\"open\":true,\"day\":\"2026-11-29\",\"at\":\"2026-11-29T06:30:00\"}\n\
         {\"id\":2,\"name\":null,\"price\":-0.001,\"open\":false,\"day\":null,\"at\":null}\n\
         {\"id\":123456789012345,\"name\":\"12\",\"price\":1e+300,\"open\":null,\"day\":\"1900-03-01\",\"at\":null}\n"
    );
}
