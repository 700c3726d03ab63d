//! Processors that change the number of records: each output once, wherever the process dies.

use std::fs;
use std::sync::Arc;

use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, Job};
use batchwright_jobfile::JobFolder;
use tempfile::TempDir;

/// A folder with `input` and a job that copies it to `out` by `processors`, with chunks of `chunk` items.
fn job(input: (&str, &str), processors: &str, chunk: u64) -> Result<(TempDir, Job), String> {
    let folder = tempfile::tempdir().unwrap();
    let (kind, content) = input;
    fs::write(folder.path().join("in"), content).unwrap();
    let text = format!(
        "name = \"job\"\n[[steps]]\nname = \"copy\"\nchunk = {chunk}\nreader = {{ type = \"{kind}\", path = \"in\" }}\n\
         writer = {{ type = \"jsonl\", path = \"out\" }}\nskip = {{ limit = 100, dead_letter = \"bad\" }}\n{processors}"
    );
    let file = folder.path().join("job.toml");
    fs::write(&file, text).unwrap();
    let job = JobFolder::new(folder.path()).load(&file).map_err(|error| error.to_string())?;
    Ok((folder, Arc::into_inner(job).unwrap()))
}

/// Runs the job with a crash at commit `crash` unless it is 0; returns the output and the dead letters, or the failure.
fn run_at(
    input: (&str, &str),
    processors: &str,
    chunk: u64,
    crash: u64,
) -> Result<(String, String), String> {
    let (folder, job) = job(input, processors, chunk)?;
    let mut bench = TestBench::of(job);
    if crash > 0 {
        bench.crash_at(CommitPoint::After, crash);
    }
    let mut ended = bench.run();
    if crash > 0 && ended.status != BatchStatus::Completed {
        ended = bench.restart();
    }
    match ended.failure {
        Some(failure) => Err(failure.message),
        None => {
            let read = |name: &str| fs::read_to_string(folder.path().join(name));
            let letters = read("bad").unwrap_or_default();
            let letters = letters.lines().map(|line| line.split_once(',').unwrap().1).collect();
            Ok((read("out").unwrap(), letters))
        }
    }
}

/// The output of the job, which is the same after a crash at any commit, in chunks of any size.
fn run(input: (&str, &str), processors: &str) -> (String, String) {
    let whole = run_at(input, processors, 100, 0).unwrap();
    for chunk in 1..=3 {
        for crash in 0..=12 {
            let again = run_at(input, processors, chunk, crash).unwrap();
            assert_eq!(again, whole, "chunk {chunk}, crash at commit {crash}");
        }
    }
    whole
}

fn fails(input: (&str, &str), processors: &str) -> String {
    run_at(input, processors, 2, 0).unwrap_err()
}

const ORDERS: &str = "customer,amount,day\nada,1.10,mon\nbob,2,tue\nada,3.30,mon\ncid,,mon\nbob,x,mon\nada,4,wed\nbob,5,\n";

#[test]
fn an_aggregate_has_one_record_for_each_key() {
    let processor = r#"
[[steps.processors]]
type = "aggregate"
by = ["customer"]
set = { total = { sum = "amount" }, n = { count = "*" }, paid = { count = "amount" }, least = { min = "amount" }, most = { max = "amount" }, first = { first = "day" }, last = { last = "day" } }
"#;
    let empty_as_null = "\n[[steps.processors]]\ntype = \"map\"\nset = { amount = 'if item.amount == \"\" { null } else { item.amount }' }\n";
    let (out, bad) = run(("csv", ORDERS), &format!("{empty_as_null}{processor}"));
    assert_eq!(
        out,
        "{\"customer\":\"ada\",\"first\":\"mon\",\"last\":\"wed\",\"least\":\"1.10\",\"most\":\"4\",\"n\":3,\"paid\":3,\"total\":8.40}\n\
         {\"customer\":\"bob\",\"first\":\"tue\",\"last\":\"\",\"least\":\"2\",\"most\":\"5\",\"n\":2,\"paid\":2,\"total\":7}\n\
         {\"customer\":\"cid\",\"first\":\"mon\",\"last\":\"mon\",\"least\":null,\"most\":null,\"n\":1,\"paid\":0,\"total\":null}\n"
    );
    assert!(bad.contains("cannot aggregate") && bad.contains("bob"), "{bad}");
    for few in 1..=2 {
        let few = processor.replace("by =", &format!("groups_max = {few}\nby ="));
        let found = run(("csv", ORDERS), &format!("{empty_as_null}{few}"));
        assert_eq!(found, (out.clone(), bad.clone()), "the other groups are in a file");
    }
    let all = "[[steps.processors]]\ntype = \"aggregate\"\nset = { n = { count = \"*\" } }\n";
    assert_eq!(run(("csv", ORDERS), all).0, "{\"n\":7}\n");
    assert_eq!(run(("csv", "customer\n"), all).0, "");
}

#[test]
fn groups_beyond_those_in_memory_are_the_same_in_the_same_order() {
    let lines: String = (0..9_000_u64).map(|n| format!("{},{n}\n", n * 7919 % 3_001)).collect();
    let input = format!("key,n\n{lines}");
    let of = |few: &str| {
        let processor = format!(
            "[[steps.processors]]\ntype = \"aggregate\"\nby = [\"key\"]\n{few}\
             set = {{ n = {{ sum = \"n\" }}, last = {{ last = \"n\" }} }}\n"
        );
        // A death while the groups are given: a restart makes them once more.
        [0, 2].map(|crash| run_at(("csv", &input), &processor, 1_000, crash).unwrap().0)
    };
    let [whole, again] = of("");
    assert_eq!(whole.lines().count(), 3_001);
    assert!(again == whole && of("groups_max = 100\n") == [whole.as_str(), whole.as_str()]);
}

#[test]
fn a_sorted_aggregate_needs_no_memory_and_refuses_another_order() {
    let sorted = "[[steps.processors]]\ntype = \"aggregate\"\nby = [\"a\", \"b\"]\nsorted = true\nset = { n = { sum = \"n\" } }\n";
    let input = "a,b,n\n10,x,1\n10,x,2\n10,a,3\n9,z,4\n9,z,x\n9,y,5\n8,q,8\n,y,6\n,y,7\n";
    let (out, bad) = run(("csv", input), sorted);
    assert_eq!(
        out,
        "{\"a\":\"10\",\"b\":\"x\",\"n\":3}\n{\"a\":\"10\",\"b\":\"a\",\"n\":3}\n{\"a\":\"9\",\"b\":\"z\",\"n\":4}\n\
         {\"a\":\"9\",\"b\":\"y\",\"n\":5}\n{\"a\":\"8\",\"b\":\"q\",\"n\":8}\n{\"a\":\"\",\"b\":\"y\",\"n\":13}\n"
    );
    assert!(bad.contains("cannot aggregate `n`"), "{bad}");
    let failed = fails(("csv", "a,b,n\n1,x,1\n3,x,1\n2,x,1\n"), sorted);
    assert!(failed.contains("not sorted by `a`: `2` comes after `3`"), "{failed}");
}

#[test]
fn the_first_record_of_each_key_stays() {
    let processor = "[[steps.processors]]\ntype = \"deduplicate\"\nby = [\"customer\", \"day\"]\n";
    let (out, _) = run(("csv", ORDERS), processor);
    let amounts: Vec<&str> = out.lines().map(|line| line.split('"').nth(7).unwrap()).collect();
    assert_eq!(amounts, ["1.10", "2", "", "x", "4", "5"]);
    let few = format!("{processor}keys_max = 2\n");
    assert!(fails(("csv", ORDERS), &few).contains("there are more than 2 keys (`keys_max`)"));
    // Texts that look alike when they are put together are two keys.
    let (out, _) = run(("csv", "customer,day\na,1:b\na1:,b\na,1:b\n"), processor);
    assert_eq!(out.lines().count(), 2);
}

#[test]
fn a_split_makes_a_record_of_each_element() {
    let lines = r#"{"id":1,"lines":[{"sku":"a","price":1.10},{"sku":"b","price":2}],"x":true}
{"id":2,"lines":[]}
{"id":3,"lines":null}
{"id":4,"lines":[5,"x",[6],null]}
{"id":5,"lines":7}
{"id":6,"lines":[{"id":9}]}
{"id":7,"lines":[{"sku":"c","price":3}],"x":false}
"#;
    let split = "[[steps.processors]]\ntype = \"split\"\nfield = \"lines\"\n";
    let (out, bad) = run(("jsonl", lines), &format!("{split}index = \"n\"\n"));
    assert_eq!(
        out,
        "{\"id\":1,\"sku\":\"a\",\"price\":1.10,\"x\":true,\"n\":1}\n{\"id\":1,\"sku\":\"b\",\"price\":2,\"x\":true,\"n\":2}\n\
         {\"id\":4,\"lines\":5,\"n\":1}\n{\"id\":4,\"lines\":\"x\",\"n\":2}\n{\"id\":4,\"lines\":[6],\"n\":3}\n{\"id\":4,\"lines\":null,\"n\":4}\n\
         {\"id\":7,\"sku\":\"c\",\"price\":3,\"x\":false,\"n\":1}\n"
    );
    assert!(bad.contains("cannot split field `lines`: it is no list"), "{bad}");
    assert!(bad.contains("both have a field `id`"), "{bad}");
    let (out, _) =
        run(("jsonl", "{\"id\":1,\"lines\":[]}\n"), &format!("{split}keep_empty = true\n"));
    assert_eq!(out, "{\"id\":1,\"lines\":null}\n");
    let (out, _) =
        run(("csv", "id,lines\n1,a;b\n2,\n3,c\n"), &format!("{split}separator = \";\"\n"));
    assert_eq!(out.lines().count(), 3, "{out}");
}

#[test]
fn they_follow_each_other_and_other_processors_in_any_order() {
    let processors = r#"
[[steps.processors]]
type = "split"
field = "tags"
separator = " "

[[steps.processors]]
type = "filter"
when = 'item.tags != "x"'

[[steps.processors]]
type = "deduplicate"
by = ["id", "tags"]

[[steps.processors]]
type = "aggregate"
by = ["tags"]
set = { n = { count = "*" } }

[[steps.processors]]
type = "reject"
when = "item.n > 2"
"#;
    let input = "id,tags\n1,a b a\n2,x b\n3,c\n4,a c b\n";
    let (out, bad) = run(("csv", input), processors);
    assert_eq!(out, "{\"tags\":\"a\",\"n\":2}\n{\"tags\":\"c\",\"n\":2}\n");
    assert!(bad.contains("rejected: item.n > 2"), "{bad}");
}

#[test]
fn wrong_keys_are_refused_when_the_job_is_read() {
    for (processor, wanted) in [
        ("type = \"split\"\nfield = \"a\"\nseparator = \"\"", "`separator` is not empty"),
        ("type = \"deduplicate\"\nby = []", "`by` has at least one name"),
        ("type = \"aggregate\"\nsorted = true\nset = {}", "a sorted input needs `by`"),
        (
            "type = \"aggregate\"\nby = [\"a\"]\nset = { a = { count = \"*\" } }",
            "the field `a` is there twice",
        ),
        ("type = \"aggregate\"\nset = { a = { median = \"b\" } }", "median"),
    ] {
        let refused = fails(("csv", "a\n1\n"), &format!("[[steps.processors]]\n{processor}\n"));
        assert!(refused.contains(wanted), "{processor}: {refused}");
    }
    let text = "name = \"job\"\n[[steps]]\nname = \"copy\"\ntype = \"progressive\"\nreader = { type = \"csv\", path = \"in\" }\n\
        processors = [{ type = \"split\", field = \"a\" }]\n";
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("job.toml"), text).unwrap();
    let refused = JobFolder::new(folder.path()).load(&folder.path().join("job.toml")).unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("a progressive step cannot have the processor `split`"), "{refused}");
    let unknown = "[[steps.processors]]\ntype = \"deduplicate\"\nby = [\"b\"]\n";
    assert!(fails(("csv", "a\n1\n"), unknown).contains("`by`: the item has no `b`"));
}

#[test]
fn a_restart_with_other_records_before_its_position_is_refused() {
    let processor = "[[steps.processors]]\ntype = \"deduplicate\"\nby = [\"id\"]\n";
    let (folder, job) = job(("csv", "id\n1\n2\n3\n4\n"), processor, 1).unwrap();
    let mut bench = TestBench::of(job);
    bench.crash_at(CommitPoint::After, 2);
    bench.run();
    fs::write(folder.path().join("in"), "id\n1\n1\n3\n4\n").unwrap();
    let failure = bench.restart().failure.unwrap();
    assert!(failure.message.contains("changed"), "{failure:?}");
}

#[test]
fn the_rows_of_a_query_are_aggregated_once_too() {
    let folder = tempfile::tempdir().unwrap();
    let database = rusqlite::Connection::open(folder.path().join("shop.db")).unwrap();
    database
        .execute_batch(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, cents INTEGER);
             INSERT INTO orders VALUES (1,'ada',1),(2,'ada',2),(3,'bob',3),(4,'cid',4),(5,'cid',5),(6,'dan',6);",
        )
        .unwrap();
    for (key, sorted) in
        [("key = \"id\"", "sorted = true"), ("", "sorted = true"), ("key = \"id\"", "")]
    {
        for crash in 0..=5 {
            let text = format!(
                "name = \"job\"\n[[steps]]\nname = \"sum\"\nchunk = 1\nwriter = {{ type = \"csv\", path = \"out\" }}\n\
                 [steps.reader]\ntype = \"sql\"\nurl = \"sqlite://{}\"\nquery = \"SELECT id, customer, cents FROM orders\"\n{key}\n\
                 [[steps.processors]]\ntype = \"aggregate\"\nby = [\"customer\"]\nset = {{ cents = {{ sum = \"cents\" }} }}\n{sorted}\n",
                folder.path().join("shop.db").display()
            );
            let file = folder.path().join("job.toml");
            fs::write(&file, text).unwrap();
            let job = JobFolder::new(folder.path()).load(&file).unwrap();
            let mut bench = TestBench::of(Arc::into_inner(job).unwrap());
            if crash > 0 {
                bench.crash_at(CommitPoint::Before, crash);
            }
            let mut ended = bench.run();
            if crash > 0 && ended.status != BatchStatus::Completed {
                ended = bench.restart();
            }
            assert_eq!(ended.status, BatchStatus::Completed, "{crash}: {:?}", ended.failure);
            let out = fs::read_to_string(folder.path().join("out")).unwrap();
            assert_eq!(
                out, "customer,cents\nada,3\nbob,3\ncid,9\ndan,6\n",
                "{key} {sorted} {crash}"
            );
        }
    }
}

#[test]
fn rows_that_are_gone_before_the_position_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database
        .execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1),(2),(3),(4);",
        )
        .unwrap();
    let text = format!(
        "name = \"job\"\n[[steps]]\nname = \"copy\"\nchunk = 1\nwriter = {{ type = \"csv\", path = \"out\" }}\n\
         reader = {{ type = \"sql\", url = \"sqlite://{}\", query = \"SELECT id FROM t\", key = \"id\" }}\n\
         processors = [{{ type = \"deduplicate\", by = [\"id\"] }}]\n",
        path.display()
    );
    let file = folder.path().join("job.toml");
    fs::write(&file, text).unwrap();
    let job = JobFolder::new(folder.path()).load(&file).unwrap();
    let mut bench = TestBench::of(Arc::into_inner(job).unwrap());
    bench.crash_at(CommitPoint::After, 2);
    bench.run();
    database.execute_batch("DELETE FROM t WHERE id = 1").unwrap();
    let failure = bench.restart().failure.unwrap();
    assert!(failure.message.contains("the records before the position are others"), "{failure:?}");
}

#[test]
fn an_input_that_ends_with_what_is_no_record_restarts_too() {
    let unsorted = "[[steps.processors]]\ntype = \"aggregate\"\nby = [\"id\"]\nset = { n = { count = \"*\" } }\n";
    let sorted = format!("{unsorted}sorted = true\n");
    let unique = "[[steps.processors]]\ntype = \"deduplicate\"\nby = [\"id\"]\n";
    for input in ["id\n1\n2\n2\n\n\n", "id\r\n1\r\n2\r\n2\r\n\r\n", "id\n1\n2\n2\n"] {
        for processors in [
            unsorted,
            &sorted,
            &format!("{unique}{unsorted}"),
            &format!("{unique}{sorted}{unique}"),
        ] {
            assert_eq!(run(("csv", input), processors).0.lines().count(), 2, "{processors}");
        }
    }
    let lines = "{\"id\":[1,2]}\n\n{\"id\":[2]}\n{\"id\":[]}\n\n";
    let split = "[[steps.processors]]\ntype = \"split\"\nfield = \"id\"\n";
    for processors in [format!("{split}{unsorted}"), format!("{split}{unique}{sorted}")] {
        assert_eq!(run(("jsonl", lines), &processors).0.lines().count(), 2, "{processors}");
    }
}

#[test]
fn sums_are_exact_or_fail() {
    let sum = "[[steps.processors]]\ntype = \"aggregate\"\nset = { s = { sum = \"n\" } }\n";
    let total = |numbers: &[&str]| {
        let input = format!("n\n{}\n", numbers.join("\n"));
        run_at(("csv", &input), sum, 10, 0).map(|(out, _)| out)
    };
    for (numbers, expected) in [
        (&["0.1", "0.2"][..], "0.3"),
        (&["9223372036854775807", "1", "-1"], "9223372036854775807"),
        (&["9223372036854775807", "1"], "9223372036854775808"),
        (&["1.10", "1.1"], "2.20"),
        (&["1e3", "0.1", "0.2"], "1000.3"),
        (&["12.50e-1", "0e-30", "0e99"], "1.25"),
        (&["1.5e2"], "150"),
    ] {
        assert_eq!(total(numbers), Ok(format!("{{\"s\":{expected}}}\n")), "{numbers:?}");
    }
    for numbers in [&["99999999999999999999", "0.000000001234"][..], &["7e28", "7e28"]] {
        let failed = total(numbers).unwrap_err();
        assert!(failed.contains("the sum has more than 28 digits"), "{numbers:?}: {failed}");
    }
    // Records that no sum can have are bad ones.
    for number in [
        "123456789012345678901234567890123",
        "1.23456789012345678901234567890123456e0",
        "2.220446049250313e-16",
        "1e300",
    ] {
        let input = format!("n\n1\n{number}\n");
        let (out, bad) = run_at(("csv", &input), sum, 10, 0).unwrap();
        assert!(out == "{\"s\":1}\n" && bad.contains("has more than 28 digits"), "{out} {bad}");
    }
}

#[test]
fn each_other_order_of_a_sorted_input_is_refused_also_after_a_restart() {
    let sorted = "[[steps.processors]]\ntype = \"aggregate\"\nby = [\"g\"]\nsorted = true\nset = { n = { count = \"*\" } }\n";
    let lines = |values: &[&str]| -> String {
        values.iter().map(|value| format!("{{\"g\":{value}}}\n")).collect()
    };
    for values in [
        &["\"A1\"", "10", "\"A1\""][..],
        &["\"x\"", "null", "\"x\"", "null"],
        &["true", "false", "true"],
        &["1", "1.0", "1"],
        &["1", "2", "3", "2"],
        &["3", "2", "3"],
    ] {
        let input = lines(values);
        for crash in 0..=2 {
            let failed = run_at(("jsonl", &input), sorted, 1, crash).unwrap_err();
            assert!(failed.contains("not sorted by `g`"), "{values:?} {crash}: {failed}");
        }
    }
    for values in [
        &["null", "1", "2"][..],
        &["2", "1", "null"],
        &["false", "true"],
        &["\"a\"", "\"b\"", "\"b\""],
    ] {
        let input = lines(values);
        assert!(run(("jsonl", &input), sorted).0.lines().count() > 1, "{values:?}");
    }
    let twice = "[[steps.processors]]\ntype = \"split\"\nfield = \"g\"\n";
    let (out, bad) = run(("jsonl", "{\"g\":[{\"x\":1},{\"x\":1,\"x\":2}]}\n{\"g\":[1]}\n"), twice);
    assert!(out == "{\"g\":1}\n" && bad.contains("the name `x` occurs twice"), "{out} {bad}");
}
