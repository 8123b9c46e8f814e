//! One node: a process of the program with its own home.

use std::{
    fs::{self, File, OpenOptions},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    Cli, HttpAnswer, LONG, Said,
    cli::{program, user_home},
    http,
    processes::signal,
    wait_until,
};

/// Bytes of a log that a failed test prints.
const TAIL: usize = 6_000;
/// Flags of `up` with one value.
const SINGLE: [&str; 5] = ["--slots", "--priority", "--lost-after", "--name", "--tailscale-command"];

/// How a node is started.
#[derive(Debug, Clone)]
pub struct NodeBuilder {
    name: String,
    home: PathBuf,
    args: Vec<String>,
    join: Option<String>,
    netns: Option<String>,
    env: Vec<(String, String)>,
    port: Option<u16>,
}

impl NodeBuilder {
    /// A node with its home and logs in `dir`: any free ports, loopback only, no mDNS.
    pub fn new(dir: &Path, name: &str) -> Self {
        // The tester's own tailnet is none of the mesh's business, and neither are the skills of their OpenClaw.
        let args = [
            "--api-port",
            "0",
            "--name",
            name,
            "--no-mdns",
            "--loopback-only",
            "--no-openclaw-skills",
            "--tailscale-command",
            "/nonexistent",
        ];
        Self {
            name: name.to_owned(),
            home: dir.join(name),
            args: args.map(str::to_owned).to_vec(),
            join: None,
            netns: None,
            env: Vec::new(),
            port: None,
        }
    }
    /// Takes the skills of an OpenClaw in the pretended user's home, too.
    #[must_use]
    pub fn openclaw_skills(mut self) -> Self {
        self.args.retain(|arg| arg != "--no-openclaw-skills");
        self
    }
    /// Adds flags of `up`; one that takes a single value replaces its earlier self.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        for arg in args.into_iter().map(Into::into) {
            let old = self.args.iter().position(|a| *a == arg).filter(|_| SINGLE.contains(&arg.as_str()));
            old.into_iter().for_each(|at| drop(self.args.drain(at..at + 2)));
            self.args.push(arg);
        }
        self
    }
    /// Joins with this ticket at the first start.
    #[must_use]
    pub fn join(mut self, ticket: &str) -> Self {
        self.join = Some(ticket.to_owned());
        self
    }
    /// Runs in this network namespace, on all its addresses, with mDNS unless an argument says otherwise.
    #[must_use]
    pub fn netns(mut self, name: &str) -> Self {
        self.netns = Some(name.to_owned());
        self.args.retain(|a| a != "--loopback-only" && a != "--no-mdns");
        self
    }
    /// Sets a variable of the node's process.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
    /// Takes this mesh port instead of any free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }
    /// Its home lies here.
    #[must_use]
    pub fn home(mut self, home: &Path) -> Self {
        self.home = home.to_owned();
        self
    }
    /// The node, not yet started.
    pub fn build(self) -> Node {
        Node { join: Mutex::new(self.join.clone()), child: Mutex::new(None), mesh_port: Mutex::new(self.port), how: self }
    }
    /// The node, started and answering.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start(self) -> Node {
        let node = self.build();
        node.start();
        node
    }
}

/// A node.  Dropped, it is killed.
#[derive(Debug)]
pub struct Node {
    how: NodeBuilder,
    join: Mutex<Option<String>>,
    child: Mutex<Option<Child>>,
    /// The port it had before, so that the others find it again after a restart, as with the port of the manual.
    mesh_port: Mutex<Option<u16>>,
}

impl Node {
    /// The same node, not started, which will join with this ticket.
    pub(crate) fn joining(&self, ticket: &str) -> Self {
        self.how.clone().join(ticket).build()
    }
    /// Its name.
    pub fn name(&self) -> &str {
        &self.how.name
    }
    /// Its home.
    pub fn home(&self) -> &Path {
        &self.how.home
    }
    /// The home of the user whom it believes to run as.
    pub fn user_home(&self) -> PathBuf {
        user_home(self.home())
    }
    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        lock(&self.child).as_ref().map(Child::id)
    }
    /// True while its process runs, also when it is stopped by a signal.
    pub fn runs(&self) -> bool {
        lock(&self.child).as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }
    /// Starts the process and does not wait for anything.
    ///
    /// # Panics
    /// When it runs already, or cannot be started.
    pub fn spawn(&self) {
        let mut child = lock(&self.child);
        assert!(child.is_none(), "{} was started before and neither stopped nor killed", self.name());
        let user = user_home(self.home());
        fs::create_dir_all(&user).expect("a directory for the pretended user can be made");
        let mut up = program(self.how.netns.as_deref());
        up.arg("--home").arg(self.home()).arg("up").args(&self.how.args);
        up.arg("--mesh-port").arg(lock(&self.mesh_port).unwrap_or(0).to_string());
        if let Some(ticket) = &*lock(&self.join) {
            up.arg("--join").arg(ticket);
        }
        up.env("HOME", user).envs(self.how.env.iter().map(|(k, v)| (k, v)));
        if let Some(filter) = std::env::var_os("CLAWMESH_LOG") {
            up.env("CLAWMESH_LOG", filter);
        }
        up.stdin(Stdio::null()).stdout(self.log("out")).stderr(self.log("err"));
        *child = Some(up.spawn().expect("the program can be started"));
    }
    /// Starts the process and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start(&self) {
        self.spawn();
        self.ready();
    }
    /// Waits until it answers.
    ///
    /// # Panics
    /// When it ends instead, or does not answer in time.
    #[track_caller]
    pub fn ready(&self) {
        let status = wait_until(&format!("{} answers", self.name()), LONG, || {
            assert!(self.runs(), "{} has ended instead of coming up\n{}", self.name(), self.told());
            let status = self.status()?;
            if status["pid"].as_u64() == self.pid().map(u64::from) { Ok(status) } else { Err("an older process answers".to_owned()) }
        });
        let port = status["mesh_addresses"]
            .as_array()
            .and_then(|all| all.iter().find_map(|a| a.as_str()?.split("/tcp/").nth(1)?.split('/').next()?.parse::<u16>().ok()));
        assert!(port.is_some(), "status --json names no mesh address with a TCP port: {status}");
        *lock(&self.mesh_port) = port;
        // From now on the home knows the mesh.
        *lock(&self.join) = None;
    }
    /// Waits until the process ends by itself.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn ended(&self, limit: Duration) -> ExitStatus {
        let status = wait_until(&format!("{} ends by itself", self.name()), limit, || {
            let mut child = lock(&self.child);
            child.as_mut().ok_or("it was never started")?.try_wait().map_err(|_| "it cannot be waited for")?.ok_or("it runs")
        });
        *lock(&self.child) = None;
        status
    }
    /// `kill -9`.
    pub fn kill(&self) {
        if let Some(mut child) = lock(&self.child).take() {
            // A stopped process dies of SIGKILL as well.
            drop(child.kill());
            drop(child.wait());
        }
    }
    /// Sends SIGSTOP: the process is there and does nothing.
    pub fn pause(&self) {
        self.pid().into_iter().for_each(|pid| signal(pid, Signal::STOP));
    }
    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.pid().into_iter().for_each(|pid| signal(pid, Signal::CONT));
    }
    /// `clawmesh down`; returns how long it took until the process was gone.
    ///
    /// # Panics
    /// When it does not end in order.
    #[track_caller]
    pub fn stop(&self) -> Duration {
        let start = Instant::now();
        self.cli(["down"]).ok();
        let status = self.ended(crate::SHORT);
        assert!(status.success(), "{} was asked to stop and ended with {status}\n{}", self.name(), self.told());
        start.elapsed()
    }
    /// SIGTERM, as service managers send it; returns how long it took until the process was gone.
    ///
    /// # Panics
    /// When it does not end in order.
    #[track_caller]
    pub fn terminate(&self) -> Duration {
        let start = Instant::now();
        self.pid().into_iter().for_each(|pid| signal(pid, Signal::TERM));
        let status = self.ended(crate::SHORT);
        assert!(status.success(), "{} got SIGTERM and ended with {status}\n{}", self.name(), self.told());
        start.elapsed()
    }
    /// SIGTERM at any moment of its life; however it ends, it ends.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn end_by_term(&self) {
        self.pid().into_iter().for_each(|pid| signal(pid, Signal::TERM));
        self.ended(crate::SHORT);
    }
    /// Waits until it coordinates a mesh of its own.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn settled_alone(&self) {
        wait_until(&format!("{} coordinates", self.name()), LONG, || {
            let status = self.status()?;
            if status["role"] == "coordinator" { Ok(()) } else { Err(status["role"].to_string()) }
        });
    }
    /// A command on this home, to be completed and run.
    pub fn command(&self, args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Cli {
        Cli::new(self.home(), self.how.netns.as_deref()).args(args)
    }
    /// Runs a command on this home.
    #[track_caller]
    pub fn cli(&self, args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Said {
        self.command(args).run()
    }
    /// Runs a command with `--json` that must succeed.
    #[track_caller]
    pub fn json(&self, args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Value {
        self.command(["--json"]).args(args).run().ok().json()
    }
    /// A ticket for others.
    #[track_caller]
    pub fn ticket(&self) -> String {
        self.cli(["invite"]).ok().out().trim().to_owned()
    }
    /// The mesh port of the next start; 0 = any.
    pub fn use_port(&self, port: u16) {
        *lock(&self.mesh_port) = Some(port);
    }
    /// Where the API listens.
    ///
    /// # Errors
    /// No node has said so.
    pub fn api_addr(&self) -> Result<SocketAddr, String> {
        let bytes = fs::read(self.home().join("api.json")).map_err(|e| format!("no api.json: {e}"))?;
        let file: Value = serde_json::from_slice(&bytes).map_err(|e| format!("api.json: {e}"))?;
        file["addr"].as_str().and_then(|a| a.parse().ok()).ok_or_else(|| format!("api.json names no address: {file}"))
    }
    /// The port of the mesh.
    ///
    /// # Panics
    /// Before the node has answered for the first time.
    pub fn mesh_addr(&self) -> SocketAddr {
        let port = lock(&self.mesh_port).expect("the node has answered before");
        SocketAddr::from(([127, 0, 0, 1], port))
    }
    /// The token in its home.
    ///
    /// # Errors
    /// There is none.
    pub fn token(&self) -> Result<String, String> {
        fs::read_to_string(self.home().join("api.token")).map(|t| t.trim().to_owned()).map_err(|e| format!("no api.token: {e}"))
    }
    /// A request with the node's token.
    ///
    /// # Errors
    /// No answer.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<HttpAnswer, String> {
        self.api_within(http::LIMIT, method, path, body)
    }
    /// A request with the node's token that gives up after `limit`: for nodes that may be stopped.
    ///
    /// # Errors
    /// No answer.
    pub fn api_within(&self, limit: Duration, method: &str, path: &str, body: Option<&Value>) -> Result<HttpAnswer, String> {
        let token = format!("Bearer {}", self.token()?);
        let body = body.map(ToString::to_string);
        self.ask(limit, method, path, &[("authorization", &token)], body.as_deref().map(str::as_bytes))
    }
    /// A request with these headers and no others.
    ///
    /// # Errors
    /// No answer.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Result<HttpAnswer, String> {
        self.ask(http::LIMIT, method, path, headers, body)
    }
    fn ask(&self, limit: Duration, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Result<HttpAnswer, String> {
        let addr = self.api_addr()?;
        match &self.how.netns {
            None => http::request(limit, method, addr, path, headers, body),
            #[cfg(target_os = "linux")]
            Some(name) => crate::enter(name, || http::request(limit, method, addr, path, headers, body)),
            #[cfg(not(target_os = "linux"))]
            Some(_) => Err("no network namespaces here".to_owned()),
        }
    }
    /// A GET that must succeed.
    ///
    /// # Errors
    /// No answer, or not this one.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        let answer = self.api("GET", path, None)?;
        if answer.status == 200 { Ok(answer.json()) } else { Err(format!("{path}: {}: {}", answer.status, answer.body)) }
    }
    /// What `status --json` says, asked without a process.
    ///
    /// # Errors
    /// No answer.
    pub fn status(&self) -> Result<Value, String> {
        self.get("/api/v1/status")
    }
    /// The figures of `/metrics` as text.
    ///
    /// # Panics
    /// When there are none.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let answer = self.request("GET", "/metrics", &[], None).unwrap_or_else(|e| panic!("no figures of {}: {e}", self.name()));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }
    /// The sum of all samples of one figure, over all its labels that hold `with`.
    #[track_caller]
    pub fn metric(&self, name: &str, with: &str) -> f64 {
        self.metrics()
            .lines()
            .filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && l.contains(with))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
    /// Everything it has written to stdout, over all its starts.
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.log_path("out")).unwrap_or_default()
    }
    /// Everything it has written to stderr, over all its starts.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.log_path("err")).unwrap_or_default()
    }
    /// The ends of its logs, for a failure's message.
    pub fn told(&self) -> String {
        let tail = |text: String| {
            let skip = text.chars().count().saturating_sub(TAIL);
            text.chars().skip(skip).collect::<String>()
        };
        format!("=== {} stdout\n{}\n=== {} stderr\n{}", self.name(), tail(self.stdout()), self.name(), tail(self.stderr()))
    }
    fn log_path(&self, stream: &str) -> PathBuf {
        self.home().with_extension(stream)
    }
    fn log(&self, stream: &str) -> File {
        let open = || -> io::Result<File> { OpenOptions::new().create(true).append(true).open(self.log_path(stream)) };
        open().expect("a log file can be made")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A test that failed while it held a lock must not hide its own message.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
