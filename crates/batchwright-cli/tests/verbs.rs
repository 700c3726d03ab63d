//! Every verb does what its help says, with the exit codes of the contract.

mod common;

use common::Place;

const COUNT: &str = r#"
name = "count"
description = "Numbers into a file"

[parameters]
run   = { type = "integer", default = 1 }
limit = { type = "integer", default = 5, identifying = false }
tag   = { default = "x" }

[next]
run = { increment = 1 }

[[steps]]
name = "write"
chunk = 2
reader = { type = "sequence", count = "${params.limit}" }
writer = { type = "jsonl", path = "out/${params.run|%04d}.jsonl" }
"#;

fn place() -> Place {
    let place = Place::new();
    place.write("jobs/count.toml", COUNT);
    place
}

#[test]
fn an_instance_is_completed_once_and_the_next_one_is_a_new_one() {
    let place = place();
    place.run(&["run", "count"]).expect(0);
    place.run(&["run", "count", "-limit=9"]).expect(3);
    place.run(&["run", "count", "run=1"]).expect(3);
    place.run(&["next", "count", "-limit=7"]).expect(0);
    assert_eq!(place.read("jobs/out/0002.jsonl").lines().count(), 7);
    place.run(&["next", "count"]).expect(0);
    assert_eq!(place.read("jobs/out/0003.jsonl").lines().count(), 7, "the other parameters stay");
    let fresh = self::place();
    fresh.run(&["next", "count"]).expect(0);
    assert!(fresh.path("jobs/out/0001.jsonl").exists(), "the first of all begins at the default");
    let instances = place.run(&["instances", "count", "--format", "json"]).expect(0).out;
    assert_eq!(instances.lines().count(), 3);
    assert_eq!(
        place
            .run(&["instances", "count", "--limit", "1", "--before", "2"])
            .expect(0)
            .out
            .lines()
            .count(),
        2
    );
}

#[test]
fn parameters_are_typed_and_read_back_complete() {
    let place = place();
    let json = r#"{"limit":{"value":3,"identifying":false},"run":8}"#;
    place.run(&["run", "count", "tag=a,b=c", "--params-json", json]).expect(0);
    let shown = place.show(1);
    assert_eq!(
        shown["parameters"],
        serde_json::json!({
            "limit": {"value": 3, "type": "integer", "identifying": false},
            "run": {"value": 8, "type": "integer", "identifying": true},
            "tag": {"value": "a,b=c", "type": "string", "identifying": true},
        })
    );
    let refused = place.run(&["run", "count", "-run=3"]).expect(2);
    assert!(refused.err.contains("declared as identifying"), "{}", refused.err);
    place.write("p.json", r#"{"run":9}"#);
    place.run(&["run", "count", "--params-json", "@p.json"]).expect(0);
    let twice = place.run(&["run", "count", "run=9", "--params-json", "@p.json"]).expect(2);
    assert!(twice.err.contains("`run` is given twice"), "{}", twice.err);
}

#[test]
fn a_failed_execution_is_restarted_until_it_is_abandoned() {
    let place = place();
    let plan = r#"{"fatal_process":[3]}"#;
    place.run(&["run", "count", "--inject", plan]).expect(1);
    place.run(&["run", "count", "--new-only"]).expect(6);
    place.run(&["restart", "1", "--inject", plan]).expect(1);
    let newest = place.run(&["restart", "1"]).expect(6);
    assert!(newest.err.contains("error[not_most_recent]"), "{}", newest.err);
    place.run(&["abandon", "2"]).expect(0);
    place.run(&["abandon", "2"]).expect(0);
    let refused = place.run(&["restart", "2"]).expect(6);
    assert!(refused.err.contains("error[abandoned]"), "{}", refused.err);
    place.run(&["run", "count"]).expect(6);
    place.run(&["stop", "2"]).expect(1);
    let failed = place.run(&["executions", "--status", "failed", "--format", "json"]).expect(0).out;
    assert_eq!(failed.lines().count(), 1);
}

#[test]
fn a_changed_definition_is_noticed_and_a_comment_is_no_change() {
    let place = place();
    place.run(&["run", "count", "--inject", r#"{"fatal_process":[3]}"#]).expect(1);
    place.write(
        "jobs/count.toml",
        format!("# a comment\n{COUNT}").replace("Numbers into", "All of"),
    );
    place.run(&["restart", "1", "--inject", r#"{"fatal_process":[3]}"#]).expect(1);
    place.write("jobs/count.toml", COUNT.replace("chunk = 2", "chunk = 3"));
    let refused = place.run(&["restart", "2"]).expect(6);
    assert!(refused.err.contains("error[changed_definition]"), "{}", refused.err);
    place.run(&["restart", "2", "--accept-changed-definition"]).expect(0);
}

#[test]
fn an_execution_that_was_handed_over_waits_and_is_stopped_at_once() {
    let place = place();
    let started = place.run(&["start", "count", "--format", "json"]).expect(0).json();
    assert_eq!(started["status"], "STARTING");
    place.run(&["run", "count"]).expect(4);
    place.run(&["stop", "1"]).expect(0);
    assert_eq!(place.show(1)["status"], "STOPPED");
    assert!(!place.path("jobs/out").exists(), "it never ran");
    place.run(&["restart", "1"]).expect(0);
}

#[test]
fn a_command_step_tells_code_and_tail_and_ends_its_whole_process_group() {
    let place = Place::new();
    place.write(
        "job.toml",
        r#"
name = "commands"
[parameters]
word = { default = "a b; $(touch pwned)" }
colour = { default = "blue" }
[[steps]]
name = "good"
type = "command"
argv = ["sh", "-c", "printf '%s' \"$1\" > word.txt; echo $COLOUR >> word.txt", "sh", "${params.word}"]
env = { COLOUR = "${params.colour}" }
[[steps]]
name = "odd"
type = "command"
argv = ["sh", "-c", "exit 3"]
exit_codes = { 3 = "COMPLETED WITH WARNINGS" }
[[steps]]
name = "late"
type = "command"
argv = ["sh", "-c", "echo started; sleep 600 & echo $! > child.pid; wait"]
timeout = "300ms"
grace = "1s"
"#,
    );
    let done = place.run(&["run", "job.toml", "--format", "json"]).expect(1).json();
    assert_eq!(place.read("word.txt"), "a b; $(touch pwned)blue\n", "no shell looked at it");
    assert!(!place.path("pwned").exists());
    assert_eq!(done["steps"][1]["exit"]["code"], "COMPLETED WITH WARNINGS");
    let failure = done["steps"][2]["failure"]["message"].as_str().unwrap().to_owned();
    assert!(failure.contains("timed out after 300ms") && failure.contains("started"), "{failure}");
    let child = place.read("child.pid").trim().to_owned();
    common::until("the whole process group has ended", || {
        std::fs::read_to_string(format!("/proc/{child}/stat"))
            .map_or(true, |stat| stat.contains(") Z"))
    });
}

#[test]
fn looking_changes_nothing_and_tells_what_is_there() {
    let place = place();
    place.run(&["validate", "count"]).expect(0);
    place.run(&["validate", "count", "run=x"]).expect(2);
    let jobs = place.run(&["jobs", "--format", "json"]).expect(0).out;
    assert!(jobs.contains(r#""name":"count","registered":true,"instances":0"#), "{jobs}");
    place.run(&["instances", "count"]).expect(0);
    place.run(&["instances", "nothing"]).expect(2);
    let dot = place.run(&["graph", "count"]).expect(0).out;
    assert!(dot.starts_with("digraph \"count\" {") && dot.contains("\"write\";"), "{dot}");
    let svg = place.run(&["graph", "count", "--format", "svg"]).expect(0).out;
    assert!(svg.starts_with("<svg") && svg.contains(">write</text>"), "{svg}");
    assert!(place.run(&["completions", "bash"]).expect(0).out.contains("_batchwright"));
    assert!(place.run(&["man"]).expect(0).out.contains(".TH batchwright"));
    assert!(place.run(&["health"]).expect(7).out.contains("does not exist yet"));
    assert!(!place.path("batchwright.db").exists());
    place.run(&["--version"]).expect(0);
    place.run(&["frobnicate"]).expect(2);
}

#[test]
fn purge_deletes_what_has_ended_and_never_what_could_go_on() {
    let place = place();
    place.run(&["run", "count", "run=1"]).expect(0);
    place.run(&["run", "count", "run=2", "--inject", r#"{"fatal_process":[3]}"#]).expect(1);
    let would =
        place.run(&["purge", "--older-than", "0s", "--dry-run", "--format", "json"]).expect(0);
    assert_eq!(would.out.lines().count(), 1, "the completed one: {}", would.out);
    place.show(1);
    place.run(&["purge", "--older-than", "0s"]).expect(0);
    place.run(&["show", "1"]).expect(2);
    place.run(&["purge", "--older-than", "1h", "--include-restartable"]).expect(0);
    place.show(2);
    place.run(&["purge", "--older-than", "0s", "--include-restartable"]).expect(0);
    place.run(&["show", "2"]).expect(2);
}

#[test]
fn a_step_runs_as_often_as_its_start_limit_allows() {
    let place = Place::new();
    place.write(
        "job.toml",
        r#"
name = "limited"
[[steps]]
name = "always"
type = "command"
argv = ["sh", "-c", "echo x >> ran.txt"]
allow_start_if_complete = true
[[steps]]
name = "write"
start_limit = 2
reader = { type = "sequence", count = 3 }
writer = { type = "none" }
"#,
    );
    let plan = r#"{"step":"write","fatal_write":[1]}"#;
    place.run(&["run", "job.toml", "--inject", plan]).expect(1);
    place.run(&["restart", "1", "--inject", plan]).expect(1);
    let third = place.run(&["restart", "2"]).expect(1);
    assert!(third.out.contains("start_limit_exceeded"), "{}", third.out);
    assert_eq!(place.read("ran.txt").lines().count(), 3, "steps before it did run");
    assert_eq!(place.show(3)["steps"].as_array().unwrap().len(), 1, "the limited step has no row");
}

#[test]
fn rows_are_upserted_updated_and_read_back_by_key() {
    let place = Place::new();
    place.write("in.csv", "id,name\n1,a\n2,b\n1,c\n");
    place.write(
        "job.toml",
        r#"
name = "tables"
[[steps]]
name = "prepare"
type = "sql"
sql = "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, seen INTEGER DEFAULT 0)"
[[steps]]
name = "upsert"
reader = { type = "csv", path = "in.csv" }
writer = { type = "sql", table = "t", mode = "upsert", key = ["id"] }
[[steps]]
name = "update"
reader = { type = "list", items = [{ id = 2, name = "B" }, { id = 9, name = "?" }] }
writer = { type = "sql", table = "t", mode = "update", key = ["id"] }
skip = { limit = 1, on = ["data.missing"] }
[[steps]]
name = "statement"
reader = { type = "csv", path = "in.csv" }
writer = { type = "sql", mode = "statement", statement = "UPDATE t SET seen = seen + 1 WHERE id = :id" }
[[steps]]
name = "export"
chunk = 1
reader = { type = "sql", query = "SELECT id, name, seen FROM t WHERE id > ?1", params = ["0"], key = "id" }
writer = { type = "csv", path = "out.csv", columns = ["name", "seen"] }
processors = [{ type = "map", drop = ["id"] }]
"#,
    );
    place.run(&["run", "job.toml", "--inject", r#"{"step":"export","fatal_write":[2]}"#]).expect(1);
    place.run(&["restart", "1"]).expect(0);
    assert_eq!(place.read("out.csv"), "name,seen\nc,2\nB,1\n");
}

#[test]
fn help_lists_the_options_of_a_verb_before_those_of_every_verb() {
    let place = Place::new();
    for verb in ["run", "purge", "schedule set", "serve"] {
        let words: Vec<_> = verb.split(' ').chain(["--help"]).collect();
        let help = place.run(&words).expect(0).out;
        let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text}: {help}"));
        let (own, global) = (at("\nOptions:\n"), at("\nGlobal options:\n"));
        assert!(own < global && global < at("--store <URL>"), "{verb}: {help}");
        assert!(!help[own..global].contains("--lease"), "{verb}: {help}");
    }
    let help = place.run(&["purge", "--help"]).expect(0).out;
    assert!(help.find("--older-than") < help.find("Global options"), "{help}");
}

#[test]
fn a_completed_execution_cannot_be_abandoned() {
    let place = place();
    place.run(&["run", "count"]).expect(0);
    let refused = place.run(&["abandon", "1"]).expect(1).err;
    assert!(
        refused.contains("error[not_running]: execution 1 cannot be abandoned: it is COMPLETED"),
        "{refused}"
    );
}

#[test]
fn a_rehearsal_without_a_kill_says_that_nothing_was_tested() {
    let place = place();
    place.write(
        "job.toml",
        "name = \"note\"\n[[steps]]\nname = \"a\"\ntype = \"command\"\nargv = [\"true\"]\n",
    );
    let text = place.run(&["rehearse", "job.toml"]).expect(0).out;
    assert!(
        text.starts_with("note: nothing was tested, because the job commits nothing\n"),
        "{text}"
    );
    let json = place.run(&["rehearse", "job.toml", "--format", "json"]).expect(0).json();
    assert_eq!((&json["exact"], &json["kills"]), (&serde_json::Value::Null, &0.into()));
    let some = place.run(&["rehearse", "jobs/count.toml", "--kills", "0"]).expect(0).out;
    assert!(
        some.contains("no kill was asked for") && some.contains("step write: not tested"),
        "{some}"
    );
}

#[test]
fn a_failed_execution_is_followed_by_how_to_continue_it_only_if_it_can_be() {
    let place = Place::new();
    for (name, restartable, advised) in [("twice", true, true), ("once", false, false)] {
        let file = format!("{name}.toml");
        let text = format!(
            "name = \"{name}\"\nrestartable = {restartable}\n\
             [[steps]]\nname = \"fail\"\ntype = \"command\"\nargv = [\"false\"]\n"
        );
        place.write(&file, text);
        let shown = place.run(&["run", &file]).expect(1).out;
        assert_eq!(shown.contains("Continue with: batchwright restart"), advised, "{shown}");
    }
    // The path of a job file names its job.
    let refused = place.run(&["restart", "once.toml"]).expect(6).err;
    assert!(refused.contains("restartable = false"), "{refused}");
    place.run(&["restart", "twice.toml"]).expect(1);
}

#[test]
fn a_log_in_json_names_the_execution_and_its_step() {
    let place = Place::new();
    place.write("in.txt", "a\n");
    place.write(
        "jobs/copy.toml",
        "name = \"copy\"\n[[steps]]\nname = \"load\"\nreader = { type = \"lines\", path = \"../in.txt\" }\n\
         writer = { type = \"jsonl\", path = \"../out.jsonl\" }\n",
    );
    let done = place.run(&["run", "copy", "--log-format", "json"]).expect(0);
    let lines =
        done.err.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let wrote =
        lines.into_iter().find(|line| line["message"].as_str().unwrap().starts_with("wrote"));
    let wrote = wrote.unwrap_or_else(|| panic!("{}", done.err));
    assert_eq!((&wrote["span"]["job"], &wrote["span"]["execution"]), (&"copy".into(), &1.into()));
    assert!(wrote["timestamp"].as_str().unwrap().ends_with('Z'), "{wrote}");
    assert_eq!(wrote["spans"][0]["name"], "run");
}

#[test]
fn executions_are_found_by_conditions_and_say_who_started_them() {
    let place = Place::new();
    place.write(
        "jobs/touch.toml",
        "name = \"touch\"\n[parameters]\nday = { type = \"date\" }\n[[steps]]\nname = \"touch\"\n\
         type = \"command\"\nargv = [\"true\"]\n",
    );
    for day in ["2026-10-31", "2026-11-01", "2026-11-02"] {
        place.run(&["run", "touch", &format!("day={day}")]).expect(0);
    }
    let found = |filter: &str| -> Vec<i64> {
        let listed =
            place.run(&["executions", "--filter", filter, "--format", "json"]).expect(0).out;
        let lines =
            listed.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|one| one["id"].as_i64().unwrap()).collect()
    };
    assert_eq!(found("param.day:2026-11 status:completed since:1h"), [3, 2]);
    assert_eq!(found("by:cli job:touch"), [3, 2, 1]);
    assert_eq!(found("status:running"), [0; 0]);
    let wrong = place.run(&["executions", "--filter", "day:1"]).expect(2).err;
    assert!(wrong.contains("--filter") && wrong.contains("`day`"), "{wrong}");
    let who = place.show(1)["triggered_by"].as_str().unwrap().to_owned();
    assert!(who.starts_with("cli:") && who.contains('@'), "{who}");
}
