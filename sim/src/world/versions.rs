//! Two versions in one mesh (V3).  Both are this very core; the older one is told that it is older, and what it could not read
//! is made unreadable on its way in: the record of a prompt, and every message with one.

use clawmesh_protocol::{
    codec::{self, Blob},
    config::{PROTO, PROTO_PROMPTS},
    message::Message,
    record::decode_rec,
    relay::{Body, Relay},
    spec::{Kind, Need},
};

use super::World;

/// What no version can read: the CBOR head of a text that does not follow.
const GARBLED: [u8; 1] = [0x78];
/// How many of a hundred upgrades take a node of the newer version back to the older one.
const BACK: u64 = 30;

fn prompt(need: &Need) -> bool {
    need.kind == Kind::Prompt
}

/// A record, as an older version sees it: whole, or of a kind that it does not know.
fn record(bytes: Blob) -> Blob {
    if decode_rec(&bytes.0).is_ok_and(|r| prompt(&r.need)) { Blob(GARBLED.to_vec()) } else { bytes }
}

/// What a node of this version makes of a message; none when it can't be decoded and its driver drops it.
pub(super) fn message(proto: u32, m: Message) -> Option<Message> {
    if proto >= PROTO_PROMPTS {
        return Some(m);
    }
    match m {
        Message::Submit(s) if prompt(&s.need) => None,
        Message::Assign(a) if prompt(&a.need) => None,
        Message::Write(mut w) => {
            w.recs = w.recs.into_iter().map(record).collect();
            Some(Message::Write(w))
        }
        Message::PullResp(mut p) => {
            p.recs = p.recs.into_iter().map(record).collect();
            Some(Message::PullResp(p))
        }
        m => Some(m),
    }
}

/// The same for what comes through a relay, whose signature has been looked at already.
pub(super) fn envelope(proto: u32, mut r: Relay) -> Relay {
    if let Some(m) = r.message().filter(|_| proto < PROTO_PROMPTS) {
        r.body = Blob(message(proto, m).map_or_else(|| GARBLED.to_vec(), |m| codec::encode(&Body::Message(m))));
    }
    r
}

/// The same for an entry of its store.
pub(super) fn entry(proto: u32, key: &[u8], value: &[u8]) -> Vec<u8> {
    let other = || {
        let out = codec::decode::<clawmesh_protocol::origin::OutRec>(value);
        out.is_ok_and(|o| o.need.as_ref().is_some_and(prompt))
    };
    let newer = proto < PROTO_PROMPTS
        && match key.first() {
            Some(b't') => decode_rec(value).is_ok_and(|r| prompt(&r.need)),
            Some(b'o') => other(),
            _ => false,
        };
    if newer { GARBLED.to_vec() } else { value.to_vec() }
}

impl World {
    /// A node gets the other version: it is stopped, mostly in order, and started again.
    pub(super) fn upgrade(&mut self, node: usize) {
        let newest = self.nodes[node].installed == PROTO;
        let to = if newest && self.chance.fault.percent(BACK) { PROTO - 1 } else { PROTO };
        self.install(node, to);
        if self.chance.fault.percent(70) { self.leave(node) } else { self.kill_process(node, false, (50, 3_000)) }
    }

    fn install(&mut self, node: usize, proto: u32) {
        let name = self.nodes[node].cfg.name.clone();
        self.nodes[node].installed = proto;
        self.count(if proto == PROTO { "versions: a newer one is installed" } else { "versions: an older one is installed" });
        self.say(|| format!("{name} gets protocol {proto}"));
    }

    /// Its process ends at once and says why; its owner installs the newer version again.
    pub(super) fn refuse_to_start(&mut self, node: usize, fresh: bool) {
        self.count("versions: a store that a newer one has written is refused");
        self.nodes[node].disk.fresh = fresh;
        self.install(node, PROTO);
        self.come_back(node, 500, 10_000);
    }

    /// In peace: who is too old for its mesh is told so, and its owner installs the newer version.
    pub(super) fn finish_upgrade(&mut self) {
        let speaks = |n: &super::node::Node| n.core.as_ref().map_or(0, |c| c.probe.proto);
        let most = self.nodes.iter().map(speaks).max().unwrap_or_default();
        let old: Vec<usize> = self.alive().into_iter().filter(|n| self.nodes[*n].cfg.proto < most).collect();
        for node in old {
            self.count("sometimes: a node was too old for its mesh");
            self.install(node, PROTO);
            self.kill_process(node, false, (50, 2_000));
        }
    }
}

#[cfg(test)]
mod tests {
    use clawmesh_protocol::message::Write;

    use super::*;
    use crate::check::fixture::{epoch, rec, task};

    #[test]
    fn an_older_version_reads_all_but_prompts() {
        let old = rec(task(1), epoch(1, 0), 1);
        let mut new = rec(task(2), epoch(1, 0), 2);
        new.need.kind = Kind::Prompt;
        let [old, new] = [&old, &new].map(codec::encode);
        let write = Write {
            epoch: epoch(1, 0),
            upto: 2,
            recs: vec![Blob(old.clone()), Blob(new.clone())],
            dels: vec![],
            floors: vec![],
            settings: None,
            synced: true,
            missing: vec![],
            config: None,
            ext: Default::default(),
        };
        let seen = |proto| match message(proto, Message::Write(write.clone())) {
            Some(Message::Write(w)) => w.recs.iter().map(|r| decode_rec(&r.0).is_ok()).collect(),
            _ => vec![],
        };
        assert_eq!(seen(PROTO), [true, true]);
        assert_eq!(seen(PROTO - 1), [true, false]);
        assert_eq!((entry(PROTO, b"t", &new), entry(PROTO - 1, b"t", &old)), (new.clone(), old));
        assert!(decode_rec(&entry(PROTO - 1, b"t", &new)).is_err());
    }
}
