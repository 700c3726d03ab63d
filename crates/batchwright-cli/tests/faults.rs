//! Faults that people met, each held right by a script of its own: `faults/GROUP/NAME/run.sh` says at its head what
//! happened and what is right, and tries it on the real binary.

use std::path::Path;
use std::process::Command;

use batchwright_testkit::{Service, needs};

/// Runs the script, unless a service is missing that it needs.
fn stays_right(name: &str, services: &[Service]) {
    if services.iter().any(|service| needs(*service).is_none()) {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults").join(name);
    let mut command = Command::new("bash");
    command.arg(script.join("run.sh")).env("BW_BIN", env!("CARGO_BIN_EXE_batchwright"));
    if let Some(url) = std::env::var_os("BATCHWRIGHT_TEST_POSTGRES") {
        // The scripts add the database.
        let url = url.into_string().unwrap();
        command.env("PG_URL", url.rsplit_once('/').unwrap().0);
    }
    if let Some(url) = std::env::var_os("BATCHWRIGHT_TEST_MYSQL") {
        let url = url.into_string().unwrap();
        let port = url.rsplit_once(':').unwrap().1.split('/').next().unwrap().to_owned();
        command.env("MYSQL_TCP_PORT", port);
    }
    let done = command.output().unwrap();
    let last_word = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (last_word(&done.stdout), last_word(&done.stderr));
    assert_eq!(done.status.code(), Some(0), "{name}: {out}{err}");
}

macro_rules! faults {
    ($($test:ident: $name:literal $(needs $($service:ident),+)?;)+) => {$(
        #[test]
        fn $test() {
            stays_right($name, &[Service::Python $($(, Service::$service)+)?]);
        }
    )+};
}

faults! {
    names_of_columns_that_occur_twice_are_refused: "engine/column-names-that-occur-twice";
    a_text_that_is_no_number_is_not_silently_smaller_than_one: "engine/compare-text-with-number";
    a_constraint_that_is_checked_at_the_commit_makes_a_bad_record: "engine/deferred-constraint-is-a-bad-record";
    a_csv_without_items_has_its_header: "engine/empty-csv-has-its-header";
    the_last_second_of_the_calendar_is_a_timestamp: "engine/end-of-time";
    what_json_cannot_say_is_refused: "engine/infinity-in-json";
    numbers_of_json_keep_their_digits: "engine/json-numbers-keep-their-digits";
    an_error_of_postgresql_names_the_database_and_no_line_of_its_own_source: "engine/line-of-a-postgres-error" needs Postgres;
    a_field_that_is_copied_stays_as_it_is: "engine/map-copies-a-field-as-it-is";
    a_missing_working_folder_is_called_so: "engine/missing-working-folder";
    a_device_as_an_output_is_left_alone: "engine/output-to-a-device";
    text_behind_a_closing_quote_spoils_one_record: "engine/text-after-a-closing-quote";
    unreadable_records_need_no_memory: "engine/unreadable-records-need-no-memory";
    a_zero_date_is_not_null: "engine/zero-dates" needs MariaDb;
    an_address_without_a_virtual_host_publishes: "server/amqp-dsn-trailing-slash" needs RabbitMq;
    pages_that_are_named_may_ask: "server/cors-origins";
    lists_of_hours_fire_once_when_the_clock_changes: "server/dst-hour-list";
    explain_says_what_the_expression_does: "server/explain-in-words";
    signs_of_life_need_no_host: "server/health-without-host";
    http_on_the_port_of_the_line_protocol_is_not_followed: "server/kcp-cross-protocol";
    a_lease_of_zero_is_refused: "server/lease-of-zero";
    zones_are_there_without_the_data_of_the_system: "server/no-time-zone-data" needs Root;
    process_1_reaps_what_is_left_behind: "server/pid1-zombies" needs Root;
    scripts_do_not_see_the_password_of_the_store: "server/store-password-in-scripts";
    a_timeout_is_a_failure_whatever_the_exit_status: "server/timeout-exit-zero";
    a_receiver_that_asks_to_wait_is_not_called_before: "server/webhook-retry-after";
    the_status_of_a_webhook_decides_whatever_its_body_does: "server/webhook-slow-body";
    a_commit_whose_answer_is_lost_costs_no_dead_letter: "attacks/ambiguous-sink-commit" needs Postgres;
    a_raw_record_begins_where_its_place_says: "attacks/csv-crlf-raw";
    the_bound_of_a_record_is_the_same_after_a_restart: "attacks/csv-last-record-after-restart";
    dead_letters_never_replace_the_input: "attacks/dead-letter-is-input";
    a_job_of_that_name_in_another_folder_is_not_run: "attacks/definition-of-another-folder";
    an_expression_needs_no_memory_beyond_its_bound: "attacks/expression-memory";
    a_log_that_is_full_stops_no_job: "attacks/log-sink-full-job";
    closing_an_execution_closes_its_partitions: "attacks/partition-row-left-open";
    an_input_that_was_replaced_is_refused: "attacks/restart-changed-input";
    an_unfinished_file_of_another_is_not_continued: "attacks/restart-onto-foreign-part";
    a_store_is_readable_by_its_user_alone: "attacks/store-file-mode";
    control_characters_reach_no_terminal: "attacks/terminal-escapes";
}
