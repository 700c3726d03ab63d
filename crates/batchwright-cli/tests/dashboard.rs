//! The dashboard of `batchwright dev` in headless Chromium.
//!
//! With `BLESS=1` the pictures of the book are taken anew.

mod common;
#[path = "common/dashboard.rs"]
mod dashboard;

use std::process::Command;

use batchwright_testkit::process::free_address;
use batchwright_testkit::{Service, needs};
use common::{Place, until};
use dashboard::{Dashboard, save};
use sha2::Digest as _;

#[test]
fn a_job_is_started_watched_stopped_and_restarted() {
    let Some(page) = Dashboard::start() else { return };
    page.open("/jobs/month-end");
    page.browser.fill("[name=\"p.month\"]", "2026-10");
    page.browser.fill("[name=\"p.seconds\"]", "2");
    let command = "batchwright start month-end month=2026-10 seconds=2";
    assert_eq!(page.browser.text("[data-as-command]"), command);
    assert!(page.browser.text("[data-as-curl]").contains("{\"month\":\"2026-10\",\"seconds\":2}"));
    page.command("/start");
    until("the execution is shown", || page.path().starts_with("/executions/"));
    let path = page.path();
    page.mark();
    page.until_text("Running");
    page.until_text("reconcile");
    page.is_marked();

    page.command("/stop");
    page.mark();
    page.until_status("Stopped");
    page.is_marked();
    assert!(page.text().contains("dashboard"), "who started it: {}", page.text());

    page.command("/restart");
    until("the execution that restarts it is shown", || page.path() != path);
    page.mark();
    page.until_status("Completed");
    page.is_marked();
    assert!(page.text().contains("Attempts of this instance"));
    page.browser.click("section[aria-labelledby=attempts] td a[href*=compare]");
    assert!(
        page.text().contains("did not run"),
        "the first step ran in one of them: {}",
        page.text()
    );
    assert!(page.browser.has("tr.differs"));

    page.open("/audit");
    for command in ["start", "stop", "restart"] {
        assert!(page.text().contains(command), "{command}: {}", page.text());
    }
    page.is_quiet();
}

#[test]
fn skipped_records_are_found_and_exported() {
    let Some(page) = Dashboard::start() else { return };
    page.settled();
    page.open("/executions?q=job:load-orders");
    page.browser.click("main td a[href$=skips]");
    let text = page.text();
    assert!(
        text.contains("data.parse") && text.contains("137,") && text.contains("line 138"),
        "{text}"
    );
    let lines = "return await (await fetch(document.querySelector('a[download]').href)).text()";
    let lines = page.browser.run(lines);
    let lines: Vec<&str> = lines.as_str().unwrap().lines().collect();
    assert_eq!(lines.len(), 4);
    let first: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!((&first["item"], &first["kind"]), (&137.into(), &"data.parse".into()));
    page.is_quiet();
}

#[test]
fn a_skipped_record_is_corrected_and_replayed() {
    let Some(page) = Dashboard::start() else { return };
    page.settled();
    page.open("/executions?q=job:load-orders");
    page.browser.click("main td a[href$=skips]");
    page.browser.click("main a[href$=correct]");
    let text = page.text();
    assert!(text.contains("Record 137 of step load") && text.contains("137,Gus,free"), "{text}");
    // Nothing was changed.
    page.browser.click("main form .actions button");
    page.until_text("no record was ticked");
    page.browser.run("history.back()");
    page.until_text("Correct and replay");
    page.browser.fill("#record-0", r#"{"id": 137, "customer": "Gus", "amount": "12.50"}"#);
    page.browser.click("main form .actions button");
    page.until_status("Completed");
    assert!(page.text().contains("load-orders.replay") && page.text().contains("dashboard"));
    let written = std::fs::read_dir(page.place.path("out")).unwrap();
    let mut written = written.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let replayed = written.find(|name| name.starts_with("replay-")).unwrap();
    let line = page.place.read(&format!("out/{replayed}"));
    assert!(line.contains("137") && line.contains("12.50") && line.lines().count() == 1, "{line}");
    page.open("/executions?q=job:load-orders");
    page.browser.click("main tr:last-child td a[href$=skips]");
    page.browser.click("main a[href$=correct]");
    let text = page.text();
    assert!(!text.contains("Record 137 of step load") && text.contains("Record "), "{text}");
    page.open("/audit");
    assert!(page.text().contains("1 records of execution"), "{}", page.text());
    // The refused form is the only message of the browser.
    let complaints = page.browser.complaints();
    assert!(complaints.iter().all(|it| it.contains("400 (Bad Request)")), "{complaints:?}");
}

#[test]
fn a_server_is_drained_and_begins_work_again() {
    let Some(page) = Dashboard::start() else { return };
    page.settled();
    page.open("/workers");
    page.command("/workers/drain");
    page.until_text("Nothing runs any more; the process can be ended.");
    page.open("/system");
    assert!(page.browser.has(".checks .failed"), "the check of readiness fails");
    page.open("/jobs/load-orders");
    page.browser.fill("[name=\"p.trigger\"]", "while-drained");
    page.browser.run("document.querySelector('[name=\"p.slot\"]').value = '2026-11-05'");
    page.browser.click("form[data-launch] button");
    page.until_status("Starting");
    let waiting = page.path();
    page.open("/workers");
    assert!(page.text().contains("this server is drained and begins nothing"), "{}", page.text());
    page.command("/workers/resume");
    page.open(&waiting);
    page.until_status("Completed");
    page.open("/audit");
    assert!(page.text().contains("drain") && page.text().contains("resume"), "{}", page.text());
    page.is_quiet();
}

#[test]
fn a_failure_is_in_the_inbox_until_it_is_dealt_with() {
    let Some(page) = Dashboard::start() else { return };
    page.open("/");
    page.until_text("component_failed");
    page.place.write("data/report.csv", "a,b\n1,2\n");
    page.command("/restart");
    page.until_status("Completed");
    page.open("/");
    page.until_text("Nothing. Failures");
    // The failed execution is found by a search, and cannot be restarted a second time.
    page.open("/executions");
    page.browser.fill("#q", "status:failed since:1h");
    page.browser.press(&["Enter"]);
    until("the search is in the address", || page.path().contains("q=status"));
    assert!(page.text().contains("1 execution shown"), "{}", page.text());
    page.browser.click("td input[type=checkbox]");
    page.browser.click("#bulk button[value=restart]");
    page.until_text("would be given for 1 execution");
    page.browser.click("main form button");
    // The operation has a page of its own, which ends without being loaded again.
    until("the operation is shown", || page.path().starts_with("/operations/"));
    page.until_text("1 of 1, 1 refused");
    assert!(page.text().contains("already_complete"), "{}", page.text());
    page.open("/system");
    assert!(page.text().contains("Restart 1 execution"), "{}", page.text());
    page.open("/executions?q=nonsense");
    assert!(page.browser.has("[role=alert]"));
    page.is_quiet();
}

#[test]
fn a_schedule_is_set_paused_fired_and_backfilled() {
    let Some(page) = Dashboard::start() else { return };
    page.settled();
    page.open("/schedule");
    page.browser.click("details:has(#when) > summary");
    page.browser.fill("#name", "orders-test");
    page.browser.fill("#when", "cron \"0 4 * * *\" tz Europe/Berlin");
    page.browser.click("details:has(#when) form button");
    page.until_path("/schedule/orders-test");
    assert!(
        page.text().contains("Europe/Berlin") || page.text().contains("CET"),
        "{}",
        page.text()
    );
    page.command("/pause");
    page.until_text("Paused");
    page.command("/resume");
    page.until_text("Planned");
    page.command("/skip");
    page.until_text("skipped or fired early by a command");
    page.mark();
    page.command("/fire");
    until("the trigger was executed", || {
        page.open("/schedule/orders-test");
        page.text().contains("Executed")
    });
    page.browser.click("details:has(#from) > summary");
    let set = |field: &str, day: &str| {
        page.browser.run(&format!("document.querySelector('{field}').value = '{day}'"));
    };
    set("#from", "2026-11-01");
    set("#to", "2026-11-03");
    page.browser.click("details:has(#from) form button");
    until("three days were loaded", || {
        page.open("/executions?q=job:load-orders%20by:schedule:orders-test%20status:completed");
        page.text().contains("4 executions shown")
    });
    for day in ["2026-11-01", "2026-11-02", "2026-11-03"] {
        assert!(page.text().contains(day), "{day}: {}", page.text());
        assert!(page.place.path(&format!("out/orders-{day}.jsonl")).exists());
    }
    // What was executed is not executed again.
    until("the schedule knows it", || {
        page.open("/schedule/orders-test");
        page.text().matches("Executed").count() >= 4
    });
    page.browser.click("details:has(#from) > summary");
    set("#from", "2026-11-01");
    set("#to", "2026-11-03");
    page.browser.click("details:has(#from) form button");
    page.until_text("no time between these days");
}

/// Opens a progressive execution, has one slice of its first lane done, and returns its number.
fn open_progressive(page: &Dashboard) -> i64 {
    let opened = page.browser.run(
        "const headers = {'content-type': 'application/json'};
        const post = async (path, body) =>
            (await fetch(path, {method: 'POST', headers, body: JSON.stringify(body)})).json();
        const opened = await post('/v1/progressive/rate-customers', {target_ms: 100, parameters: {count: 5000000}});
        const lane = opened.lanes[0].id;
        await post(`/v1/executions/${opened.execution}/lanes/${lane}/slices`, {seq: 1});
        return opened.execution",
    );
    opened.as_i64().unwrap_or_else(|| panic!("{opened}"))
}

#[test]
fn a_progressive_execution_is_followed_from_slice_to_slice() {
    let Some(page) = Dashboard::start() else { return };
    page.settled();
    page.open("/progressive");
    page.until_text("None is open.");
    let id = open_progressive(&page);
    // The page follows the execution without being loaded again.
    page.until_text("rate-customers");
    page.until_text("driven by clients");
    page.browser.click(&format!("main a[href$=\"/executions/{id}\"]"));
    page.until_text("waits for a request");
    assert!(page.browser.has("meter"), "how long the slice took beside its target");
    page.command("/stop");
    page.until_status("Stopped");
    page.is_quiet();
}

#[test]
fn the_context_of_a_failed_job_is_corrected() {
    let Some(page) = Dashboard::start() else { return };
    page.settled();
    page.open("/executions/2");
    let open = "details:has([name=context]) > summary";
    page.browser.click(open);
    page.browser.fill("[name=context]", "{\"month\": ");
    page.browser.click("details:has([name=context]) form button");
    page.until_text("the context is no JSON object");
    page.open("/executions/2");
    page.browser.click(open);
    page.browser.fill("[name=context]", "{\"month\": \"2026-11</textarea><b>\"}");
    page.browser.click("details:has([name=context]) form button");
    page.until_text("2026-11</textarea><b>");
    page.open("/audit");
    assert!(page.text().contains("set context"), "{}", page.text());
    let complaints = page.browser.complaints();
    assert!(complaints.iter().all(|it| it.contains("400 (Bad Request)")), "{complaints:?}");
}

#[test]
fn a_search_is_kept_and_forgotten() {
    let Some(page) = Dashboard::start() else { return };
    page.open("/executions?q=job:load-orders");
    page.browser.click("[data-keep]");
    page.open("/executions");
    until("the search is among the others", || page.text().contains("job:load-orders"));
    page.browser.click(".views a:last-of-type");
    page.until_path("/executions?q=job%3Aload-orders");
    page.browser.click("[data-keep]");
    page.open("/executions");
    assert!(!page.browser.text(".views").contains("load-orders"));
    page.is_quiet();
}

#[test]
fn each_command_of_an_execution_and_of_many_has_its_button() {
    let Some(page) = Dashboard::start() else { return };
    page.settled();
    // Run again with changes: the form has the parameters of the execution.
    page.open("/executions/1");
    page.browser.click("main a[href*=\"?from=1\"]");
    page.until_path("/jobs/load-orders?from=1");
    let slot = "return document.querySelector('[name=\"p.slot\"]').value";
    let slot = page.browser.run(slot);
    assert!(slot.as_str().is_some_and(|day| day.starts_with("20")), "{slot}");
    page.open("/executions/2");
    page.command("/abandon");
    page.until_status("Abandoned");
    // Everything that a search finds, after a count.
    page.place.write("jobs/bad.toml", BAD);
    page.place.run(&["run", "bad"]).expect(1);
    page.open("/executions?q=job:bad");
    page.browser.run("document.querySelector('#bulk [name=scope]').value = 'all'");
    page.browser.click("#bulk button[value=abandon]");
    page.until_text("would be given for 1 execution");
    page.browser.click("main form button");
    page.until_text("1 of 1, 0 refused");
    page.open("/executions?q=job:bad");
    page.until_text("Abandoned");
    // An operation is cancelled while it is under way: one of very many executions takes longer than a click.
    let order = "const ids = [...Array(10000).keys()].map(it => it + 1000);
        const body = JSON.stringify({action: 'stop', executions: ids});
        const headers = {'content-type': 'application/json'};
        return (await (await fetch('/v1/operations', {method: 'POST', headers, body})).json()).id";
    until("an operation is cancelled", || {
        let id = page.browser.run(order);
        page.open(&format!("/operations/{}", id.as_str().unwrap()));
        if !page.browser.has("form[action$=\"/cancel\"]") {
            return false;
        }
        page.browser.run("document.querySelector('form[action$=\"/cancel\"] button').click()");
        until("it ends", || !page.text().contains("Running"));
        page.text().contains("Cancelled")
    });
    page.is_quiet();
}

/// A job that fails.
const BAD: &str =
    "name = \"bad\"\n[[steps]]\nname = \"s\"\ntype = \"command\"\nargv = [\"false\"]\n";

#[test]
fn rules_and_triggers_are_set_replaced_and_removed() {
    let Some(page) = Dashboard::start() else { return };
    page.place.write("jobs/bad.toml", BAD);
    page.settled();
    page.open("/schedule");
    page.browser.click("details:has(#rule) > summary");
    page.browser.fill("#rule", "bad-ones");
    page.browser.fill("#pattern", "bad");
    page.browser.fill("#runner", "job bad");
    page.browser.click("details:has(#rule) form button");
    page.until_text("bad-ones");
    page.browser.click("details:has(#when) > summary");
    page.browser.fill("#name", "bad-nightly");
    page.browser.fill("#when", "cron \"0 4 * * *\"");
    page.browser.click("details:has(#when) form button");
    page.until_path("/schedule/bad-nightly");
    // The page of the job has what fires it.
    page.open("/jobs/bad");
    page.until_text("bad-nightly");
    page.open("/schedule/bad-nightly");
    page.command("/unset");
    page.open("/schedule");
    assert!(!page.text().contains("bad-nightly"), "{}", page.text());
    page.command("/rules/bad-ones/unset");
    page.open("/schedule");
    assert!(!page.text().contains("bad-ones"), "{}", page.text());
    page.is_quiet();
}

/// A configuration with a token of each role.
fn configuration() -> String {
    let token = |role: &str| {
        let hash: String =
            sha2::Sha256::digest(role).iter().map(|it| format!("{it:02x}")).collect();
        format!("[[http.tokens]]\nname = \"{role}\"\nrole = \"{role}\"\nsha256 = \"{hash}\"\n")
    };
    ["viewer", "operator", "admin"].map(token).concat()
}

#[test]
fn people_sign_in_and_see_what_their_role_may_do() {
    let Some(_) = needs(Service::Browser) else { return };
    let place = Place::new();
    place.write("batchwright.toml", configuration());
    let page = Dashboard::on(place, &["dev"]);
    page.open("/executions?q=job:load-orders");
    assert_eq!(page.path(), "/sign-in?next=%2Fexecutions%3Fq%3Djob%3Aload-orders");
    page.browser.fill("#token", "wrong");
    page.browser.click("main button");
    page.until_text("This token is unknown");
    let _ = page.browser.complaints();
    page.browser.fill("#token", "viewer");
    page.browser.click("main button");
    page.until_path("/executions?q=job:load-orders");
    assert_eq!(page.browser.run("return document.cookie"), "", "scripts cannot read the cookie");
    page.open("/jobs/load-orders");
    assert!(!page.browser.has("main form"), "a viewer sees no form that starts the job");
    assert!(page.text().contains("Parameters"), "but what it takes: {}", page.text());
    for (name, path) in PAGES.into_iter().filter(|(name, _)| *name != "correct") {
        page.open(path);
        assert!(!page.browser.has("main form[method=post]"), "{name} has a form for a viewer");
    }
    let refused = "return (await fetch('/executions/1/abandon', {method: 'POST', body: new URLSearchParams()})).status";
    assert_eq!(page.browser.run(refused), 403);
    page.browser.click("form[action$=sign-out] button");
    page.until_path("/sign-in");
    page.browser.fill("#token", "operator");
    page.browser.click("main button");
    page.until_path("/");
    page.open("/jobs/load-orders");
    assert!(page.browser.has("form[data-launch]"));
    let forged = "return (await fetch('/executions/1/abandon', {method: 'POST', body: new URLSearchParams({form_key: 'x'})})).status";
    assert_eq!(page.browser.run(forged), 403, "a form without the word of the session");
    page.open("/schedule");
    assert!(!page.text().contains("Set a rule"), "rules are for administrators");
}

#[test]
fn people_sign_in_with_an_account_of_a_provider() {
    let (Some(_), Some(python)) = (needs(Service::Browser), needs(Service::Tools)) else { return };
    let (ours, theirs) = (free_address(), free_address());
    let port = theirs.rsplit_once(':').unwrap().1;
    let person = r#"{"sub": "alice", "groups": ["ops"]}"#;
    let mut provider = Command::new(python)
        .args(["-W", "ignore", "-m", "oidc_provider_mock", "--port", port, "--user-claims", person])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the provider listens", || std::net::TcpStream::connect(&theirs).is_ok());
    let place = Place::new();
    place.write("secret", "between us\n");
    place.write(
        "batchwright.toml",
        format!(
            "[http.oidc]\nissuer = \"http://{theirs}\"\nclient_id = \"batchwright\"\nclient_secret_file = \"secret\"\n\
             address = \"http://{ours}\"\nroles = {{ ops = \"operator\" }}\n"
        ),
    );
    let page = Dashboard::at(ours, place, &["dev"]);
    page.open("/jobs/load-orders");
    page.browser.click("main a[href*=oidc]");
    until("the provider asks", || page.browser.has("button[value=alice]"));
    page.browser.click("button[value=alice]");
    page.until_path("/jobs/load-orders");
    assert!(page.browser.text(".who").contains("alice"));
    assert!(page.browser.has("form[data-launch]"), "an operator may start jobs");
    page.open("/schedule");
    assert!(!page.text().contains("Set a rule"), "rules are for administrators");
    provider.kill().unwrap();
    provider.wait().unwrap();
}

#[test]
fn pages_are_read_without_scripts_and_used_with_keys_alone() {
    let Some(page) = Dashboard::start() else { return };
    page.settled();
    page.open("/executions");
    page.browser.press(&["Control+k"]);
    until("the palette is open", || page.browser.has("dialog[open]"));
    page.browser.press(&["1", "Enter"]);
    until("the execution is open", || page.path() == "/executions/1");
    page.open("/jobs");
    page.browser.press(&["j", "j", "Enter"]);
    until("the second job is open", || page.path() == "/jobs/month-end");
    // A command by keys alone: what the palette finds under its first letters, and then the answer to its question.
    page.open("/executions/2");
    page.browser.press(&["Control+k"]);
    until("the palette is open", || page.browser.has("dialog[open]"));
    page.browser.press(&["A", "b", "a", "n", "Enter"]);
    until("the question is open", || page.browser.has("details[open] form[action$=\"/abandon\"]"));
    page.browser.press(&["Tab", "Enter"]);
    page.until_status("Abandoned");
    page.is_quiet();
    page.browser.set_scripts(false);
    for (path, text) in [
        ("/", "Needs a decision"),
        ("/executions", "load-orders"),
        ("/executions/1", "Skipped records"),
        ("/jobs", "month-end"),
        ("/schedule", "orders-daily"),
        ("/audit", "start"),
        ("/progressive", "Progressive executions"),
        ("/workers", "Processes that run executions"),
        ("/system", "Checks"),
    ] {
        page.open(path);
        assert!(page.shown().contains(text), "{path}: {}", page.shown());
    }
    page.open("/jobs/load-orders");
    page.browser.give("[name=\"p.trigger\"]", "without-scripts");
    page.browser.click("form[data-launch] button");
    page.browser.set_scripts(true);
    assert!(
        page.path().starts_with("/executions/") || page.text().contains("complete"),
        "{}",
        page.path()
    );
}

/// The pages, with the names of their pictures in the book.
const PAGES: [(&str, &str); 14] = [
    ("overview", "/"),
    ("executions", "/executions"),
    ("execution", "/executions/1"),
    ("failure", "/executions/2"),
    ("skips", "/executions/1/skips"),
    ("correct", "/executions/1/correct"),
    ("compare", "/compare?a=1&b=2"),
    ("job", "/jobs/load-orders"),
    ("schedule", "/schedule"),
    ("trigger", "/schedule/orders-daily"),
    ("progressive", "/progressive"),
    ("workers", "/workers"),
    ("audit", "/audit"),
    ("system", "/system"),
];
/// Most bytes of a page with everything it loads.
const PAGE_BYTES_MAX: f64 = 150_000.0;

/// Checks a page in both themes on a phone and on a desk, and takes its picture with `BLESS=1`.
fn check(page: &Dashboard, axe: &str, name: &str, path: &str) {
    for (width, is_dark) in [(1440, false), (1440, true), (360, false), (360, true)] {
        page.browser.set_view(width, 900, is_dark);
        page.open(path);
        let (at, dark) = (format!("{name} at {width}"), if is_dark { ", dark" } else { "" });
        let wide = page.browser.run("return document.documentElement.scrollWidth - innerWidth");
        assert!(
            wide.as_i64() <= Some(0),
            "{at}{dark}: the page is wider than the window by {wide}"
        );
        let found = page.browser.run(&format!(
            "{axe}; const found = await axe.run(); return found.violations
                .filter(it => ['serious', 'critical'].includes(it.impact))
                .map(it => it.id + ': ' + it.nodes.map(node => node.target + ' ' + node.failureSummary).join('; '))"
        ));
        assert_eq!(found, serde_json::json!([]), "{at}{dark}");
        if std::env::var_os("BLESS").is_some()
            && width == 1440
            && PAGES.iter().any(|(known, _)| *known == name)
        {
            let shade = if is_dark { "-dark" } else { "" };
            save(&format!("{name}{shade}"), &page.browser.picture(1_100));
        }
    }
    let weight = "return performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))
        .map(it => it.encodedBodySize).reduce((a, b) => a + b, 0)";
    let weight = page.browser.run(weight).as_f64().unwrap();
    // The pictures of the book are large.
    let is_light = weight < PAGE_BYTES_MAX || path.starts_with("/book/");
    assert!(weight > 1_000.0 && is_light, "{name} weighs {weight} bytes");
}

#[test]
fn every_page_is_accessible_light_and_dark_on_a_phone_and_on_a_desk() {
    let Some(axe) = needs(Service::Axe) else { return };
    let axe = std::fs::read_to_string(axe).unwrap();
    let Some(page) = Dashboard::start() else { return };
    page.settled();
    let progressive = format!("/executions/{}", open_progressive(&page));
    for (name, path) in PAGES {
        check(&page, &axe, name, path);
    }
    let body = "JSON.stringify({action: 'restart', executions: [1, 2]})";
    let id = page.browser.run(&format!(
        "const headers = {{'content-type': 'application/json'}};
        return (await (await fetch('/v1/operations', {{method: 'POST', headers, body: {body}}})).json()).id"
    ));
    let operation = format!("/operations/{}", id.as_str().unwrap());
    page.open(&operation);
    page.until_text("2 of 2");
    let others = [
        ("jobs", "/jobs"),
        ("sign-in", "/sign-in"),
        ("operation", &*operation),
        ("a progressive execution", &*progressive),
        ("nothing found", "/executions?q=job:none"),
        ("an error", "/executions/999"),
        ("a chapter of the book", "/book"),
        ("the documentation of the API", "/docs"),
        ("a chapter with pictures", "/book/dashboard"),
    ];
    for (name, path) in others {
        check(&page, &axe, name, path);
    }
    // The page of the error is the only one that is not there.
    let mut complaints = page.browser.complaints();
    complaints.retain(|it| !it.contains("/executions/999 - Failed to load resource"));
    assert_eq!(complaints, [""; 0]);
}
