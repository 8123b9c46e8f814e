//! One checker per invariant.  Each is a fold over the oracle's log and nothing else, so that a bad log
//! can be written by hand in a test: a checker that accepts it proves nothing.

mod c02_voters;
mod e01_deaf;
mod e03_asked;
mod e08_heavier;
mod e09_flaps;
mod e11_relay;
mod i01_promise;
mod i02_one_server;
mod i03_successor;
mod i04_durable;
mod i04_visible;
mod i05_majority;
mod i05_stable_first;
mod i06_fence;
mod i06_first_report;
mod i06_one_outcome;
mod i06_one_word;
mod i07_monotone;
mod i08_equal_bytes;
mod i09_one_start;
mod i10_once;
mod i11_cancel_and_floor;
mod i11_cancelled;
mod i12_one_live;
mod i13_deleted;
mod i14_converged;
mod i15_done;
mod i16_churn;
mod i17_bounded;
mod i19_in_turn;
mod i20_copies;
mod l01_awake;
mod ledger;
mod s07_held;

use clawmesh_protocol::config::Timing;

use crate::oracle::{Disks, Entry};

/// Watches one invariant.
pub trait Check: Send {
    /// The invariant's number in the protocol.
    fn name(&self) -> &'static str;
    /// Takes the next line in; `disks` already contains it.
    ///
    /// # Errors
    /// What was violated, as a sentence.
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String>;
}

/// All checkers, for a world with this d and these times.
pub fn all(copies: usize, timing: Timing) -> Vec<Box<dyn Check>> {
    vec![
        Box::new(i01_promise::Promise::default()),
        Box::new(i02_one_server::OneServer::default()),
        Box::new(i03_successor::Successor::default()),
        Box::new(i04_durable::Durable::default()),
        Box::new(i04_visible::Visible::default()),
        Box::new(i05_majority::Majority::default()),
        Box::new(i05_stable_first::StableFirst::new(copies)),
        Box::new(i06_one_outcome::OneOutcome::default()),
        Box::new(i06_one_word::OneWord::default()),
        Box::new(i06_first_report::FirstReport::default()),
        Box::new(i06_fence::Fence::default()),
        Box::new(i07_monotone::Monotone::default()),
        Box::new(i08_equal_bytes::EqualBytes::default()),
        Box::new(i09_one_start::OneStart::default()),
        Box::new(i11_cancel_and_floor::CancelAndFloor::default()),
        Box::new(i12_one_live::OneLive::default()),
        Box::new(i13_deleted::Deleted::default()),
        Box::new(i10_once::Once::default()),
        Box::new(i11_cancelled::Cancelled::default()),
        Box::new(i14_converged::Converged),
        Box::new(i15_done::Done::default()),
        Box::new(i16_churn::Churn::default()),
        Box::new(i17_bounded::Bounded::default()),
        Box::new(i19_in_turn::InTurn::default()),
        Box::new(i20_copies::Copies),
        Box::new(l01_awake::Awake::default()),
        Box::new(c02_voters::Voters::default()),
        Box::new(e01_deaf::Deaf::default()),
        Box::new(e03_asked::Asked::default()),
        Box::new(e08_heavier::Heavier::default()),
        Box::new(e09_flaps::Flaps::new(timing)),
        Box::new(e11_relay::Carried::default()),
        Box::new(s07_held::Held::default()),
    ]
}

/// What is checked where disks lose what they have confirmed: promises, copies and results may be gone there, but a task
/// has one outcome and a version one content, or somebody notices; and the mesh comes to rest.
pub fn among_liars() -> Vec<Box<dyn Check>> {
    vec![
        Box::new(i06_one_outcome::OneOutcome::for_users()),
        Box::new(i08_equal_bytes::EqualBytes::default()),
        Box::new(i14_converged::Converged),
        Box::new(i17_bounded::Bounded::default()),
    ]
}

/// Things that tests of checkers need.
#[cfg(test)]
pub(crate) mod fixture {
    use std::sync::Arc;

    use clawmesh_protocol::{
        ids::{Attempt, Epoch, Hash, Origin, Peer, TaskId, Ver},
        quorum::{MeshConfig, Mode, Voter},
        record::{End, Outcome, Queued, Rec},
        spec::{Data, Spec, split},
    };

    use super::Check;
    use crate::oracle::{Disks, Entry, Fact, Parsed};

    pub(crate) fn peer(n: usize) -> Peer {
        Peer([n as u8 + 1; 32])
    }
    pub(crate) fn epoch(n: u64, node: usize) -> Epoch {
        Epoch { n, peer: peer(node) }
    }
    /// An epoch of voters.
    pub(crate) fn voted(n: u64, node: usize) -> Epoch {
        epoch(clawmesh_protocol::config::VOTED + n, node)
    }
    pub(crate) fn task(seq: u64) -> TaskId {
        TaskId { origin: Origin { peer: peer(0), store: 1 }, inc: 1, seq }
    }
    pub(crate) fn attempt(k: u32, n: u64) -> Attempt {
        Attempt { k, epoch: epoch(n, 0) }
    }
    pub(crate) fn rec(id: TaskId, epoch: Epoch, seq: u64) -> Rec {
        let new = clawmesh_protocol::face::NewTask { skill: Some("echo".into()), ..Default::default() };
        let (need, work) = split(&new).unwrap();
        let spec = Spec { need, payload: Data::Inline(clawmesh_protocol::codec::Blob(work)) };
        Rec { ver: Ver { epoch, seq }, ..Rec::new(id, spec, Queued { epoch, seq }, 0) }
    }
    pub(crate) fn outcome(end: End, k: u32) -> Outcome {
        Outcome {
            end,
            attempt: Some(attempt(k, 1)),
            worker: Some(peer(1)),
            exit: Some(0),
            why: String::new(),
            data: Data::EMPTY,
            ended_at: 0,
            ran_ms: 0,
            ext: Default::default(),
        }
    }
    pub(crate) fn batch(no: u64, recs: Vec<Rec>) -> Fact {
        let recs = recs
            .into_iter()
            .map(|r| {
                let h = Hash::of(&clawmesh_protocol::codec::encode(&r));
                (Arc::new(r), h)
            })
            .collect();
        Fact::Batch(Arc::new(Parsed { no, recs, ..Parsed::default() }))
    }
    fn voters(nodes: &[usize]) -> Vec<Voter> {
        nodes.iter().map(|n| Voter { peer: peer(*n), store: 1, witness: false }).collect()
    }
    /// A write of the voters.
    pub(crate) fn configured(no: u64, epoch: Epoch, seq: u64, nodes: &[usize]) -> Fact {
        changing(no, epoch, seq, nodes, &[])
    }
    /// The same while others are pending.
    pub(crate) fn changing(no: u64, epoch: Epoch, seq: u64, nodes: &[usize], pending: &[usize]) -> Fact {
        let q = MeshConfig {
            ver: Ver { epoch, seq },
            number: 1,
            mode: Mode::Quorum,
            voters: voters(nodes),
            pending: voters(pending),
            ext: Default::default(),
        };
        Fact::Batch(Arc::new(Parsed { no, config: Some(Arc::new(q)), ..Parsed::default() }))
    }
    /// Runs a log of (node, fact) through a checker; the first complaint.
    pub(crate) fn judge(mut c: impl Check, log: Vec<(usize, Fact)>) -> Option<String> {
        let mut disks = Disks::new((0..4).map(peer).collect());
        for (i, (node, fact)) in log.into_iter().enumerate() {
            let e = Entry { at: i as u64, node, fact };
            disks.see(&e);
            if let Err(why) = c.see(&e, &disks) {
                return Some(why);
            }
        }
        None
    }
}
