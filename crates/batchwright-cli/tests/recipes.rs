//! Each recipe of the book does what it says, wherever the process dies, and its rehearsal finds no fault.
#![cfg(feature = "full")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, JobParameters};
use batchwright_jobfile::JobFolder;
use batchwright_store::SqlRepository;
use batchwright_testkit::{Service, needs};
use common::Place;

/// A recipe: its name, its parameters, what prepares the folder, and what is looked at afterwards.
struct Recipe<'a> {
    name: &'a str,
    parameters: &'a [(&'a str, &'a str)],
    /// Files, and statements for the store's database.
    files: &'a [(&'a str, &'a str)],
    sql: &'a str,
    prepare: &'a dyn Fn(&Path),
    /// What is left: a text of files and rows.
    left: &'a dyn Fn(&Path) -> String,
    expected: &'a str,
}

const NOTHING: &dyn Fn(&Path) = &|_| ();

impl Recipe<'_> {
    /// Runs the recipe with a crash at each of its first commits, and rehearses it.
    fn check(&self) {
        self.run_with_crashes();
        if !self.sql.is_empty() {
            // A rehearsal has a store of its own, without the tables that others fill.
            return;
        }
        let place = Place::new();
        self.fill(place.root());
        let mut words = vec!["rehearse".to_owned(), "job.toml".to_owned()];
        words.extend(self.parameters.iter().map(|(name, value)| format!("{name}={value}")));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let rehearsed = place.run(&words);
        assert_eq!(rehearsed.code, 0, "{}: {}{}", self.name, rehearsed.out, rehearsed.err);
    }

    /// Makes the folder of the job.
    fn fill(&self, path: &Path) {
        let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/book/src/recipes");
        fs::copy(book.join(format!("{}.toml", self.name)), path.join("job.toml")).unwrap();
        for (name, content) in self.files {
            fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
            fs::write(path.join(name), content).unwrap();
        }
        (self.prepare)(path);
        drop(SqlRepository::sqlite(path.join("store.db")).unwrap());
        if !self.sql.is_empty() {
            let database = rusqlite::Connection::open(path.join("store.db")).unwrap();
            database.execute_batch(self.sql).unwrap();
        }
    }

    /// Runs the recipe with a crash at each of its first commits. What it sends to servers cannot be rehearsed.
    fn run_with_crashes(&self) {
        let name = self.name;
        for commit in 0..=6 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path();
            self.fill(path);
            let store = SqlRepository::sqlite(path.join("store.db")).unwrap();
            let jobs = JobFolder::new(path).database(store.database().clone());
            let job = jobs.load(&path.join("job.toml")).unwrap();
            drop(jobs);
            let mut bench = TestBench::on(Arc::new(store), Arc::into_inner(job).unwrap());
            if commit > 0 {
                bench.crash_at(CommitPoint::After, commit);
            }
            let mut parameters = JobParameters::new();
            for (name, value) in self.parameters {
                parameters = match *name {
                    // A secret is no part of the identity.
                    "key" | "token" => parameters.with_non_identifying(*name, *value),
                    name => parameters.with(name, *value),
                };
            }
            let mut done = bench.run_with(parameters);
            if commit > 0 && done.status != BatchStatus::Completed {
                done = bench.restart();
            }
            assert_eq!(done.status, BatchStatus::Completed, "{name} {commit} {:?}", done.failure);
            assert_eq!((self.left)(path), self.expected, "{name} {commit}");
        }
    }
}

fn rows(folder: &Path, query: &str) -> String {
    let database = rusqlite::Connection::open(folder.join("store.db")).unwrap();
    let mut statement = database.prepare(query).unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(Result::unwrap).collect::<Vec<_>>().join("\n")
}

fn names(folder: &Path) -> String {
    let Ok(entries) = fs::read_dir(folder) else { return String::new() };
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names.join(" ")
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_default()
}

fn python(python: &str, folder: &Path, program: &str) -> String {
    let output = Command::new(python).args(["-c", program]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pick_up() {
    Recipe {
        name: "pick-up",
        parameters: &[("partner", "partner/orders-*")],
        files: &[
            ("partner/orders-1.csv", "id,amount\n1,2.5\n2,3\n"),
            ("partner/orders-2.csv", "id,amount\n3,4\n"),
            ("partner/other.csv", "id\n9\n"),
        ],
        sql: "",
        prepare: &|folder| {
            for name in ["orders-1.csv", "orders-2.csv"] {
                let folder = folder.join("partner");
                let output = Command::new("sha256sum").arg(name).current_dir(&folder).output();
                fs::write(folder.join(format!("{name}.sha256")), output.unwrap().stdout).unwrap();
            }
        },
        left: &|folder| {
            let rows = rows(folder, "SELECT id || ' ' || amount FROM orders ORDER BY id");
            format!("{rows}\n{}\n{}", names(&folder.join("partner")), names(&folder.join("done")))
        },
        expected: "1 2.5\n2 3.0\n3 4.0\nother.csv\norders-1.csv orders-1.csv.sha256 orders-2.csv orders-2.csv.sha256",
    }
    .check();
}

#[test]
fn lake() {
    Recipe {
        name: "lake",
        parameters: &[("events", "events/*.jsonl")],
        files: &[
            ("events/a.jsonl", "{\"id\":1,\"kind\":\"x\"}\n{\"id\":2,\"kind\":\"y\"}\n"),
            ("events/b.jsonl", "{\"id\":3,\"kind\":\"z\"}\n"),
        ],
        sql: "",
        prepare: NOTHING,
        left: &|folder| rows(folder, "SELECT id || kind FROM event ORDER BY id"),
        expected: "1x\n2y\n3z",
    }
    .check();
}

#[test]
fn columns() {
    let Some(tools) = needs(Service::Tools) else { return };
    Recipe {
        name: "columns",
        parameters: &[],
        files: &[(
            "sales.csv",
            "id,price,day\n1,2.50,29.11.2026\n2,-1,29.11.2026\nx,1,1.1.2026\n4,3,01.12.2026\n",
        )],
        sql: "",
        prepare: NOTHING,
        left: &|folder| {
            let query = "import duckdb\nfor row in duckdb.execute(\"SELECT COLUMNS(*)::VARCHAR FROM 'sales.parquet'\").fetchall(): print(*row)";
            format!("{}{}", python(&tools, folder, query), read(folder, "rejected.jsonl").lines().count())
        },
        expected: "1 2.50 2026-11-29\n4 3.00 2026-12-01\n2",
    }
    .check();
}

#[test]
fn sheet() {
    let Some(tools) = needs(Service::Tools) else { return };
    Recipe {
        name: "sheet",
        parameters: &[],
        files: &[],
        sql: "",
        prepare: &|folder| {
            let program = "import openpyxl\nbook = openpyxl.Workbook()\nsheet = book.create_sheet('Prices')\nfor row in [('article', 'price'), ('a', 1.5), ('b', None), ('c', 2)]: sheet.append(row)\nbook.save('prices.xlsx')";
            python(&tools, folder, program);
        },
        left: &|folder| rows(folder, "SELECT article || price FROM price ORDER BY article"),
        expected: "a1.5\nc2.0",
    }
    .check();
}

#[test]
fn archive() {
    if needs(Service::Python).is_none() || needs(Service::Compressors).is_none() {
        return;
    }
    Recipe {
        name: "archive",
        parameters: &[],
        files: &[],
        sql: "",
        prepare: &|folder| {
            let program = "import zipfile\nwith zipfile.ZipFile('delivery.zip', 'w') as book:\n book.writestr('a.csv', 'id\\n1\\n'); book.writestr('b.csv', 'id\\n2\\n'); book.writestr('read.me', 'x')";
            python("python3", folder, program);
        },
        left: &|folder| {
            let mut command = Command::new("zstd");
            let shown = command.args(["-dc", "all.jsonl.zst"]).current_dir(folder).output();
            let text = String::from_utf8(shown.unwrap().stdout).unwrap();
            format!("{text}{}", names(&folder.join("parts")))
        },
        expected: "{\"id\":\"1\"}\n{\"id\":\"2\"}\n",
    }
    .check();
}

#[test]
fn export() {
    Recipe {
        name: "export",
        parameters: &[("partner", "partner/"), ("key", "k")],
        files: &[("customers.csv", "id,name,email,consent\n1,Ada,a@x,yes\n2,Grace,g@x,no\n")],
        sql: "",
        prepare: NOTHING,
        left: &|folder| {
            let sent = folder.join("partner");
            let checked = Command::new("sha256sum")
                .args(["-c", "customers.csv.sha256"])
                .current_dir(&sent)
                .output();
            assert!(checked.unwrap().status.success());
            let text = read(&sent, "customers.csv");
            let digest = text.split(';').nth(2).unwrap().trim().len();
            format!("{} {digest}", text.split(';').next().unwrap())
        },
        expected: "\u{feff}id 64",
    }
    .check();
}

#[test]
fn enrich() {
    Recipe {
        name: "enrich",
        parameters: &[],
        files: &[
            ("payments.xml", "<all><payment><id>1</id><bank>A</bank></payment><payment><id>2</id><bank>B</bank></payment></all>"),
            ("banks.csv", "bank,country\nA,FR\n"),
        ],
        sql: "",
        prepare: NOTHING,
        left: &|folder| format!("{}{}", read(folder, "payments.csv"), read(folder, "unknown.jsonl")),
        expected: "id,bank,country\n1,A,FR\n{\"id\":\"2\",\"bank\":\"B\",\"country\":null}\n",
    }
    .check();
}

#[test]
fn compare() {
    Recipe {
        name: "compare",
        parameters: &[],
        files: &[],
        sql: "CREATE TABLE booking (id INTEGER PRIMARY KEY, amount REAL); INSERT INTO booking VALUES (1, 1.0), (2, 2.0), (3, 3.0)",
        prepare: &|folder| {
            let archive = rusqlite::Connection::open(folder.join("archive.db")).unwrap();
            archive
                .execute_batch("CREATE TABLE booking (id INTEGER PRIMARY KEY, amount REAL); INSERT INTO booking VALUES (1, 1.0), (2, 2.5)")
                .unwrap();
        },
        left: &|folder| read(folder, "differences.csv"),
        expected: "id,ours,theirs\n2,2.0,2.5\n3,3.0,\n",
    }
    .check();
}

#[test]
fn parts() {
    Recipe {
        name: "parts",
        parameters: &[],
        files: &[("readings.csv", "id,value\n1,10\n2,20\n3,30\n4,40\n5,50\n6,60\n7,70\n")],
        sql: "",
        prepare: NOTHING,
        left: &|folder| format!("{}{}", read(folder, "doubled.csv"), names(&folder.join("parts"))),
        expected: "id,value\n1,20\n2,40\n3,60\n4,80\n5,100\n6,120\n7,140\n",
    }
    .check();
}

#[test]
fn tidy() {
    if needs(Service::Python).is_none() {
        return;
    }
    Recipe {
        name: "tidy",
        parameters: &[("month", "2026-10")],
        files: &[("done/2026-10-01.csv", "a"), ("done/2026-10-02.csv", "b"), ("done/2026-11-01.csv", "c")],
        sql: "",
        prepare: NOTHING,
        left: &|folder| {
            let program = "import tarfile\nprint(*sorted(one.name for one in tarfile.open('archive/2026-10.tar.gz')))";
            format!("{}{}", python("python3", folder, program), names(&folder.join("done")))
        },
        expected: "2026-10-01.csv 2026-10-02.csv\n2026-11-01.csv",
    }
    .check();
}

#[test]
fn wait() {
    Recipe {
        name: "wait",
        parameters: &[],
        files: &[("in/stock.csv", "article,left\na,3\nb,12\n"), ("in/stock.csv.ok", "")],
        sql: "",
        prepare: NOTHING,
        left: &|folder| read(folder, "order.jsonl"),
        expected: "{\"article\":\"a\",\"left\":3}\n",
    }
    .check();
}

#[test]
fn bank() {
    Recipe {
        name: "bank",
        parameters: &[],
        files: &[("entries.txt", "00000120261129     12.50\n00000220261130     -3.00\n")],
        sql: "",
        prepare: NOTHING,
        left: &|folder| {
            let rows = rows(
                folder,
                "SELECT number || ' ' || day || ' ' || amount FROM entry ORDER BY number",
            );
            format!("{rows}\n{}", read(folder, "answer.txt"))
        },
        expected: "1 2026-11-29 12.5\n2 2026-11-30 -3.0\n\
                   HANSWER\n     12026-11-29\n     22026-11-30\nT000002\n",
    }
    .check();
}

#[test]
fn api() {
    Recipe {
        name: "api",
        parameters: &[("answer", "answer.json")],
        files: &[(
            "answer.json",
            r#"{"data":{"items":[{"id":1,"net":10.5,"more":{"a":1}},{"id":2,"net":2}]}}"#,
        )],
        sql: "",
        prepare: NOTHING,
        left: &|folder| read(folder, "articles.csv"),
        expected: "id,gross\n1,12.60\n2,2.4\n",
    }
    .check();
}

#[test]
fn validate() {
    Recipe {
        name: "validate",
        parameters: &[],
        files: &[(
            "people.jsonl",
            "{\"id\":1,\"age\":3}\n{\"age\":4}\n{\"id\":2,\"age\":-1}\n{\"id\":3}\n",
        )],
        sql: "",
        prepare: NOTHING,
        left: &|folder| {
            format!(
                "{}{}",
                read(folder, "right.jsonl"),
                read(folder, "wrong.jsonl").lines().count()
            )
        },
        expected: "{\"id\":1,\"age\":3}\n{\"id\":3}\n2",
    }
    .check();
}

#[test]
fn branches() {
    Recipe {
        name: "branches",
        parameters: &[],
        files: &[
            ("customers.csv", "id,name\n1,Ada\n2,Grace\n"),
            ("invoices.csv", "id,customer,amount\n1,1,10.5\n2,2,1\n3,1,2\n"),
        ],
        sql: "",
        prepare: NOTHING,
        left: &|folder| read(folder, "report.csv"),
        expected: "name,total\nAda,12.5\nGrace,1.0\n",
    }
    .check();
}

#[test]
fn report() {
    let Some(tools) = needs(Service::Tools) else { return };
    let orders = r#"[
        {"customer": "ada", "day": "2026-10-01", "lines": [{"quantity": 2, "price": 1.10}, {"quantity": 1, "price": 5}]},
        {"customer": "bob", "day": "2026-10-02", "lines": []},
        {"customer": "cid", "day": "2026-10-03", "lines": [{"quantity": 3, "price": 0.10}]},
        {"customer": "ada", "day": "2026-10-31", "lines": [{"quantity": 1, "price": 0.05}]}]"#;
    Recipe {
        name: "report",
        parameters: &[("month", "2026-10")],
        files: &[("orders-2026-10.json", orders)],
        sql: "",
        prepare: NOTHING,
        left: &|folder| {
            let program = "import openpyxl\nfor row in openpyxl.load_workbook('report-2026-10.xlsx').active.iter_rows(values_only=True):\n print(*row)";
            python(&tools, folder, program)
        },
        expected: "Customer Lines Amount Last order\nada 3 7.25 2026-10-31 00:00:00\ncid 1 0.3 2026-10-03 00:00:00\n",
    }
    .check();
}

#[test]
fn unique() {
    Recipe {
        name: "unique",
        parameters: &[],
        files: &[("in/1.csv", "id,v\n1,a\n2,b\n1,c\n"), ("in/2.csv", "id,v\n2,d\n3,e\n")],
        sql: "",
        prepare: NOTHING,
        left: &|folder| {
            let all = read(folder, "all.csv");
            all.lines().map(|line| format!("{}\n", line.rsplit_once(',').unwrap().0)).collect()
        },
        expected: "id,v\n1,a\n2,b\n3,e\n",
    }
    .check();
}

#[cfg(feature = "http")]
#[test]
fn pull() {
    let Some(api) = needs(Service::Api) else { return };
    Recipe {
        name: "pull",
        parameters: &[("api", &api), ("token", "sesame")],
        files: &[],
        sql: "",
        prepare: NOTHING,
        left: &|folder| rows(folder, "SELECT count(*) || ' ' || sum(amount) FROM orders"),
        expected: "23 2760",
    }
    .run_with_crashes();
}

#[test]
fn tell() {
    if needs(Service::Smtp).is_none() {
        return;
    }
    let variable = |name: &str| std::env::var(name).unwrap();
    let home = variable("BATCHWRIGHT_TEST_SMTP_FOLDER");
    let mails = Path::new(&home).join("mails");
    let count = || {
        let files =
            fs::read_dir(&mails).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()));
        files.filter(|mail| mail.as_ref().is_ok_and(|mail| mail.contains("From: Reports"))).count()
    };
    let sent = std::cell::Cell::new(count());
    Recipe {
        name: "tell",
        parameters: &[
            ("server", &format!("smtps://{}", variable("BATCHWRIGHT_TEST_SMTPS"))),
            ("authority", &format!("{home}/certificate.pem")),
        ],
        files: &[("orders.csv", "customer,amount\nada,1.10\nbob,2\nada,3\n")],
        sql: "",
        prepare: NOTHING,
        // Each run sends one mail: none is killed while it sends.
        left: &|folder| {
            let before = sent.replace(count());
            format!("{} {}", folder.join("report.xlsx").is_file(), sent.get() - before)
        },
        expected: "true 1",
    }
    .run_with_crashes();
}

/// Calls Redis by its own program.
fn redis(url: &str, command: &str) -> String {
    let mut program = Command::new("redis-cli");
    program.args(["--no-auth-warning", "-u", url]).args(command.split(' '));
    String::from_utf8(program.output().unwrap().stdout).unwrap()
}

#[test]
fn topic() {
    let (Some(brokers), Some(python)) = (needs(Service::Kafka), needs(Service::Tools)) else {
        return;
    };
    let topic = format!("orders-{}", std::process::id());
    let program = format!(
        r#"
import confluent_kafka as kafka
producer = kafka.Producer({{"bootstrap.servers": "{brokers}"}})
for n in range(20):
    producer.produce("{topic}", '{{"id": %d, "amount": %d.5}}' % (n, n), key=str(n))
producer.produce("{topic}", "no order", key="x")
assert producer.flush(30) == 0
"#
    );
    assert!(Command::new(&python).args(["-c", &program]).status().unwrap().success());
    let server = format!("kafka://{}", brokers.split(',').next().unwrap());
    Recipe {
        name: "topic",
        parameters: &[("server", &server), ("topic", &topic)],
        files: &[],
        sql: "",
        prepare: NOTHING,
        left: &|folder| {
            let program = "import duckdb; print(*duckdb.execute(\"SELECT count(*), sum(amount), count(DISTINCT message) FROM 'orders-today.parquet'\").fetchone())";
            let mut command = Command::new(&python);
            let found = command.args(["-c", program]).current_dir(folder).output().unwrap();
            let rejected = fs::read_to_string(folder.join("rejected.jsonl")).unwrap_or_default();
            format!("{} {}", String::from_utf8_lossy(&found.stdout).trim(), rejected.lines().count())
        },
        expected: "20 200.00 20 1",
    }
    .check();
}

#[test]
fn drain() {
    let Some(url) = needs(Service::Redis) else { return };
    Recipe {
        name: "drain",
        parameters: &[("server", &url)],
        files: &[],
        sql: "",
        prepare: &|_| {
            redis(&url, "DEL orders");
            for id in 1..=20 {
                redis(&url, &format!("XADD orders * id {id} amount {}", id * 10));
            }
        },
        left: &|folder| {
            let query =
                "SELECT count(*) || ' ' || sum(amount) || ' ' || count(DISTINCT entry) FROM orders";
            rows(folder, query) + " " + redis(&url, "XLEN orders").trim()
        },
        expected: "20 2100 20 0",
    }
    .run_with_crashes();
}

/// Calls RabbitMQ by its own client: empties the queues of the recipe, or returns the ids and bodies of their messages.
fn messages(url: &str, names: &[&str], is_new: bool) -> String {
    use lapin::options::{BasicGetOptions, QueueDeclareOptions, QueuePurgeOptions};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = lapin::Connection::connect(url, Default::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let mut found = std::collections::BTreeSet::new();
        for name in names {
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            channel.queue_declare((*name).into(), options, Default::default()).await.unwrap();
            if is_new {
                channel.queue_purge((*name).into(), QueuePurgeOptions::default()).await.unwrap();
            }
            let options = BasicGetOptions { no_ack: true };
            while let Some(got) = channel.basic_get((*name).into(), options).await.unwrap() {
                let id = got.delivery.properties.message_id().as_ref().unwrap().to_string();
                let body = String::from_utf8(got.delivery.data).unwrap();
                found.insert((id, format!("{name} {body}")));
            }
        }
        let mut found: Vec<_> = found.into_iter().map(|(_, text)| text).collect();
        found.sort();
        found.join("\n")
    })
}

#[test]
fn announce() {
    let Some(url) = needs(Service::RabbitMq) else { return };
    let queues = ["recipe-fr", "recipe-se"];
    Recipe {
        name: "announce",
        parameters: &[("broker", &url)],
        files: &[],
        sql: "CREATE TABLE orders (id INTEGER PRIMARY KEY, amount INTEGER, country TEXT, paid INTEGER);
              INSERT INTO orders VALUES (1, 10, 'recipe-fr', 1), (2, 20, 'recipe-se', 0), (3, 30, 'recipe-se', 1);",
        prepare: &|_| drop(messages(&url, &queues, true)),
        left: &|_| messages(&url, &queues, false),
        expected: "recipe-fr {\"id\":1,\"amount\":10,\"country\":\"recipe-fr\"}\n\
                   recipe-se {\"id\":3,\"amount\":30,\"country\":\"recipe-se\"}",
    }
    .run_with_crashes();
}

#[test]
fn bands() {
    Recipe {
        name: "bands",
        parameters: &[],
        files: &[("orders.csv", "id,amount\n1,9.50\n2,50.00\n3,1000\n")],
        sql: "",
        prepare: NOTHING,
        left: &|folder| read(folder, "priced.csv"),
        expected: "id,amount,fee\n1,9.50,0.4750\n2,50.00,1.50\n3,1000,10\n",
    }
    .run_with_crashes();
}
