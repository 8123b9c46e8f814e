//! I6: an origin store accepts exactly one outcome per task; at quiescence the table agrees with it.

use std::collections::BTreeMap;

use clawmesh_protocol::{
    ids::TaskId,
    message::Message,
    record::{End, Outcome},
};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// What each origin has said to anybody.
#[derive(Default)]
pub(super) struct OneOutcome {
    sent: BTreeMap<TaskId, Outcome>,
    told: BTreeMap<TaskId, String>,
    /// Only what users are told counts.
    users_only: bool,
}

impl OneOutcome {
    /// For worlds in which an origin's disk may lose what it has accepted.
    pub(super) fn for_users() -> Self {
        Self { users_only: true, ..Self::default() }
    }
}

impl Check for OneOutcome {
    fn name(&self) -> &'static str {
        "I6"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Sent(..) | Fact::Quiet(_) if self.users_only => Ok(()),
            Fact::Sent(_, m) => {
                let Message::Delivered(d) = &**m else { return Ok(()) };
                if disks.node(d.id.origin.peer) != Some(e.node) {
                    return Err(format!("accepts a result of {:?} without being its origin", d.id));
                }
                match self.sent.insert(d.id, d.outcome.clone()) {
                    Some(o) if o != d.outcome => Err(format!("{:?} was accepted as {o:?} and as {:?}", d.id, d.outcome)),
                    _ => Ok(()),
                }
            }
            Fact::Ended(id, end) => match self.told.insert(*id, end.clone()) {
                Some(o) if o != *end => Err(format!("the user was told {o} and {end} of {id:?}")),
                _ => Ok(()),
            },
            Fact::Quiet(q) => {
                // A destroyed disk takes the only proof of what its origin accepted last with it.
                let lives = |id: &TaskId| disks.node(id.origin.peer).and_then(|n| disks.now.get(n)).is_some_and(|d| !d.destroyed);
                for (id, o) in self.sent.iter().filter(|(id, _)| lives(id)) {
                    if let Some(t) = q.table.get(id).and_then(|r| r.outcome.as_ref())
                        && t != o
                        // A copy that turned up after its origin had forgotten the task (T5): shown to nobody.
                        && t.end != End::Retired
                        // A copy from beyond a cut that turned up after the task was deleted (G3): shown to nobody.
                        && !disks.deleted.contains(id)
                    {
                        return Err(format!("the table says {t:?} of {id:?}, its origin accepted {o:?}"));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawmesh_protocol::message::Delivered;

    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn a_second_outcome_from_one_origin_is_caught() {
        let said = |o| Fact::Sent(peer(1), Arc::new(Message::Delivered(Delivered { id: task(1), outcome: o, ext: Default::default() })));
        let (a, b) = (outcome(End::Done, 1), outcome(End::Failed, 2));
        assert_eq!(judge(OneOutcome::default(), vec![(0, said(a.clone())), (0, said(a.clone()))]), None);
        assert!(judge(OneOutcome::default(), vec![(0, said(a.clone())), (0, said(b.clone()))]).is_some());
        let mut q = crate::oracle::Quiet::default();
        let mut r = rec(task(1), epoch(1, 0), 1);
        r.outcome = Some(b);
        q.table.insert(task(1), Arc::new(r));
        assert!(judge(OneOutcome::default(), vec![(0, said(a)), (0, Fact::Quiet(Arc::new(q)))]).is_some());
    }
}
