//! Mails: what arrives at a real server, encrypted, and what is refused.
#![cfg(feature = "mail")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwright::testing::TestBench;
use batchwright_jobfile::JobFolder;
use batchwright_testkit::{Service, needs};
use serde_json::Value;

const KEYS: &str =
    "from = \"Orders <orders@shop.example>\"\nsubject = \"Report\"\ntext = \"See the file.\"\n";

/// The server's folder, its addresses without and with encryption from the beginning.
fn server() -> Option<(PathBuf, String, String)> {
    let plain = needs(Service::Smtp)?;
    let variable = |name: &str| std::env::var(name).unwrap();
    let folder = PathBuf::from(variable("BATCHWRIGHT_TEST_SMTP_FOLDER"));
    Some((folder, plain, variable("BATCHWRIGHT_TEST_SMTPS")))
}

/// Runs a job with a step `mail` of `keys`; returns its failure.
fn send(folder: &Path, keys: &str) -> Option<String> {
    let file = folder.join("job.toml");
    fs::write(
        &file,
        format!("name = \"job\"\n[[steps]]\nname = \"mail\"\ntype = \"mail\"\n{keys}"),
    )
    .unwrap();
    let loaded = JobFolder::new(folder).load(&file);
    let job = match loaded {
        Ok(job) => Arc::into_inner(job).unwrap(),
        Err(error) => return Some(error.to_string()),
    };
    let failure = TestBench::of(job).run().failure?;
    Some(format!("{}: {}", failure.code, failure.message))
}

/// The mails to `address` that have arrived.
fn mails_to(folder: &Path, address: &str) -> Vec<Value> {
    let files = fs::read_dir(folder.join("mails")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|one| one == "json")).collect();
    files.sort();
    let mails =
        files.iter().map(|path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap());
    mails.filter(|mail| mail["to"].as_array().unwrap().iter().any(|to| to == address)).collect()
}

#[test]
fn a_mail_arrives_with_its_attachments_encrypted_in_both_ways() {
    let Some((home, starttls, smtps)) = server() else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("orders ä.csv"), "id\n1\n").unwrap();
    for (number, server) in [
        format!("smtp://batchwright:sesame@{starttls}"),
        format!("smtps://batchwright:sesame@{smtps}"),
    ]
    .iter()
    .enumerate()
    {
        let to = format!("ada{number}-{}@shop.example", std::process::id());
        let keys = format!(
            "server = \"{server}\"\ncertificate = \"{}\"\nfrom = \"Orders <orders@shop.example>\"\nto = [\"{to}\", \"Bob <bob@shop.example>\"]\n\
             cc = [\"cid@shop.example\"]\nbcc = [\"dan@shop.example\"]\nreply_to = \"help@shop.example\"\n\
             subject = \"Bericht für ${{job.name}}\"\ntext = \"Grüße\"\nhtml = \"<b>Grüße</b>\"\nattachments = [\"orders ä.csv\"]\n",
            home.join("certificate.pem").display()
        );
        assert_eq!(send(folder.path(), &keys), None);
        let mails = mails_to(&home, &to);
        assert_eq!(mails.len(), 1);
        let mail = &mails[0];
        assert_eq!(mail["user"], "batchwright");
        assert_eq!(mail["encrypted"], true);
        assert_eq!(mail["from"], "orders@shop.example");
        assert_eq!(mail["to"].as_array().unwrap().len(), 4);
        let content = mail["content"].as_str().unwrap();
        for wanted in [
            "From: Orders <orders@shop.example>",
            "Cc: cid@shop.example",
            "Reply-To: help@shop.example",
            "Subject: Bericht =?utf-8?b?ZsO8cg==?= job",
            "multipart/alternative",
            "Content-Disposition: attachment",
            "Message-ID: <",
        ] {
            assert!(content.contains(wanted), "{wanted}: {content}");
        }
        assert!(!content.contains("dan@shop.example"), "{content}");
        // Twice the same mail has the same identity.
        assert_eq!(send(folder.path(), &keys), None);
    }
}

#[test]
fn what_the_server_refuses_and_what_is_not_safe_fails_and_says_why() {
    let Some((home, starttls, _)) = server() else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("large"), vec![0; 2_000]).unwrap();
    let certificate = format!("certificate = \"{}\"\n", home.join("certificate.pem").display());
    let to = "to = [\"eve@shop.example\"]\n";
    let secure = |user: &str| format!("server = \"smtp://{user}{starttls}\"\n{certificate}{KEYS}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let unanswered = format!("server = \"smtp://{}\"\ntimeout = \"300ms\"\n{KEYS}{to}", address);
    for (keys, wanted) in [
        (unanswered, "the server does not answer within 300ms"),
        (
            format!("{}to = [\"missing@shop.example\"]\n", secure("")),
            "(550): there is no such person",
        ),
        (format!("{}to = [\"busy@shop.example\"]\n", secure("")), "(451): later"),
        (format!("{}{to}", secure("batchwright:wrong@")), "(535)"),
        (format!("server = \"smtp://{starttls}\"\n{KEYS}{to}"), "certificate"),
        (format!("server = \"smtp://127.0.0.1:1\"\n{KEYS}{to}"), "cannot send the mail"),
        (
            format!("server = \"smtp://a:b@mail.example\"\nstarttls = false\n{KEYS}{to}"),
            "would be sent unencrypted",
        ),
        (
            format!("server = \"https://mail.example\"\n{KEYS}{to}"),
            "expected `smtps://HOST` or `smtp://HOST`",
        ),
        (format!("server = \"smtp://ada@mail.example\"\n{KEYS}{to}"), "a user and no password"),
        (
            format!("server = \"smtp://mail.example/x\"\n{KEYS}{to}"),
            "neither a path nor parameters",
        ),
        (format!("{}{to}attachments = [\"/dev/zero\"]\n", secure("")), "it is no regular file"),
        (format!("{}to = [\"ada\"]\n", secure("")), "`ada` is no address"),
        (format!("{}to = []\n", secure("")), "`to` has at least one address"),
        (format!("{}{to}attachments = [\"none\"]\n", secure("")), "cannot attach `"),
        (
            format!("{}{to}attachments = [\"large\"]\nattachments_bytes_max = 1000\n", secure("")),
            "are larger than 1000 bytes",
        ),
    ] {
        let failure = send(folder.path(), &keys).unwrap_or_else(|| panic!("{keys}"));
        assert!(failure.contains(wanted), "{keys}: {failure}");
        assert!(!failure.contains("wrong@"), "{failure}");
    }
    assert!(mails_to(&home, "eve@shop.example").is_empty());
}
