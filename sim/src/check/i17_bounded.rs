//! I17: an election says little, and nothing piles up: at quiescence no node keeps messages or effects back.

use std::collections::VecDeque;

use super::Check;
use crate::{
    oracle::{Disks, Entry, Fact},
    world::of_election,
};

/// The window in which messages are counted, ms.
const WINDOW_MS: u64 = 1_000;
/// Messages per node in a window: eight candidates ask everybody and claim, and everybody answers, several times over.
const PER_NODE: usize = 400;
/// What a node may keep back at rest.
const BACKLOG_MAX: usize = 64;

/// Messages of elections in the last second.
#[derive(Default)]
pub(super) struct Bounded {
    recent: VecDeque<u64>,
}

impl Check for Bounded {
    fn name(&self) -> &'static str {
        "I17"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Sent(_, m) if of_election(m) => {
                while self.recent.front().is_some_and(|at| at + WINDOW_MS <= e.at) {
                    self.recent.pop_front();
                }
                self.recent.push_back(e.at);
                let most = PER_NODE * disks.now.len();
                if self.recent.len() > most {
                    return Err(format!("{} messages of elections in {WINDOW_MS} ms, {most} are plenty", self.recent.len()));
                }
                Ok(())
            }
            Fact::Quiet(q) => match q.nodes.iter().find(|n| n.backlog > BACKLOG_MAX) {
                Some(n) => Err(format!("node {} still keeps {} messages and effects back", n.node, n.backlog)),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawmesh_protocol::message::{Join, Message};

    use super::*;
    use crate::{
        check::fixture::*,
        oracle::{NodeEnd, Quiet},
    };

    #[test]
    fn an_election_that_never_ends_talking_is_caught() {
        let join = || (0, Fact::Sent(peer(1), Arc::new(Message::Join(Join { n: 1, ext: Default::default() }))));
        // The fixture's clock moves by a millisecond per line, and has four nodes.
        assert_eq!(judge(Bounded::default(), (0..3_000).map(|_| join()).collect()), None);
        let (mut c, disks) = (Bounded::default(), Disks::new(vec![peer(0)]));
        let (node, fact) = join();
        let bad = (0..500).any(|_| c.see(&Entry { at: 5, node, fact: fact.clone() }, &disks).is_err());
        assert!(bad);
    }

    #[test]
    fn a_queue_that_is_left_over_is_caught() {
        let quiet = |backlog: usize| {
            let n = NodeEnd { node: 0, epoch: None, leader: None, serving: true, root: 0, count: 0, outbox_open: 0, backlog };
            vec![(0, Fact::Quiet(Arc::new(Quiet { nodes: vec![n], ..Quiet::default() })))]
        };
        assert_eq!(judge(Bounded::default(), quiet(0)), None);
        assert!(judge(Bounded::default(), quiet(1_000)).is_some());
    }
}
