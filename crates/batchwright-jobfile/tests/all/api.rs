//! APIs over HTTP: read page by page, written and called, with a server that throttles and fails.
#![cfg(feature = "http")]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, execution::JobExecution};
use batchwright_jobfile::JobFolder;
use batchwright_testkit::{Service, needs};

/// One test at a time writes to the server.
static WRITES: Mutex<()> = Mutex::new(());

const HEADERS: &str = "headers = { Authorization = \"Bearer sesame\" }\nwait_max = \"2s\"\n";

fn writing() -> MutexGuard<'static, ()> {
    WRITES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the job of `steps` with a crash at commit `crash` unless it is 0.
fn run(folder: &Path, steps: &str, crash: u64) -> Result<JobExecution, String> {
    let file = folder.join("job.toml");
    fs::write(&file, format!("name = \"job\"\n[[steps]]\nname = \"step\"\n{steps}")).unwrap();
    let job = JobFolder::new(folder).load(&file).map_err(|error| error.to_string())?;
    let mut bench = TestBench::of(Arc::into_inner(job).unwrap());
    if crash > 0 {
        bench.crash_at(CommitPoint::Before, crash);
    }
    let mut ended = bench.run();
    if crash > 0 && ended.status != BatchStatus::Completed {
        ended = bench.restart();
    }
    match ended.failure.clone() {
        None => Ok(ended),
        Some(failure) => Err(format!("{}: {}", failure.code, failure.message)),
    }
}

/// Reads all orders of `path` by `keys`, in chunks of 4.
fn read(api: &str, path: &str, keys: &str, crash: u64) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let steps = format!(
        "chunk = 4\nwriter = {{ type = \"csv\", path = \"out\" }}\nskip = {{ limit = 9 }}\n\
         [steps.reader]\ntype = \"http\"\nurl = \"{api}{path}\"\nmax_attempts = 9\n{HEADERS}{keys}\n"
    );
    run(folder.path(), &steps, crash)?;
    Ok(fs::read_to_string(folder.path().join("out")).unwrap())
}

/// Calls the API without a library; returns the body of the answer.
fn call(method: &str, url: &str) -> String {
    let (server, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = std::net::TcpStream::connect(server).unwrap();
    let request = format!("{method} /{path} HTTP/1.0\r\nAuthorization: Bearer sesame\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn orders() -> String {
    let lines = (1..24).map(|id| format!("{id},{}\n", id * 10));
    format!("id,amount\n{}", lines.collect::<String>())
}

#[test]
fn pages_are_read_once_in_every_way_wherever_the_process_dies() {
    let Some(api) = needs(Service::Api) else { return };
    for (path, keys) in [
        (
            "/orders/cursor",
            "items = \"data.items\"\npage = { cursor = \"meta.next\", parameter = \"after\" }",
        ),
        (
            "/orders/cursor",
            "items = \"data.items\"\npage = { cursor = \"meta.next\", parameter = \"after\", size = 7, size_parameter = \"limit\" }",
        ),
        ("/orders/next", "items = \"items\"\npage = { next = \"next\" }"),
        ("/orders/link", "page = { link = true }"),
        ("/orders/number", "items = \"items\"\npage = { number = \"page\" }"),
        ("/orders/number", "items = \"items\"\npage = { number = \"page\", size = 5 }"),
        ("/orders/offset", "items = \"items\"\npage = { offset = \"offset\" }"),
    ] {
        for crash in 0..=6 {
            assert_eq!(read(&api, path, keys, crash), Ok(orders()), "{path} {keys} {crash}");
        }
    }
}

#[test]
fn what_is_no_page_fails_and_says_why() {
    let Some(api) = needs(Service::Api) else { return };
    for (path, keys, wanted) in [
        (
            "/orders/elsewhere",
            "items = \"items\"\npage = { next = \"next\" }",
            "it is at another server, http://127.0.0.2:1",
        ),
        (
            "/orders/same",
            "items = \"items\"\npage = { next = \"next\" }",
            "/orders/again is answered with 404",
        ),
        ("/orders/cursor", "items = \"data.itemz\"", "it has no `data.itemz`"),
        ("/orders/cycle", "page = { link = true }", "the next page is one that was read before"),
        (
            "/orders/ignore",
            "items = \"items\"\npage = { number = \"page\" }",
            "its items are those of the 10 pages before",
        ),
        ("/expired", "page = { link = true }", "the cursor is expired"),
        ("/orders/cursor", "items = \"meta\"", "`meta` is no list"),
        ("/orders/cursor", "", "it is no list; `items` names the place of the list"),
        ("/html", "", "it is no JSON"),
        ("/none?token=secret", "", "/none is answered with 404"),
        ("/moved", "", "/moved is answered with 302"),
        ("/orders/link", "headers = {}", "duplicate key"),
    ] {
        let failed = read(&api, path, keys, 0);
        let message = failed.unwrap_err();
        assert!(message.contains(wanted) && !message.contains("secret"), "{path}: {message}");
    }
    let changed = read(&api, "/orders/unstable", "", 2).unwrap_err();
    assert!(
        changed.contains("page 1 of the API has other items than those that were read"),
        "{changed}"
    );
    assert_eq!(read(&api, "/orders/mixed", "", 0), Ok("id\n1\n3\n".to_owned()), "7 is skipped");
}

#[test]
fn who_is_not_admitted_and_a_server_that_is_not_there_fail_at_once_and_in_time() {
    let Some(api) = needs(Service::Api) else { return };
    let folder = tempfile::tempdir().unwrap();
    let reader = |url: &str, keys: &str| {
        format!(
            "reader = {{ type = \"http\", url = \"{url}\"{keys} }}\nwriter = {{ type = \"none\" }}\n"
        )
    };
    let refused = run(folder.path(), &reader(&format!("{api}/orders/link"), ""), 0).unwrap_err();
    assert!(refused.contains("401") && refused.contains("who are you?"), "{refused}");
    let absent = reader("http://127.0.0.1:1/", ", max_attempts = 2, timeout = \"1s\"");
    let absent = run(folder.path(), &absent, 0).unwrap_err();
    assert!(absent.contains("cannot call GET http://127.0.0.1:1/"), "{absent}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}/", silent.local_addr().unwrap());
    let silent = reader(&silent, ", max_attempts = 1, timeout = \"300ms\"");
    let silent = run(folder.path(), &silent, 0).unwrap_err();
    assert!(silent.contains("cannot call GET"), "{silent}");
}

#[test]
fn what_is_sent_arrives_once_wherever_the_process_dies() {
    let Some(api) = needs(Service::Api) else { return };
    let _one = writing();
    for (keys, refused) in [
        ("", true),
        ("list = true\n", false),
        ("list = true\nlist_name = \"orders\"\n", false),
        ("list = true\n", true),
    ] {
        let sent = (1..=20).filter(|id| refused || *id != 13);
        let input: String = sent.map(|id| format!("{{\"id\":{id}}}\n")).collect();
        // After the scan of a chunk was cut, the rest of it is another list.
        let crashes = if keys.is_empty() || !refused { 5 } else { 0 };
        for crash in 0..=crashes {
            call("DELETE", &format!("{api}/written"));
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("in"), &input).unwrap();
            let steps = format!(
                "chunk = 6\nreader = {{ type = \"jsonl\", path = \"in\" }}\nskip = {{ limit = 9, dead_letter = \"bad\" }}\n\
                 [steps.writer]\ntype = \"http\"\nurl = \"{api}/orders\"\nmax_attempts = 9\n{HEADERS}{keys}"
            );
            run(folder.path(), &steps, crash).unwrap();
            let mut seen: Vec<i64> =
                serde_json::from_str(&call("GET", &format!("{api}/written"))).unwrap();
            seen.sort_unstable();
            let all: Vec<i64> = (1..=20).filter(|id| *id != 13).collect();
            assert_eq!(seen, all, "{keys} {crash}");
            let bad = fs::read_to_string(folder.path().join("bad")).unwrap_or_default();
            assert_eq!(bad.lines().count(), usize::from(refused), "{bad}");
            assert!(
                !refused || bad.contains("data.refused") && bad.contains("13 is unlucky"),
                "{bad}"
            );
        }
    }
}

#[test]
fn a_call_waits_for_the_answer_that_is_expected_and_keeps_what_it_says() {
    let Some(api) = needs(Service::Api) else { return };
    let folder = tempfile::tempdir().unwrap();
    let name = format!("job{}", std::process::id());
    let steps = format!(
        "type = \"http\"\nmethod = \"POST\"\nurl = \"{api}/jobs/{name}\"\nbody = '{{\"a\":1}}'\n{HEADERS}save = {{ id = \"job.id\" }}\n\
         promote = [\"id\"]\n\
         [[steps]]\nname = \"wait\"\ntype = \"http\"\nurl = \"{api}/jobs/${{job.context.id}}\"\n{HEADERS}\
         expect = {{ \"job.state\" = \"done\", \"job.count\" = \"1\" }}\npoll = \"50ms\"\nwithin = \"20s\"\n"
    );
    run(folder.path(), &steps, 0).unwrap();
    let never = |keys: &str| {
        let steps = format!("type = \"http\"\nurl = \"{api}/jobs/none\"\n{HEADERS}{keys}");
        run(folder.path(), &steps, 0).unwrap_err()
    };
    let state = never("expect = { \"job.state\" = \"done\" }\n");
    assert!(state.contains("has `job.state` = `running` and not `done`"), "{state}");
    let late =
        never("expect = { \"job.state\" = \"done\" }\npoll = \"50ms\"\nwithin = \"200ms\"\n");
    assert!(late.contains("after 200ms"), "{late}");
    assert!(never("expect = { \"job.end\" = \"x\" }\n").contains("has no `job.end`"));
    assert!(never("save = { x = \"job.x\" }\n").contains("the answer has no `job.x`"));
}

#[test]
fn wrong_keys_are_refused_when_the_job_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let reader = |keys: &str| {
        let steps =
            format!("writer = {{ type = \"none\" }}\nreader = {{ type = \"http\", {keys} }}\n");
        run(folder.path(), &steps, 0).unwrap_err()
    };
    for (keys, wanted) in [
        ("url = \"orders\"", "expected a URL that begins with"),
        ("url = \"ftp://a/b\"", "expected a URL that begins with"),
        ("url = \"http://a/\", headers = { \"a b\" = \"c\" }", "`a b` is no name of a header"),
        ("url = \"http://a/\", page = {}", "a page has exactly one of"),
        ("url = \"http://a/\", page = { link = true, next = \"n\" }", "a page has exactly one of"),
        (
            "url = \"http://a/\", page = { cursor = \"n\" }",
            "`cursor` and `parameter` need each other",
        ),
        ("url = \"http://a/\", page = { link = true, first = 1 }", "`first` needs `number`"),
        ("url = \"http://a/\", page = { offset = \"o\", size = 0 }", "`size` is above zero"),
        ("url = \"http://a/\", max_attempts = 0", "at least 1"),
    ] {
        let refused = reader(keys);
        assert!(refused.contains(wanted), "{keys}: {refused}");
    }
    let method = "reader = { type = \"sequence\", count = 1 }\nwriter = { type = \"http\", url = \"http://a/\", method = \"GET\" }\n";
    let refused = run(folder.path(), method, 0).unwrap_err();
    assert!(refused.contains("there is no method `GET`; there are: POST, PUT, PATCH"), "{refused}");
    let poll =
        run(folder.path(), "type = \"http\"\nurl = \"http://a/\"\npoll = \"1s\"\n", 0).unwrap_err();
    assert!(poll.contains("`poll` and `within` need each other"), "{poll}");
}

#[test]
fn a_value_within_a_url_leads_to_no_other_place_and_no_secret_is_shown() {
    let Some(api) = needs(Service::Api) else { return };
    let folder = tempfile::tempdir().unwrap();
    let failed = |url: &str, value: &str| {
        let file = folder.path().join("job.toml");
        let text = format!(
            "name = \"job\"\n[parameters]\nk = {{ type = \"string\", secret = true }}\n[[steps]]\nname = \"call\"\ntype = \"http\"\nurl = \"{url}\"\nmax_attempts = 1\n"
        );
        fs::write(&file, text).unwrap();
        let loaded = JobFolder::new(folder.path()).load(&file).unwrap();
        let mut bench = TestBench::of(Arc::into_inner(loaded).unwrap());
        let parameters = batchwright::JobParameters::new().with_non_identifying("k", value);
        bench.run_with(parameters).failure.unwrap().message
    };
    for value in ["..", ".", "%2e%2e"] {
        let message = failed(&format!("{api}/v2/orders/${{params.k}}"), value);
        let leads = message.contains("a value leads to another folder");
        // What is escaped once more is a name.
        assert!(leads || value == "%2e%2e" && message.contains("401"), "{value}: {message}");
    }
    let message = failed(&format!("{api}/v2/${{params.k}}/lines"), "../../admin");
    assert!(message.contains("401"), "{message}");
    let message = failed("http://${params.k}.invalid/x", "hidden");
    assert!(message.contains("GET http://***") && !message.contains("hidden"), "{message}");
    let message = failed("http://${params.k}.invalid/x", "127.0.0.1/");
    assert!(message.contains("cannot use the URL"), "{message}");
    let message = failed(&format!("{api}/bot${{params.k}}/send"), "123456:ABCDEF");
    assert!(
        message.contains("/*** is answered with 401") && !message.contains("ABCDEF"),
        "{message}"
    );
}

#[test]
fn what_the_server_still_works_on_is_sent_again_and_a_stop_ends_a_request() {
    let Some(api) = needs(Service::Api) else { return };
    let folder = tempfile::tempdir().unwrap();
    let name = format!("slow{}", std::process::id());
    let steps = format!(
        "type = \"http\"\nmethod = \"POST\"\nurl = \"{api}/slow/{name}\"\ntimeout = \"500ms\"\nmax_attempts = 9\n{HEADERS}"
    );
    run(folder.path(), &steps, 0).unwrap();
    assert_eq!(call("GET", &format!("{api}/slow/{name}")), "1");
    // Nothing answers at this address.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let file = folder.path().join("job.toml");
    fs::write(&file, format!("name = \"job\"\n[[steps]]\nname = \"call\"\ntype = \"http\"\nurl = \"{url}\"\ntimeout = \"10m\"\n")).unwrap();
    let operator =
        batchwright::JobOperator::builder(Arc::new(batchwright::MemoryRepository::new()))
            .jobs(JobFolder::new(folder.path()))
            .build();
    let handle = operator.start("job", batchwright::JobParameters::new()).unwrap();
    let connection = silent.accept().unwrap();
    operator.stop(handle.id()).unwrap();
    assert_eq!(handle.wait().unwrap().status, BatchStatus::Stopped);
    drop(connection);
}

/// Runs a processor of `keys` over `lines`, JSON objects; returns the output and the dead letters.
fn enriched(lines: &str, keys: &str) -> Result<(String, String), String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.jsonl"), lines).unwrap();
    let steps = format!(
        "chunk = 3\nparallelism = 4\nreader = {{ type = \"jsonl\", path = \"in.jsonl\" }}\n\
         writer = {{ type = \"jsonl\", path = \"out\" }}\nskip = {{ limit = 9, on = [\"data\"], dead_letter = \"rejected\" }}\n\
         [[steps.processors]]\ntype = \"http\"\nmax_attempts = 9\n{HEADERS}{keys}\n"
    );
    run(folder.path(), &steps, 0)?;
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    Ok((read("out"), read("rejected")))
}

#[test]
fn items_get_what_an_api_says_about_them_in_their_order() {
    let Some(api) = needs(Service::Api) else { return };
    let names: Vec<String> = (1..=20).map(|n| format!("c{n}")).collect();
    let lines: String =
        names.iter().map(|name| format!("{{\"id\":\"{name}\",\"level\":0}}\n")).collect();
    let keys = format!(
        "url = \"{api}/orders/customers/{{id}}\"\nset = {{ city = \"address.city\", level = \"level\", zip = \"address.zip\" }}"
    );
    let (out, _) = enriched(&lines, &keys).unwrap();
    let line = |name: &String| {
        let (level, city) = (name.len(), format!("City of {name}"));
        format!("{{\"id\":\"{name}\",\"level\":{level},\"city\":\"{city}\",\"zip\":null}}\n")
    };
    assert_eq!(out, names.iter().map(line).collect::<String>());
    // A value is one name, whatever characters it has.
    let (out, _) = enriched("{\"id\":\"a/b?c=d&e#f%41 ä\"}\n", &keys).unwrap();
    assert!(out.contains("\"city\":\"City of a/b?c=d&e#f%41 ä\""), "{out}");
    let two = keys.replace("{id}", "{id}{level}");
    let (out, _) = enriched("{\"id\":\"--field-1-of-item--\",\"level\":7}\n", &two).unwrap();
    assert!(out.contains("City of --field-1-of-item--7"), "{out}");
}

#[test]
fn items_that_an_api_does_not_know_or_refuses_are_what_the_job_says() {
    let Some(api) = needs(Service::Api) else { return };
    let lines = "{\"id\":\"ada\"}\n{\"id\":\"unknown\"}\n{\"id\":null}\n{\"id\":\"bad\"}\n{\"id\":\"..\"}\n{}\n";
    let keys = |missing: &str| {
        format!(
            "url = \"{api}/orders/customers/{{id}}\"\nset = {{ city = \"address.city\" }}\n{missing}"
        )
    };
    let ada = "{\"id\":\"ada\",\"city\":\"City of ada\"}\n";
    let (out, rejected) = enriched(lines, &keys("")).unwrap();
    assert_eq!(out, ada);
    for what in
        ["the server does not know the item", "422", "leads to another folder", "no such field"]
    {
        assert!(rejected.contains(what), "{what}: {rejected}");
    }
    assert_eq!(rejected.lines().count(), 5, "{rejected}");
    let (out, rejected) = enriched(lines, &keys("missing = \"null\"")).unwrap();
    assert_eq!(
        out,
        format!("{ada}{{\"id\":\"unknown\",\"city\":null}}\n{{\"id\":null,\"city\":null}}\n")
    );
    assert_eq!(rejected.lines().count(), 3, "{rejected}");
    let (out, rejected) = enriched(lines, &keys("missing = \"drop\"")).unwrap();
    assert_eq!(out, ada);
    assert_eq!(rejected.lines().count(), 3, "{rejected}");
    // A place that the answer lacks is a bad record, too.
    let lacking = keys("").replace("address.city", "address.street");
    let (_, rejected) =
        enriched("{\"id\":\"ada\"}\n{\"id\":\"unknown\"}\n", &(lacking + "missing = \"null\""))
            .unwrap();
    assert!(rejected.contains("the answer has no `address.street`"), "{rejected}");
}

#[test]
fn an_item_can_be_the_body_of_a_question() {
    let Some(api) = needs(Service::Api) else { return };
    let keys = format!(
        "url = \"{api}/price\"\nmethod = \"POST\"\nset = {{ gross = \"gross\", key = \"key\" }}"
    );
    let (out, _) = enriched("{\"net\":4}\n{\"net\":5}\n", &keys).unwrap();
    let lines: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["gross"], &lines[1]["gross"]), (&8.into(), &10.into()));
    assert_ne!(lines[0]["key"], lines[1]["key"]);
    // Equal items are different questions, and a value is in no name of a server.
    let (out, _) = enriched("{\"net\":4}\n{\"net\":4}\n", &keys).unwrap();
    let lines: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_ne!(lines[0]["key"], lines[1]["key"]);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.jsonl"), "{\"id\":\".evil.example\"}\n").unwrap();
    let steps = "reader = { type = \"jsonl\", path = \"in.jsonl\" }\nwriter = { type = \"none\" }\n\
                 processors = [{ type = \"http\", url = \"${params.base}{id}/x\", set = { a = \"b\" } }]\n\
                 [parameters.base]\ndefault = \"http://127.0.0.1\"\n";
    let refused = run(folder.path(), steps, 0).unwrap_err();
    assert!(refused.contains("follows the name of the server"), "{refused}");
    for (keys, what) in [
        ("url = \"http://{host}/x\"\nset = { a = \"b\" }", "follows the name of the server"),
        ("url = \"http://h/{id\"\nset = { a = \"b\" }", "a `{` has no `}`"),
        ("url = \"http://h/{id}\"\nset = {}", "at least one field"),
        (
            "url = \"http://h/{id}\"\nmethod = \"PUT\"\nset = { a = \"b\" }",
            "there is no method `PUT`",
        ),
    ] {
        let refused = enriched("{}\n", keys).unwrap_err();
        assert!(refused.contains(what), "{keys}: {refused}");
    }
}
