//! Headless Chromium, controlled by the WebDriver protocol of chromedriver.

use std::process::Command;

use base64::Engine as _;
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
        let logs = json!({ "browser": "ALL" });
        let wanted = json!({"goog:chromeOptions": options, "goog:loggingPrefs": logs});
        let wanted = json!({"capabilities": {"alwaysMatch": wanted}});
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

    /// Returns the visible text of the element that `css` selects; works in pages that may run no scripts.
    #[must_use]
    pub fn shown_text(&self, css: &str) -> String {
        let element = self.find(css);
        let text = self.send(self.http.get(format!("{}/element/{element}/text", self.session)));
        text.as_str().unwrap().to_owned()
    }

    /// Whether the page has an element that `css` selects.
    #[must_use]
    pub fn has(&self, css: &str) -> bool {
        self.run(&format!("return document.querySelector('{css}') !== null")) == true
    }

    /// Replaces the content of a field.
    pub fn fill(&self, css: &str, text: &str) {
        let element = self.find(css);
        self.ask(&format!("/element/{element}/clear"), json!({}));
        self.ask(&format!("/element/{element}/value"), json!({ "text": text }));
    }

    /// Presses keys, one after another, wherever the focus is; `Control+k` holds Control.
    pub fn press(&self, keys: &[&str]) {
        let code = |key: &str| match key {
            "Control" => "\u{e009}".to_owned(),
            "Enter" => "\u{e007}".to_owned(),
            "Tab" => "\u{e004}".to_owned(),
            "Space" => " ".to_owned(),
            key => key.to_owned(),
        };
        let mut actions = Vec::new();
        for keys in keys {
            let held: Vec<_> = keys.split('+').map(code).collect();
            actions.extend(held.iter().map(|key| json!({"type": "keyDown", "value": key})));
            actions.extend(held.iter().rev().map(|key| json!({"type": "keyUp", "value": key})));
        }
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.ask("/actions", json!({ "actions": [keyboard] }));
    }

    fn developer(&self, command: &str, parameters: Value) -> Value {
        self.ask("/goog/cdp/execute", json!({"cmd": command, "params": parameters}))
    }

    /// Sets the size of the page in pixels, and the colours that the person prefers.
    pub fn set_view(&self, width: u32, height: u32, is_dark: bool) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.developer("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.developer("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Sets whether pages may run scripts.
    pub fn set_scripts(&self, are_allowed: bool) {
        let parameters = json!({ "value": !are_allowed });
        self.developer("Emulation.setScriptExecutionDisabled", parameters);
    }

    /// Returns a picture of the whole page, up to `height_max` pixels, as PNG.
    #[must_use]
    pub fn picture(&self, height_max: u32) -> Vec<u8> {
        let size = self.run("return [innerWidth, document.documentElement.scrollHeight]");
        let height = size[1].as_u64().unwrap().min(height_max.into());
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": height, "scale": 1});
        let parameters = json!({"captureBeyondViewport": true, "clip": clip});
        let taken = self.developer("Page.captureScreenshot", parameters);
        base64::engine::general_purpose::STANDARD.decode(taken["data"].as_str().unwrap()).unwrap()
    }

    /// Returns the errors and warnings that the pages have logged since the last call.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let logged = self.ask("/se/log", json!({"type": "browser"}));
        let lines = logged.as_array().unwrap().iter().filter(|line| line["level"] != "DEBUG");
        lines.map(|line| format!("{}: {}", line["level"], line["message"])).collect()
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
