//! Headless Chromium, controlled by the WebDriver protocol of chromedriver.

use std::process::Command;

use serde_json::{Value, json};

use crate::process::{Process, free_address};

/// A browser with one window.
#[derive(Debug)]
pub struct Browser {
    _driver: Process,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    session: String,
}

impl Browser {
    /// Starts a browser.
    #[must_use]
    pub fn start() -> Self {
        let address = free_address();
        let port = address.rsplit_once(':').unwrap().1.to_owned();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}"));
        let driver = Process::start(&mut command, |line| line.contains("started successfully"));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut browser = Self {
            _driver: driver,
            http: reqwest::Client::new(),
            runtime,
            session: format!("http://{address}/session"),
        };
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ];
        let options = json!({ "args": arguments });
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}});
        let session = browser.ask("", wanted);
        let id = session["sessionId"].as_str().unwrap().to_owned();
        browser.session = format!("http://{address}/session/{id}");
        browser
    }

    fn send(&self, request: reqwest::RequestBuilder) -> Value {
        let answer: Value =
            self.runtime.block_on(async { request.send().await.unwrap().json().await }).unwrap();
        let error = &answer["value"]["error"];
        assert!(error.is_null(), "the browser returned {}", answer["value"]);
        answer["value"].clone()
    }

    fn ask(&self, path: &str, body: Value) -> Value {
        self.send(self.http.post(format!("{}{path}", self.session)).json(&body))
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        self.ask("/url", json!({ "url": url }));
    }

    /// Runs `script` in the page and returns its result.
    pub fn run(&self, script: &str) -> Value {
        self.ask("/execute/sync", json!({"script": script, "args": []}))
    }

    fn find(&self, css: &str) -> String {
        let found = self.ask("/element", json!({"using": "css selector", "value": css}));
        found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    }

    /// Clicks on the element that `css` selects.
    pub fn click(&self, css: &str) {
        let element = self.find(css);
        self.ask(&format!("/element/{element}/click"), json!({}));
    }

    /// Types `text` into an element, or chooses the file `text` for it.
    pub fn give(&self, css: &str, text: &str) {
        let element = self.find(css);
        self.ask(&format!("/element/{element}/value"), json!({ "text": text }));
    }

    /// Returns the text of the element that `css` selects.
    #[must_use]
    pub fn text(&self, css: &str) -> String {
        let script = format!("return document.querySelector('{css}').textContent");
        self.run(&script).as_str().unwrap().to_owned()
    }

    /// Sets the network of the window offline, or online with `latency_ms` of extra latency.
    pub fn set_network(&self, offline: bool, latency_ms: u64) {
        let conditions = json!({
            "offline": offline,
            "latency": latency_ms,
            "download_throughput": -1,
            "upload_throughput": -1,
        });
        self.ask("/chromium/network_conditions", json!({ "network_conditions": conditions }));
    }

    /// Closes the tab and continues in a new one.
    pub fn reopen(&self) {
        let new = self.ask("/window/new", json!({"type": "tab"}));
        self.send(self.http.delete(format!("{}/window", self.session)));
        self.ask("/window", json!({ "handle": new["handle"] }));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let ending = self.http.delete(&self.session).send();
        let _ = self.runtime.block_on(ending);
    }
}
