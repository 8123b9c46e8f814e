//! Processes and blobs of the nodes.

use clawmesh_protocol::{
    codec,
    ids::{Attempt, Hash, TaskId},
    io::{Exit, Input, Job, Source, capture},
    record::End,
    spec::{Data, INLINE_MAX, Kind, Work},
};

use super::{What, World};
use crate::oracle::Fact;

/// What a task does when it runs, from its own words (`sim MODE MS BYTES`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    mode: String,
    ms: u64,
    bytes: u64,
}

impl Script {
    fn of(work: &Work) -> Self {
        let words: Vec<String> = if work.argv.is_empty() {
            String::from_utf8_lossy(&work.input.0).split(' ').map(str::to_owned).collect()
        } else {
            work.argv.clone()
        };
        let number = |i: usize| words.get(i).and_then(|w| w.parse().ok()).unwrap_or(1);
        Self { mode: words.get(1).cloned().unwrap_or_default(), ms: number(2), bytes: number(3) }
    }
}

impl World {
    pub(super) fn start(&mut self, node: usize, job: Job) {
        self.see(node, Fact::Started(job.id, job.attempt));
        self.count("processes started");
        let work = match &job.payload {
            Data::Inline(b) => codec::decode::<Work>(&b.0).ok(),
            Data::Blob(h, _) => {
                if !self.nodes[node].blobs.contains(h) {
                    self.complain("core", node, format!("starts {} without its blob {h:?}", job.id));
                }
                self.works.get(h).cloned()
            }
        };
        let Some(work) = work else {
            return self.complain("core", node, format!("starts {} with a payload that nobody gave", job.id));
        };
        let script = Script::of(&work);
        let (end, took) = match (script.mode.as_str(), job.need.kind) {
            (_, Kind::Builtin) | ("ok", _) => (End::Done, script.ms),
            ("fail", _) => (End::Failed, script.ms),
            ("flaky", _) => (if job.attempt.k < 3 { End::Failed } else { End::Done }, script.ms),
            ("hang", _) => (End::Done, 86_400_000),
            ("bomb", _) if self.chance.work.percent(60) => {
                let (d, life) = (self.chance.work.range(1, script.ms + 2), self.nodes[node].life);
                self.count("tasks that kill their worker");
                self.after(d, What::Crash { node, life, power: false });
                (End::Done, script.ms + 10_000)
            }
            _ => (End::Done, script.ms),
        };
        let limit = job.need.run_timeout_ms;
        let (end, took) = if limit > 0 && took > limit { (End::Timeout, limit) } else { (end, took) };
        let now = self.now;
        self.nodes[node].procs.insert((job.id, job.attempt), (end, now));
        let life = self.nodes[node].life;
        self.after(took, What::Exit { node, life, id: job.id, attempt: job.attempt, killed: false });
    }

    pub(super) fn kill(&mut self, node: usize, id: TaskId, attempt: Attempt) {
        let d = self.chance.work.range(0, 40);
        let life = self.nodes[node].life;
        self.after(d, What::Exit { node, life, id, attempt, killed: true });
    }

    pub(super) fn exited(&mut self, node: usize, life: u64, id: TaskId, attempt: Attempt, killed: bool) {
        if self.nodes[node].life != life {
            return;
        }
        let Some((mut end, since)) = self.nodes[node].procs.remove(&(id, attempt)) else { return };
        let took = self.now - since;
        if killed {
            end = if self.nodes[node].leaving { End::Returned } else { End::Cancelled };
        }
        self.see(node, Fact::Exited(id, attempt, end));
        let n = if self.chance.work.percent(10) { self.chance.work.range(1_200, 9_000) } else { self.chance.work.range(0, 60) };
        let mut stdout = vec![b'x'; n as usize];
        stdout.extend_from_slice(&self.order.to_le_bytes());
        let bytes = capture(stdout, Vec::new(), 0, 0);
        let data = if bytes.len() > INLINE_MAX {
            let h = Hash::of(&bytes);
            self.nodes[node].blobs.insert(h);
            self.count("results as blobs");
            Data::Blob(h, bytes.len() as u64)
        } else {
            Data::Inline(codec::Blob(bytes))
        };
        let code = match end {
            End::Done => Some(0),
            End::Failed => Some(3),
            _ => None,
        };
        self.give(node, Input::Exited(id, attempt, Exit { end, code, why: end.word().to_owned(), data, ran_ms: took }));
    }

    pub(super) fn fetch(&mut self, node: usize, hash: Hash, len: u64, from: Vec<Source>) {
        let d = self.chance.net.tailed(1, 30, 30, 2_000);
        let life = self.nodes[node].life;
        self.count("blobs asked for");
        self.after(d, What::Fetched { node, life, hash, len, from });
    }

    pub(super) fn fetched(&mut self, node: usize, life: u64, hash: Hash, _len: u64, from: &[Source]) {
        if self.nodes[node].life != life {
            return;
        }
        let open = |a: usize, b: usize| self.link_open(a, b) && !self.nodes[b].paused;
        let has = |n: usize| self.nodes[n].blobs.contains(&hash);
        let find = |s: &Source| {
            let holder = self.node_of(s.peer)?;
            match s.via.and_then(|v| self.node_of(v)) {
                // Who is in between gives its own copy, or hands on the holder's (E11).
                Some(v) => (open(node, v) && (has(v) || (open(v, holder) && has(holder)))).then_some(true),
                None => (open(node, holder) && has(holder)).then_some(false),
            }
        };
        let found = if has(node) { Some(false) } else { from.iter().find_map(find) };
        if found == Some(true) {
            self.count("blobs had through a relay");
        }
        let ok = found.is_some();
        if ok {
            self.nodes[node].blobs.insert(hash);
        } else {
            self.count("blobs not to be had");
        }
        self.give(node, Input::Blob(hash, ok));
    }
}
