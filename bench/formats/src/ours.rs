//! The workloads done with Batchwright, with the defaults of a step.

use std::sync::Arc;

use batchwright::item::{ItemReader, ItemWriter};
use batchwright::step::Step;
use batchwright::store::Durability;
use batchwright::{BatchStatus, ChunkStepBuilder, Job, JobOperator, JobParameters};
use batchwright_items::format::avro::{AvroColumns, AvroReader, AvroWriter};
use batchwright_items::format::csv::{CsvReader, CsvWriter};
use batchwright_items::format::excel::{ExcelColumn, ExcelColumns, ExcelReader, ExcelWriter};
use batchwright_items::format::parquet::{ParquetColumns, ParquetReader, ParquetWriter};
use batchwright_items::format::typed::{TypedColumn, ValueType};
use batchwright_items::format::xml::{XmlReader, XmlWriter};
use batchwright_store::{SqlRepository, SqliteDatabase, StoreOptions};

use crate::work::{Outcome, Task, Trade, Valued, timed};

type Error = Box<dyn std::error::Error>;

pub(crate) fn run(work: &str, task: &Task) -> Outcome {
    let (input, output) = (&task.input, &task.output);
    match work {
        "csv-parquet" => write(task, ParquetWriter::new(output, ParquetColumns::new(columns())?)),
        "csv-avro" => write(task, AvroWriter::new(output, AvroColumns::new(columns())?)),
        "csv-xml" => write(task, XmlWriter::new(output, "rows", "row")),
        "csv-excel" => {
            let names = ["id", "account", "symbol", "value"];
            let columns = ExcelColumns::new("Sheet1", names.map(ExcelColumn::new).to_vec())?;
            write(task, ExcelWriter::new(output, columns))
        }
        "csv-gzip" => write(task, CsvWriter::new(output)),
        "parquet-csv" => read(task, ParquetReader::<Valued>::new(input)),
        "avro-csv" => read(task, AvroReader::<Valued>::new(input)),
        "xml-csv" => read(task, XmlReader::<Valued>::new(input, "row")),
        "excel-csv" => read(task, ExcelReader::<Valued>::new(input)),
        "gzip-csv" => read(task, CsvReader::<Valued>::new(input)),
        other => Err(format!("the engine has no workload `{other}`").into()),
    }
}

fn columns() -> Vec<TypedColumn> {
    let column = |name: &str, kind| TypedColumn::new(name, kind).required();
    vec![
        column("id", ValueType::Integer),
        column("account", ValueType::Text),
        column("symbol", ValueType::Text),
        column("value", ValueType::Float),
    ]
}

fn write(task: &Task, writer: impl ItemWriter<Valued> + Clone + Sync + 'static) -> Outcome {
    let step = ChunkStepBuilder::new("write")
        .reader(CsvReader::<Trade>::new(&task.input))
        .processor(|trade: &Trade| Ok(Some(Valued::of(trade))))
        .writer(writer);
    execute(task, step.build())
}

fn read(task: &Task, reader: impl ItemReader<Item = Valued> + Clone + 'static) -> Outcome {
    let step = ChunkStepBuilder::new("read").reader(reader).writer(CsvWriter::new(&task.output));
    execute(task, step.build())
}

fn execute(task: &Task, step: impl Step + 'static) -> Outcome {
    let store = task.output.with_extension("store");
    for suffix in ["", "-wal", "-shm"] {
        let mut name = store.clone().into_os_string();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
    let options = StoreOptions { durability: Durability::Process, ..StoreOptions::default() };
    let repository = SqlRepository::open(SqliteDatabase::at(&store).into(), &options)?;
    let operator = JobOperator::new(Arc::new(repository));
    operator.registry().register(Job::builder("bench").step(step).build()?)?;
    timed(|| {
        let done = operator.start("bench", JobParameters::new())?.wait()?;
        match done.status {
            BatchStatus::Completed => Ok::<_, Error>(()),
            _ => Err(format!("ended {}: {:?}", done.status, done.failure).into()),
        }
    })
}
