//! The client of the line protocol, against our server and against what Kairoi's does.

mod common;
#[path = "common/serving.rs"]
mod serving;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use batchwright_server::kcp::client::{
    BlockingClient, Client, ClientError, ClientSettings, ClientTls,
};
use batchwright_server::{RuleSettings, Secret, When};
use common::Place;
use serving::Serving;

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn far() -> When {
    When::parse("2099-01-01 00:00:00").unwrap()
}

fn settings(address: &str) -> ClientSettings {
    ClientSettings { connect_timeout: Duration::from_secs(5), ..ClientSettings::at(address) }
}

#[test]
fn many_instructions_have_a_result_each() {
    let place = Place::new();
    place.write("jobs/nightly.toml", "name = \"nightly\"\nopen_parameters = true\n[[steps]]\nname = \"say\"\ntype = \"command\"\nargv = [\"true\"]\n");
    let serving = Serving::start(&place);
    run(async {
        let client = Client::new(settings(&serving.address));
        let rules = [
            ("shell", RuleSettings::parse(&["shell", "/bin/true"]).unwrap()),
            ("amqp", RuleSettings::parse(&["amqp", "amqp://u:p@localhost", "e", "k"]).unwrap()),
            ("http", RuleSettings::parse(&["http", "https://localhost/x", "secret"]).unwrap()),
            ("job", RuleSettings::parse(&["job", "nightly", "{\"a\":1}", "retry", "2"]).unwrap()),
        ];
        let set = client.set_rules(rules.map(|(name, rule)| (name, "never.", rule))).await;
        assert!(set.iter().all(Result::is_ok), "{set:?}");
        let unknown = RuleSettings::parse(&["job", "weekly"]).unwrap();
        let refused = client.set_rules([("weekly", "never.", unknown)]).await.remove(0);
        let ClientError::Refused { code, message } = refused.unwrap_err() else { panic!() };
        assert!(code == "invalid" && message.contains("the jobs are: `nightly`"), "{message}");
        let many = (0..5_000).map(|n| (format!("t {n}\n\"\\"), far()));
        let results = client.set_many(many).await;
        assert_eq!(results.len(), 5_000);
        assert!(results.iter().all(Result::is_ok));
        let too_long = "x".repeat(3_000);
        let refused = client.set(&too_long, far()).await.unwrap_err();
        let ClientError::Refused { code, message } = refused else { panic!("{refused:?}") };
        assert_eq!(code, "invalid");
        assert!(message.contains("3000 bytes"), "{message}");
        let listed = client.send(["LIST", "t ", "2"].map(str::to_owned).to_vec()).await.unwrap();
        assert_eq!(listed[0], "t 0\n\"\\");
    });
    let rules = place.run(&["rule", "list"]).expect(0).out;
    assert!(rules.contains("job nightly") && !rules.contains("secret"), "{rules}");
}

#[test]
fn the_example_of_a_client_stores_its_rule_and_its_trigger() {
    let place = Place::new();
    let serving = Serving::start(&place);
    let tests = std::env::current_exe().unwrap();
    let folder = tests.parent().unwrap().parent().unwrap().join("examples");
    let mut example = std::process::Command::new(folder.join("24_scheduler_client"));
    let ended = example.arg(format!("tcp://{}", serving.address)).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let rules = place.run(&["rule", "list"]).expect(0).out;
    assert!(rules.contains("app.default.rule") && rules.contains("amqp"), "{rules}");
    let triggers = place.run(&["schedule", "list"]).expect(0).out;
    assert!(triggers.contains("app.domain.job.0"), "{triggers}");
}

#[test]
fn a_server_that_was_restarted_is_found_again() {
    let place = Place::new();
    let serving = Serving::start(&place);
    let address = serving.address.clone();
    run(async {
        let client = Client::new(settings(&address));
        client.set("a", far()).await.unwrap();
        serving.kill();
        // The client reports that this request has no answer; sending it again is harmless.
        let lost = client.set("b", far()).await;
        assert!(lost.is_err(), "no server could answer");
        let mut command = place.command(&["serve", "--listen", &address]);
        let serving = Serving::of(&mut command);
        client.set("b", far()).await.unwrap();
        assert_eq!(serving.end(), 0);
        let refused = client.set("c", far()).await.unwrap_err();
        assert!(
            matches!(refused, ClientError::Unreachable(_) | ClientError::Unknown),
            "{refused:?}"
        );
    });
}

#[test]
fn a_server_with_certificate_and_token_admits_its_friends_alone() {
    let place = Place::new();
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    place.write("token", "open sesame");
    place.write(
        "batchwright.toml",
        format!(
            "[kcp]\ntoken_file = \"token\"\ntls_certificate = \"{0}/certificate.pem\"\ntls_key = \"{0}/key.pem\"\n",
            tls.display()
        ),
    );
    // On an address that others can reach: with both it is allowed.
    let serving = Serving::of(&mut place.command(&["serve", "--listen", "0.0.0.0:0"]));
    let address = serving.address.replace("0.0.0.0", "127.0.0.1");
    run(async {
        let trusted =
            ClientTls { server_name: "localhost".to_owned(), roots: tls.join("certificate.pem") };
        let friend = ClientSettings {
            token: Some(Secret::new("open sesame")),
            tls: Some(trusted.clone()),
            ..settings(&address)
        };
        Client::new(friend.clone()).set("a", far()).await.unwrap();
        let stranger = ClientSettings { token: Some(Secret::new("guess")), ..friend.clone() };
        let refused = Client::new(stranger).set("a", far()).await.unwrap_err();
        assert!(
            matches!(&refused, ClientError::Refused { code, .. } if code == "unauthorized"),
            "{refused:?}"
        );
        // Another name than that of the certificate; no encryption at all.
        let wrong = ClientTls { server_name: "elsewhere.example".to_owned(), ..trusted };
        for settings in [
            ClientSettings {
                tls: Some(wrong),
                connect_timeout: Duration::from_millis(300),
                ..friend
            },
            ClientSettings { connect_timeout: Duration::from_millis(300), ..settings(&address) },
        ] {
            assert!(Client::new(settings).set("a", far()).await.is_err());
        }
    });
    assert!(!serving.last_word().contains("sesame"));
}

/// A server with Kairoi's manners: it knows two requests, tells no reasons, and closes the connection on a line
/// that is no message.
fn kairoi(listener: TcpListener) -> Vec<String> {
    let mut heard = Vec::new();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    let mut write = stream.try_clone().unwrap();
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        let (id, request) = line.split_once(' ').unwrap();
        heard.push(request.to_owned());
        if request.contains("hang up") {
            return heard;
        }
        let known = request.starts_with("SET ") || request.starts_with("RULE SET ");
        let busy = request.contains("busy");
        let answer = if known && !busy { "OK" } else { "ERROR" };
        // One write: when the connection is reset, parts that wait for an acknowledgement are lost.
        write.write_all(format!("{id} {answer}\n").as_bytes()).unwrap();
    }
    heard
}

#[test]
fn what_kairoi_says_is_understood() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || kairoi(listener));
    run(async {
        let client = Client::new(settings(&address));
        client.set("a", far()).await.unwrap();
        let rule = RuleSettings::parse(&["shell", "/opt/run it.sh"]).unwrap();
        client.set_rule("r", "app.", rule).await.unwrap();
        let refused = client.set("busy", far()).await.unwrap_err();
        assert_eq!(refused, ClientError::Refused { code: String::new(), message: String::new() });
        // A connection that breaks leaves no instruction without an answer.
        let many = ["b", "hang up", "c"].map(|name| (name, far()));
        let results = client.set_many(many).await;
        assert_eq!(results[0], Ok(()));
        assert_eq!(results[1], Err(ClientError::Unknown));
        assert!(results[2].is_err());
    });
    let heard = server.join().unwrap();
    assert_eq!(heard[0], "HELLO 2", "which Kairoi refuses, and nothing depends on");
    assert_eq!(heard[1], "SET a \"2099-01-01 00:00:00\"");
    assert_eq!(heard[2], "RULE SET r app. shell \"/opt/run it.sh\"");
}

/// The answer and the reset of the connection both arrive while the client's only thread is busy; its next instruction
/// then cannot be written, before the answer was read.
#[test]
fn an_answer_that_arrived_before_the_connection_broke_counts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (arrived, arrives) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let line = lines.by_ref().map(Result::unwrap).find(|line| line.contains("SET a")).unwrap();
        arrived.send(()).unwrap();
        // What is not read makes the end of the connection a reset.
        assert_eq!(stream.peek(&mut [0]).unwrap(), 1);
        let answer = format!("{} OK\n", line.split_once(' ').unwrap().0);
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::new(settings(&address));
        let set = |name: &'static str| {
            let client = client.clone();
            tokio::spawn(async move { client.set(name, far()).await })
        };
        let first = set("a");
        while arrives.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        let second = set("b");
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        server.join().unwrap();
        let third = set("c");
        assert_eq!(first.await.unwrap(), Ok(()));
        assert_eq!(second.await.unwrap(), Err(ClientError::Unknown));
        assert!(third.await.unwrap().is_err());
    });
}

#[test]
fn a_program_without_a_runtime_plans_a_trigger() {
    let place = Place::new();
    let serving = Serving::start(&place);
    let client = BlockingClient::connect(&format!("tcp://{}/", serving.address)).unwrap();
    let shell = RuleSettings::parse(&["shell", "/bin/true"]).unwrap();
    client.set_rule("never", "never.", &shell).unwrap();
    let far = std::time::UNIX_EPOCH + Duration::from_secs(4_070_908_800);
    client.set("never.1", far).unwrap();
    client.set("never.2", jiff::Timestamp::from_second(4_070_908_800).unwrap()).unwrap();
    let shown = |name: &str| client.send(vec!["GET".to_owned(), name.to_owned()]).unwrap();
    assert_eq!(shown("never.1")[1..], shown("never.2")[1..]);
    for address in ["", "tcp://", "127.0.0.1", "http://127.0.0.1:1", "127.0.0.1:x", "127.0.0.1:1/x"]
    {
        let refused = Client::connect(address).unwrap_err().to_string();
        assert!(refused.contains(&format!("`{address}` is no address")), "{refused}");
    }
}
