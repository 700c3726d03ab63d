//! Hand-written loops without the guarantees of an engine.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{BufWriter, Read, Write};

use rusqlite::Connection;

use crate::work::{CHUNK, Outcome, Task, Trade, Valued, step, timed};

pub(crate) fn run(work: &str, task: &Task) -> Outcome {
    match work {
        "memory" => timed(|| {
            memory(task.count);
            Ok(())
        }),
        "csv-csv" => timed(|| csv_csv(task)),
        "csv-csv-borrowed" => timed(|| csv_csv_borrowed(task)),
        "csv-jsonl" => timed(|| csv_jsonl(task)),
        "csv-sqlite" => {
            let mut connection = database(task)?;
            timed(|| csv_sqlite(task, &mut connection))
        }
        "fdatasync" => timed(|| fdatasync(task)),
        other => Err(format!("the loop has no workload `{other}`").into()),
    }
}

fn memory(count: u64) {
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut next = 0;
    while next < count {
        while chunk.len() < CHUNK && next < count {
            chunk.push(step(black_box(next)));
            next += 1;
        }
        black_box(&chunk[..]);
        chunk.clear();
    }
}

fn reader(task: &Task) -> Result<csv::Reader<File>, csv::Error> {
    csv::ReaderBuilder::new().buffer_capacity(64 * 1024).from_path(&task.input)
}

fn writer(task: &Task) -> std::io::Result<BufWriter<File>> {
    Ok(BufWriter::with_capacity(64 * 1024, File::create(&task.output)?))
}

fn csv_csv(task: &Task) -> Result<(), Box<dyn std::error::Error>> {
    let mut output = csv::WriterBuilder::new().from_writer(writer(task)?);
    for trade in reader(task)?.deserialize() {
        let trade: Trade = trade?;
        output.serialize(Valued::of(&trade))?;
    }
    Ok(output.flush()?)
}

#[derive(serde::Deserialize)]
pub(crate) struct Borrowed<'a> {
    pub(crate) id: u64,
    pub(crate) account: &'a str,
    pub(crate) symbol: &'a str,
    pub(crate) quantity: u32,
    pub(crate) price: f64,
    #[serde(rename = "note")]
    _note: &'a str,
}

fn csv_csv_borrowed(task: &Task) -> Result<(), Box<dyn std::error::Error>> {
    let mut input = reader(task)?;
    let headers = input.headers()?.clone();
    let mut record = csv::StringRecord::new();
    let mut output = csv::WriterBuilder::new().from_writer(writer(task)?);
    output.write_record(["id", "account", "symbol", "value"])?;
    while input.read_record(&mut record)? {
        let Borrowed { id, account, symbol, quantity, price, .. } =
            record.deserialize(Some(&headers))?;
        output.serialize((id, account, symbol, f64::from(quantity) * price))?;
    }
    Ok(output.flush()?)
}

fn csv_jsonl(task: &Task) -> Result<(), Box<dyn std::error::Error>> {
    let mut output = writer(task)?;
    for trade in reader(task)?.deserialize() {
        let trade: Trade = trade?;
        serde_json::to_writer(&mut output, &Valued::of(&trade))?;
        output.write_all(b"\n")?;
    }
    Ok(output.flush()?)
}

pub(crate) fn database(task: &Task) -> Result<Connection, Box<dyn std::error::Error>> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = task.output.clone().into_os_string();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
    let connection = Connection::open(&task.output)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.execute_batch(
        "CREATE TABLE valued (id INTEGER PRIMARY KEY, account TEXT, symbol TEXT, value REAL)",
    )?;
    Ok(connection)
}

fn csv_sqlite(task: &Task, connection: &mut Connection) -> Result<(), Box<dyn std::error::Error>> {
    let mut input = reader(task)?;
    let mut trades = input.deserialize::<Trade>();
    loop {
        let transaction = connection.transaction()?;
        let mut written = 0;
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO valued VALUES (?1, ?2, ?3, ?4)")?;
            for trade in trades.by_ref().take(CHUNK) {
                let Valued { id, account, symbol, value } = Valued::of(&trade?);
                insert.execute((id as i64, account, symbol, value))?;
                written += 1;
            }
        }
        transaction.commit()?;
        if written < CHUNK {
            return Ok(());
        }
    }
}

/// Measures the best that the disk can do: small appends, each synced.
fn fdatasync(task: &Task) -> Result<(), Box<dyn std::error::Error>> {
    let mut file = OpenOptions::new().create(true).append(true).open(&task.output)?;
    let mut block = Vec::new();
    std::io::repeat(7).take(4096).read_to_end(&mut block)?;
    for _ in 0..task.count {
        file.write_all(&block)?;
        file.sync_data()?;
    }
    Ok(())
}
