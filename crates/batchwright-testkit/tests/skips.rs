//! A skipped test is counted and does not pass silently.

use std::process::Command;

use batchwright_testkit::{Service, needs};

/// A helper, not a test: the test below runs it in a process without services.
#[test]
#[ignore = "run by the test below"]
fn one_that_needs_a_broker() {
    let _ = needs(Service::RabbitMq);
}

#[test]
fn a_test_without_its_service_is_counted_with_its_name() {
    let file = std::env::temp_dir().join(format!("batchwright-skips-{}", std::process::id()));
    let run = |broker: Option<&str>| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "one_that_needs_a_broker"]);
        command.env("BATCHWRIGHT_TEST_SKIPPED", &file).env_remove("BATCHWRIGHT_TEST_RABBITMQ");
        command.envs(broker.map(|url| ("BATCHWRIGHT_TEST_RABBITMQ", url)));
        let done = command.output().unwrap();
        assert!(done.status.success());
        let counted = std::fs::read_to_string(&file).unwrap_or_default();
        (String::from_utf8(done.stderr).unwrap(), counted)
    };
    assert_eq!(run(Some("amqp://localhost")), (String::new(), String::new()));
    let (output, counted) = run(None);
    assert_eq!(output, "skipped: one_that_needs_a_broker needs RabbitMq\n");
    assert!(counted.starts_with("RabbitMq\t"), "{counted}");
    assert!(counted.ends_with("skips.rs\tone_that_needs_a_broker\n"), "{counted}");
    std::fs::remove_file(&file).unwrap();
}
