//! The processor `lookup`: each record gets the fields of its row, or what the job says about records without one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, Job};
use batchwright_jobfile::JobFolder;
use tempfile::TempDir;

const CITIES: &str = "code,city,people\nLY,Lyon,520000\nPA,Paris,2100000\nNI,Nice,340000\n";
const ORDERS: &str = "id,place\n1,PA\n2,LY\n3,PA\n4,XX\n5,NI\n";

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cities.csv"), CITIES).unwrap();
    fs::write(folder.path().join("orders.csv"), ORDERS).unwrap();
    folder
}

fn load(folder: &Path, lookup: &str, more: &str) -> Result<Job, String> {
    let text = format!(
        "name = \"job\"\n[[steps]]\nname = \"enrich\"\nchunk = 2\nreader = {{ type = \"csv\", path = \"orders.csv\" }}\n{more}\
         [[steps.processors]]\ntype = \"lookup\"\n{lookup}\n"
    );
    fs::write(folder.join("job.toml"), text).unwrap();
    let job = JobFolder::new(folder).load(&folder.join("job.toml"));
    job.map_err(|error| error.to_string())
        .map(|job| Arc::into_inner(job).expect("the folder of jobs is closed"))
}

const OUT: &str = "writer = { type = \"jsonl\", path = \"out.jsonl\" }\n";
const FROM: &str = "from = { type = \"csv\", path = \"cities.csv\", columns = { people = \"integer\" } }\non = \"place\"\nkey = \"code\"\n";

#[test]
fn each_record_has_the_fields_of_its_row_wherever_the_process_dies() {
    let expected = |last: &str| {
        format!(
            "{{\"id\":\"1\",\"place\":\"PA\",\"people\":2100000,\"city\":\"Paris\"}}\n\
             {{\"id\":\"2\",\"place\":\"LY\",\"people\":520000,\"city\":\"Lyon\"}}\n\
             {{\"id\":\"3\",\"place\":\"PA\",\"people\":2100000,\"city\":\"Paris\"}}\n\
             {last}{{\"id\":\"5\",\"place\":\"NI\",\"people\":340000,\"city\":\"Nice\"}}\n"
        )
    };
    let null = "{\"id\":\"4\",\"place\":\"XX\",\"people\":null,\"city\":null}\n";
    for (missing, expected) in [("null", expected(null)), ("drop", expected(""))] {
        let lookup = format!("{FROM}fields = [\"people\", \"city\"]\nmissing = \"{missing}\"");
        for commit in 0..=3 {
            let folder = folder();
            let mut bench = TestBench::of(load(folder.path(), &lookup, OUT).unwrap());
            if commit > 0 {
                bench.crash_at(CommitPoint::After, commit);
            }
            let mut ended = bench.run();
            if ended.status != BatchStatus::Completed {
                ended = bench.restart();
            }
            assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
            assert_eq!(fs::read_to_string(folder.path().join("out.jsonl")).unwrap(), expected);
        }
    }
}

#[test]
fn a_record_without_a_row_is_bad_by_default() {
    let folder = folder();
    let skip = format!("{OUT}skip = {{ limit = 1, dead_letter = \"rejected.jsonl\" }}\n");
    let lookup = format!("{FROM}fields = [\"city\"]");
    let ended = TestBench::of(load(folder.path(), &lookup, &skip).unwrap()).run();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    let rejected = fs::read_to_string(folder.path().join("rejected.jsonl")).unwrap();
    assert!(
        rejected.contains("data.missing") && rejected.contains("no row has `XX`"),
        "{rejected}"
    );
}

#[test]
fn every_partition_looks_up_in_all_rows() {
    let folder = folder();
    let writer = "writer = { type = \"jsonl\", path = \"out-${partition.key}.jsonl\" }\n\
                  partition = { grid = 2, by = { bytes = \"orders.csv\" } }\n";
    let lookup = format!("{FROM}fields = [\"city\"]\nmissing = \"null\"");
    let ended = TestBench::of(load(folder.path(), &lookup, writer).unwrap()).run();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    let files = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let outputs = files.filter(|path| path.extension().is_some_and(|one| one == "jsonl"));
    let all: Vec<String> = outputs.map(|path| fs::read_to_string(path).unwrap()).collect();
    assert_eq!(all.len(), 2);
    let all = all.concat();
    assert_eq!(all.lines().count(), 5);
    for city in ["Paris", "Lyon", "Nice"] {
        assert!(all.contains(city), "{city}: {all}");
    }
}

#[test]
fn a_null_is_equal_to_nothing() {
    let folder = folder();
    let rows = "{\"code\":null,\"city\":\"x\"}\n{\"code\":null,\"city\":\"y\"}\n{\"code\":\"PA\",\"city\":\"Paris\"}\n";
    fs::write(folder.path().join("cities.jsonl"), rows).unwrap();
    fs::write(folder.path().join("orders.csv"), "id,place\n1,PA\n2,\n").unwrap();
    let lookup = "from = { type = \"jsonl\", path = \"cities.jsonl\" }\non = \"place\"\nkey = \"code\"\nfields = [\"city\"]\n\
                  missing = \"null\"";
    let ended = TestBench::of(load(folder.path(), lookup, OUT).unwrap()).run();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    let out = fs::read_to_string(folder.path().join("out.jsonl")).unwrap();
    assert_eq!(
        out,
        "{\"id\":\"1\",\"place\":\"PA\",\"city\":\"Paris\"}\n{\"id\":\"2\",\"place\":\"\",\"city\":null}\n"
    );
}

#[test]
fn a_placeholder_of_the_partition_is_refused_in_the_reader_of_the_rows() {
    let folder = folder();
    let writer = "writer = { type = \"jsonl\", path = \"out-${partition.key}.jsonl\" }\n\
                  partition = { grid = 2, by = { bytes = \"orders.csv\" } }\n";
    let lookup = format!("{FROM}fields = [\"city\"]").replace("cities.csv", "${partition.key}.csv");
    let error = load(folder.path(), &lookup, writer).err().unwrap();
    assert!(error.contains("line 10, column 31: `${partition.key}`"), "{error}");
}

#[test]
fn rows_that_cannot_be_used_and_wrong_keys_say_what_is_wrong() {
    let run = |cities: &str, lookup: &str| {
        let folder = folder();
        fs::write(folder.path().join("cities.csv"), cities).unwrap();
        match load(folder.path(), lookup, OUT) {
            Ok(job) => TestBench::of(job).run().failure.expect("the step fails").message,
            Err(error) => error,
        }
    };
    let lookup = format!("{FROM}fields = [\"city\"]\n");
    for (cities, lookup, wanted) in [
        ("code,city,people\nLY,a,1\nLY,b,1\n", lookup.clone(), "two rows have `code` = `LY`"),
        ("code,name,people\nLY,a,1\n", lookup.clone(), "a row has no field `city`"),
        (
            "code,city,people\nLY,a,x\n",
            lookup.clone(),
            "cannot read the rows to look up `place` in",
        ),
        (CITIES, format!("{lookup}rows_max = 2"), "there are more than 2 rows (`rows_max`)"),
        (CITIES, format!("{FROM}fields = []"), "`fields` has at least one name"),
        (CITIES, format!("{FROM}fields = [\"place\"]"), "the record has it already"),
        (CITIES, format!("{FROM}fields = [\"city\", \"city\"]"), "`city` is there twice"),
        (
            "code,id,people\nLY,a,1\n",
            format!("{FROM}fields = [\"id\"]"),
            "the item has `id` already",
        ),
        (CITIES, lookup.replace("\"place\"", "\"town\""), "the item has no `town`"),
        (CITIES, lookup.replace("cities.csv", "none.csv"), "none.csv"),
        (CITIES, "on = \"place\"\nfields = [\"city\"]".to_owned(), "key `from` is missing"),
    ] {
        let message = run(cities, &lookup);
        assert!(message.contains(wanted), "{lookup}: {message}");
    }
}
