//! The shipped code's word on two questions, as tables: asked once for all that a model can ask.

use clawmesh_protocol::{
    codec::Blob,
    ids::{Epoch, Origin, Peer, TaskId, Ver},
    quorum::{MeshConfig, Mode, Voter},
    record::{End, Outcome, Queued, Rec, reconcile},
    spec::Data,
};

/// What a record says: 0 = nothing yet, otherwise which outcome; and whether its origin accepted it.
pub(crate) type Content = (u8, bool);

fn rec(seq: u64, (outcome, delivered): Content) -> Rec {
    let id = TaskId { origin: Origin { peer: Peer([1; 32]), store: 1 }, inc: 1, seq: 1 };
    let end = Outcome {
        end: End::Done,
        attempt: None,
        worker: None,
        exit: None,
        why: String::new(),
        data: Data::Inline(Blob(vec![outcome])),
        ended_at: 0,
        ran_ms: 0,
        ext: Default::default(),
    };
    let epoch = Epoch { n: 1, peer: Peer([1; 32]) };
    let mut r = Rec::tombstone(id, Queued { epoch, seq: 1 }, end, 0);
    r.ver = Ver { epoch, seq };
    r.outcome = r.outcome.filter(|_| outcome > 0);
    r.delivered = delivered;
    r
}

fn content(r: &Rec) -> Content {
    let which = r.outcome.as_ref().map_or(0, |o| if let Data::Inline(b) = &o.data { b.0[0] } else { 0 });
    (which, r.delivered)
}

/// [`reconcile`], for two records of which it matters only which is newer.
#[derive(Clone)]
pub(crate) struct Join([[[Content; 4]; 4]; 2]);

const CASES: [Content; 4] = [(0, false), (1, false), (1, true), (0, true)];

impl Join {
    pub(crate) fn new() -> Self {
        let ask = |newer: bool, a: Content, b: Content| {
            let b = if b.0 > 0 { (2, b.1) } else { b };
            content(&reconcile(&rec(if newer { 2 } else { 1 }, a), &rec(if newer { 1 } else { 2 }, b)))
        };
        Self([false, true].map(|newer| CASES.map(|a| CASES.map(|b| ask(newer, a, b)))))
    }
    fn case((outcome, delivered): Content) -> usize {
        CASES.iter().position(|c| *c == (outcome.min(1), delivered)).expect("every content is a case")
    }
    /// `a` joined with `b`; `newer`: the version of `a` is the higher one.
    pub(crate) fn of(&self, newer: bool, a: Content, b: Content) -> Content {
        let (which, delivered) = self.0[usize::from(newer)][Self::case(a)][Self::case(b)];
        (
            match which {
                1 => a.0,
                2 => b.0,
                _ => 0,
            },
            delivered,
        )
    }
}

/// [`MeshConfig::majority`], for sets of up to five nodes as bits.
#[derive(Clone)]
pub(crate) struct Majority(Vec<bool>);

const NODES: u8 = 5;

fn voters(bits: u8) -> Vec<Voter> {
    (0..NODES).filter(|i| bits & (1 << i) != 0).map(|i| Voter { peer: Peer([i; 32]), store: 1, witness: false }).collect()
}

impl Majority {
    pub(crate) fn new() -> Self {
        let all = 1_u16 << NODES;
        let mut table = Vec::with_capacity(usize::from(all).pow(3));
        for now in 0..all as u8 {
            for next in 0..all as u8 {
                let (voters, pending) = (voters(now), voters(next));
                let c = MeshConfig { ver: Ver::default(), number: 1, mode: Mode::Quorum, voters, pending, ext: Default::default() };
                table.extend((0..all as u8).map(|yes| c.majority(|v: &Voter| yes & (1 << v.peer.0[0]) != 0)));
            }
        }
        Self(table)
    }
    /// The nodes `yes` are a majority of the voters `now`, and of `next` while that is not empty.
    pub(crate) fn of(&self, now: u8, next: u8, yes: u8) -> bool {
        self.0[usize::from(now) << (2 * NODES) | usize::from(next) << NODES | usize::from(yes)]
    }
}
