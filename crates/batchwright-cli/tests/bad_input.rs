//! Bad input of any kind gets a clear error and the right exit code, loses nothing, and leaves what can
//! be restarted restartable.

mod common;

use common::{Place, done};

const JOB: &str = r#"
name = "load"

[parameters]
date = { type = "date", required = true }

[[steps]]
name = "copy"
chunk = 2
reader = { type = "csv", path = "in.csv", columns = { amount = "float" } }
processors = [{ type = "filter", when = "item.amount >= 0" }]
writer = { type = "jsonl", path = "out.jsonl" }
skip = { limit = 10, dead_letter = "bad.jsonl" }
"#;

fn refused(place: &Place, arguments: &[&str], code: i32, message: &[&str]) {
    let done = place.run(arguments).expect(code);
    for text in message {
        assert!(done.err.contains(text), "{arguments:?} should tell {text:?}: {}", done.err);
    }
    let executions = place.run(&["executions", "--format", "json"]).expect(0);
    assert_eq!(executions.out, "", "{arguments:?}: nothing was stored");
    assert!(!place.path("out.jsonl").exists() && place.parts_of("out.jsonl").is_empty());
}

#[test]
fn what_is_unknown_is_refused_before_anything_is_stored_and_named_with_what_exists() {
    let place = Place::new();
    place.write("in.csv", "id,amount\n1,2\n");
    place.write("jobs/load.toml", JOB.replace("in.csv", "../in.csv"));
    refused(&place, &["run", "laod"], 2, &["error[no_such_job]", "`laod`", "`load`"]);
    refused(&place, &["run", "nope.toml"], 2, &["error[invalid_definition]", "nope.toml"]);
    let unknown = ["run", "load", "date=2026-11-21", "dat=x"];
    refused(&place, &unknown, 2, &["error[invalid_parameters]", "`dat` is unknown", "`date`"]);
    refused(&place, &["run", "load"], 2, &["`date` is required"]);
    refused(&place, &["run", "load", "date=tomorrow"], 2, &["`tomorrow` is not a date"]);
    refused(&place, &["run", "load", "date:day=2026-11-21"], 2, &["no type `day`", "timestamp"]);
    refused(&place, &["run", "load", "date=2026-11-21", "date=2026-11-22"], 2, &["given twice"]);
    refused(&place, &["restart", "7"], 2, &["error[no_such_execution]", "7"]);
    for (from, to, message) in [
        ("chunk = 2", "chunks = 2", "there is no key `chunks`"),
        ("type = \"csv\"", "type = \"cvs\"", "no reader of type `cvs`; there are: "),
        ("type = \"jsonl\"", "type = \"yaml\"", "no writer of type `yaml`"),
        ("type = \"filter\"", "type = \"fliter\"", "no processor of type `fliter`"),
        ("item.amount >= 0", "itm.amount >= 0", "the expression `itm.amount >= 0`"),
        ("item.amount >= 0", "item.amount >=", "the expression `item.amount >=`"),
        ("out.jsonl", "${params.day}.jsonl", "no parameter `day`; declared: `date`"),
        ("amount = \"float\"", "amount = \"money\"", "no type `money`; there are: string"),
        (
            "path = \"in.csv\"",
            "path = \"in.csv\", count = 3",
            "there is no key `count`; a reader of type `csv` has: type, path",
        ),
        ("type = \"date\"", "type = \"day\"", "there is no value `day`; there are: string"),
        ("name = \"copy\"", "name = \"copy\"\ntype = \"chnk\"", "no step of type `chnk`"),
    ] {
        assert!(JOB.contains(from), "{from}");
        let broken = JOB.replacen(from, to, 1);
        let line = broken.lines().position(|line| JOB.lines().all(|old| old != line)).unwrap() + 1;
        place.write("broken.toml", &broken);
        let arguments = ["run", "broken.toml", "date=2026-11-21"];
        let place_told = format!("line {}", line);
        refused(&place, &arguments, 2, &["error[invalid_definition]", "broken.toml", message]);
        let done = place.run(&arguments).expect(2);
        let next = format!("line {}", line + 1);
        assert!(done.err.contains(&place_told) || done.err.contains(&next), "{to}: {}", done.err);
    }
}

#[test]
fn a_column_that_the_file_lacks_fails_the_step_and_names_those_that_it_has() {
    let place = Place::new();
    place.write("in.csv", "id,amnt\n1,2\n");
    place.write("job.toml", JOB);
    let done = place.run(&["run", "job.toml", "date=2026-11-21"]).expect(1);
    assert!(
        done.out.contains("find column `amount`") && done.out.contains("id, amnt"),
        "{}",
        done.out
    );
    place.write("in.csv", "id,amount\n1,2\n");
    place.run(&["restart", "1"]).expect(0);
    assert_eq!(place.read("out.jsonl"), "{\"id\":\"1\",\"amount\":2.0}\n");
}

#[test]
fn a_record_that_cannot_be_read_is_skipped_and_kept_as_it_was() {
    let place = Place::new();
    let long = "9".repeat(10 * 1024 * 1024);
    let mut input = b"id,amount\n1,2\n2,abc\n3,4,5\n4\n".to_vec();
    input.extend(b"5,\xff\xfe\n");
    input.extend(format!("{long},1\n").bytes());
    input.extend(b"6,7\n7,\"8");
    place.write("in.csv", input);
    place.write("job.toml", JOB);
    let done = place.run(&["run", "job.toml", "date=2026-11-21", "--format", "json"]).expect(0);
    assert_eq!(done.json()["steps"][0]["read_skip"], 6, "{}", done.out);
    assert_eq!(
        place.read("out.jsonl"),
        "{\"id\":\"1\",\"amount\":2.0}\n{\"id\":\"6\",\"amount\":7.0}\n"
    );
    let letters: Vec<serde_json::Value> =
        place.read("bad.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (letter, (item, location, message, content)) in letters.iter().zip([
        (2, "line 3, byte 14", "`abc` is not a number", "2,abc"),
        (3, "line 4, byte 20", "it has 3 fields, the header has 2", "3,4,5"),
        (4, "line 5, byte 26", "it has 1 fields", "4"),
        (5, "line 6, byte 28", "column `amount` is not valid UTF-8", "5,\u{fffd}\u{fffd}"),
        (6, "line 7, byte 33", "longer than", "9999"),
        (8, "line 9, byte 10485800", "a quoted field has no closing quote", "7,\"8"),
    ]) {
        assert_eq!(letter["item"], item, "{letter}");
        assert_eq!(letter["location"], location, "{letter}");
        assert!(letter["message"].as_str().unwrap().contains(message), "{}", letter["message"]);
        assert!(letter["content"].as_str().unwrap().starts_with(content), "{}", letter["item"]);
    }
    assert_eq!(letters.len(), 6);
    assert_eq!(letters[3]["raw_hex"], "352cfffe", "bytes that are no text are kept as bytes");
    let skips = place.run(&["skips", "1", "--format", "json"]).expect(0).out;
    assert_eq!(skips.lines().count(), 6, "the store knows them too");
}

#[test]
fn a_bad_line_of_json_is_skipped_with_its_place() {
    let place = Place::new();
    place.write("in.jsonl", "{\"n\":1}\n{\"n\":\n\n[1]\n{\"n\":2}\n");
    place.write(
        "job.toml",
        r#"
name = "lines"
[[steps]]
name = "copy"
reader = { type = "jsonl", path = "in.jsonl" }
writer = { type = "jsonl", path = "out.jsonl" }
skip = { limit = 2, on = ["read", "data.parse"] }
"#,
    );
    place.run(&["run", "job.toml"]).expect(0);
    assert_eq!(place.read("out.jsonl"), "{\"n\":1}\n{\"n\":2}\n");
    let skips = place.run(&["skips", "1", "--format", "json"]).expect(0).out;
    assert!(skips.contains("line 2, byte 8") && skips.contains("line 4, byte 15"), "{skips}");
}

#[test]
fn a_disk_that_takes_no_more_fails_the_step_and_the_restart_is_exact() {
    let place = Place::new();
    place.write(
        "job.toml",
        r#"
name = "big"
[[steps]]
name = "copy"
chunk = 1000
reader = { type = "sequence", count = 200000 }
writer = { type = "jsonl", path = "out.jsonl" }
"#,
    );
    // No file may grow beyond a mebibyte: the store fits, the output does not.
    let mut command = std::process::Command::new("sh");
    let limited = "trap '' XFSZ; ulimit -f 2048; exec \"$@\"";
    command.args(["-c", limited, "sh", env!("CARGO_BIN_EXE_batchwright"), "run", "job.toml"]);
    let failed = done(command.current_dir(place.root()).output().unwrap()).expect(1);
    assert!(
        failed.out.contains("write_failed") && failed.out.contains("`out.jsonl."),
        "{}",
        failed.out
    );
    let written = place.show(1)["steps"][0]["write"].as_u64().unwrap();
    assert!(written > 0, "some chunks fitted");
    assert!(!place.path("out.jsonl").exists(), "half an output never has the final name");
    place.run(&["restart", "1"]).expect(0);
    let expected: String = (1..=200_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    assert!(place.read("out.jsonl") == expected, "exact");
}

#[test]
fn an_output_that_cannot_be_made_fails_the_step_and_stays_restartable() {
    let place = Place::new();
    let job = r#"
name = "out"
[[steps]]
name = "copy"
reader = { type = "sequence", count = 3 }
writer = { type = "jsonl", path = "PATH" }
"#;
    place.write("job.toml", job.replace("PATH", "/proc/nowhere/out.jsonl"));
    let failed = place.run(&["run", "job.toml"]).expect(1);
    assert!(
        failed.out.contains("component_failed") && failed.out.contains("/proc/nowhere"),
        "{}",
        failed.out
    );
    place.write("job.toml", job.replace("PATH", "out.jsonl"));
    place.run(&["restart", "1"]).expect(6);
    place.run(&["restart", "1", "--accept-changed-definition"]).expect(0);
    assert_eq!(place.read("out.jsonl").lines().count(), 3);
}

#[test]
fn an_output_that_was_shortened_behind_our_back_is_refused() {
    let place = Place::new();
    place.write(
        "job.toml",
        r#"
name = "short"
[[steps]]
name = "copy"
chunk = 2
reader = { type = "sequence", count = 9 }
writer = { type = "jsonl", path = "out.jsonl" }
"#,
    );
    place.run(&["run", "job.toml", "--inject", r#"{"fatal_write":[7]}"#]).expect(1);
    place.write(&place.parts_of("out.jsonl")[0], "{\"n\":1}\n");
    let refused = place.run(&["restart", "1"]).expect(1);
    assert!(refused.out.contains("has only 8 bytes, less than its checkpoint"), "{}", refused.out);
}

#[test]
fn a_store_that_cannot_be_used_is_exit_code_7_and_nothing_is_touched() {
    let place = Place::new();
    place.write("job.toml", JOB);
    place.write("noise.db", vec![7; 100_000]);
    let health = |url: &str| place.run(&["health", "--store", url]).expect(7).out;
    assert!(health("sqlite://noise.db").contains("not a database"));
    assert_eq!(place.bytes("noise.db"), vec![7; 100_000], "untouched");
    health("sqlite:///proc/nowhere/a.db");
    for look in ["health", "executions", "jobs", "instances x", "schedule list", "rule list"] {
        let words: Vec<_> = look.split(' ').collect();
        let code = [("health", 7), ("instances x", 2)].iter().find(|(name, _)| *name == look);
        let code = code.map_or(0, |(_, code)| *code);
        let done = place.run(&[&words[..], &["--store", "sqlite://new.db"]].concat()).expect(code);
        assert!(done.err.contains("there is no store in `sqlite://new.db` yet"), "{}", done.err);
        assert!(!place.path("new.db").exists(), "{look} only looks");
    }
    place.run(&["run", "nothing", "--store", "sqlite://new.db"]).expect(2);
    assert!(!place.path("new.db").exists(), "a job that is not there makes no store");
    let made = place.run(&["start", "job.toml", "date=2026-11-20", "--store", "sqlite://new.db"]);
    assert!(made.expect(0).err.contains("created a new store in `sqlite://new.db`"));
    place.run(&["health", "--store", "sqlite://new.db"]).expect(0);
    let connection = rusqlite::Connection::open(place.path("new.db")).unwrap();
    connection.execute("INSERT INTO bw_schema_version VALUES (999, 'later', '')", []).unwrap();
    let done =
        place.run(&["run", "job.toml", "date=2026-11-21", "--store", "sqlite://new.db"]).expect(7);
    assert!(done.err.contains("schema has version 999"), "{}", done.err);
    let secret = "postgres://me:hunter2@host/db";
    let done = place.run(&["jobs", "--store", secret]).expect(7);
    assert!(!done.err.contains("hunter2"), "an error never contains a password: {}", done.err);
}

#[test]
fn an_error_is_an_object_on_stdout_too_when_json_is_asked_for() {
    let place = Place::new();
    let done = place.run(&["run", "nothing", "--format", "json"]).expect(2);
    assert_eq!(done.json()["error"]["code"], "no_such_job");
    assert!(done.err.starts_with("error[no_such_job]: "), "{}", done.err);
}

#[test]
fn a_quote_that_is_mere_text_ends_no_file_and_a_restart_keeps_the_columns() {
    let place = Place::new();
    let long = "x".repeat(70_000);
    place.write("in.csv", format!("id,text\n1,\"{long}\"\n2,12\" pipe\n"));
    place.write(
        "in.jsonl",
        "{\"a\":1,\"b\":2}\n{\"a\":3,\"b\":4}\n{\"b\":6,\"a\":5}\n{\"b\":8,\"a\":7}\n",
    );
    place.write(
        "job.toml",
        r#"
name = "corners"
[[steps]]
name = "quotes"
reader = { type = "csv", path = "in.csv" }
writer = { type = "none" }
[[steps]]
name = "columns"
chunk = 1
reader = { type = "jsonl", path = "in.jsonl" }
writer = { type = "csv", path = "out.csv" }
"#,
    );
    let plan = r#"{"step":"columns","fatal_write":[3]}"#;
    place.run(&["run", "job.toml", "--inject", plan]).expect(1);
    place.run(&["restart", "1"]).expect(0);
    assert_eq!(place.read("out.csv"), "a,b\n1,2\n3,4\n5,6\n7,8\n");
}

#[test]
fn every_problem_of_a_job_file_is_told_with_its_place() {
    let place = Place::new();
    place.write(
        "job.toml",
        r#"name = "x"
[[steps]]
name = "a"
[steps.reader]
type = "csv"
[[steps.processors]]
type = "filter"
when = "unknown(item.x)"
[[steps.processors]]
type = "filter"
when = "item.x ==="
[steps.writer]
type = "paper"
[[steps]]
name = "b"
type = "command"
argv = []
"#,
    );
    let refused = place.run(&["validate", "job.toml"]).expect(2).err;
    for message in [
        "`job.toml`, line 4, column 1: key `path` is missing; line 8,",
        "there is no function `unknown`; line 11,",
        "; line 13, column 8: there is no writer of type `paper`",
        "; line 17, column 8: a command needs at least a program",
    ] {
        assert!(refused.contains(message), "{message}: {refused}");
    }
}

#[test]
fn an_unknown_key_is_told_with_the_keys_of_its_type_alone() {
    let place = Place::new();
    let cases = [
        (
            "type = \"command\"\nargvv = []",
            "there is no key `argvv`; a step of type `command` has: ",
        ),
        ("chnk = 7", "there is no key `chnk`; a step of type `chunk` has: "),
        (
            "reader = { type = \"sql\", querry = \"\" }",
            "a reader of type `sql` has: type, query, key, params, url",
        ),
        (
            "writer = { type = \"lines\", pth = \"\" }",
            "a writer of type `lines` has: type, path, field",
        ),
    ];
    for (keys, message) in cases {
        place.write("job.toml", format!("name = \"x\"\n[[steps]]\nname = \"a\"\n{keys}\n"));
        let refused = place.run(&["validate", "job.toml"]).expect(2).err;
        assert!(refused.contains(message) && !refused.contains("unit_timeout"), "{refused}");
    }
}

/// Checks an error: its line names what failed and where, and its help what to do.
fn error_of(place: &Place, arguments: &[&str], code: i32, lines: [&str; 2]) {
    let refused = place.run(arguments).expect(code).err;
    let error: Vec<_> = refused.lines().skip_while(|line| !line.starts_with("error[")).collect();
    assert_eq!(error.len(), 2, "{refused}");
    for (line, wanted) in error.iter().zip(lines) {
        assert!(line.starts_with(wanted), "{wanted}: {refused}");
    }
}

#[test]
fn a_store_that_is_garbage_or_locked_is_reported_with_what_to_do() {
    let place = Place::new();
    place.write("job.toml", JOB);
    place.write("noise.db", vec![7; 100_000]);
    let run = ["run", "job.toml", "date=2026-11-21", "--store"];
    for arguments in [&run[..], &["executions", "--store"][..]] {
        error_of(
            &place,
            &[arguments, &["sqlite://noise.db"]].concat(),
            7,
            [
                "error[store_unavailable]: the store is unavailable: cannot open the store: file is not a database \
                 (in sqlite://noise.db)",
                "  help: name another file with `--store`, or move this one away; it was not changed",
            ],
        );
    }
    place.run(&["start", "job.toml", "date=2026-11-20", "--store", "sqlite://busy.db"]).expect(0);
    let busy = rusqlite::Connection::open(place.path("busy.db")).unwrap();
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    error_of(
        &place,
        &[&run[..], &["sqlite://busy.db"]].concat(),
        7,
        [
            "error[store_unavailable]: the store is unavailable: cannot begin a transaction: database is locked (in sqlite://busy.db)",
            "  help: another process holds a transaction on the store: end it or wait, then repeat the command",
        ],
    );
}

#[test]
fn a_folder_in_place_of_a_store_or_a_job_file_that_does_not_exist_is_named() {
    let place = Place::new();
    place.write("job.toml", JOB);
    std::fs::create_dir(place.path("folder")).unwrap();
    let folder = "error[store_unavailable]: the store is unavailable: cannot open the store: `folder` is a folder; name a \
                  file in it";
    for verb in [&["run", "job.toml", "date=2026-11-21"][..], &["executions"][..]] {
        let store = ["--store", "sqlite://folder"];
        error_of(&place, &[verb, &store].concat(), 7, [folder, "  help: check the store"]);
    }
    error_of(
        &place,
        &["run", "nosuch.toml"],
        2,
        [
            "error[invalid_definition]: job file `nosuch.toml`: No such file or directory",
            "  help: name a job file that exists, or a job by its name",
        ],
    );
}

#[test]
fn a_restart_that_must_fail_again_is_not_advised() {
    let place = Place::new();
    place.write("in.csv", "n\nx\n");
    place.write(
        "job.toml",
        "name = \"job\"\n[[steps]]\nname = \"load\"\n\
         reader = { type = \"csv\", path = \"in.csv\", columns = { n = \"integer\" } }\n\
         writer = { type = \"none\" }\nskip = { limit = 9 }\n",
    );
    let skipped = place.run(&["run", "job.toml"]).expect(1).out;
    assert!(skipped.contains("all_skipped") && !skipped.contains("Continue with"), "{skipped}");
}

#[test]
fn an_option_that_does_not_exist_is_named_and_help_is_named_once() {
    let place = Place::new();
    let refused = place.run(&["run", "--bogus"]).expect(2).err;
    assert!(refused.starts_with("error[usage]: unexpected argument '--bogus'"), "{refused}");
    assert_eq!(refused.matches("--help").count(), 1, "{refused}");
}

#[test]
fn purge_of_restartable_instances_needs_the_option_that_allows_it() {
    let place = Place::new();
    error_of(
        &place,
        &["purge", "--keep", "0", "--status", "failed"],
        2,
        [
            "error[usage]: `--status failed` deletes nothing without `--include-restartable`",
            "  help: ",
        ],
    );
}

#[test]
fn a_configuration_that_does_not_exist_is_an_error_of_every_verb() {
    let place = Place::new();
    for store in [&[][..], &["--store", "memory:"][..]] {
        error_of(
            &place,
            &[&["jobs", "--config", "nope.toml"], store].concat(),
            78,
            [
                "error[invalid_config]: the configuration `nope.toml` cannot be used: No such file or directory",
                "  help: name a file that exists with `--config` or BATCHWRIGHT_CONFIG; nothing was changed",
            ],
        );
    }
}

#[test]
fn purge_without_a_condition_says_which_conditions_there_are() {
    let place = Place::new();
    let wanted =
        "error[usage]: `purge` needs a condition and deleted nothing: pass `--older-than DURATION`";
    error_of(&place, &["purge"], 2, [wanted, "  help: "]);
    error_of(&place, &["purge", "--job", "load"], 2, [wanted, "  help: "]);
    place.run(&["purge", "--keep", "1"]).expect(0);
}

#[test]
fn a_broken_job_file_is_named_when_its_job_is_wanted() {
    let place = Place::new();
    place.write("jobs/import.toml", "name = \"load\"\nsteps = 7\n");
    let error_of = |arguments: &[&str], code: &str| {
        let refused = place.run(arguments).expect(2).err;
        let (_, error) = refused.split_once(&format!("error[{code}]: ")).unwrap_or_else(|| {
            panic!("no {code}: {refused}");
        });
        assert!(error.contains("job file `jobs/import.toml`, line 2, column"), "{refused}");
        assert_eq!(refused.matches("import.toml").count(), 1, "it is reported once: {refused}");
    };
    for verb in ["run", "start", "validate", "graph", "next"] {
        error_of(&[verb, "load"], "invalid_definition");
        error_of(&[verb, "lod"], "no_such_job");
    }
    place.write("jobs/import.toml", "name = load\n");
    place.write("jobs/good.toml", JOB.replace("name = \"load\"", "name = \"good\""));
    let refused = place.run(&["run", "import"]).expect(2).err;
    assert!(
        refused.contains("there is no job `import`; the jobs are: `good`; job file"),
        "{refused}"
    );
    let run = place.run(&["run", "good", "date=2026-11-21"]);
    assert!(run.err.contains(": job file `jobs/import.toml`"), "{}", run.err);
}
