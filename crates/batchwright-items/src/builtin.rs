//! Kinds without a file: numbers, items of the job file itself, and a writer that discards.

use std::collections::BTreeSet;
use std::sync::Arc;

use batchwright::item::{ListReader, NoWriter};
use batchwright::{ItemError, Sequence};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::key::{At, Keys, Problem};
use crate::kind::{BuildContext, Example, ItemKind, KindSchema, Make, MakeReader};
use crate::reader::Reads;
use crate::record::{Names, Record};
use crate::value::Value;
use crate::writer::BoxedWriter;

/// The kind `sequence`: the numbers from 1.
pub(crate) struct SequenceKind;

/// Reads the numbers from 1 to `count`: records with the field `n`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SequenceKeys {
    /// The last number.
    count: At<Count>,
}

/// A number, or a text with `${…}` that becomes one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number")]
#[schemars(inline)]
enum Count {
    Literal(u64),
    Text(String),
}

impl ItemKind for SequenceKind {
    fn name(&self) -> &'static str {
        "sequence"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .reader::<SequenceKeys>()
            .reader_restarts("Exact: at the next number.")
            .example(Example { reader: "count = 4", ..Example::default() })
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let SequenceKeys { count } = keys.parse()?;
        let count = last_number(&count, cx)?;
        let names: Names = Arc::new([Arc::from("n")]);
        let made = MakeReader::new(move |scope| {
            let names = Arc::clone(&names);
            let value = |n| Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
            let numbers = Sequence::to(count(scope)?);
            Ok(Reads::mapped(numbers, move |n| Record::single(&names, value(n))))
        });
        Ok(made.fields(vec!["n".to_owned()]))
    }
}

fn last_number(count: &At<Count>, cx: &BuildContext<'_>) -> Result<Make<u64>, Problem> {
    match count.get_ref() {
        Count::Literal(number) => {
            let number = *number;
            Ok(Box::new(move |_| Ok(number)))
        }
        Count::Text(text) => {
            let template = cx.parse(text).map_err(|problem| Problem::at(count, problem))?;
            let text = text.clone();
            Ok(Box::new(move |scope| {
                template.render(scope)?.parse().map_err(|_| {
                    ItemError::fatal(format!("cannot use `{text}` as a count: it is no number"))
                })
            }))
        }
    }
}

/// The kind `list`: the items that the job file lists.
pub(crate) struct ListKind;

/// Reads the items that the job file lists.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListKeys {
    /// A table for each item.
    items: Vec<serde_json::Map<String, serde_json::Value>>,
}

impl ItemKind for ListKind {
    fn name(&self) -> &'static str {
        "list"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .reader::<ListKeys>()
            .reader_restarts("Exact: at the next item.")
            .example(Example {
                reader: "items = [{ id = 1, name = \"Ada\" }, { id = 2, name = \"Grace\" }]",
                ..Example::default()
            })
    }

    fn reader(&self, keys: Keys<'_>, _: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let ListKeys { items } = keys.parse()?;
        let records: Arc<[Record]> = items.into_iter().map(record).collect();
        let fields: BTreeSet<String> =
            records.iter().flat_map(|one| one.names().iter()).map(ToString::to_string).collect();
        let made =
            MakeReader::new(move |_| Ok(Reads::records(ListReader::new(Arc::clone(&records)))));
        Ok(made.fields(fields.into_iter().collect()))
    }
}

fn record(fields: serde_json::Map<String, serde_json::Value>) -> Record {
    let (names, values): (Vec<Arc<str>>, Vec<Value>) =
        fields.into_iter().map(|(name, value)| (Arc::from(name), Value::from(value))).unzip();
    Record::new(names.into(), values)
}

/// The kind `none`: a writer without output.
pub(crate) struct NoneKind;

/// Discards all records.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoneKeys {}

impl ItemKind for NoneKind {
    fn name(&self) -> &'static str {
        "none"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().writer::<NoneKeys>().writer_restarts("There is nothing to restart.")
    }

    fn writer(&self, keys: Keys<'_>, _: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let NoneKeys {} = keys.parse()?;
        Ok(Box::new(|_| Ok(BoxedWriter::new(NoWriter::default()))))
    }
}
