//! A server with its dashboard, and a browser.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

use std::process::Command;

use batchwright_testkit::browser::Browser;
use batchwright_testkit::process::{Process, free_address};
use batchwright_testkit::{Service, needs};

use super::common::{Place, until};

/// Saves a picture of the book.
pub fn save(name: &str, picture: &[u8]) {
    let pictures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/book/src/pictures");
    std::fs::create_dir_all(pictures).unwrap();
    std::fs::write(format!("{pictures}/{name}.png"), picture).unwrap();
}

/// A server in a folder of its own, with a browser.
pub struct Dashboard {
    pub place: Place,
    pub address: String,
    _server: Process,
    pub browser: Browser,
}

impl Dashboard {
    /// Runs `batchwright dev` in an empty folder; `None` without a browser.
    #[track_caller]
    pub fn start() -> Option<Self> {
        needs(Service::Browser)?;
        Some(Self::on(Place::new(), &["dev"]))
    }

    pub fn on(place: Place, arguments: &[&str]) -> Self {
        Self::at(free_address(), place, arguments)
    }

    pub fn at(address: String, place: Place, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_batchwright"));
        command.current_dir(place.root()).args(arguments);
        command.args(["--http", &address, "--listen", &free_address()]);
        let server = Process::start(&mut command, |line| line.starts_with("Dashboard: "));
        let browser = Browser::start();
        browser.set_view(1440, 900, false);
        Self { place, address, _server: server, browser }
    }

    pub fn open(&self, path: &str) {
        self.browser.open(&format!("http://{}{path}", self.address));
    }

    pub fn path(&self) -> String {
        self.browser.run("return location.pathname + location.search").as_str().unwrap().to_owned()
    }

    pub fn text(&self) -> String {
        self.browser.text("main")
    }

    #[track_caller]
    pub fn until_text(&self, text: &str) {
        until(&format!("the page shows `{text}`"), || self.text().contains(text));
    }

    /// The text of the page as the browser shows it, also without scripts.
    pub fn shown(&self) -> String {
        self.browser.shown_text("main")
    }

    /// Waits until the execution of the page has a status.
    #[track_caller]
    pub fn until_status(&self, status: &str) {
        until(status, || {
            self.browser.has(".title") && self.browser.text(".title").contains(status)
        });
    }

    #[track_caller]
    pub fn until_path(&self, path: &str) {
        until(&format!("the page is {path}"), || self.path() == path);
    }

    /// Leaves a mark that only a page which is not loaded again keeps.
    pub fn mark(&self) {
        self.browser.run("window.mark = 'here'");
    }

    #[track_caller]
    pub fn is_marked(&self) {
        assert_eq!(
            self.browser.run("return window.mark || null"),
            "here",
            "the page was loaded again"
        );
    }

    /// Clicks on the button of a form that sends to `action`, and on the question before it if there is one, and waits for the
    /// page that follows.
    #[track_caller]
    pub fn command(&self, action: &str) {
        self.browser.run("window.mark = 'before'");
        let form = format!("form[action$=\"{action}\"]");
        if self.browser.has(&format!("details:has({form}) > summary")) {
            self.browser.click(&format!("details:has({form}) > summary"));
        }
        self.browser.click(&format!("{form} button"));
        until("another page is loaded", || {
            self.browser.run("return window.mark || null").is_null()
        });
    }

    /// Whether nothing was logged and no policy was violated since the last call.
    #[track_caller]
    pub fn is_quiet(&self) {
        assert_eq!(self.browser.complaints(), [""; 0]);
    }

    /// Waits for the executions that `dev` starts.
    pub fn settled(&self) {
        self.open("/executions?q=status:running");
        self.until_text("No execution matches");
    }
}
