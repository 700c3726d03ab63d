//! Files of other places are read and written exactly, wherever the process dies, on real servers.
#![cfg(all(
    feature = "s3",
    feature = "gcs",
    feature = "azure",
    feature = "http",
    feature = "ftp",
    feature = "sftp",
    feature = "webdav"
))]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use batchwright::execution::JobExecution;
use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, Job};
use batchwright_jobfile::JobFolder;
use batchwright_testkit::{Service, needs};
use tempfile::TempDir;

/// The places that are read and written.
const PLACES: [Service; 9] = [
    Service::S3,
    Service::Gcs,
    Service::Azure,
    Service::Ftp,
    Service::Ftps,
    Service::FtpsImplicit,
    Service::FtpOld,
    Service::Sftp,
    Service::WebDav,
];

/// A folder of a place, which no other test uses.
struct Remote {
    url: String,
    folder: String,
}

impl Remote {
    fn of(service: Service, test: &str) -> Option<Self> {
        let url = needs(service)?;
        Some(Self { url, folder: format!("{test}-{}", std::process::id()) })
    }

    /// Returns the URL of the file called `name`.
    fn at(&self, name: &str) -> String {
        let (place, options) = self.url.split_once('?').map_or((&*self.url, ""), |parts| parts);
        let options = if options.is_empty() { String::new() } else { format!("?{options}") };
        format!("{place}{}/{name}{options}", self.folder)
    }
}

fn job(folder: &Path, steps: &str) -> Job {
    let file = folder.join("job.toml");
    fs::write(&file, format!("name = \"job\"\n{steps}")).unwrap();
    let job = JobFolder::new(folder).load(&file).unwrap();
    fs::remove_file(file).unwrap();
    Arc::into_inner(job).expect("the folder of jobs is closed")
}

fn run(folder: &Path, steps: &str) -> JobExecution {
    TestBench::of(job(folder, steps)).run()
}

fn completes(folder: &Path, steps: &str) {
    let done = run(folder, steps);
    assert_eq!(done.status, BatchStatus::Completed, "{steps} {:?}", done.failure);
}

fn fails(folder: &Path, steps: &str) -> String {
    let failure = run(folder, steps).failure.expect("the step fails");
    assert!(!format!("{failure:?}").contains("batchwright:batchwright"), "{failure:?}");
    failure.message
}

/// A step that copies the reader's items to the writer, two in a chunk.
fn copy(reader: &str, writer: &str) -> String {
    format!(
        "[[steps]]\nname = \"copy\"\nchunk = 2\n[steps.reader]\n{reader}\n[steps.writer]\n{writer}\n"
    )
}

fn transfer(from: &str, to: &str, more: &str) -> String {
    format!(
        "[[steps]]\nname = \"transfer\"\ntype = \"transfer\"\nfrom = \"{from}\"\nto = \"{to}\"\n{more}"
    )
}

/// Runs the steps with a crash at each of these commits, and restarts them.
fn with_crashes(
    commits: RangeInclusive<u64>,
    steps: &str,
    prepare: impl Fn(&Path),
    check: impl Fn(&Path),
) {
    for (point, commit) in
        commits.flat_map(|commit| [(CommitPoint::Before, commit), (CommitPoint::After, commit)])
    {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let mut bench = TestBench::of(job(folder.path(), steps));
        bench.crash_at(point, commit);
        let mut done = bench.run();
        if done.status != BatchStatus::Completed {
            done = bench.restart();
        }
        assert_eq!(done.status, BatchStatus::Completed, "{point:?} {commit} {:?}", done.failure);
        check(folder.path());
    }
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_default()
}

/// Returns the content of a remote text file.
fn content(url: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    completes(folder.path(), &transfer(url, "copy", ""));
    read(folder.path(), "copy")
}

const ITEMS: &str =
    "type = \"list\"\nitems = [{ id = 1 }, { id = 2 }, { id = 3 }, { id = 4 }, { id = 5 }]";
const CSV: &str = "id\n1\n2\n3\n4\n5\n";
const JSON: &str =
    "{\"id\":\"1\"}\n{\"id\":\"2\"}\n{\"id\":\"3\"}\n{\"id\":\"4\"}\n{\"id\":\"5\"}\n";

fn put(remote: &Remote, name: &str, text: &str) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), text).unwrap();
    completes(folder.path(), &transfer("file", &remote.at(name), ""));
}

fn folder_is_empty(folder: &Path) -> bool {
    !folder.exists() || fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn an_output_appears_complete_wherever_the_process_dies() {
    for service in PLACES {
        let Some(remote) = Remote::of(service, "outputs") else { continue };
        let url = remote.at("deep/er/out.csv");
        let writer = format!("type = \"csv\"\npath = \"{url}\"");
        let check = |folder: &Path| {
            assert_eq!(content(&url), CSV, "{service:?}");
            assert!(folder_is_empty(&folder.join(".outgoing")), "{service:?}");
        };
        with_crashes(1..=6, &copy(ITEMS, &writer), |_| (), check);
        // Nothing else is there, hidden or not.
        for pattern in ["*", ".*"] {
            let folder = tempfile::tempdir().unwrap();
            let step =
                transfer(&remote.at(&format!("deep/er/{pattern}")), "got/", "optional = true\n");
            completes(folder.path(), &step);
            let found = fs::read_dir(folder.path().join("got")).map_or(0, Iterator::count);
            assert_eq!(found, usize::from(pattern == "*"), "{service:?} {pattern}");
        }
    }
}

/// Sends what arrives at `port` to the server `to`, and back. (The connections of an FTP server for data need no help.)
fn forward(port: u16, to: String) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&to).unwrap());
            for (mut from, mut to) in
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
            {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
}

#[test]
fn an_output_that_could_not_be_sent_is_sent_by_the_restart() {
    let Some(remote) = Remote::of(Service::Ftp, "later") else { return };
    let url = remote.at("out.csv");
    let server = url.split(['@', '/']).nth(3).unwrap();
    // Nothing listens here until the restart.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let later = url.replace(server, &format!("127.0.0.1:{port}"));
    let folder = tempfile::tempdir().unwrap();
    let steps = copy(ITEMS, &format!("type = \"csv\"\npath = \"{later}\""));
    let mut bench = TestBench::of(job(folder.path(), &steps));
    let failed = bench.run().failure.expect("there is no server").message;
    assert!(failed.contains("cannot write `ftp://127.0.0.1:"), "{failed}");
    assert!(!folder_is_empty(&folder.path().join(".outgoing")));
    forward(port, server.to_owned());
    let done = bench.restart();
    assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
    assert_eq!(content(&url), CSV);
    assert!(folder_is_empty(&folder.path().join(".outgoing")));
}

#[test]
fn an_output_that_was_sent_before_the_process_died_is_fetched_back() {
    for (sent, what) in [
        (Some(CSV), None),
        // The process died before the last bytes of the checkpoint, which the place cannot have lost.
        (Some("id\n1\n2\n3\n4\n"), Some("has only 11 bytes")),
        (Some("id\n1\n2\n3\n5\n5\n6\n"), Some("has other bytes")),
        (None, Some("nothing was sent")),
    ] {
        let Some(remote) = Remote::of(Service::Sftp, "sent") else { return };
        let folder = tempfile::tempdir().unwrap();
        let name = format!("{}.csv", what.unwrap_or("whole").replace(' ', "-"));
        let steps = copy(ITEMS, &format!("type = \"csv\"\npath = \"{}\"", remote.at(&name)));
        let mut bench = TestBench::of(job(folder.path(), &steps));
        // All items are committed. What follows is the sending and the removal, without the end of the step.
        bench.crash_at(CommitPoint::After, 3);
        bench.run();
        fs::remove_dir_all(folder.path().join(".outgoing")).unwrap();
        if let Some(sent) = sent {
            put(&remote, &name, sent);
        }
        let done = bench.restart();
        match what {
            None => {
                assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
                assert_eq!(content(&remote.at(&name)), CSV);
                assert!(folder_is_empty(&folder.path().join(".outgoing")));
            }
            Some(what) => {
                let message = done.failure.expect("the output is lost").message;
                assert!(message.contains("at byte 13") && message.contains(what), "{message}");
            }
        }
    }
}

#[test]
fn an_input_continues_where_the_process_died() {
    for service in PLACES {
        let Some(remote) = Remote::of(service, "inputs") else { continue };
        for name in ["plain.csv", "packed.csv.gz"] {
            let url = remote.at(name);
            let folder = tempfile::tempdir().unwrap();
            completes(folder.path(), &copy(ITEMS, &format!("type = \"csv\"\npath = \"{url}\"")));
            let reader = format!("type = \"csv\"\npath = \"{url}\"");
            let steps = copy(&reader, "type = \"jsonl\"\npath = \"out.jsonl\"");
            let check = |folder: &Path| {
                assert_eq!(read(folder, "out.jsonl"), JSON, "{service:?} {name}");
            };
            with_crashes(1..=6, &steps, |_| (), check);
        }
    }
}

#[test]
fn files_of_a_pattern_are_one_input_and_know_their_file() {
    for service in PLACES {
        let Some(remote) = Remote::of(service, "patterns") else { continue };
        put(&remote, "a.csv", "id\n1\n2\n3\n");
        put(&remote, "b.csv", "id\n4\n5\n");
        put(&remote, "c.txt", "no");
        put(&remote, "below/d.csv", "id\n9\n");
        let reader =
            format!("type = \"csv\"\npath = \"{}\"\nfile_field = \"file\"", remote.at("*.csv"));
        let steps = copy(&reader, "type = \"jsonl\"\npath = \"out.jsonl\"");
        let check = |folder: &Path| {
            let out = read(folder, "out.jsonl");
            let ids: Vec<_> = out.lines().map(|line| line.split('"').nth(3).unwrap()).collect();
            assert_eq!(ids, ["1", "2", "3", "4", "5"], "{service:?} {out}");
            assert!(out.lines().next().unwrap().ends_with("/a.csv\"}"), "{out}");
            assert!(!out.contains("batchwright:batchwright") && !out.contains("secret"), "{out}");
        };
        with_crashes(1..=6, &steps, |_| (), check);
    }
}

#[test]
fn files_are_transferred_once_from_each_place_to_three() {
    let old = std::env::var("BATCHWRIGHT_TEST_FTP_OLD").unwrap_or_default();
    let mut remotes: Vec<Remote> = Vec::new();
    for service in PLACES {
        remotes.extend(Remote::of(service, "transfers"));
    }
    // Each place with itself and two others.
    let count = remotes.len();
    let pairs = remotes.iter().enumerate().flat_map(|(at, from)| {
        let others = [0, 1, 3].map(|distance| (at + distance) % count);
        others.map(|at| (from, &remotes[at]))
    });
    for (index, (from, to)) in pairs.enumerate() {
        let (first, second) = (format!("first-{index}"), format!("second-{index}"));
        // A server that tells no times does not know whether an original is still the same.
        let removes = |of: &Remote| of.url != old;
        let keys = |removes: bool| if removes { "remove = true\n" } else { "" };
        let named = |step: String, name: &str| {
            step.replace("name = \"transfer\"", &format!("name = \"{name}\""))
        };
        let steps = [
            named(transfer("in/*.csv", &from.at(&format!("{first}/")), keys(true)), "first"),
            named(
                transfer(
                    &from.at(&format!("{first}/*.csv")),
                    &to.at(&format!("{second}/")),
                    keys(removes(from)),
                ),
                "second",
            ),
            named(transfer(&to.at(&format!("{second}/*.csv")), "out/", keys(removes(to))), "third"),
        ]
        .concat();
        let prepare = |folder: &Path| {
            fs::create_dir(folder.join("in")).unwrap();
            fs::write(folder.join("in/a.csv"), "a".repeat(300_000)).unwrap();
            fs::write(folder.join("in/b.csv"), "").unwrap();
        };
        let check = |folder: &Path| {
            assert!(folder_is_empty(&folder.join("in")));
            assert!(read(folder, "out/a.csv") == "a".repeat(300_000), "{steps}");
            assert!(folder.join("out/b.csv").exists(), "{steps}");
        };
        // All crashes for some pairs, and none for the others.
        if index % 7 == 1 {
            with_crashes(2..=4, &steps, prepare, check);
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        completes(folder.path(), &steps);
        check(folder.path());
    }
}

#[test]
fn an_original_that_was_replaced_meanwhile_is_left() {
    let Some(remote) = Remote::of(Service::Sftp, "replaced") else { return };
    let folder = tempfile::tempdir().unwrap();
    put(&remote, "a.csv", "first");
    let steps = transfer(&remote.at("a.csv"), "got.csv", "remove = true\n");
    let mut bench = TestBench::of(job(folder.path(), &steps));
    // The file is copied, and its original is not removed yet.
    bench.crash_at(CommitPoint::After, 2);
    bench.run();
    put(&remote, "a.csv", "the second file");
    let done = bench.restart();
    assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
    assert_eq!(read(folder.path(), "got.csv"), "first");
    assert_eq!(content(&remote.at("a.csv")), "the second file");
}

#[test]
fn existing_files_are_kept_if_asked_to() {
    for service in PLACES {
        let Some(remote) = Remote::of(service, "existing") else { continue };
        put(&remote, "a.csv", "old");
        put(&remote, "a.csv", "older, and longer");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.csv"), "new").unwrap();
        let kept =
            fails(folder.path(), &transfer("a.csv", &remote.at("a.csv"), "replace = false\n"));
        assert!(kept.contains("it exists"), "{kept}");
        assert_eq!(content(&remote.at("a.csv")), "older, and longer", "{service:?}");
    }
}

#[test]
fn an_input_that_is_replaced_before_the_restart_is_refused() {
    for service in PLACES {
        let Some(remote) = Remote::of(service, "changed") else { continue };
        let folder = tempfile::tempdir().unwrap();
        put(&remote, "a.csv", CSV);
        let reader = format!("type = \"csv\"\npath = \"{}\"", remote.at("a.csv"));
        let steps = copy(&reader, "type = \"jsonl\"\npath = \"out.jsonl\"");
        let mut bench = TestBench::of(job(folder.path(), &steps));
        bench.crash_at(CommitPoint::After, 2);
        bench.run();
        put(&remote, "a.csv", "id\n1\n2\n3\n4\n6\n7\n");
        let failure = bench.restart().failure.expect("the input is another");
        assert_eq!(failure.code, "input_changed", "{service:?} {failure:?}");
    }
}

#[test]
fn files_of_web_servers_are_read_with_and_without_ranges() {
    let Some(url) = needs(Service::Web) else { return };
    let served = std::env::var("BATCHWRIGHT_TEST_WEB_FOLDER").unwrap();
    let name = format!("people-{}.csv", std::process::id());
    fs::write(Path::new(&served).join(&name), CSV).unwrap();
    for url in [format!("{url}{name}"), format!("{url}whole/{name}?version=1&version=2")] {
        let reader = format!("type = \"csv\"\npath = \"{url}\"");
        let steps = copy(&reader, "type = \"jsonl\"\npath = \"out.jsonl\"");
        with_crashes(
            1..=6,
            &steps,
            |_| (),
            |folder| assert_eq!(read(folder, "out.jsonl"), JSON, "{url}"),
        );
        let folder = tempfile::tempdir().unwrap();
        completes(folder.path(), &transfer(&url, "copy.csv", ""));
        assert_eq!(read(folder.path(), "copy.csv"), CSV);
    }
    let folder = tempfile::tempdir().unwrap();
    let missing = fails(folder.path(), &transfer(&format!("{url}none.csv"), "copy.csv", ""));
    assert!(missing.contains("none.csv") && missing.contains("404"), "{missing}");
    let written =
        fails(folder.path(), &copy(ITEMS, &format!("type = \"csv\"\npath = \"{url}out.csv\"")));
    assert!(written.contains("only read"), "{written}");
}

#[test]
fn two_outputs_and_an_input_of_one_url_are_refused() {
    let Some(remote) = Remote::of(Service::Sftp, "claims") else { return };
    put(&remote, "a.csv", CSV);
    let folder = tempfile::tempdir().unwrap();
    let csv = format!("type = \"csv\"\npath = \"{}\"", remote.at("a.csv"));
    let same = fails(folder.path(), &copy(&csv, &csv));
    assert!(same.contains("another input or output that is open"), "{same}");
    let one = format!("{{ type = \"csv\", path = \"{}\" }}", remote.at("b.csv"));
    let many = copy(ITEMS, &format!("type = \"many\"\nwriters = [{one}, {one}]"));
    let twice = fails(folder.path(), &many);
    assert!(twice.contains("another input or output that is open"), "{twice}");
}

#[test]
fn a_value_within_a_url_is_a_name_and_no_option() {
    let Some(remote) = Remote::of(Service::Sftp, "values") else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, value: &str| {
        let parameters =
            format!("[parameters]\nname = {{ type = \"string\", default = '{value}' }}\n");
        let writer = format!("type = \"csv\"\npath = \"{}\"", remote.at(name));
        TestBench::of(job(folder.path(), &format!("{parameters}{}", copy(ITEMS, &writer)))).run()
    };
    let value = "50% #1?known_hosts=none@x:y*";
    let done = run("${params.name}.csv", value);
    assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
    let escaped = "50%25 %231%3Fknown_hosts=none%40x%3Ay%2A";
    assert_eq!(content(&remote.at(&format!("{escaped}.csv"))), CSV);
    let outside = run("${params.name}.csv", "../outside").failure.expect("it leaves the folder");
    assert!(outside.message.contains("contains `..`"), "{outside:?}");
}

#[test]
fn an_original_whose_server_tells_no_time_is_not_removed() {
    let Some(remote) = Remote::of(Service::FtpOld, "times") else { return };
    put(&remote, "a.csv", CSV);
    let folder = tempfile::tempdir().unwrap();
    let refused = fails(folder.path(), &transfer(&remote.at("a.csv"), "a.csv", "remove = true\n"));
    assert!(refused.contains("tells no time of modification"), "{refused}");
    assert!(!folder.path().join("a.csv").exists());
}

#[test]
fn an_object_is_sent_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let large: String = (0..1_200_000).map(|line| format!("{line:>9}\n")).collect();
    fs::write(folder.path().join("large"), &large).unwrap();
    for service in [Service::S3, Service::Gcs, Service::Azure] {
        let Some(remote) = Remote::of(service, "parts") else { continue };
        completes(folder.path(), &transfer("large", &remote.at("large"), ""));
        assert!(content(&remote.at("large")) == large, "{service:?}");
    }
}

/// What is wrong, in a reader and in a writer: the URL, and a part of the message.
fn refused(url: &str, what: &str) {
    let folder = tempfile::tempdir().unwrap();
    let reader = copy(&format!("type = \"csv\"\npath = \"{url}\""), "type = \"none\"");
    let writer = copy(ITEMS, &format!("type = \"csv\"\npath = \"{url}\""));
    for steps in [reader, writer] {
        let message = fails(folder.path(), &steps);
        assert!(message.contains(what), "{url}: {message}");
        assert!(!message.contains("hidden"), "{message}");
    }
}

#[test]
fn a_wrong_place_is_named_and_its_password_is_not() {
    for (url, what) in [
        ("ftp://me:hidden@127.0.0.1:1/a.csv", "ftp://127.0.0.1:1/a.csv"),
        ("sftp://me:hidden@127.0.0.1:1/a.csv", "sftp://127.0.0.1:1/a.csv"),
        ("s3://me:hidden@bucket/a.csv?endpoint=http://127.0.0.1:1", "s3://bucket/a.csv"),
        ("s3://me@bucket/a.csv?endpoint=http://127.0.0.1:1", "no secret key"),
        ("az://container/a.csv", "no account"),
        ("gs://me:hidden@bucket/a.csv", "name the file of a `credential`"),
        ("gs://bucket/a.csv?credential=none.json", "its `credential` cannot be read"),
        ("gs://bucket/a.csv?anonymous=yes", "neither `true` nor `false`"),
        ("ftps://me:hidden@127.0.0.1:1/a.csv?tls=none", "neither `explicit` nor `implicit`"),
        ("ftp://me:hidden@127.0.0.1:1/a.csv?tls=implicit", "`tls` belongs to"),
        ("ftp://me:hidden@127.0.0.1:1/a.csv?colour=red", "no option `colour`"),
        ("ftp://me:hidden@127.0.0.1:1/a.csv?ca=x", "`ca` belongs to"),
        ("ftp://me:hidden@127.0.0.1:1/a.csv?timeout=0s", "above zero"),
        ("ftp://:hidden@127.0.0.1:1/a.csv", "a password and no user"),
        ("sftp://me:hidden@127.0.0.1:1/in/a%2F..%2F..%2Fetc", "contains `..`"),
        ("ftp://me:hidden@127.0.0.1:1/in\\\\..\\\\etc", "contains `..`"),
        ("ftp://me:hidden@127.0.0.1:1/a%3F*.csv", "an escaped `*` or `?`"),
        ("ftp://me:hid%0Dden@127.0.0.1:1/a.csv", "control character"),
        ("sftp://127.0.0.1/a.csv", "names no user"),
        ("sftp://me@127.0.0.1/a.csv", "neither a password nor"),
        ("s3:///a.csv", "names no server"),
        ("ftp://me:hidden@127.0.0.1:1/a#b.csv", "write `%23`"),
        ("s3://bucket/a/../b.csv", "contains `..`"),
    ] {
        refused(url, what);
    }
}

#[test]
fn a_url_that_no_part_can_use_is_refused_when_the_job_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let load = |steps: &str| {
        let file = folder.path().join("job.toml");
        fs::write(&file, format!("name = \"job\"\n{steps}")).unwrap();
        JobFolder::new(folder.path()).load(&file).unwrap_err().to_string()
    };
    let unknown = load(&copy("type = \"csv\"\npath = \"gopher://host/a.csv\"", "type = \"none\""));
    assert!(unknown.contains("known are `s3://`"), "{unknown}");
    let step = "[[steps]]\nname = \"m\"\ntype = \"merge\"\nfrom = \"ftp://host/*\"\nto = \"a\"\n";
    let merged = load(step);
    assert!(merged.contains("only readers, writers and steps of type `transfer`"), "{merged}");
}

#[test]
fn servers_say_what_they_refuse() {
    let empty = TempDir::new().unwrap();
    if let Some(url) = needs(Service::Ftp) {
        let wrong = url.replace("batchwright:batchwright", "batchwright:wrong");
        let denied = fails(empty.path(), &transfer(&format!("{wrong}a"), "a", ""));
        assert!(denied.contains("530"), "{denied}");
        let reader = url.replace("batchwright:batchwright", "reader:reader");
        let writer = copy(ITEMS, &format!("type = \"csv\"\npath = \"{reader}no.csv\""));
        let denied = fails(empty.path(), &writer);
        assert!(denied.contains("550"), "{denied}");
        let missing = fails(empty.path(), &transfer(&format!("{url}none"), "a", ""));
        assert!(missing.contains("no such file"), "{missing}");
    }
    if let Some(url) = needs(Service::Ftps) {
        let trusted = url.split('?').next().unwrap();
        let denied = fails(empty.path(), &transfer(&format!("{trusted}a"), "a", ""));
        assert!(denied.contains("certificate"), "{denied}");
    }
    if let Some(url) = needs(Service::Sftp) {
        let (place, options) = url.split_once('?').unwrap();
        let missing = fails(empty.path(), &transfer(&format!("{place}none?{options}"), "a", ""));
        assert!(missing.contains("No such file"), "{missing}");
        fs::write(empty.path().join("hosts"), "").unwrap();
        let key = options.split('&').next().unwrap();
        let strange = format!("{place}a?{key}&known_hosts=hosts");
        let denied = fails(empty.path(), &transfer(&strange, "a", ""));
        assert!(denied.contains("is not in `"), "{denied}");
        let guessed = place.replace('@', ":guess@");
        let known = options.split('&').nth(1).unwrap();
        let denied = fails(empty.path(), &transfer(&format!("{guessed}a?{known}"), "a", ""));
        assert!(denied.contains("refuses the user"), "{denied}");
    }
    for (service, refused) in
        [(Service::Gcs, "gs://nobucket/a"), (Service::Azure, "az://nobucket/a")]
    {
        let Some(url) = needs(service) else { continue };
        let url = url.replacen("batchwright/?", "nobucket/a?", 1);
        let missing = fails(empty.path(), &transfer(&url, "b", ""));
        assert!(missing.contains(refused) && missing.contains("NotFound"), "{missing}");
        let missing =
            fails(empty.path(), &copy(ITEMS, &format!("type = \"csv\"\npath = \"{url}\"")));
        assert!(missing.contains(refused) && missing.contains("NotFound"), "{missing}");
    }
    if let Some(url) = needs(Service::S3) {
        let bucket = url.replace("@batchwright/", "@nobucket/");
        let (place, options) = bucket.split_once('?').unwrap();
        let missing = fails(empty.path(), &transfer(&format!("{place}a?{options}"), "a", ""));
        assert!(missing.contains("NotFound") || missing.contains("NoSuchBucket"), "{missing}");
        let list = transfer(&format!("{place}*?{options}"), "a/", "");
        let missing = fails(empty.path(), &list);
        assert!(missing.contains("NoSuchBucket"), "{missing}");
    }
}

#[test]
fn a_server_that_never_answers_fails_the_step_within_the_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for (url, what) in [
        (format!("ftp://me:hidden@127.0.0.1:{port}/a.csv?timeout=300ms"), "within 0.3 s"),
        (
            format!("ftps://me:hidden@127.0.0.1:{port}/a.csv?tls=implicit&timeout=300ms"),
            "within 0.3 s",
        ),
        (format!("sftp://me:hidden@127.0.0.1:{port}/a.csv?timeout=300ms"), "within 0.3 s"),
        (
            format!("s3://me:hidden@b/a.csv?endpoint=http://127.0.0.1:{port}&timeout=300ms"),
            "timeout",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let message = fails(folder.path(), &transfer(&url, "a", ""));
        assert!(message.contains(what), "{message}");
    }
}

#[test]
fn rotated_outputs_are_there_once_wherever_the_process_dies() {
    for service in PLACES {
        let Some(remote) = Remote::of(service, "rotated") else { continue };
        for commit in 0..=5 {
            let folder = tempfile::tempdir().unwrap();
            let place = |name: &str| remote.at(&format!("{commit}/{name}"));
            let steps = format!(
                "[[steps]]\nname = \"write\"\nchunk = 2\nreader = {{ type = \"sequence\", count = 9 }}\n\
                 [steps.writer]\ntype = \"rotate\"\nitems = 3\n\
                 writer = {{ type = \"json\", path = \"{}\" }}\n",
                place("out-${file.number}.json")
            );
            let mut bench = TestBench::of(job(folder.path(), &steps));
            if commit > 0 {
                bench.crash_at(CommitPoint::After, commit);
            }
            let mut done = bench.run();
            if commit > 0 {
                done = bench.restart();
            }
            assert_eq!(
                done.status,
                BatchStatus::Completed,
                "{service:?} {commit} {:?}",
                done.failure
            );
            let copies = format!(
                "[[steps]]\nname = \"fetch\"\ntype = \"transfer\"\nfrom = \"{}\"\nto = \"copies/\"\n",
                place("*.json")
            );
            completes(folder.path(), &copies);
            let mut found = Vec::new();
            for entry in fs::read_dir(folder.path().join("copies")).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(path).unwrap()));
            }
            found.sort();
            let expected: Vec<_> = [(1, 1..5), (2, 5..9), (3, 9..10)]
                .map(|(number, items)| {
                    let items: Vec<String> = items.map(|n| format!("{{\"n\":{n}}}")).collect();
                    (format!("out-00000{number}.json"), format!("[\n{}\n]\n", items.join(",\n")))
                })
                .into();
            assert_eq!(found, expected, "{service:?} {commit}");
        }
    }
}
