//! The writer of a workbook with one sheet.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use flate2::FlushCompress;

use super::cell::{attribute, cell, header};
use super::column::ExcelColumn;
use super::package::{Begin, compress};
use crate::format::AsRecords;
use crate::record::{Names, Record};
use crate::transport::{ByteSource, Encode, FileWriter};
use crate::value::Value;

/// A writer of a workbook (`.xlsx`) with one sheet: a row for each item, and above them a row with the titles of the columns,
/// which stays when the rows are scrolled.
///
/// ```no_run
/// use batchwright_items::format::excel::{ExcelColumn, ExcelColumns, ExcelType, ExcelWriter};
///
/// let columns = ExcelColumns::new("Orders", vec![
///     ExcelColumn::new("id"),
///     ExcelColumn::new("day").kind(ExcelType::Date).format("dd.mm.yyyy"),
///     ExcelColumn::new("amount").title("Amount in EUR").format("#,##0.00").width(14.0),
/// ])?;
/// let writer = ExcelWriter::new("orders.xlsx", columns);
/// # Ok::<(), String>(())
/// ```
pub type ExcelWriter = FileWriter<AsRecords<ExcelColumns>>;

impl ExcelWriter {
    /// Creates a writer of the file at `path`.
    pub fn new(path: impl Into<PathBuf>, columns: ExcelColumns) -> Self {
        Self::encoding(path, AsRecords(columns)).compressed(None)
    }
}

/// Number of rows of a chunk if the step sets none: each chunk is compressed on its own.
const ROWS: usize = 5_000;
/// Number of rows that a sheet can have.
const ROWS_MAX: u64 = 1_048_576;
/// Number of columns that a sheet can have.
const COLUMNS_MAX: usize = 16_384;
/// Number of characters, as UTF-16, that the name of a sheet can have.
const NAME_MAX: usize = 31;
/// The styles that every workbook has, without those of its columns.
const STYLES: usize = 5;
/// The number of the first format that is not one of Excel's own.
const FORMAT: usize = 164;
const SHEET: &str = "xl/worksheets/sheet1.xml";

/// The encoder of the rows of a sheet.
#[derive(Debug, Clone)]
pub struct ExcelColumns {
    columns: Arc<[ExcelColumn]>,
    /// The number of the style of each column that has a format.
    styles: Arc<[Option<usize>]>,
    parts: Arc<[(&'static str, String)]>,
}

impl ExcelColumns {
    /// Creates an encoder of the rows of the sheet called `sheet`.
    ///
    /// # Errors
    ///
    /// When there is no column, too many, or two of the same name; or Excel refuses the name of the sheet: a sentence.
    pub fn new(sheet: &str, columns: Vec<ExcelColumn>) -> Result<Self, String> {
        let names: Vec<&str> = columns.iter().map(|column| &*column.name).collect();
        if names.is_empty() || names.len() > COLUMNS_MAX {
            return Err(format!("a sheet has 1 to {COLUMNS_MAX} columns"));
        }
        if let Some(name) = crate::record::first_duplicate(&names) {
            return Err(format!("the column `{name}` is there twice"));
        }
        let wide = |column: &&ExcelColumn| {
            column.width.is_some_and(|width| !(0.0..=255.0).contains(&width))
        };
        if let Some(column) = columns.iter().find(wide) {
            return Err(format!("column `{}`: a width is between 0 and 255", column.name));
        }
        for column in &columns {
            column.check()?;
        }
        let is_wrong = sheet.is_empty()
            || sheet.encode_utf16().count() > NAME_MAX
            || sheet.contains(['[', ']', ':', '*', '?', '/', '\\'])
            || sheet.starts_with('\'')
            || sheet.ends_with('\'')
            || sheet.chars().any(char::is_control);
        if is_wrong {
            return Err(format!(
                "a sheet cannot be called `{sheet}`: its name has 1 to {NAME_MAX} characters, no `[ ] : * ? / \\`, and no `'` at an end"
            ));
        }
        let mut formats = Vec::new();
        let style = |column: &ExcelColumn| {
            column.format.as_ref().map(|format| {
                let known = formats.iter().position(|known| known == format);
                STYLES
                    + known.unwrap_or_else(|| {
                        formats.push(format.clone());
                        formats.len() - 1
                    })
            })
        };
        let styles = columns.iter().map(style).collect();
        let parts = parts(sheet, &formats).into();
        Ok(Self { columns: columns.into(), styles, parts })
    }

    fn begin(&self) -> Result<Begin<'_>, ItemError> {
        let mut begin = Begin::new(&self.parts, SHEET);
        let mut xml = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n\
             <worksheet xmlns=\"http://schemas.openxmlformats.org/spreadsheetml/2006/main\"><sheetViews><sheetView workbookViewId=\"0\">\
             <pane ySplit=\"1\" topLeftCell=\"A2\" activePane=\"bottomLeft\" state=\"frozen\"/></sheetView></sheetViews>",
        );
        if self.columns.iter().any(|column| column.width.is_some()) {
            xml.push_str("<cols>");
            for (index, column) in self.columns.iter().enumerate() {
                if let Some(width) = column.width {
                    let number = index + 1;
                    let _ = write!(
                        xml,
                        "<col min=\"{number}\" max=\"{number}\" width=\"{width}\" customWidth=\"1\"/>"
                    );
                }
            }
            xml.push_str("</cols>");
        }
        xml.push_str("<sheetData><row>");
        for column in &*self.columns {
            header(&mut xml, column.title.as_deref().unwrap_or(&column.name));
        }
        xml.push_str("</row>");
        compress(xml.as_bytes(), FlushCompress::Full, &mut begin.bytes)?;
        Ok(begin)
    }

    fn rows(&self, rows: &[Record], bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        let mut xml = String::new();
        let mut known: Option<(&Names, Vec<Option<usize>>)> = None;
        for row in rows {
            let places = match &known {
                Some((names, places)) if Arc::ptr_eq(names, row.names()) => places,
                _ => &known.insert((row.names(), self.places(row.names())?)).1,
            };
            xml.push_str("<row>");
            for ((column, style), place) in self.columns.iter().zip(&*self.styles).zip(places) {
                let value = place.map_or(&Value::Null, |place| &row.values()[place]);
                cell(&mut xml, column, *style, value)?;
            }
            xml.push_str("</row>");
        }
        compress(xml.as_bytes(), FlushCompress::Full, bytes)
    }

    /// Returns where the values of the columns are in records with the fields `names`.
    fn places(&self, names: &Names) -> Result<Vec<Option<usize>>, ItemError> {
        let fields: HashMap<&str, usize> = names.iter().map(|name| &**name).zip(0..).collect();
        let places: Vec<_> =
            self.columns.iter().map(|column| fields.get(&*column.name).copied()).collect();
        if places.iter().flatten().count() < fields.len() {
            let is_column =
                |name: &&&str| self.columns.iter().any(|column| *column.name == ***name);
            let extra = fields.keys().find(|name| !is_column(name)).unwrap_or(&"");
            let what = format!("cannot write field `{extra}`: it is no column of the sheet");
            return Err(ItemError::data(what));
        }
        Ok(places)
    }
}

impl Encode<Record> for ExcelColumns {
    fn encode(
        &mut self,
        items: &[Record],
        first: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        if first {
            bytes.append(&mut self.begin()?.bytes);
        }
        self.rows(items, bytes)
    }

    fn finish(
        &mut self,
        first: bool,
        written: Option<Arc<dyn ByteSource>>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        let begin = self.begin()?;
        let header = begin.header_bytes;
        let written: Box<dyn Read> = match (first, written) {
            (true, _) => Box::new(io::Cursor::new(bytes[header..].to_vec())),
            (false, Some(written)) => written.open_at(header as u64)?.bytes,
            (false, None) => {
                let what = "cannot end a workbook: what was written cannot be read back";
                return Err(ItemError::fatal(what));
            }
        };
        let rows = begin.end(written, b"</sheetData></worksheet>", bytes)?;
        match rows <= ROWS_MAX {
            true => Ok(()),
            false => Err(ItemError::fatal(format!(
                "cannot end a workbook: its sheet has {rows} rows, and Excel can read {ROWS_MAX}; write several files"
            ))),
        }
    }

    fn is_independent(&self) -> bool {
        true
    }

    fn chunk_items(&self) -> usize {
        ROWS
    }

    fn resume(&mut self, begun: Arc<dyn ByteSource>) -> Result<(), ItemError> {
        let begin = self.begin()?.bytes;
        let mut known = Vec::new();
        let opened = begun.open_at(0)?;
        opened.bytes.take(begin.len() as u64).read_to_end(&mut known).map_err(|error| {
            ItemError::wrap(ErrorKind::IO, format!("cannot continue `{}`", begun.shown()), error)
        })?;
        match known == begin {
            true => Ok(()),
            false => Err(ItemError::fatal(format!(
                "cannot continue `{}`: it was begun with other columns",
                begun.shown()
            ))),
        }
    }
}

/// Returns the parts of a workbook beside its sheet.
fn parts(sheet: &str, formats: &[String]) -> Vec<(&'static str, String)> {
    const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n";
    const MAIN: &str = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
    const RELATIONS: &str = "http://schemas.openxmlformats.org/package/2006/relationships";
    const OFFICE: &str = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
    const TYPES: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml";
    let types = format!(
        "{XML}<Types xmlns=\"http://schemas.openxmlformats.org/package/2006/content-types\">\
         <Default Extension=\"rels\" ContentType=\"application/vnd.openxmlformats-package.relationships+xml\"/>\
         <Default Extension=\"xml\" ContentType=\"application/xml\"/>\
         <Override PartName=\"/xl/workbook.xml\" ContentType=\"{TYPES}.sheet.main+xml\"/>\
         <Override PartName=\"/{SHEET}\" ContentType=\"{TYPES}.worksheet+xml\"/>\
         <Override PartName=\"/xl/styles.xml\" ContentType=\"{TYPES}.styles+xml\"/></Types>"
    );
    let root = format!(
        "{XML}<Relationships xmlns=\"{RELATIONS}\">\
         <Relationship Id=\"rId1\" Type=\"{OFFICE}/officeDocument\" Target=\"xl/workbook.xml\"/></Relationships>"
    );
    let mut book = format!(
        "{XML}<workbook xmlns=\"{MAIN}\" xmlns:r=\"{OFFICE}\"><bookViews><workbookView/></bookViews><sheets><sheet name=\""
    );
    attribute(&mut book, sheet);
    book.push_str("\" sheetId=\"1\" r:id=\"rId1\"/></sheets></workbook>");
    let relations = format!(
        "{XML}<Relationships xmlns=\"{RELATIONS}\">\
         <Relationship Id=\"rId1\" Type=\"{OFFICE}/worksheet\" Target=\"worksheets/sheet1.xml\"/>\
         <Relationship Id=\"rId2\" Type=\"{OFFICE}/styles\" Target=\"styles.xml\"/></Relationships>"
    );
    vec![
        ("[Content_Types].xml", types),
        ("_rels/.rels", root),
        ("xl/workbook.xml", book),
        ("xl/_rels/workbook.xml.rels", relations),
        ("xl/styles.xml", format!("{XML}{}", styles(MAIN, formats))),
    ]
}

/// Returns the styles: a plain cell, the header, a day, a time and both, and then one for each of `formats`.
fn styles(namespace: &str, formats: &[String]) -> String {
    let all = ["yyyy-mm-dd", "hh:mm:ss", "yyyy-mm-dd hh:mm:ss"];
    let all: Vec<&str> = all.into_iter().chain(formats.iter().map(String::as_str)).collect();
    let mut xml = format!("<styleSheet xmlns=\"{namespace}\"><numFmts count=\"{}\">", all.len());
    for (index, format) in all.iter().enumerate() {
        let _ = write!(xml, "<numFmt numFmtId=\"{}\" formatCode=\"", FORMAT + index);
        attribute(&mut xml, format);
        xml.push_str("\"/>");
    }
    xml.push_str(
        "</numFmts><fonts count=\"2\"><font><sz val=\"11\"/><name val=\"Calibri\"/></font>\
         <font><b/><sz val=\"11\"/><name val=\"Calibri\"/></font></fonts>\
         <fills count=\"2\"><fill><patternFill patternType=\"none\"/></fill><fill><patternFill patternType=\"gray125\"/></fill></fills>\
         <borders count=\"1\"><border><left/><right/><top/><bottom/><diagonal/></border></borders>\
         <cellStyleXfs count=\"1\"><xf numFmtId=\"0\" fontId=\"0\" fillId=\"0\" borderId=\"0\"/></cellStyleXfs>",
    );
    let _ = write!(xml, "<cellXfs count=\"{}\">", all.len() + 2);
    for font in [0, 1] {
        let _ = write!(
            xml,
            "<xf numFmtId=\"0\" fontId=\"{font}\" fillId=\"0\" borderId=\"0\" xfId=\"0\" applyFont=\"{font}\"/>"
        );
    }
    for index in 0..all.len() {
        let number = FORMAT + index;
        let _ = write!(
            xml,
            "<xf numFmtId=\"{number}\" fontId=\"0\" fillId=\"0\" borderId=\"0\" xfId=\"0\" applyNumberFormat=\"1\"/>"
        );
    }
    xml.push_str(
        "</cellXfs><cellStyles count=\"1\"><cellStyle name=\"Normal\" xfId=\"0\" builtinId=\"0\"/></cellStyles></styleSheet>",
    );
    xml
}
