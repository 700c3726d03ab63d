//! The files in `deploy` fit the program.

mod common;
#[path = "common/serving.rs"]
mod serving;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use batchwright_testkit::{Service, needs};
use sha2::{Digest, Sha256};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).unwrap()
}

/// The metrics that a text names, without the endings of counters and histograms.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let names = text.match_indices("batchwright_").filter_map(|(at, _)| {
        let end = text[at..].find(|letter| !is_part(letter)).map_or(text.len(), |end| at + end);
        // `batchwright_` within a longer word is no metric.
        let before = text[..at].chars().next_back();
        before.is_none_or(|letter| !is_part(letter)).then(|| &text[at..end])
    });
    let endings = ["_total", "_bucket", "_sum", "_count"];
    let bare = |name: &str| {
        endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name).to_owned()
    };
    names.map(bare).collect()
}

/// The names that the program has, which a test of the server pins.
fn known() -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../batchwright-server/src/metrics.rs");
    let source = std::fs::read_to_string(source).unwrap();
    let (_, names) = source.split_once("const NAMES: [&str;").unwrap();
    metrics_in(names.split_once("];").unwrap().0)
}

#[test]
fn alerts_and_pictures_use_metrics_that_exist() {
    let known = known();
    assert!(known.len() > 10, "{known:?}");
    for file in ["prometheus-rules.yml", "grafana.json"] {
        let used = metrics_in(&read(file));
        assert!(used.len() > 5, "{file}: {used:?}");
        let unknown: Vec<_> = used.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} uses metrics that do not exist: {unknown:?}");
    }
    let unused: Vec<_> = known.difference(&metrics_in(&read("grafana.json"))).cloned().collect();
    assert_eq!(unused, [""; 0], "each metric is in the picture");
    serde_json::from_str::<serde_json::Value>(&read("grafana.json")).unwrap();
}

#[test]
fn prometheus_accepts_the_alerts() {
    if needs(Service::Promtool).is_none() {
        return;
    }
    let rules = deploy("prometheus-rules.yml");
    let checked = Command::new("promtool").args(["check", "rules"]).arg(rules).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn a_server_has_metrics_as_prometheus_reads_them() {
    let place = common::Place::new();
    let server = serving::Serving::start(&place);
    let answer = serving::get(&server.http, "/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.contains("batchwright_build_info{version="), "{body}");
    assert!(body.trim_end().ends_with("# EOF"), "{body}");
}

#[test]
fn metrics_can_have_an_address_of_their_own_which_has_nothing_else() {
    let place = common::Place::new();
    let config = place.write("own.toml", "[http]\nmetrics = \"127.0.0.1:0\"\n");
    let server = serving::Serving::start_with(&place, &["--config", config.to_str().unwrap()]);
    let log = server.last_word();
    let own = log.lines().find_map(|line| line.split_once("metrics=")).unwrap().1.trim();
    assert!(serving::get(own, "/metrics").contains("batchwright_build_info{version="));
    assert!(serving::get(own, "/readyz").starts_with("HTTP/1.1 200"));
    for path in ["/v1/jobs", "/", "/executions"] {
        assert!(serving::get(own, path).starts_with("HTTP/1.1 404"), "{path}");
    }
    let elsewhere = serving::get(&server.http, "/metrics");
    assert!(
        elsewhere.starts_with("HTTP/1.1 404") && elsewhere.contains("http.metrics"),
        "{elsewhere}"
    );
}

#[test]
fn metrics_at_their_own_address_need_the_token_of_the_server() {
    let place = common::Place::new();
    let hash: String = Sha256::digest("scrape").iter().map(|it| format!("{it:02x}")).collect();
    let token = format!("[[http.tokens]]\nname = \"p\"\nrole = \"viewer\"\nsha256 = \"{hash}\"\n");
    let config = format!("[http]\nmetrics = \"127.0.0.1:0\"\n{token}");
    let config = place.write("own.toml", config);
    let server = serving::Serving::start_with(&place, &["--config", config.to_str().unwrap()]);
    let log = server.last_word();
    let own = log.lines().find_map(|line| line.split_once("metrics=")).unwrap().1.trim();
    assert!(serving::get(own, "/metrics").starts_with("HTTP/1.1 401"));
    assert!(serving::get(own, "/healthz").starts_with("HTTP/1.1 200"));
}

#[test]
fn other_hosts_reach_the_metrics_only_when_they_are_protected() {
    let place = common::Place::new();
    let config = place.write("open.toml", "[http]\nmetrics = \"0.0.0.0:0\"\n");
    let refused =
        place.run(&["serve", "--listen", "127.0.0.1:0", "--config", config.to_str().unwrap()]);
    let refused = refused.expect(69);
    assert!(refused.err.contains("cannot listen on 0.0.0.0:0"), "{}", refused.err);
}
