//! Loops over the libraries of the formats, without the guarantees of an engine.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use apache_avro::{Codec, DeflateSettings, Reader as AvroReader, Schema, Writer as AvroWriter};
use calamine::{Reader as _, Xlsx, open_workbook};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::basic::{Compression as Pages, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::FileReader as _;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::file::writer::SerializedFileWriter;
use parquet::record::RowAccessor as _;
use parquet::schema::parser::parse_message_type;
use quick_xml::Writer as XmlWriter;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};
use rust_xlsxwriter::Workbook;

use crate::work::{Outcome, Task, Trade, Valued, timed};

type Error = Box<dyn std::error::Error>;

pub(crate) fn run(work: &str, task: &Task) -> Outcome {
    match work {
        "csv-parquet" => timed(|| csv_parquet(task)),
        "parquet-csv" => timed(|| parquet_csv(task)),
        "csv-avro" => timed(|| csv_avro(task)),
        "avro-csv" => timed(|| avro_csv(task)),
        "csv-xml" => timed(|| csv_xml(task)),
        "xml-csv" => timed(|| xml_csv(task)),
        "csv-excel" => timed(|| csv_excel(task)),
        "excel-csv" => timed(|| excel_csv(task)),
        "csv-gzip" => timed(|| csv_gzip(task)),
        "gzip-csv" => timed(|| gzip_csv(task)),
        other => Err(format!("the loop has no workload `{other}`").into()),
    }
}

fn trades(task: &Task) -> Result<csv::Reader<File>, csv::Error> {
    csv::ReaderBuilder::new().buffer_capacity(64 * 1024).from_path(&task.input)
}

fn output(task: &Task) -> std::io::Result<BufWriter<File>> {
    Ok(BufWriter::with_capacity(64 * 1024, File::create(&task.output)?))
}

/// Number of rows of a group, as ours has.
const ROWS: usize = 20_000;

fn csv_parquet(task: &Task) -> Result<(), Error> {
    let schema = "message schema { required int64 id; required binary account (STRING); \
                  required binary symbol (STRING); required double value; }";
    let properties = WriterProperties::builder()
        .set_compression(Pages::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(None)
        .build();
    let schema = Arc::new(parse_message_type(schema)?);
    let mut file = SerializedFileWriter::new(output(task)?, schema, Arc::new(properties))?;
    let mut input = trades(task)?;
    let mut trades = input.deserialize::<Trade>();
    loop {
        let rows: Vec<Valued> = trades
            .by_ref()
            .take(ROWS)
            .map(|trade| trade.map(|trade| Valued::of(&trade)))
            .collect::<Result<_, _>>()?;
        if rows.is_empty() {
            break;
        }
        let mut group = file.next_row_group()?;
        let mut index = 0;
        while let Some(mut column) = group.next_column()? {
            match column.untyped() {
                ColumnWriter::Int64ColumnWriter(writer) => {
                    let ids: Vec<i64> = rows.iter().map(|row| row.id as i64).collect();
                    writer.write_batch(&ids, None, None)?;
                }
                ColumnWriter::DoubleColumnWriter(writer) => {
                    let values: Vec<f64> = rows.iter().map(|row| row.value).collect();
                    writer.write_batch(&values, None, None)?;
                }
                ColumnWriter::ByteArrayColumnWriter(writer) => {
                    let text = |row: &Valued| if index == 1 { row.account.clone() } else { row.symbol.clone() };
                    let texts: Vec<ByteArray> =
                        rows.iter().map(|row| text(row).into_bytes().into()).collect();
                    writer.write_batch(&texts, None, None)?;
                }
                _ => return Err("an unknown column".into()),
            }
            column.close()?;
            index += 1;
        }
        group.close()?;
    }
    file.close()?;
    Ok(())
}

fn parquet_csv(task: &Task) -> Result<(), Error> {
    let reader = SerializedFileReader::new(File::open(&task.input)?)?;
    let mut output = csv::WriterBuilder::new().from_writer(output(task)?);
    for row in reader.get_row_iter(None)? {
        let row = row?;
        let (id, account, symbol) = (row.get_long(0)?, row.get_string(1)?, row.get_string(2)?);
        output.serialize(Valued {
            id: id as u64,
            account: account.clone(),
            symbol: symbol.clone(),
            value: row.get_double(3)?,
        })?;
    }
    Ok(output.flush()?)
}

const SCHEMA: &str = r#"{"type": "record", "name": "Record", "fields": [{"name": "id", "type": "long"},
    {"name": "account", "type": "string"}, {"name": "symbol", "type": "string"}, {"name": "value", "type": "double"}]}"#;

/// A record with the types that Avro has.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename = "Record")]
struct Row {
    id: i64,
    account: String,
    symbol: String,
    value: f64,
}

fn csv_avro(task: &Task) -> Result<(), Error> {
    let schema = Schema::parse_str(SCHEMA)?;
    let codec = Codec::Deflate(DeflateSettings::default());
    let mut writer = AvroWriter::with_codec(&schema, output(task)?, codec)?;
    for trade in trades(task)?.deserialize() {
        let Valued { id, account, symbol, value } = Valued::of(&trade?);
        writer.append_ser(Row { id: id as i64, account, symbol, value })?;
    }
    writer.into_inner()?.flush()?;
    Ok(())
}

fn avro_csv(task: &Task) -> Result<(), Error> {
    let reader = AvroReader::new(BufReader::with_capacity(64 * 1024, File::open(&task.input)?))?;
    let mut output = csv::WriterBuilder::new().from_writer(output(task)?);
    for row in reader.into_deser_iter::<Row>() {
        let row = row?;
        output.serialize(row)?;
    }
    Ok(output.flush()?)
}

fn csv_xml(task: &Task) -> Result<(), Error> {
    let mut writer = XmlWriter::new(output(task)?);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    writer.write_event(Event::Start(BytesStart::new("rows")))?;
    for trade in trades(task)?.deserialize() {
        writer.write_serializable("row", &Valued::of(&trade?))?;
    }
    writer.write_event(Event::End(BytesEnd::new("rows")))?;
    writer.write_event(Event::Text(BytesText::new("\n")))?;
    Ok(writer.into_inner().flush()?)
}

fn xml_csv(task: &Task) -> Result<(), Error> {
    let mut reader =
        quick_xml::Reader::from_reader(BufReader::with_capacity(64 * 1024, File::open(&task.input)?));
    let mut output = csv::WriterBuilder::new().from_writer(output(task)?);
    let (mut buffer, mut texts, mut depth) = (Vec::new(), Vec::<String>::new(), 0);
    loop {
        buffer.clear();
        match reader.read_event_into(&mut buffer)? {
            Event::Start(_) => {
                depth += 1;
                if depth == 3 {
                    texts.push(String::new());
                }
            }
            Event::Text(text) if depth == 3 => {
                if let Some(last) = texts.last_mut() {
                    last.push_str(&text.xml10_content());
                }
            }
            Event::End(_) => {
                if depth == 2 {
                    let [id, account, symbol, value] = &texts[..] else {
                        return Err("an element is missing".into());
                    };
                    let (id, value) = (id.parse()?, value.parse()?);
                    let (account, symbol) = (account.clone(), symbol.clone());
                    output.serialize(Valued { id, account, symbol, value })?;
                    texts.clear();
                }
                depth -= 1;
            }
            Event::Eof => return Ok(output.flush()?),
            _ => {}
        }
    }
}

fn csv_excel(task: &Task) -> Result<(), Error> {
    let mut workbook = Workbook::new();
    let sheet = workbook.add_worksheet_with_constant_memory()?;
    for (column, name) in (0_u16..).zip(["id", "account", "symbol", "value"]) {
        sheet.write(0, column, name)?;
    }
    for (row, trade) in (1_u32..).zip(trades(task)?.deserialize()) {
        let Valued { id, account, symbol, value } = Valued::of(&trade?);
        sheet.write(row, 0, id as f64)?.write(row, 1, account)?;
        sheet.write(row, 2, symbol)?.write(row, 3, value)?;
    }
    Ok(workbook.save(&task.output)?)
}

fn excel_csv(task: &Task) -> Result<(), Error> {
    let mut workbook: Xlsx<_> = open_workbook(&task.input)?;
    let sheet = workbook.worksheet_range_at(0).ok_or("there is no sheet")??;
    let mut output = csv::WriterBuilder::new().from_writer(output(task)?);
    for row in sheet.deserialize::<(f64, String, String, f64)>()? {
        let (id, account, symbol, value) = row?;
        output.serialize(Valued { id: id as u64, account, symbol, value })?;
    }
    Ok(output.flush()?)
}

fn csv_gzip(task: &Task) -> Result<(), Error> {
    let encoder = GzEncoder::new(output(task)?, Compression::default());
    let mut output = csv::WriterBuilder::new().from_writer(encoder);
    for trade in trades(task)?.deserialize() {
        let trade: Trade = trade?;
        output.serialize(Valued::of(&trade))?;
    }
    let encoder = output.into_inner().map_err(|error| error.to_string())?;
    Ok(encoder.finish()?.flush()?)
}

/// As `zcat | loop`.
fn gzip_csv(task: &Task) -> Result<(), Error> {
    let mut zcat = Command::new("zcat").arg(&task.input).stdout(Stdio::piped()).spawn()?;
    let input: Box<dyn Read> = Box::new(zcat.stdout.take().ok_or("zcat has no output")?);
    let mut output = csv::WriterBuilder::new().from_writer(output(task)?);
    for row in csv::ReaderBuilder::new().buffer_capacity(64 * 1024).from_reader(input).deserialize() {
        let row: Valued = row?;
        output.serialize(row)?;
    }
    output.flush()?;
    zcat.wait()?;
    Ok(())
}
