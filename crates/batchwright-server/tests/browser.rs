//! The example in headless Chromium: short requests import an upload despite failures of the network, the tab
//! and the server.

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use batchwright_testkit::browser::Browser;
use batchwright_testkit::process::free_address;
use batchwright_testkit::{Service, needs};
use common::{Process, example, until};

const ROWS: u64 = 200_000;
const LATENCY_MS: u64 = 150;

/// Writes a file of customers numbered from `first`; one in a thousand has no name.
fn write_csv(path: &Path, first: u64) {
    let mut text = String::from("id,name,balance\n");
    for id in first..first + ROWS {
        let name = if id % 1000 == 7 { " ".to_owned() } else { format!("Customer {id}") };
        writeln!(text, "{id},{name},{}.5", id % 100).unwrap();
    }
    std::fs::write(path, text).unwrap();
}

struct Import {
    folder: tempfile::TempDir,
    address: String,
    server: Process,
    browser: Browser,
}

impl Import {
    fn start() -> Option<Self> {
        needs(Service::Browser)?;
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let server = Self::serve(folder.path(), &address);
        let browser = Browser::start();
        browser.open(&format!("http://{address}/"));
        // Latency, so that an import takes many requests.
        browser.set_network(false, LATENCY_MS);
        Some(Self { folder, address, server, browser })
    }

    fn serve(folder: &Path, address: &str) -> Process {
        let mut command = Command::new(example("12_csv_import"));
        // Short requests, so that failures can happen between them.
        command.arg(address).arg(folder.join("imports")).arg("100");
        Process::start(&mut command, |line| line.contains("listening"))
    }

    fn upload(&self, first: u64) {
        let path = self.folder.path().join(format!("{first}.csv"));
        write_csv(&path, first);
        self.browser.give("#file", path.to_str().unwrap());
        self.browser.click("button");
    }

    fn status(&self) -> String {
        self.browser.text("#status")
    }

    /// Returns the number of rows that the progress bar shows.
    fn shown(&self) -> f64 {
        self.browser.run("return document.querySelector('#bar').value").as_f64().unwrap()
    }

    /// Waits until the import is under way but not complete.
    fn under_way(&self) {
        until("the import is under way", || self.status().contains(" rows"));
        let (shown, status) = (self.shown(), self.status());
        assert!(shown < ROWS as f64, "{status}: the import ended before the test could interfere");
    }

    fn done(&self) {
        until("the import ends", || {
            let status = self.status();
            assert!(!status.contains("failed:"), "{status}");
            status.starts_with("Imported")
        });
        let wrong = ROWS / 1000;
        let expected = format!("Imported {} customers", ROWS - wrong);
        let status = self.status();
        assert!(
            status.contains(&expected) && status.contains(&format!("{wrong} rows were wrong")),
            "{status}"
        );
    }

    /// Returns the number of rows in the table and the sum of their ids.
    fn stored(&self) -> (i64, i64) {
        let path = self.folder.path().join("imports/imports.db");
        let database = rusqlite::Connection::open(path).unwrap();
        database
            .query_row("SELECT count(*), sum(id) FROM customer", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap()
    }
}

fn expected(first: u64) -> (i64, i64) {
    let ids = (first..first + ROWS).filter(|id| id % 1000 != 7);
    ids.fold((0, 0), |(count, sum), id| (count + 1, sum + id.cast_signed()))
}

#[test]
fn an_upload_is_imported_with_a_bar_that_never_goes_back() {
    let Some(import) = Import::start() else { return };
    import.upload(0);
    import.under_way();
    let mut furthest = 0.0;
    while !import.status().starts_with("Imported") {
        let now = import.shown();
        assert!(now >= furthest, "from {furthest} back to {now}");
        furthest = now;
    }
    import.done();
    assert_eq!(import.stored(), expected(0));
}

#[test]
fn the_same_file_can_be_uploaded_twice() {
    let Some(import) = Import::start() else { return };
    for _ in 0..2 {
        import.upload(0);
        until("the import begins", || !import.status().starts_with("Imported"));
        import.done();
        assert_eq!(import.stored(), expected(0));
    }
    let path = import.folder.path().join("imports/imports.db");
    let database = rusqlite::Connection::open(path).unwrap();
    let written = "SELECT sum(write_count) FROM bw_step_execution WHERE status = 'COMPLETED'";
    let written: i64 = database.query_row(written, [], |row| row.get(0)).unwrap();
    assert_eq!(
        written.cast_unsigned(),
        2 * (ROWS - ROWS / 1000),
        "the second upload is imported as well"
    );
}

#[test]
fn a_network_that_is_cut_and_comes_back_costs_nothing() {
    let Some(import) = Import::start() else { return };
    import.upload(0);
    import.under_way();
    import.browser.set_network(true, LATENCY_MS);
    // The request under way is lost, but its committed work is not.
    until("the page sees that it is cut off", || {
        import.browser.run("return navigator.onLine") == false
    });
    import.browser.set_network(false, LATENCY_MS);
    import.done();
    assert_eq!(import.stored(), expected(0));
}

#[test]
fn a_tab_that_is_closed_and_opened_again_goes_on() {
    let Some(import) = Import::start() else { return };
    import.upload(1);
    import.under_way();
    import.browser.reopen();
    import.browser.open(&format!("http://{}/", import.address));
    import.done();
    assert_eq!(import.stored(), expected(1));
}

#[test]
fn a_server_that_is_killed_and_started_again_is_only_waited_for() {
    let Some(mut import) = Import::start() else { return };
    import.upload(2);
    import.under_way();
    import.server.kill();
    import.server = Import::serve(import.folder.path(), &import.address);
    import.done();
    assert_eq!(import.stored(), expected(2));
}
