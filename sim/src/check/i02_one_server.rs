//! I2: at most one (peer, boot) ever serves an epoch.

use std::collections::BTreeMap;

use clawmesh_protocol::{ids::Epoch, io::Event};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// Who served which epoch.
#[derive(Default)]
pub(super) struct OneServer {
    boot: BTreeMap<usize, u64>,
    served: BTreeMap<Epoch, (usize, u64)>,
}

impl Check for OneServer {
    fn name(&self) -> &'static str {
        "I2"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        let epoch = match &e.fact {
            Fact::Boot { boot, .. } => {
                self.boot.insert(e.node, *boot);
                return Ok(());
            }
            Fact::Event(Event::Serving(x)) => *x,
            Fact::Probe { serving: Some(x), .. } => *x,
            _ => return Ok(()),
        };
        let me = (e.node, self.boot.get(&e.node).copied().unwrap_or(0));
        if disks.node(epoch.peer) != Some(e.node) {
            return Err(format!("serves {epoch:?}, which another node claimed"));
        }
        match self.served.insert(epoch, me) {
            Some(other) if other != me => Err(format!("{epoch:?} was served by boot {} and again by boot {}", other.1, me.1)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn an_epoch_served_again_after_a_restart_is_caught() {
        let boot = |boot| Fact::Boot { store: 9, boot, fresh: false };
        let serve = |n| Fact::Event(Event::Serving(epoch(n, 0)));
        assert_eq!(judge(OneServer::default(), vec![(0, boot(1)), (0, serve(3)), (0, boot(2)), (0, serve(4))]), None);
        assert!(judge(OneServer::default(), vec![(0, boot(1)), (0, serve(3)), (0, boot(2)), (0, serve(3))]).is_some());
        assert!(judge(OneServer::default(), vec![(1, boot(1)), (1, serve(3))]).is_some());
    }
}
