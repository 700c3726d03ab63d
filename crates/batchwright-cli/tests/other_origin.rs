//! A page in a browser cannot drive a server on this machine.

mod common;
#[path = "common/serving.rs"]
mod serving;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use batchwright_testkit::browser::Browser;
use batchwright_testkit::{Service, needs};
use common::{Place, until};
use serving::Serving;

/// A page of another origin posts to the port of the line protocol and to the API, as any page may try.
#[test]
fn a_page_of_another_origin_stores_nothing_and_its_attempts_are_told() {
    if needs(Service::Browser).is_none() {
        return;
    }
    let place = Place::new();
    place.write(
        "jobs/echo.toml",
        "name = \"echo\"\n[[steps]]\nname = \"say\"\ntype = \"command\"\nargv = [\"true\"]\n",
    );
    let serving = Serving::start(&place);
    let page = serve_a_page();
    let browser = Browser::start();
    browser.open(&format!("http://{page}/"));
    let post = |to: &str, kind: &str, body: &str| {
        let how = format!(
            "{{method: 'POST', mode: 'no-cors', headers: {{'Content-Type': {kind:?}}}, body: {body:?}}}"
        );
        browser.run(&format!(
            "window.ended = null;
             fetch({to:?}, {how}).then(() => window.ended = 'answered', () => window.ended = 'refused')"
        ));
        until("the request ends", || !browser.run("return window.ended").is_null());
    };
    let lines = format!("http://{}/", serving.address);
    post(
        &lines,
        "text/plain",
        "1 SET stolen \"2099-01-01 00:00:00\"\n2 RULE SET r \"\" shell echo\n",
    );
    for kind in ["text/plain", "application/json"] {
        post(&format!("http://{}/v1/executions", serving.http), kind, "{\"job\":\"echo\"}");
    }

    let database = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
    for table in ["bw_trigger", "bw_rule", "bw_job_execution"] {
        let query = format!("SELECT count(*) FROM {table}");
        let count: i64 = database.query_row(&query, [], |row| row.get(0)).unwrap();
        assert_eq!(count, 0, "{table}");
    }
    until("both are logged", || {
        let last_word = serving.last_word();
        last_word.contains("a client spoke HTTP to the line protocol")
            && last_word.contains("a page of another origin was refused")
    });
    assert_eq!(serving.end(), 0);
}

/// The address of a page, which is there until the process ends.
fn serve_a_page() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut reading, mut line) = (BufReader::new(&stream), String::new());
            while reading.read_line(&mut line).is_ok_and(|count| count > 2) {
                line.clear();
            }
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9\r\nConnection: close";
            let _ = (&stream).write_all(format!("{head}\r\n\r\n<p>A page").as_bytes());
        }
    });
    address
}
