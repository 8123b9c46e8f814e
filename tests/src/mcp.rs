//! A client of `clawmesh mcp`: plain JSON-RPC, a line a message, as any other program would speak it.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{cli::program, wait_until};

/// OpenClaw's client gives up after a minute; every answer has to come well before.
const ANSWER: Duration = Duration::from_secs(50);

/// `clawmesh mcp` on stdin and stdout.  Dropped, it is killed.
#[derive(Debug)]
pub struct Mcp {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    asked: u64,
    /// Sent as `_meta` with every request: how clients of 2026-07-28 introduce themselves.
    meta: Option<Value>,
    /// Answers that came before they were asked for here.
    early: BTreeMap<u64, Value>,
    /// What came unasked.
    pub notices: Vec<Value>,
}

impl Mcp {
    /// Starts it for the node of this home, whether that runs or not.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(home: &Path) -> Self {
        let mut command = program(None);
        command.arg("--home").arg(home).arg("mcp");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("the program can be started");
        let (to, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
        Self { stdin: child.stdin.take(), child, lines, asked: 0, meta: None, early: BTreeMap::new(), notices: Vec::new() }
    }
    /// Starts it and makes the acquaintance by `initialize`; returns the answer, too.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn hello(home: &Path, version: &str) -> (Self, Value) {
        let mut mcp = Self::start(home);
        let params = json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
        let answer = mcp.ask("initialize", params);
        assert!(answer["result"].is_object(), "{answer}");
        mcp.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        (mcp, answer["result"].clone())
    }
    /// Starts it for a client of 2026-07-28, which has no `initialize` and says with each request what it can do.
    pub fn modern(home: &Path, capabilities: Value) -> Self {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        });
        let mut mcp = Self::start(home);
        mcp.meta = Some(meta);
        mcp
    }
    /// Sends bytes as they are.
    ///
    /// # Panics
    /// When it has ended.
    #[track_caller]
    pub fn raw(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("the program reads");
    }
    /// Sends one message.
    #[track_caller]
    pub fn send(&mut self, message: &Value) {
        self.raw(format!("{message}\n").as_bytes());
    }
    /// The next message, whatever it is.
    ///
    /// # Panics
    /// When none comes within 50 s.
    #[track_caller]
    pub fn message(&mut self) -> Value {
        match self.lines.recv_timeout(ANSWER) {
            Ok(line) => serde_json::from_str(&line).unwrap_or_else(|e| panic!("not JSON on stdout: {e}: {line}")),
            Err(RecvTimeoutError::Timeout) => panic!("no message within {} s", ANSWER.as_secs()),
            Err(RecvTimeoutError::Disconnected) => panic!("the program has ended: {:?}", self.child.wait()),
        }
    }
    /// Sends a request and returns its number.
    #[track_caller]
    pub fn begin(&mut self, method: &str, mut params: Value) -> u64 {
        self.asked += 1;
        if let Some(meta) = &self.meta {
            params["_meta"] = meta.clone();
        }
        let id = self.asked;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        id
    }
    /// The answer to a request: an object with `result` or `error`.
    ///
    /// # Panics
    /// When it does not come within 50 s.
    #[track_caller]
    pub fn answer(&mut self, id: u64) -> Value {
        loop {
            if let Some(message) = self.early.remove(&id) {
                return message;
            }
            let message = self.message();
            match message["id"].as_u64() {
                // Who is quick is answered first.
                Some(of) => drop(self.early.insert(of, message)),
                // What nobody could be asked for has no number.
                None => self.notices.push(message),
            }
        }
    }
    /// A request and its answer.
    #[track_caller]
    pub fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params);
        self.answer(id)
    }
    /// A tool's answer, good or bad.
    ///
    /// # Panics
    /// When it is an error of the protocol.
    #[track_caller]
    pub fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let answer = self.ask("tools/call", json!({ "name": tool, "arguments": arguments }));
        assert!(answer["result"].is_object(), "{tool}: {answer}");
        answer["result"].clone()
    }
    /// What a tool answers when all is well: its structured content.
    ///
    /// # Panics
    /// When the tool complains.
    #[track_caller]
    pub fn good(&mut self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments);
        assert_ne!(result["isError"], true, "{tool}: {result}");
        assert!(result["content"][0]["text"].as_str().is_some_and(|t| !t.is_empty()), "{tool}: {result}");
        result["structuredContent"].clone()
    }
    /// What a tool complains about, as a sentence.
    ///
    /// # Panics
    /// When it does not complain.
    #[track_caller]
    pub fn bad(&mut self, tool: &str, arguments: Value) -> String {
        let result = self.call(tool, arguments);
        assert_eq!(result["isError"], true, "{tool}: {result}");
        assert!(result["_meta"]["dev.clawmesh/error"]["code"].is_string(), "{tool}: {result}");
        result["content"][0]["text"].as_str().expect("a text").to_owned()
    }
    /// Closes its stdin and waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn close(mut self, limit: Duration) -> ExitStatus {
        drop(self.stdin.take());
        let begin = Instant::now();
        wait_until("clawmesh mcp ends with its stdin", limit, || {
            self.child.try_wait().map_err(|e| e.to_string())?.ok_or_else(|| format!("it runs after {:?}", begin.elapsed()))
        })
    }
}

impl Drop for Mcp {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
