//! I14 (at quiescence): one coordinator, everybody follows it in its epoch, and min(K, alive) nodes have
//! its table.

use super::Check;
use crate::oracle::{Disks, Entry, Fact, Quiet};

/// Looks at the final state.
pub(super) struct Converged;

/// What is wrong with a final state, if anything.
pub(crate) fn differs(q: &Quiet) -> Option<String> {
    if q.nodes.is_empty() {
        return None;
    }
    let serving: Vec<_> = q.nodes.iter().filter(|n| n.serving).collect();
    if q.helpless && serving.is_empty() {
        return None;
    }
    let [leader] = serving[..] else {
        let who: Vec<usize> = serving.iter().map(|n| n.node).collect();
        return Some(format!("{} nodes serve: {who:?}", who.len()));
    };
    for n in &q.nodes {
        if n.epoch != leader.epoch || n.leader != leader.leader {
            return Some(format!(
                "node {} is in epoch {:?} under {:?}, node {} serves {:?}",
                n.node, n.epoch, n.leader, leader.node, leader.epoch
            ));
        }
    }
    let equal = q.nodes.iter().filter(|n| n.root == leader.root && n.count == leader.count).count();
    let want = q.replicas.min(q.nodes.len());
    if equal < want {
        let roots: Vec<_> = q.nodes.iter().map(|n| (n.node, n.count, format!("{:x}", n.root >> 96))).collect();
        return Some(format!("{equal} nodes have the table of node {}, {want} should: {roots:?}", leader.node));
    }
    None
}

impl Check for Converged {
    fn name(&self) -> &'static str {
        "I14"
    }
    fn see(&mut self, e: &Entry, _: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Quiet(q) => differs(q).map_or(Ok(()), Err),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{check::fixture::*, oracle::NodeEnd};

    fn end(node: usize, n: u64, serving: bool, root: u128) -> NodeEnd {
        let epoch = Some(epoch(n, 0));
        NodeEnd { node, epoch, leader: Some(peer(0)), serving, root, count: 1, outbox_open: 0, backlog: 0 }
    }

    fn ends(nodes: Vec<NodeEnd>) -> Option<String> {
        let q = Quiet { replicas: 2, nodes, ..Quiet::default() };
        judge(Converged, vec![(0, Fact::Quiet(Arc::new(q)))])
    }

    #[test]
    fn two_coordinators_a_stray_follower_and_unequal_tables_are_caught() {
        assert_eq!(ends(vec![end(0, 3, true, 7), end(1, 3, false, 7), end(2, 3, false, 0)]), None);
        assert!(ends(vec![end(0, 3, true, 7), end(1, 3, true, 7)]).is_some());
        assert!(ends(vec![end(0, 3, true, 7), end(1, 2, false, 7)]).is_some());
        assert!(ends(vec![end(0, 3, true, 7), end(1, 3, false, 8)]).is_some());
        assert!(ends(vec![end(1, 3, false, 8)]).is_some());
        let helpless = |nodes| {
            let q = Quiet { replicas: 2, nodes, helpless: true, ..Quiet::default() };
            judge(Converged, vec![(0, Fact::Quiet(Arc::new(q)))])
        };
        assert_eq!(helpless(vec![end(1, 3, false, 8)]), None, "its voters have burnt down");
        assert!(helpless(vec![end(0, 3, true, 7), end(1, 3, false, 8)]).is_some(), "but then nobody else may serve half a mesh");
    }
}
