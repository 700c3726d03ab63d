//! Traces, metrics and log lines, as a collector of OpenTelemetry gets them.

mod common;
#[path = "common/serving.rs"]
mod serving;

use std::collections::BTreeSet;
use std::fs::File;
use std::process::{Child, Command};

use batchwright_testkit::process::free_address;
use batchwright_testkit::{Service, needs};
use common::{Place, until};
use serving::{Serving, ask, ask_with, get};

/// A collector that writes what it gets into a file.
struct Collector {
    child: Child,
    address: String,
    place: Place,
}

impl Collector {
    /// Starts one; `None` without its program.
    fn start() -> Option<Self> {
        let python = needs(Service::Tools)?;
        let program = "import os, rotel; print(os.path.dirname(rotel.__file__) + '/rotel-agent')";
        let program = Command::new(python).args(["-c", program]).output().unwrap().stdout;
        let (place, address) = (Place::new(), free_address());
        let child = Command::new(String::from_utf8(program).unwrap().trim())
            .args(["start", "--exporter", "blackhole", "--debug-log-verbosity", "detailed"])
            .args(["--debug-log", "traces", "--debug-log", "metrics", "--debug-log", "logs"])
            .args(["--otlp-http-endpoint", &address, "--otlp-grpc-endpoint", &free_address()])
            .current_dir(place.root())
            .stdout(File::create(place.path("received")).unwrap())
            .spawn()
            .unwrap();
        until("the collector listens", || std::net::TcpStream::connect(&address).is_ok());
        Some(Self { child, address, place })
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn received(&self) -> String {
        self.place.read("received")
    }

    /// Waits until there are `count` spans, and returns them: name, and its lines.
    #[track_caller]
    fn spans(&self, count: usize) -> Vec<(String, String)> {
        let spans = || {
            let text = self.received();
            let mut spans = Vec::new();
            for part in text.split("\nSpan #").skip(1) {
                let end = part.find("\nResource").unwrap_or(part.len());
                let (_, name) = part.split_once("    Name           : ").unwrap();
                spans.push((name.lines().next().unwrap().to_owned(), part[..end].to_owned()));
            }
            spans
        };
        until(&format!("{count} spans arrive"), || spans().len() >= count);
        spans()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns what follows `name` in the lines of a span.
fn value(lines: &str, name: &str) -> String {
    let found = lines.lines().find_map(|line| line.trim_start().strip_prefix(name));
    let found = found.unwrap_or_else(|| panic!("{name} is not in {lines}"));
    found.trim_start_matches([' ', ':']).to_owned()
}

/// The names of the attributes in the lines of a span.
fn attributes(lines: &str) -> BTreeSet<&str> {
    let names = lines.lines().filter_map(|line| line.trim_start().strip_prefix("-> "));
    names.filter_map(|name| name.split(": ").next()).filter(|name| name.contains('.')).collect()
}

const JOB: &str = r#"
name = "copy"
[[steps]]
name = "load"
reader = { type = "csv", path = "in.csv", columns = { id = "integer" } }
writer = { type = "jsonl", path = "out.jsonl" }
"#;

fn place() -> Place {
    let place = Place::new();
    place.write("copy.toml", JOB);
    place.write("in.csv", "id\n1\n2\nx\n");
    place
}

#[test]
fn a_collector_gets_the_trace_of_a_job_with_a_link_from_its_restart() {
    let Some(collector) = Collector::start() else { return };
    let place = place();
    let run = |arguments: &[&str], code| {
        let mut command = place.command(arguments);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
        command.env("OTEL_SERVICE_NAME", "nightly");
        assert_eq!(command.output().unwrap().status.code(), Some(code), "{arguments:?}");
    };
    run(&["run", "copy.toml"], 1);
    place.write("in.csv", "id\n1\n2\n3\n");
    run(&["restart", "1"], 0);
    let spans = collector.spans(4);
    let names: Vec<_> = spans.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["run copy", "step load", "run copy", "step load"]);
    let [(_, failed), (_, step), (_, restarted), (_, again)] = &spans[..] else { unreachable!() };
    assert_eq!(value(step, "Parent ID"), value(failed, "ID"));
    assert_eq!(value(step, "Trace ID"), value(failed, "Trace ID"));
    assert_eq!(value(again, "Parent ID"), value(restarted, "ID"));
    assert_ne!(value(restarted, "Trace ID"), value(failed, "Trace ID"), "a restart is a new trace");
    assert_eq!(value(restarted, "-> Trace ID"), value(failed, "Trace ID"), "with a link");
    assert_eq!(value(restarted, "-> ID"), value(failed, "ID"));
    assert_eq!(value(failed, "Status code"), "STATUS_CODE_ERROR");
    assert!(value(failed, "Status message").contains("cannot read column `id`"), "{failed}");
    assert_eq!(value(restarted, "Status code"), "STATUS_CODE_OK");
    assert_eq!(value(again, "-> batch.items.written"), "Int(3)");
    // The names are a contract.
    let of_run = [
        "batch.job.execution.id",
        "batch.job.exit_code",
        "batch.job.instance.id",
        "batch.job.name",
        "batch.job.status",
        "batch.job.trigger",
    ];
    let with = |more: &[&'static str]| of_run.iter().chain(more).copied().collect::<BTreeSet<_>>();
    assert_eq!(attributes(failed), with(&["error.type"]));
    assert_eq!(attributes(restarted), with(&["batch.job.restart_of"]));
    let of_step = [
        "batch.items.filtered",
        "batch.items.read",
        "batch.items.skipped",
        "batch.items.written",
        "batch.step.commit_count",
        "batch.step.execution.id",
        "batch.step.name",
        "batch.step.status",
    ];
    assert_eq!(attributes(again), BTreeSet::from(of_step));
    until("the lines of the log and the metrics arrive", || {
        let text = collector.received();
        text.contains("Body: Str(wrote ") && text.contains("Name: batchwright_items\n")
    });
    let text = collector.received();
    assert!(text.contains("service.name: Str(nightly)"), "{text}");
    let (_, line) = text.split_once("Body: Str(wrote ").unwrap();
    let trace = value(line, "Trace ID");
    assert_eq!(trace, value(restarted, "Trace ID"), "a line belongs to its execution");
}

#[test]
fn the_trace_of_a_process_that_died_is_sent_by_the_one_that_closes_its_execution() {
    let Some(collector) = Collector::start() else { return };
    let place = place();
    place.write("in.csv", "id\n1\n2\n3\n");
    let plan = r#"{"kill": {"before_commit": 1}}"#;
    let mut killed = place.command(&["run", "copy.toml", "--inject", plan]);
    let killed = killed.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()).output().unwrap();
    assert_eq!(killed.status.code(), None, "{killed:?}");
    let serving = Serving::of(
        place
            .command(&["serve", "--jobs", ".", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
    );
    until("the execution is closed", || {
        ask(&serving, "GET", "/v1/executions/1", None).1["status"] == "FAILED"
    });
    let spans = collector.spans(2);
    assert_eq!(value(&spans[0].1, "-> error.type"), "Str(recovered)");
    assert_eq!(value(&spans[1].1, "-> batch.items.written"), "Int(0)");
    assert_eq!(serving.end(), 0);
}

/// Accepts connections, and never answers.
fn hanging() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    (listener, endpoint)
}

#[test]
fn a_collector_that_hangs_changes_no_exit_code_and_is_reported() {
    let (_listener, endpoint) = hanging();
    let place = place();
    place.write("in.csv", "id\n1\n");
    // Longer than the grace period: a server that has ended well stays one that ended well.
    let serving = Serving::of(
        place
            .command(&["serve", "--jobs", ".", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(["--grace", "1s"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
    );
    let (status, _) =
        ask(&serving, "POST", "/v1/jobs/copy/executions", Some(serde_json::json!({})));
    assert_eq!(status, 202);
    until("it is done", || {
        ask(&serving, "GET", "/v1/executions/1", None).1["status"] == "COMPLETED"
    });
    assert_eq!(serving.end(), 0);
    place.write("other.toml", JOB.replace("copy", "other").replace("out.jsonl", "other.jsonl"));
    let mut run = place.command(&["run", "other.toml"]);
    let ran = run.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).output().unwrap();
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let logged = String::from_utf8(ran.stderr).unwrap();
    assert!(logged.contains("telemetry cannot be sent") || logged.contains("too slow"), "{logged}");
}

#[test]
fn a_job_within_a_job_is_in_its_trace() {
    let Some(collector) = Collector::start() else { return };
    let place = place();
    place.write("in.csv", "id\n1\nx\n");
    place.write(
        "outer.toml",
        "name = \"outer\"\n[[steps]]\nname = \"inner\"\ntype = \"job\"\njob = \"copy.toml\"\n",
    );
    let run = |arguments: &[&str], code| {
        let mut command = place.command(arguments);
        command.args(["--jobs", "."]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
        let ran = command.output().unwrap();
        assert_eq!(ran.status.code(), Some(code), "{ran:?}");
    };
    run(&["run", "outer"], 1);
    place.write("in.csv", "id\n1\n2\n");
    run(&["restart", "outer"], 0);
    let spans = collector.spans(8);
    let named = |name: &str| -> Vec<&String> {
        spans.iter().filter(|(known, _)| known == name).map(|(_, lines)| lines).collect()
    };
    let (steps, inner) = (named("step inner"), named("run copy"));
    for (step, inner) in steps.iter().zip(&inner) {
        assert_eq!(value(inner, "Trace ID"), value(step, "Trace ID"));
        assert_eq!(value(inner, "Parent ID"), value(step, "ID"));
    }
    assert_eq!(
        value(inner[1], "-> Trace ID"),
        value(inner[0], "Trace ID"),
        "the link leads somewhere"
    );
    until("the line arrives", || collector.received().contains("Body: Str(wrote "));
    let text = collector.received();
    let (_, line) = text.split_once("Body: Str(wrote ").unwrap();
    assert_eq!(value(line, "Trace ID"), value(inner[1], "Trace ID"));
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A job whose step writes what it gets as `TRACEPARENT`.
const CALLS: &str = r#"
name = "calls"
[parameters]
flags = { type = "string", default = "" }
[[steps]]
name = "ask"
type = "command"
argv = ["sh", "-c", "echo $TRACEPARENT > given"]
"#;

#[test]
fn a_trace_goes_from_the_caller_through_the_execution_to_what_its_step_calls() {
    let Some(collector) = Collector::start() else { return };
    let place = Place::new();
    place.write("calls.toml", CALLS);
    let run = |flags: &str| {
        let mut command = place.command(&["run", "calls.toml", &format!("flags={flags}")]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
        command.env("TRACEPARENT", format!("00-{TRACE}-{CALLER}-{flags}"));
        assert_eq!(command.output().unwrap().status.code(), Some(0));
        place.read("given")
    };
    assert!(run("00").trim().ends_with("-00"), "not recorded by the caller, nor here");
    let given = run("01");
    let spans = collector.spans(2);
    let [(_, execution), (_, step)] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(value(execution, "Trace ID"), TRACE);
    assert_eq!(value(execution, "Parent ID"), CALLER);
    assert_eq!(given.trim(), format!("00-{TRACE}-{}-01", value(step, "ID")));
    let wrong = place
        .command(&["run", "calls.toml", "flags=none"])
        .env("TRACEPARENT", "00-nonsense")
        .output()
        .unwrap();
    let logged = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(0));
    assert!(logged.contains("TRACEPARENT has no effect"), "{logged}");
}

#[test]
fn what_is_not_sampled_here_is_not_asked_of_others() {
    let Some(collector) = Collector::start() else { return };
    let place = Place::new();
    place.write("calls.toml", CALLS);
    let given = |sampler: &str| {
        let mut command = place.command(&["run", "calls.toml", &format!("flags={sampler}")]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
        command.env("OTEL_TRACES_SAMPLER", sampler);
        assert_eq!(command.output().unwrap().status.code(), Some(0));
        place.read("given").trim().rsplit('-').next().unwrap().to_owned()
    };
    assert_eq!(given("parentbased_always_off"), "00");
    assert_eq!(given("always_on"), "01");
    assert_eq!(collector.spans(2).len(), 2, "of the second one");
}

#[test]
fn a_trace_comes_with_a_request_and_each_call_of_a_runner_has_a_span() {
    let Some(collector) = Collector::start() else { return };
    let place = Place::new();
    place.write("calls.toml", CALLS);
    place.write("tell.sh", format!("echo $TRACEPARENT > {}/$1", place.root().display()));
    let serving = Serving::of(
        place
            .command(&["serve", "--jobs", ".", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
    );
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let start = |parent: &str| {
        let body = Some(serde_json::json!({}));
        let path = "/v1/jobs/calls/executions";
        ask_with(&serving, "POST", path, &format!("traceparent: {parent}\r\n"), body).1
    };
    assert_eq!(start(&parent)["trace_parent"], parent);
    let spans = collector.spans(2);
    assert_eq!(value(&spans[0].1, "Parent ID"), CALLER);
    let script = place.path("tell.sh");
    let mut client = serving.client();
    client.done(&format!("1 RULE SET tell tell shell {}", script.display()));
    client.done("2 SET tell \"2001-01-01 00:00:00\"");
    serving.until_status("tell", "executed");
    let spans = collector.spans(3);
    let (name, call) = &spans[2];
    assert_eq!(*name, format!("sh {}", script.display()));
    let names = ["attempt", "name", "outcome", "slot"];
    assert_eq!(attributes(call).len(), names.len() + 1, "{call}");
    assert_eq!(value(call, "-> batch.runner.outcome"), "Str(executed)");
    let given = place.read("tell");
    assert_eq!(given.trim(), format!("00-{}-{}-01", value(call, "Trace ID"), value(call, "ID")));
    let metrics = get(&serving.http, "/metrics");
    let counted = r#"batchwright_runner_invocations_total{runner="shell",outcome="executed"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    assert_eq!(serving.end(), 0);
}

#[test]
fn a_job_ends_as_ever_when_its_collector_is_away_or_named_wrongly() {
    let place = place();
    place.write("in.csv", "id\n1\n");
    let run = |variables: &[(&str, &str)]| {
        let mut command = place.command(&["run", "copy.toml"]);
        let ran = command.envs(variables.iter().copied()).output().unwrap();
        std::fs::remove_file(place.path("batchwright.db")).unwrap();
        std::fs::remove_file(place.path("out.jsonl")).unwrap();
        assert_eq!(ran.status.code(), Some(0), "{ran:?}");
        String::from_utf8(ran.stderr).unwrap()
    };
    let absent = format!("http://{}", free_address());
    let away = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*absent), ("OTEL_EXPORTER_OTLP_TIMEOUT", "500")];
    let logged = run(&away);
    assert_eq!(logged.matches("telemetry cannot be sent").count(), 3, "{logged}");
    let wrong = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ];
    let logged = run(&wrong);
    assert!(
        logged.contains("no telemetry is exported: OTEL_EXPORTER_OTLP_PROTOCOL is `grpc`"),
        "{logged}"
    );
    assert!(!run(&[]).contains("telemetry"), "nothing is exported by default");
}
