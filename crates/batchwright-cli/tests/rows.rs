//! Rows of the contract that only the command line can keep: `docs/conformance.md` says where each row is.

mod common;

use common::{Place, done, until};

fn with_steps(steps: &str) -> Place {
    let place = Place::new();
    place.write("job.toml", format!("name = \"job\"\n{steps}"));
    place
}

const COUNT: &str = r#"
[[steps]]
name = "write"
chunk = 2
reader = { type = "sequence", count = 5 }
writer = { type = "none" }
"#;

#[test]
fn row_9_a_value_with_a_comma_is_a_value_with_a_comma() {
    let place =
        with_steps(&format!("parameters = {{ s = {{}}, n = {{ type = \"integer\" }} }}\n{COUNT}"));
    place.run(&["run", "job.toml", "s=a,b,LONG", "n=7"]).expect(0);
    let parameters = place.show(1)["parameters"].clone();
    assert_eq!(
        (&parameters["s"]["value"], &parameters["s"]["type"]),
        (&"a,b,LONG".into(), &"string".into())
    );
    assert_eq!(
        (&parameters["n"]["value"], &parameters["n"]["identifying"]),
        (&7.into(), &true.into())
    );
}

#[test]
fn row_10_a_value_that_does_not_parse_is_refused_with_its_parameter_and_its_type() {
    let place = with_steps(&format!("parameters = {{ n = {{ type = \"integer\" }} }}\n{COUNT}"));
    let refused = place.run(&["run", "job.toml", "n=abc"]).expect(2);
    assert!(
        refused.err.contains("parameter `n`: `abc` is not a 64-bit integer"),
        "{}",
        refused.err
    );
    assert_eq!(place.newest(), None);
}

#[test]
fn row_114_a_stop_ends_the_whole_process_group_of_a_command() {
    let place = with_steps(
        r#"
[[steps]]
name = "long"
type = "command"
argv = ["sh", "-c", "sleep 600 & echo $! > child.tmp; mv child.tmp child.pid; wait"]
grace = "1s"
"#,
    );
    let child = place.spawn(&["run", "job.toml", "--lease", "1s"]);
    until("the command runs", || place.path("child.pid").exists());
    place.run(&["stop", "1"]).expect(0);
    assert_eq!(done(child.wait_with_output().unwrap()).code, 5);
    let stat = format!("/proc/{}/stat", place.read("child.pid").trim());
    until("the whole process group has ended", || {
        std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z"))
    });
    assert_eq!(place.show(1)["steps"][0]["status"], "STOPPED");
}

#[test]
fn rows_115_and_146_a_code_of_a_flow_or_a_command_never_makes_a_success_of_a_failure() {
    let place = with_steps(
        r#"
[[steps]]
name = "odd"
type = "command"
argv = ["sh", "-c", "exit 75"]
exit_codes = { 75 = "COMPLETED WITH WARNINGS" }
[[steps.on]]
exit = "COMPLETED WITH*"
fail = "COMPLETED IN ITS WAY"
"#,
    );
    let failed = place.run(&["run", "job.toml", "--format", "json"]).expect(1).json();
    assert_eq!(failed["status"], "FAILED");
    assert_eq!(failed["exit"]["code"], "COMPLETED IN ITS WAY");
}

#[test]
fn row_147_every_end_has_its_exit_code() {
    let place = with_steps(COUNT);
    let broken = r#"{"fatal_write":[3]}"#;
    let run = |arguments: &[&str], code: i32| {
        place.run(arguments).expect(code);
    };
    run(&["run", "nothing"], 2);
    run(&["run", "job.toml", "x=1"], 2);
    run(&["run", "job.toml", "--inject", broken], 1);
    run(&["run", "job.toml", "--new-only"], 6);
    run(&["restart", "1", "--detach"], 0);
    run(&["restart", "2"], 4);
    run(&["stop", "2"], 0);
    run(&["restart", "2"], 0);
    run(&["run", "job.toml"], 3);

    let place = with_steps(&format!("{COUNT}\n[[steps.on]]\nexit = \"COMPLETED\"\nstop = true\n"));
    place.run(&["run", "job.toml"]).expect(5);
    let noop = place.run(&["restart", "1", "--format", "json"]).expect(0).json();
    assert_eq!((&noop["status"], &noop["exit"]["code"]), (&"COMPLETED".into(), &"NOOP".into()));
}
