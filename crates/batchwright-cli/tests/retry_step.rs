//! A step that failed runs again in the same execution, from its checkpoint.
#![cfg(feature = "full")]

mod common;
#[allow(dead_code, reason = "not all tests need all of it")]
#[path = "common/queue.rs"]
mod queue;

use batchwright_testkit::{Service, needs, restart};
use common::{Place, until};
use queue::{Kind, Queue};

#[test]
fn a_program_that_fails_runs_again_as_often_as_the_job_file_says() {
    let place = Place::new();
    let job = |attempts: u32, on: &str| {
        format!(
            "name = \"program\"\n[[steps]]\nname = \"program\"\ntype = \"command\"\n\
             argv = [\"sh\", \"-c\", \"echo x >> tries; test $(wc -l < tries) -ge 3\"]\n\
             exit_codes = {{ 1 = \"FAILED:io.lock\" }}\n\
             retry_step = {{ max_attempts = {attempts}, on = [\"{on}\"], backoff = {{ initial = \"10ms\" }} }}\n"
        )
    };
    place.write("program.toml", job(3, "io"));
    let ran = place.run(&["run", "program.toml", "--format", "json"]).expect(0).json();
    assert_eq!(place.read("tries").lines().count(), 3);
    let steps = ran["steps"].as_array().unwrap();
    let statuses: Vec<_> = steps.iter().map(|step| step["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["FAILED", "FAILED", "COMPLETED"]);
    // Fewer attempts, and errors of another kind.
    for (attempts, on, tries) in [(2, "io", 2), (9, "sql", 1)] {
        let place = Place::new();
        place.write("program.toml", job(attempts, on));
        place.run(&["run", "program.toml"]).expect(1);
        assert_eq!(place.read("tries").lines().count(), tries);
    }
}

#[test]
fn a_type_without_work_of_its_own_has_no_retries_and_a_wrong_policy_is_refused() {
    let place = Place::new();
    for (step, what) in [
        ("type = \"decision\"\nexit = \"'A'\"\nretry_step = { max_attempts = 2 }", "retry_step"),
        ("type = \"command\"\nargv = [\"true\"]\nretry_step = { max_attempts = 0 }", "at least 1"),
        ("type = \"command\"\nargv = [\"true\"]\nretry_step = { attempts = 2 }", "attempts"),
    ] {
        place.write("job.toml", format!("name = \"job\"\n[[steps]]\nname = \"s\"\n{step}\n"));
        let refused = place.run(&["run", "job.toml"]).expect(2);
        assert!(refused.err.contains(what), "{step}: {}", refused.err);
    }
}

/// The broker is killed and comes again while its queue is read.
#[test]
fn a_broker_that_dies_meanwhile_costs_no_message_and_repeats_none() {
    if needs(Service::Restart).is_none() {
        return;
    }
    for (kind, server) in [
        (Kind::Amqp, "rabbitmq"),
        (Kind::RedisList, "redis"),
        (Kind::RedisStream, "redis"),
        (Kind::Nats, "nats"),
    ] {
        if !Kind::available().any(|one| one == kind) {
            continue;
        }
        let queue = Queue::new(kind, "outage");
        queue.fill(600);
        let (place, reader) = (Place::new(), queue.reader());
        place.write(
            "job.toml",
            format!(
                "name = \"drain\"\n[[steps]]\nname = \"drain\"\nchunk = 3\n\
                 writer = {{ type = \"jsonl\", path = \"out.jsonl\" }}\n\
                 retry_step = {{ max_attempts = 100, on = [\"io\"], backoff = {{ initial = \"100ms\" }} }}\n\
                 [steps.reader]\ntimeout = \"5s\"\n{reader}\n"
            ),
        );
        // Slow enough that the broker dies in the middle.
        let slowly = r#"{"delay_ms":{"write":20}}"#;
        let mut child = place.spawn(&["run", "job.toml", "--inject", slowly]);
        until("a chunk is written", || !place.parts_of("out.jsonl").is_empty());
        restart(server);
        let status = child.wait().unwrap();
        let shown = place.show(1);
        assert!(status.success(), "{kind:?}: {shown:#}");
        let attempts = shown["steps"].as_array().unwrap().len();
        assert!(attempts > 1, "{kind:?}: the step has noticed it");
        let text = place.read("out.jsonl");
        let different: std::collections::BTreeSet<&str> = text.lines().collect();
        assert_eq!((text.lines().count(), different.len()), (600, 600), "{kind:?}");
    }
}
