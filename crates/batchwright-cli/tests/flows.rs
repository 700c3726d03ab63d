//! Flows of job files through the real command: what follows what, the picture, and what a restart runs.

mod common;

use common::Place;

const NIGHTLY: &str = r#"
name = "nightly"

[[steps]]
name = "prepare"
type = "sql"
sql = "CREATE TABLE IF NOT EXISTS number (n INTEGER PRIMARY KEY)"

[[steps]]
name = "fetch"
type = "command"
argv = ["false"]
[[steps.on]]
exit = "FAILED"
to = "load"

[[steps]]
name = "load"
chunk = 10
partition = { grid = 3, by = { range = { min = 1, max = "${params.count}" } } }
reader = { type = "sql", query = "WITH RECURSIVE s(n) AS (SELECT ${partition.min} UNION ALL SELECT n + 1 FROM s WHERE n < ${partition.max}) SELECT n FROM s" }
writer = { type = "sql", table = "number" }

[[steps]]
name = "reports"
type = "split"
[[steps.branches]]
name = "sums"
steps = [{ name = "sum", type = "command", argv = ["sh", "-c", "test -e go"] }]
[[steps.branches]]
name = "lists"
steps = [{ name = "list", type = "command", argv = ["true"] }]

[[steps]]
name = "many?"
type = "decision"
exit = 'if steps.load.write > 20 && "load" in steps { "MANY" } else { "FEW" }'
[[steps.on]]
exit = "MANY"
to = "tell"
[[steps.on]]
exit = "FEW"
end = "FEW"

[[steps]]
name = "tell"
type = "command"
argv = ["true"]

[parameters]
count = { type = "integer", default = 30 }
"#;

fn ran(place: &Place, id: i64) -> Vec<String> {
    let steps = place.show(id)["steps"].as_array().unwrap().clone();
    let mut names: Vec<_> =
        steps.iter().map(|step| step["name"].as_str().unwrap().to_owned()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_flow_with_split_decision_handled_failure_and_partitions_restarts_only_what_it_must() {
    let place = Place::new();
    place.write("job.toml", NIGHTLY);
    place.run(&["run", "job.toml"]).expect(1);
    let partitions = ["load:p0000", "load:p0001", "load:p0002"];
    let expected =
        [["fetch", "list", "load"].as_slice(), &partitions, &["prepare", "sum"]].concat();
    assert_eq!(ran(&place, 1), expected);
    let fetch = place.show(1)["steps"].as_array().unwrap()[1].clone();
    assert_eq!((&fetch["status"], &fetch["handled"]), (&"FAILED".into(), &true.into()));
    place.write("go", "");
    place.run(&["restart", "1"]).expect(0);
    assert_eq!(ran(&place, 2), ["sum", "tell"], "nothing else is done again");
    assert_eq!(place.numbers("batchwright.db", "number").len(), 30);
    place.run(&["run", "job.toml", "count=5"]).expect(1);
    assert_eq!(place.show(3)["failure"]["code"], "partition_failed", "numbers 1 to 5 are taken");
}

#[test]
fn the_picture_of_a_flow_shows_every_place_and_every_way() {
    let place = Place::new();
    place.write("job.toml", NIGHTLY);
    let svg = place.run(&["graph", "job.toml", "--format", "svg"]).expect(0).out;
    let dot = place.run(&["graph", "job.toml"]).expect(0).out;
    for word in
        ["fetch", "load", "reports", "sums", "lists", "many?", "MANY", "FEW", "tell", "FAILED"]
    {
        assert!(svg.contains(word), "the picture lacks {word}");
        assert!(dot.contains(word), "the graph lacks {word}");
    }
    assert_eq!(svg.matches("<svg").count(), 1);
    assert!(svg.trim_end().ends_with("</svg>"));
}

#[test]
fn what_is_wrong_with_a_flow_is_told_before_anything_runs() {
    let place = Place::new();
    let step = "[[steps]]\nname = \"a\"\ntype = \"command\"\nargv = [\"true\"]\n";
    for (more, message) in [
        ("on = [{ exit = \"X\", to = \"b\" }]", "goes to `b`, which does not exist"),
        ("on = [{ exit = \"X\" }]", "a transition needs exactly one target"),
        (
            "on = [{ exit = \"X\", end = \"A\", stop = true }]",
            "a transition needs exactly one target",
        ),
        ("branches = []", "key `branches` does not belong to a step of type `command`"),
        ("partition = { by = { range = { min = 1, max = 2 } }, grid = 0 }", "`grid` is between 1"),
        ("env = { A = \"${partition.min}\" }", "the step has no partitions"),
    ] {
        place.write("job.toml", format!("name = \"job\"\n{step}{more}\n"));
        let refused = place.run(&["validate", "job.toml"]).expect(2);
        assert!(refused.err.contains(message), "{more}: {}", refused.err);
    }
    let shared = "name = \"job\"\n[[steps]]\nname = \"a\"\npartition = { by = { bytes = \"in.csv\" } }\n\
                  reader = { type = \"csv\", path = \"in.csv\" }\nwriter = { type = \"csv\", path = \"out.csv\" }\n";
    place.write("job.toml", shared);
    let refused = place.run(&["validate", "job.toml"]).expect(2);
    assert!(refused.err.contains("every partition would write this file"), "{}", refused.err);
    place.write(
        "job.toml",
        "name = \"j\"\n[[steps]]\nname = \"a\"\ntype = \"job\"\njob = \"job.toml\"\n",
    );
    assert!(place.run(&["validate", "job.toml"]).expect(2).err.contains("would run itself"));
}

#[test]
fn a_rehearsal_says_what_is_exact_and_what_is_not_and_leaves_nothing() {
    let place = Place::new();
    place.write(
        "job.toml",
        r#"
name = "both"
[[steps]]
name = "exact"
chunk = 4
reader = { type = "sequence", count = 10 }
writer = { type = "jsonl", path = "out.jsonl" }
[[steps]]
name = "note"
type = "command"
argv = ["sh", "-c", "echo ran >> notes.txt"]
[[steps]]
name = "table"
type = "sql"
sql = "CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1)"
"#,
    );
    let report = place.run(&["rehearse", "job.toml", "--format", "json"]).expect(0).json();
    assert_eq!((&report["exact"], &report["kills"]), (&true.into(), &8.into()));
    let guarantee = |index: usize| report["steps"][index]["guarantee"].as_str().unwrap().to_owned();
    assert_eq!([guarantee(0), guarantee(1), guarantee(2)], ["exact", "at-least-once", "exact"]);
    assert!(!place.path("out.jsonl").exists() && !place.path("batchwright.db").exists());
    // A job whose output depends on how often a step runs is found out.
    place.write(
        "bad.toml",
        r#"
name = "bad"
[[steps]]
name = "append"
type = "command"
allow_start_if_complete = true
argv = ["sh", "-c", "echo ran >> notes.txt"]
[[steps]]
name = "copy"
chunk = 4
reader = { type = "sequence", count = 10 }
writer = { type = "none" }
"#,
    );
    let report = place.run(&["rehearse", "bad.toml", "--format", "json"]).expect(1).json();
    assert_eq!(report["exact"], false);
    assert_eq!(report["differences"][0]["differing"][0], "notes.txt");
    place.write("out.toml", "name = \"o\"\n[[steps]]\nname = \"a\"\nreader = { type = \"sequence\", count = 1 }\nwriter = { type = \"jsonl\", path = \"/tmp/outside.jsonl\" }\n");
    let refused = place.run(&["rehearse", "out.toml"]).expect(2);
    assert!(refused.err.contains("outside the job's folder"), "{}", refused.err);
}
