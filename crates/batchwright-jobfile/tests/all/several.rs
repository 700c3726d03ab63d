//! Writers made of several: each record reaches the writers that it must, once, wherever the process dies.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, Job};
use batchwright_jobfile::{JobFileError, JobFolder};
use batchwright_store::SqlRepository;

const READER: &str = "type = \"list\"\nitems = [{ id = 1, country = \"FR\", amount = 5 }, { id = 2, country = \"DE\", amount = 50 }, \
                      { id = 3, country = \"FR\", amount = 500 }, { id = 4, country = \"IT\", amount = 7 }, { id = 5, country = \"DE\", amount = 900 }]";

fn write(folder: &Path, writer: &str, more: &str) {
    let text = format!(
        "name = \"job\"\nparameters = {{ large = {{ type = \"integer\", default = 100 }} }}\n\
         [[steps]]\nname = \"table\"\ntype = \"sql\"\nsql = \"CREATE TABLE IF NOT EXISTS seen (id INTEGER, country TEXT, amount INTEGER)\"\n\
         [[steps]]\nname = \"split\"\nchunk = 2\n{more}[steps.reader]\n{READER}\n[steps.writer]\n{writer}\n"
    );
    fs::write(folder.join("job.toml"), text).unwrap();
}

fn load(folder: &Path, repository: &SqlRepository) -> Result<Job, JobFileError> {
    let jobs = JobFolder::new(folder).database(repository.database().clone());
    let job = jobs.load(&folder.join("job.toml"))?;
    drop(jobs);
    Ok(Arc::into_inner(job).expect("the folder of jobs is closed"))
}

/// Runs the job, once more if it does not complete, and returns the files that it left and the rows of the table `seen`.
fn left(writer: &str, more: &str, crash: Option<(CommitPoint, u64)>) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), writer, more);
    let store = folder.path().join("store.db");
    let repository = SqlRepository::sqlite(&store).unwrap();
    let job = load(folder.path(), &repository).unwrap();
    let mut bench = TestBench::on(Arc::new(repository), job);
    if let Some((point, commit)) = crash {
        bench.crash_at(point, commit);
    }
    let mut ended = bench.run();
    if crash.is_some() && ended.status != BatchStatus::Completed {
        ended = bench.restart();
    }
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    let mut all: Vec<(String, String)> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "csv" || ending == "jsonl"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    let database = rusqlite::Connection::open(store).unwrap();
    let mut rows = database.prepare("SELECT id FROM seen ORDER BY rowid").unwrap();
    let rows = rows.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    let rows: Vec<String> = rows.map(|id| id.unwrap().to_string()).collect();
    all.push(("seen".to_owned(), rows.join(" ")));
    all.sort();
    all
}

fn is_exact(writer: &str, expected: &[(&str, &str)]) {
    let expected: Vec<(String, String)> =
        expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    assert_eq!(left(writer, "", None), expected);
    for commit in 1..=4 {
        for point in [CommitPoint::Before, CommitPoint::After] {
            assert_eq!(left(writer, "", Some((point, commit))), expected, "{point:?} {commit}");
        }
    }
}

const ROUTES: &str = "type = \"route\"\n\
    routes = [{ when = \"item.amount > params.large\", writer = { type = \"lines\", path = \"large.csv\", field = \"id\" } },\n\
              { when = \"item.country == 'FR'\", writer = { type = \"sql\", table = \"seen\" } }]\n";

#[test]
fn each_record_goes_to_the_first_route_that_accepts_it_wherever_the_process_dies() {
    let writer = format!("{ROUTES}otherwise = {{ type = \"jsonl\", path = \"rest.jsonl\" }}");
    is_exact(
        &writer,
        &[
            ("large.csv", "3\n5\n"),
            (
                "rest.jsonl",
                "{\"amount\":50,\"country\":\"DE\",\"id\":2}\n{\"amount\":7,\"country\":\"IT\",\"id\":4}\n",
            ),
            ("seen", "1"),
        ],
    );
}

#[test]
fn each_record_goes_to_every_one_of_many_writers_wherever_the_process_dies() {
    is_exact(
        "type = \"many\"\nwriters = [{ type = \"csv\", path = \"a.csv\", columns = [\"id\", \"country\", \"amount\"] }, \
         { type = \"sql\", table = \"seen\" }, { type = \"many\", writers = [{ type = \"lines\", path = \"b.csv\", field = \"id\" }] }]",
        &[
            ("a.csv", "id,country,amount\n1,FR,5\n2,DE,50\n3,FR,500\n4,IT,7\n5,DE,900\n"),
            ("b.csv", "1\n2\n3\n4\n5\n"),
            ("seen", "1 2 3 4 5"),
        ],
    );
}

#[test]
fn a_record_without_a_route_is_bad_and_can_be_skipped() {
    let skip = "skip = { limit = 2, dead_letter = \"rejected.jsonl\" }\n";
    let found = left(ROUTES, skip, None);
    assert_eq!(found[0], ("large.csv".to_owned(), "3\n5\n".to_owned()));
    let rejected = &found[1].1;
    assert_eq!(rejected.lines().count(), 2, "{rejected}");
    assert_eq!(rejected.matches("data.no_route").count(), 2, "{rejected}");
    assert!(rejected.contains("no route accepts it, and there is no `otherwise`"), "{rejected}");
    assert_eq!(found[2], ("seen".to_owned(), "1".to_owned()));
}

#[test]
fn another_database_is_refused_as_one_of_several() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.db");
    rusqlite::Connection::open(&other)
        .unwrap()
        .execute_batch("CREATE TABLE t (id INTEGER)")
        .unwrap();
    let writer = format!(
        "type = \"many\"\nwriters = [{{ type = \"none\" }}, {{ type = \"sql\", table = \"t\", url = \"sqlite://{}\" }}]",
        other.display()
    );
    write(folder.path(), &writer, "");
    let repository = SqlRepository::sqlite(folder.path().join("store.db")).unwrap();
    let job = load(folder.path(), &repository).unwrap();
    let ended = TestBench::on(Arc::new(repository), job).run();
    let message = ended.failure.unwrap().message;
    assert!(message.contains("give that writer a step of its own"), "{message}");
}

#[test]
fn problems_of_members_are_shown_where_they_are() {
    for (writer, wanted) in [
        ("type = \"many\"\nwriters = []", "`writers` has at least one writer"),
        (
            "type = \"many\"\nwriters = [{ type = \"csw\" }]",
            "there is no writer of type `csw`; there are: ",
        ),
        ("type = \"many\"\nwriters = [{ type = \"csv\" }]", "key `path` is missing"),
        ("type = \"many\"\nwriters = [7]", "a writer is a table with a `type`"),
        ("type = \"route\"\nroutes = []", "`routes` has at least one route"),
        (
            "type = \"route\"\nroutes = [{ when = \"item.a >\", writer = { type = \"none\" } }]",
            "line 15, column 20",
        ),
        (
            "type = \"route\"\nroutes = [{ when = \"true\", wirter = { type = \"none\" } }]",
            "wirter",
        ),
        (
            "type = \"route\"\nroutes = [{ when = \"true\", writer = { type = \"none\", path = \"x\" } }]",
            "no key `path`",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), writer, "");
        let repository = SqlRepository::sqlite(folder.path().join("store.db")).unwrap();
        let error = load(folder.path(), &repository).unwrap_err().to_string();
        assert!(error.contains(wanted), "{writer}: {error}");
    }
}

#[test]
fn partitions_cannot_share_the_file_of_a_member() {
    for member in ["jsonl", "csv"] {
        let folder = tempfile::tempdir().unwrap();
        let writer = format!(
            "type = \"many\"\nwriters = [{{ type = \"none\" }}, {{ type = \"{member}\", path = \"out\" }}]"
        );
        write(
            folder.path(),
            &writer,
            "partition = { grid = 2, by = { range = { min = 1, max = 4 } } }\n",
        );
        let repository = SqlRepository::sqlite(folder.path().join("store.db")).unwrap();
        let error = load(folder.path(), &repository).unwrap_err().to_string();
        assert!(error.contains("every partition would write this file"), "{error}");
    }
}
