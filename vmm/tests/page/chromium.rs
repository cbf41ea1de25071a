//! A headless Chromium, driven over its pipe: messages of the DevTools protocol, each ended by a zero byte
//! (<https://chromedevtools.github.io/devtools-protocol/>).

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::said::Directory;

/// The names under which it is installed: Debian's, and others'.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// How long a browser may take for one answer, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// The command that starts it, if one is installed.
pub fn installed() -> Option<&'static str> {
    let is_there = |name: &&str| {
        let run = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    };
    NAMES.into_iter().find(is_there)
}

/// A browser with one tab.
pub struct Chromium {
    child: Child,
    requests: ChildStdin,
    messages: Receiver<Value>,
    session: Value,
    last_id: u64,
    /// Errors of the console and of scripts, and everything that was loaded but the page itself.
    pub complaints: Vec<String>,
    profile: Directory,
}

impl Chromium {
    /// Starts one with a profile of its own.
    pub fn start() -> Self {
        let profile = Directory::new();
        let name = installed()
            .expect("no Chromium is installed: the test is ignored, or EFIBED_REQUIRE_CHROMIUM=1 asks for it");
        // It reads file descriptor 3 and writes file descriptor 4: the shell puts them there.
        let script = "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", name, "--headless=new", "--no-sandbox", "--remote-debugging-pipe"]);
        command.args(["--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"]);
        command.arg(format!("--user-data-dir={}", profile.0.display()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (requests, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
            }
        });
        let (session, complaints) = (Value::Null, Vec::new());
        let mut browser = Self { child, requests, messages, session, last_id: 0, complaints, profile };
        let tab = browser.ask("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = json!({ "targetId": tab["targetId"], "flatten": true });
        browser.session = browser.ask("Target.attachToTarget", attached)["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.ask(&format!("{domain}.enable"), json!({}));
        }
        let screen = json!({ "width": 1500, "height": 950, "deviceScaleFactor": 1, "mobile": false });
        browser.ask("Emulation.setDeviceMetricsOverride", screen);
        browser
    }

    /// Opens a file, and waits until it is drawn.
    pub fn open(&mut self, file: &str) {
        let start = Instant::now();
        let went = self.ask("Page.navigate", json!({ "url": format!("file://{file}") }));
        assert_eq!(went["errorText"], Value::Null, "{file}");
        while self.value("document.readyState") != "complete" || self.value("location.pathname") != file {
            assert!(start.elapsed() < PATIENCE, "{file} does not end loading");
            std::thread::sleep(Duration::from_millis(5));
        }
        // Two frames: the first that is asked for may be under way already.
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))");
    }

    /// From now on the work of pages' scripts is counted. Of functions that were compiled before, some would be missing.
    pub fn count_work(&mut self) {
        self.ask("Profiler.enable", json!({}));
        self.ask("Profiler.startPreciseCoverage", json!({ "callCount": true, "detailed": true }));
    }

    /// Does something, and tells how much of pages' scripts ran for it: each function, and each block of one that may run less or
    /// more often than what is around it, as often as it did. That is the same on every machine.
    pub fn work(&mut self, act: impl FnOnce(&mut Self)) -> u64 {
        // What is taken is counted from 0 on again.
        self.ask("Profiler.takePreciseCoverage", json!({}));
        act(self);
        let taken = self.ask("Profiler.takePreciseCoverage", json!({}));
        let each = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let scripts = each(&taken["result"]).into_iter().filter(|script| script["url"].as_str().is_some_and(is_file));
        let functions = scripts.flat_map(|script| each(&script["functions"]));
        let blocks = functions.flat_map(|function| each(&function["ranges"]));
        blocks.filter_map(|block| block["count"].as_u64()).sum()
    }

    /// The value of an expression in the page; of a promise, what it comes to.
    pub fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.ask("Runtime.evaluate", parameters);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].clone()
    }

    /// The text of the first element that a selector finds.
    pub fn text(&mut self, selector: &str) -> String {
        let found = self.value(&format!("document.querySelector({selector:?})?.innerText"));
        found.as_str().unwrap_or_else(|| panic!("there is no {selector}")).to_owned()
    }

    /// How many elements a selector finds.
    pub fn count(&mut self, selector: &str) -> u64 {
        self.value(&format!("document.querySelectorAll({selector:?}).length")).as_u64().unwrap()
    }

    /// Clicks in the middle of the first element that a selector finds, as a mouse does.
    pub fn click(&mut self, selector: &str) {
        let middle = format!(
            "(() => {{ const it = document.querySelector({selector:?}); it.scrollIntoView({{ block: 'nearest' }}); \
             const box = it.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        );
        let at = self.value(&middle);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1 });
            self.ask("Input.dispatchMouseEvent", event);
        }
    }

    /// Presses a key, or types a character.
    pub fn press(&mut self, key: &str) {
        let text = if key.chars().count() == 1 { key } else { "" };
        self.ask("Input.dispatchKeyEvent", json!({ "type": "keyDown", "key": key, "text": text }));
        self.ask("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key }));
    }

    /// The page as a picture, PNG in base64.
    pub fn screenshot(&mut self) -> String {
        self.ask("Page.captureScreenshot", json!({ "format": "png" }))["data"].as_str().unwrap().to_owned()
    }

    /// Has pages be light or dark.
    pub fn colour_scheme(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.ask("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Sends a request, and waits for what it comes to.
    fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut request = json!({ "id": self.last_id, "method": method, "params": parameters });
        if !self.session.is_null() {
            request["sessionId"] = self.session.clone();
        }
        self.requests.write_all(format!("{request}\0").as_bytes()).unwrap();
        loop {
            let message = self.messages.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{method}: {error}"));
            if message["id"] == self.last_id {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].clone();
            }
            self.complaints.extend(complaint(&message));
        }
    }
}

fn is_file(url: &str) -> bool {
    url.starts_with("file:")
}

/// What an event has to say against the page.
fn complaint(event: &Value) -> Option<String> {
    let parameters = &event["params"];
    let is_bad = match event["method"].as_str()? {
        "Runtime.exceptionThrown" => true,
        "Runtime.consoleAPICalled" => parameters["type"] == "error" || parameters["type"] == "warning",
        "Log.entryAdded" => parameters["entry"]["level"] == "error" || parameters["entry"]["level"] == "warning",
        "Network.requestWillBeSent" => parameters["type"] != "Document",
        _ => false,
    };
    is_bad.then(|| event.to_string())
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The profile goes with the directory, once nobody writes to it.
        let _: &Path = &self.profile.0;
    }
}
