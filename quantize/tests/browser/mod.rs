//! Chromium without a window, over the pipe of its DevTools protocol: requests and answers are JSON with a zero byte after each.
//! <https://chromedevtools.github.io/devtools-protocol/>
#![allow(dead_code)] // each test uses some of it

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A browser with one page.
pub struct Browser {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    last: u64,
    session: String,
    /// What its console, or its log, has said of the pages so far.
    pub complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts it; without one says "skipped" on stderr.
    pub fn start() -> Option<Self> {
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let runs = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
        let Some(name) = names.iter().find(|name| runs(name)) else {
            eprintln!("skipped: there is no {}", names.join(", no "));
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        // It reads requests from file 3 and answers on file 4.
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null", name, "--headless=new", "--no-sandbox"])
            .args(["--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (requests, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let (last, session, complaints) = (0, String::new(), vec![]);
        let mut browser = Self { process, requests, answers, last, session, complaints, _profile: profile };
        let target = browser.ask("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = browser.ask("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.ask(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Opens a file on a phone of this width, in a light or dark scheme, and returns what `script` gives there.
    pub fn look(&mut self, file: &Path, width: u32, scheme: &str, script: &str) -> Value {
        self.open(&format!("file://{}", file.display()), width, scheme);
        self.run(script)
    }

    /// Opens a page on a screen of this width, a phone's if it is narrow, in a light or dark scheme.
    pub fn open(&mut self, url: &str, width: u32, scheme: &str) {
        let screen = json!({ "width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.ask("Emulation.setDeviceMetricsOverride", screen);
        let media = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.ask("Emulation.setEmulatedMedia", json!({ "features": media }));
        self.ask("Page.navigate", json!({ "url": url }));
        while self.hear()["method"] != "Page.loadEventFired" {}
    }

    /// What `script` gives in the page; of a promise, what it comes to.
    pub fn run(&mut self, script: &str) -> Value {
        let how = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let run = self.ask("Runtime.evaluate", how);
        assert!(run.get("exceptionDetails").is_none(), "{run}");
        run["result"]["value"].clone()
    }

    /// Chooses a file in the page's file picker.
    pub fn choose(&mut self, picker: &str, file: &Path) {
        let found =
            self.ask("Runtime.evaluate", json!({ "expression": format!("document.querySelector({picker:?})") }));
        let (picker, files) = (&found["result"]["objectId"], [file.display().to_string()]);
        self.ask("DOM.setFileInputFiles", json!({ "objectId": picker, "files": files }));
    }

    /// The page as a picture, PNG in base64.
    pub fn picture(&mut self) -> String {
        let how = json!({ "format": "png", "captureBeyondViewport": true });
        self.ask("Page.captureScreenshot", how)["data"].as_str().unwrap().to_owned()
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut request = json!({ "id": self.last, "method": method, "params": params });
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        self.requests.write_all(format!("{request}\0").as_bytes()).unwrap();
        loop {
            let answer = self.hear();
            if answer["id"] == self.last {
                return answer.get("result").unwrap_or_else(|| panic!("{method}: {answer}")).clone();
            }
        }
    }

    /// The next answer or event.
    fn hear(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.answers.read_until(0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0), "the browser has gone");
        let heard: Value = serde_json::from_slice(&bytes).unwrap();
        if ["Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"]
            .iter()
            .any(|m| heard["method"] == *m)
        {
            self.complaints.push(heard["params"].to_string());
        }
        heard
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
