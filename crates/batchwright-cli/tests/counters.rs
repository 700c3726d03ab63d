//! `run --inject` counts exactly what the contract says, row by row, through the real binary.

mod common;

use common::Place;

/// Row of the contract, items, chunk, skip limit, attempts, filtered items, plan, expected end:
/// `status read/write/filter read_skip,process_skip,write_skip commit rollback`.
type Case = (&'static str, u64, u64, Option<u64>, u32, &'static [u64], &'static str, &'static str);

const CASES: [Case; 32] = [
    ("40.1 plain", 10, 3, None, 1, &[], "{}", "COMPLETED 10/10/0 0,0,0 4 0"),
    ("40.2 exact multiple", 9, 3, None, 1, &[], "{}", "COMPLETED 9/9/0 0,0,0 3 0"),
    ("40.3 empty input", 0, 3, None, 1, &[], "{}", "COMPLETED 0/0/0 0,0,0 0 0"),
    ("40.4 filter", 10, 3, None, 1, &[2, 5], "{}", "COMPLETED 10/8/2 0,0,0 4 0"),
    ("40.5 all filtered", 4, 2, None, 1, &[1, 2, 3, 4], "{}", "COMPLETED 4/0/4 0,0,0 2 0"),
    ("40.6 process error", 10, 3, None, 1, &[], r#"{"process":[5]}"#, "FAILED 6/3/0 0,0,0 1 1"),
    ("40.7 write error", 10, 3, None, 1, &[], r#"{"write":[5]}"#, "FAILED 6/3/0 0,0,0 1 1"),
    ("40.8 read error", 10, 3, None, 1, &[], r#"{"read":[5]}"#, "FAILED 4/3/0 0,0,0 1 1"),
    ("40.9 read skip", 10, 3, Some(10), 1, &[], r#"{"read":[2,5]}"#, "COMPLETED 8/8/0 2,0,0 4 0"),
    (
        "40.10 process skip",
        10,
        3,
        Some(10),
        1,
        &[],
        r#"{"process":[5]}"#,
        "COMPLETED 10/9/0 0,1,0 4 0",
    ),
    (
        "40.11 write skip middle",
        10,
        3,
        Some(10),
        1,
        &[],
        r#"{"write":[5]}"#,
        "COMPLETED 10/9/0 0,0,1 5 2",
    ),
    (
        "40.12 write skip first",
        10,
        3,
        Some(10),
        1,
        &[],
        r#"{"write":[4]}"#,
        "COMPLETED 10/9/0 0,0,1 5 2",
    ),
    (
        "40.13 write skip last",
        10,
        3,
        Some(10),
        1,
        &[],
        r#"{"write":[6]}"#,
        "COMPLETED 10/9/0 0,0,1 6 2",
    ),
    (
        "40.14 write skip all",
        10,
        3,
        Some(10),
        1,
        &[],
        r#"{"write":[4,5,6]}"#,
        "COMPLETED 10/7/0 0,0,3 4 4",
    ),
    (
        "40.15 one-item chunk",
        10,
        3,
        Some(10),
        1,
        &[],
        r#"{"write":[10]}"#,
        "COMPLETED 10/9/0 0,0,1 4 1",
    ),
    (
        "40.16 one of each",
        10,
        3,
        Some(3),
        1,
        &[],
        r#"{"read":[2],"process":[5],"write":[8]}"#,
        "COMPLETED 9/7/0 1,1,1 5 2",
    ),
    (
        "40.17 one too many",
        10,
        3,
        Some(2),
        1,
        &[],
        r#"{"read":[2],"process":[5],"write":[8]}"#,
        "FAILED 8/5/0 1,1,0 3 2",
    ),
    (
        "40.18 process limit",
        10,
        3,
        Some(1),
        1,
        &[],
        r#"{"process":[2,5]}"#,
        "FAILED 6/2/0 0,1,0 1 1",
    ),
    ("40.19 write limit", 10, 3, Some(1), 1, &[], r#"{"write":[2,5]}"#, "FAILED 6/3/0 0,0,1 3 4"),
    (
        "40.20 flaky process",
        10,
        3,
        None,
        4,
        &[],
        r#"{"process_flaky":{"5":2}}"#,
        "COMPLETED 10/10/0 0,0,0 4 0",
    ),
    (
        "40.21 flaky write",
        10,
        3,
        None,
        4,
        &[],
        r#"{"write_flaky":{"5":2}}"#,
        "COMPLETED 10/10/0 0,0,0 4 2",
    ),
    (
        "40.22 flaky read",
        10,
        3,
        None,
        4,
        &[],
        r#"{"read_flaky":{"5":2}}"#,
        "COMPLETED 10/10/0 0,0,0 4 0",
    ),
    (
        "40.23 process, retry, skip",
        10,
        3,
        Some(10),
        3,
        &[],
        r#"{"process":[5]}"#,
        "COMPLETED 10/9/0 0,1,0 4 0",
    ),
    (
        "40.24 write, retry, skip",
        10,
        3,
        Some(10),
        3,
        &[],
        r#"{"write":[5]}"#,
        "COMPLETED 10/9/0 0,0,1 5 4",
    ),
    ("40.25 process, retry", 10, 3, None, 3, &[], r#"{"process":[5]}"#, "FAILED 6/3/0 0,0,0 1 1"),
    ("40.26 write, retry", 10, 3, None, 3, &[], r#"{"write":[5]}"#, "FAILED 6/3/0 0,0,0 1 3"),
    (
        "40.27 fatal process",
        10,
        3,
        Some(10),
        3,
        &[],
        r#"{"fatal_process":[5]}"#,
        "FAILED 6/3/0 0,0,0 1 1",
    ),
    (
        "40.28 fatal write",
        10,
        3,
        Some(10),
        3,
        &[],
        r#"{"fatal_write":[5]}"#,
        "FAILED 6/3/0 0,0,0 1 1",
    ),
    (
        "40.29 filter, process, write",
        10,
        3,
        Some(10),
        1,
        &[4],
        r#"{"process":[5],"write":[8]}"#,
        "COMPLETED 10/7/1 0,1,1 5 2",
    ),
    (
        "40.30 filter and write",
        10,
        3,
        Some(10),
        1,
        &[4],
        r#"{"write":[5]}"#,
        "COMPLETED 10/8/1 0,0,1 4 2",
    ),
    (
        "40.31 a whole chunk unread",
        10,
        3,
        Some(10),
        1,
        &[],
        r#"{"read":[4,5,6]}"#,
        "COMPLETED 7/7/0 3,0,0 4 0",
    ),
    (
        "40.32 last record unread",
        10,
        3,
        Some(10),
        1,
        &[],
        r#"{"read":[10]}"#,
        "COMPLETED 9/9/0 1,0,0 4 0",
    ),
];

#[test]
fn every_row_of_the_contract_is_counted_exactly() {
    for (row, count, chunk, limit, attempts, filtered, plan, expected) in CASES {
        let place = Place::new();
        place.write("job.toml", job(count, chunk, limit, attempts, filtered));
        let arguments = ["run", "job.toml", "--format", "json", "--inject", plan];
        let done = place.run(&arguments);
        let json = done.json();
        let step = &json["steps"][1];
        let counted = format!(
            "{} {}/{}/{} {},{},{} {} {}",
            step["status"].as_str().unwrap(),
            step["read"],
            step["write"],
            step["filter"],
            step["read_skip"],
            step["process_skip"],
            step["write_skip"],
            step["commit"],
            step["rollback"]
        );
        assert_eq!(counted, expected, "{row}: {}", done.out);
        let rows = place.numbers("batchwright.db", "number");
        assert_eq!(rows.len() as u64, step["write"].as_u64().unwrap(), "{row}: rows in the sink");
        let skips = place.run(&["skips", "1", "--format", "json"]).expect(0).out;
        let counted =
            ["read_skip", "process_skip", "write_skip"].map(|name| step[name].as_u64().unwrap());
        if expected.starts_with("COMPLETED") {
            assert_eq!(skips.lines().count() as u64, counted.iter().sum::<u64>(), "{row}: records");
        }
    }
}

#[test]
fn the_checkpoint_of_a_scan_that_was_cut_short_repeats_nothing_and_loses_nothing() {
    let place = Place::new();
    place.write("job.toml", job(10, 3, Some(1), 1, &[]));
    place.run(&["run", "job.toml", "--inject", r#"{"write":[2,5]}"#]).expect(1);
    assert_eq!(place.numbers("batchwright.db", "number"), [1, 3, 4], "40.19");
    let done = place.run(&["restart", "1", "--inject", r#"{"write":[5]}"#, "--format", "json"]);
    let step = done.expect(0).json()["steps"][0].clone();
    assert_eq!((&step["read"], &step["write"]), (&6.into(), &5.into()), "{step}");
    assert_eq!(place.numbers("batchwright.db", "number"), [1, 3, 4, 6, 7, 8, 9, 10]);
}

fn job(count: u64, chunk: u64, limit: Option<u64>, attempts: u32, filtered: &[u64]) -> String {
    let skip = limit.map_or_else(String::new, |limit| format!("skip = {{ limit = {limit} }}"));
    let filter: Vec<_> = filtered.iter().map(|item| format!("item.n != {item}")).collect();
    let filter = match filter.is_empty() {
        true => "true".to_owned(),
        false => filter.join(" && "),
    };
    format!(
        r#"
name = "numbers"

[[steps]]
name = "prepare"
type = "sql"
sql = "CREATE TABLE IF NOT EXISTS number (n INTEGER NOT NULL)"

[[steps]]
name = "load"
chunk = {chunk}
reader = {{ type = "sequence", count = {count} }}
processors = [{{ type = "filter", when = "{filter}" }}]
writer = {{ type = "sql", table = "number" }}
retry = {{ max_attempts = {attempts} }}
{skip}
"#
    )
}
