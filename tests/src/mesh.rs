//! Several nodes that know each other.

use std::{
    ops::Index,
    path::Path,
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{LONG, Node, NodeBuilder, end_strays, wait_until};

/// Meshes at once in one test process: more only wait for each other on two cores.
const MESHES_MAX: usize = 2;
/// Set, the directories of failed tests stay.
const KEEP: &str = "CLAWMESH_TEST_KEEP";

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Room for a mesh.
#[derive(Debug)]
struct Permit(usize);

impl Permit {
    fn take(n: usize) -> Self {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = ENDED.wait_while(running, |r| *r + n > MESHES_MAX).unwrap_or_else(PoisonError::into_inner);
        *running += n;
        Self(n)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        ENDED.notify_all();
    }
}

/// How a mesh is started.  Its nodes are called `n0`, `n1`, …; `n0` has the highest priority.
#[derive(Debug)]
pub struct MeshBuilder {
    nodes: usize,
    args: Vec<String>,
    own: Vec<(usize, Vec<String>)>,
    env: Vec<(usize, String, String)>,
    netns: Vec<String>,
    port: Option<u16>,
    alone: bool,
}

impl MeshBuilder {
    /// Flags of `up` for all nodes.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }
    /// Flags of `up` for one node.
    #[must_use]
    pub fn node_args(mut self, node: usize, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.own.push((node, args.into_iter().map(Into::into).collect()));
        self
    }
    /// A variable of one node's process.
    #[must_use]
    pub fn node_env(mut self, node: usize, name: &str, value: &str) -> Self {
        self.env.push((node, name.to_owned(), value.to_owned()));
        self
    }
    /// Each node runs in its own network namespace.
    #[must_use]
    pub fn netns(mut self, names: &[String]) -> Self {
        self.netns = names.to_vec();
        self
    }
    /// All nodes take this mesh port: for nodes that have a machine each.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }
    /// No other mesh of this test process runs meanwhile: for tests that look at the clock.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }
    /// The nodes, none started.
    ///
    /// # Panics
    /// When no temporary directory can be made.
    pub fn build(self) -> Mesh {
        let permit = Permit::take(if self.alone { MESHES_MAX } else { 1 });
        let dir = tempfile::Builder::new().prefix("clawmesh-test-").tempdir().expect("a temporary directory can be made");
        let node = |i: usize| {
            let mut node = NodeBuilder::new(dir.path(), &format!("n{i}"));
            if let Some(name) = self.netns.get(i) {
                node = node.netns(name);
            }
            if let Some(port) = self.port {
                node = node.port(port);
            }
            for (_, name, value) in self.env.iter().filter(|(n, ..)| *n == i) {
                node = node.env(name, value);
            }
            let own = self.own.iter().filter(|(n, _)| *n == i).flat_map(|(_, a)| a.clone());
            let priority = (100 - i).to_string();
            node.args(["--priority", &priority]).args(self.args.clone()).args(own)
        };
        let nodes = (0..self.nodes).map(|i| node(i).build()).collect();
        Mesh { nodes, dir, _permit: permit }
    }
    /// The nodes, all started, joined and agreed.
    ///
    /// # Panics
    /// When they do not come to that.
    #[track_caller]
    pub fn start(self) -> Mesh {
        let mut mesh = self.build();
        mesh[0].start();
        let ticket = mesh[0].ticket();
        let how: Vec<_> = mesh.nodes.drain(1..).map(|n| n.joining(&ticket)).collect();
        mesh.nodes.extend(how);
        mesh.nodes.iter().skip(1).for_each(Node::spawn);
        mesh.nodes.iter().skip(1).for_each(Node::ready);
        mesh.settled();
        mesh
    }
}

/// Several nodes.  Dropped, everything is killed and removed; when the test has failed, it prints their logs first.
#[derive(Debug)]
pub struct Mesh {
    nodes: Vec<Node>,
    dir: TempDir,
    _permit: Permit,
}

impl Mesh {
    /// A mesh of so many nodes with the usual settings.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start(nodes: usize) -> Self {
        Self::of(nodes).start()
    }
    /// A mesh to be described.
    pub fn of(nodes: usize) -> MeshBuilder {
        MeshBuilder { nodes, args: Vec::new(), own: Vec::new(), env: Vec::new(), netns: Vec::new(), port: None, alone: false }
    }
    /// The test's own directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// A further node, not yet started.
    pub fn another(&self, name: &str) -> NodeBuilder {
        NodeBuilder::new(self.dir(), name)
    }
    /// A further node which is started with a ticket of the first running one, and belongs to the mesh from now on.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn add(&mut self, how: impl FnOnce(NodeBuilder) -> NodeBuilder) -> &Node {
        let ticket = self.running().next().expect("a node runs").ticket();
        let name = format!("n{}", self.nodes.len());
        let node = how(self.another(&name)).join(&ticket).start();
        self.nodes.push(node);
        self.settled();
        &self[self.nodes.len() - 1]
    }
    /// The nodes whose process runs.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| n.runs())
    }
    /// Waits until all running nodes see each other online and agree on who of them coordinates; returns it.
    ///
    /// # Panics
    /// When they do not come to that.
    #[track_caller]
    pub fn settled(&self) -> &Node {
        wait_until("all running nodes see each other and agree on a coordinator", LONG, || self.agreed(true))
    }
    /// Waits until all running nodes agree on who of them coordinates; returns it.
    ///
    /// # Panics
    /// When they do not come to that.
    #[track_caller]
    pub fn coordinator(&self) -> &Node {
        wait_until("all running nodes agree on a coordinator", LONG, || self.agreed(false))
    }
    /// The coordinator on which all running nodes agree; with `members`, they also see each other online.
    ///
    /// # Errors
    /// What they do not agree on.
    pub fn agreed(&self, members: bool) -> Result<&Node, String> {
        let views: Vec<(&Node, Value)> = self.running().map(|n| Ok((n, n.status()?))).collect::<Result<_, String>>()?;
        let (_, first) = views.first().ok_or("no node runs")?;
        let who = first["coordinator"].as_str().ok_or_else(|| format!("{} knows no coordinator", first["name"]))?;
        for (node, view) in &views {
            if view["coordinator"] != who || view["epoch"] != first["epoch"] {
                return Err(format!("{} follows {} in epoch {}, not {who}", node.name(), view["coordinator"], view["epoch"]));
            }
            let online = |id: &Value| {
                let mut all = view["members"].as_array().into_iter().flatten();
                all.any(|m| m["node"] == *id && m["state"] == "online")
            };
            if let Some((other, _)) = views.iter().find(|(_, v)| members && !online(&v["node"])) {
                return Err(format!("{} does not see {} online", node.name(), other.name()));
            }
        }
        let leader = views.iter().find(|(_, v)| v["node"] == who).ok_or_else(|| format!("{who} coordinates, which does not run"))?;
        if leader.1["role"] == "coordinator" {
            Ok(leader.0)
        } else {
            Err(format!("{} does not serve: {}", leader.0.name(), leader.1["role"]))
        }
    }
    /// The node with this id or name.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn by_id(&self, id: &str) -> &Node {
        let mut all = self.nodes.iter();
        let found = all.find(|n| n.name() == id || n.status().is_ok_and(|s| s["node"] == id));
        found.unwrap_or_else(|| panic!("no running node of the test has the id {id}"))
    }
    /// `kill -9` for all of them, as close together as a loop can.
    pub fn kill_all(&self) {
        // First all signals, then the waiting.
        thread::scope(|s| self.nodes.iter().for_each(|n| drop(s.spawn(|| n.kill()))));
    }
    /// Starts all that do not run, and waits until they agree.
    ///
    /// # Panics
    /// When they do not come up.
    #[track_caller]
    pub fn start_all(&self) {
        let down: Vec<&Node> = self.nodes.iter().filter(|n| !n.runs()).collect();
        down.iter().for_each(|n| n.spawn());
        down.iter().for_each(|n| n.ready());
        self.settled();
    }
}

impl Index<usize> for Mesh {
    type Output = Node;
    fn index(&self, i: usize) -> &Node {
        &self.nodes[i]
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let failed = thread::panicking();
        if failed {
            for node in &self.nodes {
                eprintln!("{}", node.told());
            }
        }
        self.kill_all();
        end_strays(self.dir.path());
        if failed && std::env::var_os(KEEP).is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("the homes are kept in {}", self.dir.path().display());
        }
    }
}
